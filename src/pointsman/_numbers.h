/* Numbers out of Python objects and MessagePack. */
#ifndef POINTSMAN_NUMBERS_H
#define POINTSMAN_NUMBERS_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *at;
    Py_ssize_t count;
    uint64_t few[512]; /* most calls need no malloc */
} Numbers;

static void free_numbers(Numbers *n) { if (n->at != n->few) free(n->at); }

static int room_for(Numbers *n, Py_ssize_t count, size_t size) {
    n->count = count;
    n->at = (size_t)count * size <= sizeof n->few ? (void *)n->few : malloc((size_t)count * size);
    if (!n->at) PyErr_NoMemory();
    return n->at ? 0 : -1;
}

static int as_u64(PyObject *item, uint64_t *to) {
    if (PyLong_Check(item)) {
        *to = PyLong_AsUnsignedLongLong(item);
    } else {
        PyObject *index = PyNumber_Index(item);
        if (!index) return -1;
        *to = PyLong_AsUnsignedLongLong(index);
        Py_DECREF(index);
    }
    return *to == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

static int from_buffer(PyObject *from, Numbers *n, size_t size) {
    Py_buffer view;
    if (PyObject_GetBuffer(from, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_SetString(PyExc_TypeError, "a list, a tuple or an array of unsigned integers is wanted");
        return -1;
    }
    const char *format = view.format ? view.format : "B";
    int failed = view.ndim != 1 || (size_t)view.itemsize != size || !strchr("QLI", format[0]) || !format[0] || format[1];
    if (failed) {
        PyErr_Format(PyExc_TypeError, "an array of unsigned integers of %d bytes is wanted", (int)size);
    } else {
        failed = room_for(n, view.len / (Py_ssize_t)size, size);
        if (!failed) memcpy(n->at, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return failed ? -1 : 0;
}

/* Copy numbers of 4 or 8 bytes out of a Python object. __index__ of an item may run Python code: nothing is held. */
static int get_numbers(PyObject *from, Numbers *n, size_t size) {
    int list = PyList_Check(from);
    if (!list && !PyTuple_Check(from)) return from_buffer(from, n, size);
    if (room_for(n, list ? PyList_Size(from) : PyTuple_Size(from), size) < 0) return -1;
    for (Py_ssize_t at = 0; at < n->count; at++) {
        uint64_t value = 0;
        PyObject *item = list ? PyList_GetItem(from, at) : PyTuple_GetItem(from, at);
        int failed = !item;
        if (item) {
            Py_INCREF(item);
            failed = as_u64(item, &value) < 0;
            Py_DECREF(item);
        }
        if (!failed && size == 4 && value > UINT32_MAX) {
            PyErr_SetString(PyExc_OverflowError, "a token id needs more than 32 bits");
            failed = 1;
        }
        if (failed) {
            free_numbers(n);
            return -1;
        }
        if (size == 4) ((uint32_t *)n->at)[at] = (uint32_t)value; else ((uint64_t *)n->at)[at] = value;
    }
    return 0;
}

/* One whole number from 0 to 2^32 - 1; how many bytes it takes, 0 if it is none or the bytes end in it. */
static inline Py_ssize_t one_u32(const uint8_t *at, Py_ssize_t left, uint32_t *to) {
    if (left < 1) return 0;
    if (at[0] < 0x80) {
        *to = at[0];
        return 1;
    }
    if (at[0] == 0xcd && left >= 3) { /* nearly all token ids: 1.5 ns instead of 4 */
        *to = (uint32_t)at[1] << 8 | at[2];
        return 3;
    }
    if (at[0] == 0xce && left >= 5) {
        *to = (uint32_t)at[1] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 8 | at[4];
        return 5;
    }
    /* cc to cf: unsigned of 1, 2, 4, 8 bytes; d0 to d3: the same with a sign, which must be plus. */
    if (at[0] < 0xcc || at[0] > 0xd3) return 0;
    Py_ssize_t size = (Py_ssize_t)1 << (at[0] & 3);
    if (left < 1 + size || (at[0] >= 0xd0 && at[1] & 0x80)) return 0;
    uint64_t value = 0;
    for (Py_ssize_t n = 1; n <= size; n++) value = value << 8 | at[n];
    *to = (uint32_t)value;
    return value > UINT32_MAX ? 0 : 1 + size;
}

/* A MessagePack array of unsigned numbers of at most 32 bits each, and nothing after it. */
static int from_msgpack(const uint8_t *at, Py_ssize_t left, Numbers *n) {
    uint64_t count = 0;
    Py_ssize_t head = 0;
    if (left >= 1 && (at[0] & 0xf0) == 0x90) {
        head = 1;
        count = at[0] & 0x0f;
    } else if (left >= 3 && at[0] == 0xdc) {
        head = 3;
        count = (uint64_t)at[1] << 8 | at[2];
    } else if (left >= 5 && at[0] == 0xdd) {
        head = 5;
        count = (uint64_t)at[1] << 24 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 8 | at[4];
    }
    int failed = !head || count > (uint64_t)(left - head); /* no memory for what a lie promises */
    if (!failed) {
        if (room_for(n, (Py_ssize_t)count, 4) < 0) return -1;
        for (uint64_t item = 0; item < count; item++) {
            Py_ssize_t size = one_u32(at + head, left - head, (uint32_t *)n->at + item);
            if (!size) {
                failed = 1;
                break;
            }
            head += size;
        }
        failed |= head != left;
        if (failed) free_numbers(n);
    }
    if (failed) PyErr_SetString(PyExc_ValueError, "no MessagePack array of token ids");
    return failed ? -1 : 0;
}

#endif
