/* A batch of KV-cache events straight from MessagePack to events.py's structs: the forms that engines send all day.
 *
 * Whatever is odd (digests, signed hashes, unknown fields, images) is left to the typed decoders of events.py, which are
 * the reference: a batch of 400 blocks takes 30 us here and 300 there. */
#ifndef POINTSMAN_WIRE_H
#define POINTSMAN_WIRE_H

#include "_numbers.h"

typedef struct {
    const uint8_t *at, *end;
} Reader;

enum { HASHES, PARENT, TOKENS, SIZE, LORA_ID, MEDIUM, LORA, EXTRA, GROUP, KIND, WINDOW, LOCALITY, OWNERSHIP, SESSION,
       LOOKAHEAD, SALT, FIELDS };
static const char *const STORED_FIELDS[FIELDS] = {
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
    "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership", "session_id",
    "lookahead_token_ids", "cache_salt",
};
enum { REMOVED_FIELDS = 5 };
static const int REMOVED_ORDER[REMOVED_FIELDS] = {HASHES, MEDIUM, GROUP, LOCALITY, OWNERSHIP};

static int skip_nil(Reader *r) {
    if (r->at >= r->end || *r->at != 0xc0) return 0;
    r->at++;
    return 1;
}

/* `fix` to `fix + few` hold a small count; `wide` is the byte of a count of 16 bits, `wide + 1` of 32. -1 for others. */
static int64_t read_count(Reader *r, uint8_t fix, uint8_t few, uint8_t wide) {
    int64_t left = r->end - r->at;
    const uint8_t *at = r->at;
    if (left >= 1 && at[0] >= fix && at[0] <= fix + few) { r->at += 1; return at[0] - fix; }
    if (left >= 3 && at[0] == wide) { r->at += 3; return (int64_t)at[1] << 8 | at[2]; }
    if (left < 5 || at[0] != wide + 1) return -1;
    r->at += 5;
    return (int64_t)at[1] << 24 | (int64_t)at[2] << 16 | (int64_t)at[3] << 8 | at[4];
}

static inline int64_t read_array(Reader *r) {
    int64_t count = read_count(r, 0x90, 15, 0xdc);
    return count > r->end - r->at ? -1 : count; /* no memory for what a lie promises */
}

static const char *read_text(Reader *r, int64_t *size) {
    if (r->end - r->at >= 2 && r->at[0] == 0xd9) {
        *size = r->at[1];
        r->at += 2;
    } else {
        *size = read_count(r, 0xa0, 31, 0xda);
    }
    if (*size < 0 || *size > r->end - r->at) return NULL;
    const char *text = (const char *)r->at;
    r->at += *size;
    return text;
}

static inline int read_u64(Reader *r, uint64_t *to) {
    int64_t left = r->end - r->at;
    uint8_t head = left >= 1 ? r->at[0] : 0xc0;
    if (head < 0x80) {
        *to = head;
        r->at++;
        return 1;
    }
    if (head < 0xcc || head > 0xd3) return 0;
    int64_t size = (int64_t)1 << (head & 3);
    if (left < 1 + size || (head >= 0xd0 && r->at[1] & 0x80)) return 0;
    uint64_t value = 0;
    for (int64_t n = 1; n <= size; n++) value = value << 8 | r->at[n];
    r->at += 1 + size;
    *to = value;
    return 1;
}

static PyObject *read_number(Reader *r, uint64_t most) {
    uint64_t value;
    return read_u64(r, &value) && value <= most ? PyLong_FromUnsignedLongLong(value) : NULL;
}

static PyObject *read_string(Reader *r) {
    int64_t size;
    const char *text = read_text(r, &size);
    return text ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL) : NULL;
}

static PyObject *read_hashes(Reader *r) {
    int64_t count = read_array(r);
    PyObject *list = count < 0 ? NULL : PyList_New((Py_ssize_t)count);
    for (int64_t at = 0; list && at < count; at++) {
        PyObject *hash = read_number(r, UINT64_MAX);
        if (!hash || PyList_SetItem(list, (Py_ssize_t)at, hash) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *read_tokens(Reader *r, PyObject *array) {
    int64_t count = read_array(r);
    PyObject *packed = count < 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * 4);
    uint32_t *to = packed ? (uint32_t *)PyBytes_AsString(packed) : NULL;
    for (int64_t at = 0; to && at < count; at++) {
        Py_ssize_t size = one_u32(r->at, r->end - r->at, to + at);
        if (!size) to = NULL;
        r->at += size;
    }
    PyObject *tokens = to ? PyObject_CallFunction(array, "sO", "I", packed) : NULL;
    Py_XDECREF(packed);
    return tokens;
}

/* A list of as many None as the engine sent: one per block, when none has images or a salt. */
static PyObject *read_nothings(Reader *r) {
    int64_t count = read_array(r);
    PyObject *list = count < 0 ? NULL : PyList_New((Py_ssize_t)count);
    for (int64_t at = 0; list && at < count; at++) {
        Py_INCREF(Py_None);
        if (!skip_nil(r) || PyList_SetItem(list, (Py_ssize_t)at, Py_None) < 0) Py_CLEAR(list);
    }
    return list;
}

/* One field; NULL, perhaps with an exception, when it is not as usual. */
static PyObject *read_field(Reader *r, int field, PyObject *array) {
    if (field != HASHES && field != TOKENS && skip_nil(r)) {
        Py_INCREF(Py_None);
        return Py_None;
    }
    switch (field) {
    case HASHES: return read_hashes(r);
    case TOKENS: return read_tokens(r, array);
    case EXTRA: return read_nothings(r);
    case PARENT: return read_number(r, UINT64_MAX);
    case SIZE: case LORA_ID: case GROUP: case WINDOW: return read_number(r, 1U << 31);
    case LOCALITY: case LOOKAHEAD: return NULL;
    default: return read_string(r);
    }
}

static int read_fields(Reader *r, int removed, int map, int64_t count, PyObject *array, PyObject **field) {
    int most = removed ? REMOVED_FIELDS : FIELDS;
    if (count > most) return 0;
    for (int64_t at = 0; at < count; at++) {
        int which = removed ? REMOVED_ORDER[at] : (int)at;
        if (map) {
            int64_t size;
            const char *name = read_text(r, &size);
            for (which = 0; name && which < FIELDS; which++) {
                if ((size_t)size == strlen(STORED_FIELDS[which]) && !memcmp(name, STORED_FIELDS[which], (size_t)size)) break;
            }
            int known = !removed && which < FIELDS;
            for (int n = 0; removed && n < REMOVED_FIELDS; n++) known |= REMOVED_ORDER[n] == which;
            if (!name || !known || field[which]) return 0;
        }
        if (!(field[which] = read_field(r, which, array))) return 0;
    }
    return field[HASHES] != NULL;
}

/* What an event's struct is called with. A field that is missing and one that is None are the same to it. */
static PyObject *make_event(PyObject *type, int removed, PyObject **field) {
#define GIVEN(which) (field[which] && field[which] != Py_None)
#define OR_NONE(which) (field[which] ? field[which] : Py_None)
#define TEXT(which) (GIVEN(which) && PyUnicode_GetLength(field[which]) > 0)
    PyObject *medium = TEXT(MEDIUM) ? Py_NewRef(field[MEDIUM]) : PyUnicode_InternFromString("GPU");
    PyObject *group = GIVEN(GROUP) ? Py_NewRef(field[GROUP]) : PyLong_FromLong(0), *event = NULL;
    if (medium && group && removed) {
        event = PyObject_CallFunctionObjArgs(type, field[HASHES], medium, group, OR_NONE(OWNERSHIP), NULL);
    } else if (medium && group) {
        PyObject *adapter = TEXT(LORA) ? Py_NewRef(field[LORA])
                            : GIVEN(LORA_ID) ? PyUnicode_FromFormat("lora-id:%S", field[LORA_ID]) : Py_NewRef(Py_None);
        PyObject *tokens = field[TOKENS] ? Py_NewRef(field[TOKENS]) : PyTuple_New(0);
        PyObject *size = GIVEN(SIZE) ? Py_NewRef(field[SIZE]) : PyLong_FromLong(0);
        if (adapter && tokens && size) {
            event = PyObject_CallFunctionObjArgs(
                type, field[HASHES], OR_NONE(PARENT), tokens, size, adapter, medium, group, OR_NONE(KIND), OR_NONE(WINDOW),
                OR_NONE(EXTRA), OR_NONE(SALT), OR_NONE(OWNERSHIP), OR_NONE(SESSION), NULL);
        }
        Py_XDECREF(adapter);
        Py_XDECREF(tokens);
        Py_XDECREF(size);
    }
    Py_XDECREF(medium);
    Py_XDECREF(group);
    return event;
}

/* kinds: BlockStored, BlockRemoved, the one AllCleared, array. */
static PyObject *read_event(Reader *r, PyObject *const *kinds) {
    int map = 0;
    int64_t size, count = read_count(r, 0x90, 15, 0xdc);
    if (count < 0) {
        map = 1;
        count = read_count(r, 0x80, 15, 0xde);
        if (count < 1 || !read_text(r, &size) || size != 4 || memcmp(r->at - 4, "type", 4)) return NULL;
    }
    const char *tag = count < 1 ? NULL : read_text(r, &size);
    if (!tag) return NULL;
    int removed = size == 12 && !memcmp(tag, "BlockRemoved", 12);
    if (size == 16 && count == 1 && !memcmp(tag, "AllBlocksCleared", 16)) return Py_NewRef(kinds[2]);
    if (!removed && (size != 11 || memcmp(tag, "BlockStored", 11))) return NULL;
    PyObject *field[FIELDS] = {NULL}, *event = NULL;
    if (read_fields(r, removed, map, count - 1, kinds[3], field)) event = make_event(kinds[removed], removed, field);
    for (int which = 0; which < FIELDS; which++) Py_XDECREF(field[which]);
    return event;
}

static PyObject *read_batch(Reader *r, PyObject *const *kinds) {
    uint64_t bits = 0, rank = 0;
    double time;
    int64_t parts = read_array(r);
    if ((parts != 2 && parts != 3) || r->end - r->at < 9 || *r->at++ != 0xcb) return NULL;
    for (int n = 0; n < 8; n++) bits = bits << 8 | *r->at++;
    memcpy(&time, &bits, 8);
    int64_t count = read_array(r);
    PyObject *events = count < 0 ? NULL : PyList_New((Py_ssize_t)count);
    for (int64_t at = 0; events && at < count; at++) {
        PyObject *event = read_event(r, kinds);
        if (!event || PyList_SetItem(events, (Py_ssize_t)at, event) < 0) Py_CLEAR(events);
    }
    if (!events || (parts == 3 && !skip_nil(r) && (!read_u64(r, &rank) || rank > INT32_MAX)) || r->at != r->end) {
        Py_XDECREF(events);
        return NULL;
    }
    return Py_BuildValue("(dNi)", time, events, (int)rank);
}

/* (time, events, rank); None when something is not as usual. */
static PyObject *read_events(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *kinds[4];
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "y*OOOO", &view, &kinds[0], &kinds[1], &kinds[2], &kinds[3])) return NULL;
    Reader r = {view.buf, (const uint8_t *)view.buf + view.len};
    PyObject *batch = read_batch(&r, kinds);
    PyBuffer_Release(&view);
    if (batch) return batch;
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_ValueError)) return NULL; /* a UnicodeError is one */
    PyErr_Clear();
    return Py_NewRef(Py_None);
}

#endif
