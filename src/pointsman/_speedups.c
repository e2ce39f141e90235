/* Optional helper of pointsman.kvcache: chained block keys and the block table. Limited API of CPython 3.11.
 *
 * pointsman/kvcache/_pure.py does the same in Python and tests hold both to equal results. Nothing here runs Python
 * code or makes Python objects while a table is being changed, so each call is atomic under the interpreter lock. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_kvops.h"
#include "_numbers.h"
#include "_viewmaps.h"
#include "_wire.h"
#include "_xxh3.h"

#define REVISION 3 /* raised with every change of behaviour; _native.py refuses a build of another revision */

static PyObject *chain(const uint8_t *data, Py_ssize_t count, Py_ssize_t block, uint64_t key) {
    PyObject *keys = PyList_New(count);
    for (Py_ssize_t at = 0; keys && at < count; at++) {
        key = xxh3_64(data + at * block, (size_t)block, key);
        PyObject *number = PyLong_FromUnsignedLongLong(key);
        if (!number || PyList_SetItem(keys, at, number) < 0) Py_CLEAR(keys);
    }
    return keys;
}

static int check_block(Py_ssize_t block) {
    if (block >= 1 && block <= PY_SSIZE_T_MAX / 8) return 0;
    PyErr_SetString(PyExc_ValueError, "a block has at least 1 unit");
    return -1;
}

static PyObject *chain_bytes(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *data, *seed, *limit = Py_None;
    Py_ssize_t block;
    uint64_t key;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "OnO|O", &data, &block, &seed, &limit)) return NULL;
    if (check_block(block) < 0 || as_u64(seed, &key) < 0) return NULL;
    Py_ssize_t most = limit == Py_None ? PY_SSIZE_T_MAX : PyNumber_AsSsize_t(limit, PyExc_OverflowError);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    Py_ssize_t count = view.len / block;
    if (most < count) count = most < 0 ? 0 : most;
    PyObject *keys = chain(view.buf, count, block, key);
    PyBuffer_Release(&view);
    return keys;
}

/* Keys as bytes, 8 of this machine each: 400 Python numbers would cost 30 us by the time they are gone again. */
static PyObject *packed_chain(const uint8_t *data, Py_ssize_t count, Py_ssize_t block, uint64_t key) {
    PyObject *keys = PyBytes_FromStringAndSize(NULL, count * 8);
    char *to = keys ? PyBytes_AsString(keys) : NULL;
    for (Py_ssize_t at = 0; to && at < count; at++) {
        key = xxh3_64(data + at * block, (size_t)block, key);
        memcpy(to + at * 8, &key, 8);
    }
    return keys;
}

static PyObject *from_tokens(PyObject *args, PyObject *(*make)(const uint8_t *, Py_ssize_t, Py_ssize_t, uint64_t)) {
    PyObject *tokens, *parent;
    Py_ssize_t block;
    uint64_t key;
    Numbers n;
    if (!PyArg_ParseTuple(args, "OnO", &tokens, &block, &parent)) return NULL;
    if (check_block(block) < 0 || as_u64(parent, &key) < 0 || get_numbers(tokens, &n, 4) < 0) return NULL;
    PyObject *keys = make(n.at, n.count / block, block * 4, key);
    free_numbers(&n);
    return keys;
}

static PyObject *chain_tokens(PyObject *module, PyObject *args) { (void)module; return from_tokens(args, chain); }
static PyObject *chain_packed(PyObject *module, PyObject *args) { (void)module; return from_tokens(args, packed_chain); }

static PyObject *unpack_tokens(PyObject *module, PyObject *data) {
    (void)module;
    Py_buffer view;
    Numbers n;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    int failed = from_msgpack(view.buf, view.len, &n);
    PyBuffer_Release(&view);
    if (failed) return NULL;
    PyObject *packed = PyBytes_FromStringAndSize(n.at, n.count * 4);
    free_numbers(&n);
    return packed;
}

typedef struct {
    PyObject_HEAD
    Table table;
} TableObject;

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"max_blocks", NULL};
    long long bound = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L", names, &bound)) return NULL;
    if (bound < 0) return PyErr_Format(PyExc_ValueError, "max_blocks must not be negative");
    TableObject *self = (TableObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self) return NULL;
    memset(&self->table, 0, sizeof self->table);
    self->table.next_id = 1;
    self->table.free_row = self->table.dying_row = NO_ROW;
    self->table.bound = bound && bound < MOST_BLOCKS ? (uint64_t)bound : MOST_BLOCKS;
    return (PyObject *)self;
}

static void table_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    free_table(&((TableObject *)self)->table);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int check_place(int slot, int tier, int lowest_tier) {
    if (slot < 0 || slot >= MAX_SLOTS) {
        PyErr_Format(PyExc_ValueError, "slot %d is not within 0 to %d", slot, MAX_SLOTS - 1);
        return -1;
    }
    if (tier >= lowest_tier && tier < TIERS) return 0;
    PyErr_Format(PyExc_ValueError, "tier %d is not within 0 to %d", tier, TIERS - 1);
    return -1;
}

static PyObject *counted(int64_t count) { return count < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(count); }

static PyObject *change_keys(PyObject *self, PyObject *args,
                             int64_t (*change)(Table *, uint32_t, int, const uint64_t *, int64_t)) {
    int slot, tier;
    PyObject *keys;
    Numbers n;
    if (!PyArg_ParseTuple(args, "iiO", &slot, &tier, &keys) || check_place(slot, tier, 0) < 0) return NULL;
    if (get_numbers(keys, &n, 8) < 0) return NULL;
    int64_t changed = change(&((TableObject *)self)->table, (uint32_t)slot, tier, n.at, n.count);
    free_numbers(&n);
    return counted(changed);
}

static PyObject *table_store(PyObject *self, PyObject *args) { return change_keys(self, args, store_keys); }
static PyObject *table_discard(PyObject *self, PyObject *args) { return change_keys(self, args, discard_keys); }

static PyObject *table_clear(PyObject *self, PyObject *args) {
    int slot, tier = -1;
    if (!PyArg_ParseTuple(args, "i|i", &slot, &tier) || check_place(slot, tier, -1) < 0) return NULL;
    return counted(clear_slot(&((TableObject *)self)->table, (uint32_t)slot, tier));
}

static PyObject *table_touch(PyObject *self, PyObject *keys) {
    Numbers n;
    if (get_numbers(keys, &n, 8) < 0) return NULL;
    touch_keys(&((TableObject *)self)->table, n.at, n.count);
    free_numbers(&n);
    Py_RETURN_NONE;
}

/* Numbers by slot; an empty one when none of them is worth telling. Neighbours are mostly equal: made once. */
static PyObject *as_list(const Table *t, const int32_t *by_row, uint32_t count) {
    PyObject *list = PyList_New(count), *last = NULL;
    int32_t before = 0;
    for (uint32_t at = 0; list && at < count; at++) {
        int32_t number = t->row_of[at] == NO_ROW ? 0 : by_row[t->row_of[at]];
        if (!last || number != before) last = PyLong_FromLong(number); else Py_INCREF(last);
        before = number;
        if (!last || PyList_SetItem(list, at, last) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *table_match(PyObject *self, PyObject *keys) {
    Table *t = &((TableObject *)self)->table;
    Numbers n;
    if (get_numbers(keys, &n, 8) < 0) return NULL;
    uint32_t words = (t->rows + 63) / 64, width = t->slots;
    int32_t *memory = calloc((size_t)words * 64 * 3 + words * 2 + 2, 4); /* three numbers and one bit per slot */
    PyObject *result = NULL;
    if (memory && n.count <= INT32_MAX) {
        uint64_t *alive = (uint64_t *)memory;
        int32_t *blocks = memory + words * 2, *cpu = blocks + words * 64, *disk = cpu + words * 64;
        Match m = {.words = words, .alive = alive, .blocks = blocks, .cpu = cpu, .disk = disk};
        if (match_keys(t, &m, n.at, n.count) == 0) {
            PyObject *all = as_list(t, blocks, width), *in_cpu = as_list(t, cpu, m.any_cpu ? width : 0);
            PyObject *on_disk = as_list(t, disk, m.any_disk ? width : 0);
            int32_t best = 0;
            for (uint32_t at = 0; at < t->rows; at++) best = blocks[at] > best ? blocks[at] : best;
            if (all && in_cpu && on_disk) result = Py_BuildValue("(OOOi)", all, in_cpu, on_disk, (int)best);
            Py_XDECREF(all);
            Py_XDECREF(in_cpu);
            Py_XDECREF(on_disk);
        }
    }
    free(memory);
    free_numbers(&n);
    return result || PyErr_Occurred() ? result : PyErr_NoMemory();
}

static PyObject *table_counts(PyObject *self, PyObject *args) {
    const Table *t = &((TableObject *)self)->table;
    int slot;
    if (!PyArg_ParseTuple(args, "i", &slot) || check_place(slot, 0, 0) < 0) return NULL;
    uint32_t row = row_at(t, (uint32_t)slot);
    if (row == NO_ROW) return Py_BuildValue("(iiii)", 0, 0, 0, 0);
    const Row *r = &t->row[row];
    return Py_BuildValue("(IIII)", r->blocks, r->tier[0], r->tier[1], r->tier[2]);
}

static PyObject *table_keys_of(PyObject *self, PyObject *args) {
    Table *t = &((TableObject *)self)->table;
    int slot, tier = -1;
    if (!PyArg_ParseTuple(args, "i|i", &slot, &tier) || check_place(slot, tier, -1) < 0) return NULL;
    uint32_t row = row_at(t, (uint32_t)slot), wanted = tier < 0 ? 7U : 1U << tier;
    const Row *r = row == NO_ROW ? NULL : &t->row[row];
    uint64_t count = 0, *keys = malloc(r ? (size_t)r->blocks * 8 + 1 : 1);
    if (!keys) return PyErr_NoMemory();
    for (int old = 0; r && old < 2; old++) {
        const Ids *ids = old ? &r->old : &r->ids;
        for (uint32_t at = 0; at < ids->size; at++) {
            uint32_t id = ids->cell[at];
            if (!id || (old && ids_have(&r->ids, id))) continue;
            if (tiers_of(&t->sets, block_at(t, id)->holders, row) & wanted) keys[count++] = key_of(block_at(t, id));
        }
    }
    PyObject *list = to_list(keys, count);
    free(keys);
    return list;
}

static PyObject *table_sweep(PyObject *self, PyObject *args) {
    long long cells = -1;
    if (!PyArg_ParseTuple(args, "|L", &cells)) return NULL;
    return PyBool_FromLong(sweep(&((TableObject *)self)->table, cells < 0 ? UINT64_MAX : (uint64_t)cells) != 0);
}

static Py_ssize_t table_length(PyObject *self) { return (Py_ssize_t)((TableObject *)self)->table.blocks; }
static PyObject *get_evicted(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((TableObject *)self)->table.evicted);
}
static PyObject *get_nbytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(table_bytes(&((TableObject *)self)->table));
}

static PyMethodDef table_methods[] = {
    {"store", table_store, METH_VARARGS, "store(slot, tier, keys) -> how many were new there"},
    {"discard", table_discard, METH_VARARGS, "discard(slot, tier, keys) -> how many were there"},
    {"clear", table_clear, METH_VARARGS, "clear(slot, tier=-1) -> how many entries went; -1 is every tier"},
    {"sweep", table_sweep, METH_VARARGS, "sweep(cells=-1) -> whether blocks of cleared slots still wait to be swept"},
    {"touch", table_touch, METH_O, "touch(keys): the blocks that are there become the newest"},
    {"match", table_match, METH_O, "match(keys) -> (blocks, cpu, disk, best); cpu, disk empty when all 0"},
    {"counts", table_counts, METH_VARARGS, "counts(slot) -> (blocks, gpu, cpu, disk)"},
    {"keys_of", table_keys_of, METH_VARARGS, "keys_of(slot, tier=-1) -> keys in no order"},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef table_getset[] = {
    {"evicted", get_evicted, NULL, "blocks dropped for want of room", NULL},
    {"nbytes", get_nbytes, NULL, "memory in bytes", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot table_slots[] = {
    {Py_tp_new, table_new},         {Py_tp_dealloc, table_dealloc}, {Py_tp_methods, table_methods},
    {Py_tp_getset, table_getset},   {Py_mp_length, table_length},   {Py_tp_doc, "Block keys and who holds them."},
    {0, NULL},
};
static PyType_Spec table_spec = {"pointsman._speedups.BlockTable", sizeof(TableObject), 0, Py_TPFLAGS_DEFAULT, table_slots};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int failed = !type || PyModule_AddObjectRef(module, name, type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static int start(PyObject *module) {
    if (add_type(module, "BlockTable", &table_spec) < 0 || add_type(module, "BlockMap", &blocks_spec) < 0) return -1;
    if (add_type(module, "KeyCounts", &counts_spec) < 0) return -1;
    return PyModule_AddIntConstant(module, "REVISION", REVISION);
}

static PyMethodDef functions[] = {
    {"chain_bytes", chain_bytes, METH_VARARGS, "chain_bytes(data, block_bytes, seed, limit=None) -> keys"},
    {"chain_tokens", chain_tokens, METH_VARARGS, "chain_tokens(tokens, block_tokens, parent) -> keys"},
    {"chain_packed", chain_packed, METH_VARARGS, "chain_packed(tokens, block_tokens, parent) -> keys as bytes, 8 each"},
    {"read_events", read_events, METH_VARARGS, "read_events(payload, stored, removed, cleared, array) -> batch or None"},
    {"unpack_tokens", unpack_tokens, METH_O, "unpack_tokens(msgpack array) -> bytes, 4 little-endian ones per token"},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", NULL, 0, functions, slots, NULL, NULL, NULL,
};
PyMODINIT_FUNC PyInit__speedups(void) { return PyModuleDef_Init(&definition); }
