/* What a pod's view keeps, as Python types: BlockMap (a cell's blocks) and KeyCounts (own keys held in a tier). */
#ifndef POINTSMAN_VIEWMAPS_H
#define POINTSMAN_VIEWMAPS_H

#include "_kvmap.h"
#include "_numbers.h"

typedef struct {
    PyObject_HEAD
    Map known;   /* live hash -> own key */
    Map unknown; /* live hashes without a key */
    Map copies;  /* hash -> copies, only where that is above 1 */
    uint64_t spare; /* copies beyond the first, over all blocks */
} BlockMap;

typedef struct {
    PyObject_HEAD
    Map held;  /* keys */
    Map times; /* key -> how often it is held, only where that is above 1 */
} KeyCounts;

static PyObject *to_list(const uint64_t *numbers, uint64_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t at = 0; list && at < count; at++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[at]);
        if (!number || PyList_SetItem(list, (Py_ssize_t)at, number) < 0) Py_CLEAR(list);
    }
    return list;
}

/* The entries of a map; `rest`, when given, comes after it. */
static PyObject *entries(const Map *m, const Map *rest, int values) {
    uint64_t count = m->count + (rest ? rest->count : 0), *all = malloc(count * 8 + 1);
    if (!all) return PyErr_NoMemory();
    map_entries(m, values ? NULL : all, values ? all : NULL);
    if (rest) map_entries(rest, all + m->count, NULL);
    PyObject *list = to_list(all, count);
    free(all);
    return list;
}

/* Own keys, None for those not known: `mask` has a 1 for each that is. */
static int get_keys(PyObject *from, Numbers *n, uint8_t **mask) {
    *mask = NULL;
    Py_ssize_t count = PyList_Check(from) ? PyList_Size(from) : 0;
    int some = 0;
    for (Py_ssize_t at = 0; at < count && !some; at++) some = PyList_GetItem(from, at) == Py_None;
    if (!some) return get_numbers(from, n, 8);
    if (!(*mask = calloc((size_t)count, 1)) || room_for(n, count, 8) < 0) {
        free(*mask);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *item = PyList_GetItem(from, at);
        int known = item && item != Py_None;
        if (item && !PyLong_Check(item) && known) PyErr_SetString(PyExc_TypeError, "a key is a number or None");
        if (known && !PyErr_Occurred()) as_u64(item, (uint64_t *)n->at + at);
        if (!item || PyErr_Occurred()) {
            free(*mask);
            free_numbers(n);
            return -1;
        }
        (*mask)[at] = (uint8_t)known;
    }
    return 0;
}

static int one_more(BlockMap *self, uint64_t hash, int64_t most) {
    uint64_t *copies = map_value(&self->copies, hash), now = copies ? *copies + 1 : 2;
    if (most >= 0 && now > (uint64_t)most) return 0;
    self->spare++;
    if (copies) *copies = now;
    return copies ? 0 : map_put(&self->copies, hash, now);
}

/* Takes a copy away: whether that was the last one. */
static int one_less(BlockMap *self, uint64_t hash) {
    uint64_t *copies = self->copies.count ? map_value(&self->copies, hash) : NULL;
    if (!copies) return 1;
    self->spare--;
    if (--*copies == 1) map_drop(&self->copies, hash);
    return 0;
}

/* The blocks one by one: `fresh` gets the keys that are new. Whether a live block could get a key it lacks, or -1. */
static int add_blocks(BlockMap *self, const uint64_t *hash, const uint64_t *key, const uint8_t *mask, int64_t count,
                      int64_t most, uint64_t *fresh, int64_t *new) {
    int late = 0;
    for (int64_t at = 0; at < count; at++) {
        map_ahead(&self->known, hash, at + AHEAD, count);
        int known = !mask || mask[at], failed = 0, lacks = self->unknown.count && map_has(&self->unknown, hash[at]);
        if (lacks || map_has(&self->known, hash[at])) {
            failed = one_more(self, hash[at], most);
            late |= lacks && known;
        } else if (known) {
            failed = map_put(&self->known, hash[at], key[at]);
            fresh[(*new)++] = key[at];
        } else {
            failed = map_put(&self->unknown, hash[at], 0);
        }
        if (failed) return -1;
    }
    return late;
}

static PyObject *blocks_add(PyObject *object, PyObject *args) {
    PyObject *hashes, *keys, *limit, *new = NULL;
    Numbers h, k;
    uint8_t *mask;
    if (!PyArg_ParseTuple(args, "OOO", &hashes, &keys, &limit)) return NULL;
    long long most = limit == Py_None ? -1 : PyLong_AsLongLong(limit);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (get_numbers(hashes, &h, 8) < 0) return NULL;
    if (get_keys(keys, &k, &mask) < 0) {
        free_numbers(&h);
        return NULL;
    }
    uint64_t few[512], *fresh = h.count <= 512 ? few : malloc((size_t)h.count * 8);
    int64_t count = 0;
    int late = 0;
    if (h.count != k.count) {
        PyErr_SetString(PyExc_ValueError, "as many keys as hashes are wanted");
    } else if (!fresh || (late = add_blocks((BlockMap *)object, h.at, k.at, mask, h.count, most, fresh, &count)) < 0) {
        PyErr_NoMemory();
    } else {
        new = count == h.count ? Py_NewRef(keys) : to_list(fresh, (uint64_t)count);
    }
    if (fresh != few) free(fresh);
    free(mask);
    free_numbers(&h);
    free_numbers(&k);
    return new ? Py_BuildValue("(NO)", new, late ? Py_True : Py_False) : NULL;
}

static PyObject *blocks_remove(PyObject *object, PyObject *hashes) {
    BlockMap *self = (BlockMap *)object;
    Numbers h;
    if (get_numbers(hashes, &h, 8) < 0) return NULL;
    uint64_t *hash = h.at, missing = 0, keys = 0, without = 0, *out = malloc((size_t)h.count * 16 + 1);
    for (int64_t at = 0; out && at < h.count; at++) {
        map_ahead(&self->known, hash, at + AHEAD, h.count);
        uint64_t *key = map_value(&self->known, hash[at]), own = key ? *key : 0;
        if (!key && !map_has(&self->unknown, hash[at])) {
            missing++;
        } else if (one_less(self, hash[at])) {
            if (key) out[keys++] = own; else out[h.count + (int64_t)without++] = hash[at];
            map_drop(key ? &self->known : &self->unknown, hash[at]);
        }
    }
    PyObject *gone = out ? to_list(out, keys) : PyErr_NoMemory();
    PyObject *unkeyed = gone ? to_list(out + h.count, without) : NULL;
    free(out);
    free_numbers(&h);
    if (unkeyed) return Py_BuildValue("(NnN)", gone, (Py_ssize_t)missing, unkeyed);
    Py_XDECREF(gone);
    return NULL;
}

static PyObject *blocks_fill(PyObject *object, PyObject *args) {
    BlockMap *self = (BlockMap *)object;
    PyObject *first, *second;
    uint64_t hash, key;
    if (!PyArg_ParseTuple(args, "OO", &first, &second)) return NULL;
    if (as_u64(first, &hash) < 0 || as_u64(second, &key) < 0) return NULL;
    int lacked = map_drop(&self->unknown, hash);
    if (lacked && map_put(&self->known, hash, key) < 0) return PyErr_NoMemory();
    return PyBool_FromLong(lacked);
}

static PyObject *blocks_get(PyObject *object, PyObject *item) {
    uint64_t hash, *key;
    if (as_u64(item, &hash) < 0) return NULL;
    key = map_value(&((BlockMap *)object)->known, hash);
    return key ? PyLong_FromUnsignedLongLong(*key) : Py_NewRef(Py_None);
}

static int blocks_contain(PyObject *object, PyObject *item) {
    BlockMap *self = (BlockMap *)object;
    uint64_t hash;
    if (as_u64(item, &hash) < 0) return -1;
    return map_has(&self->known, hash) || map_has(&self->unknown, hash);
}

static PyObject *blocks_hashes(PyObject *object, PyObject *unused) {
    (void)unused;
    return entries(&((BlockMap *)object)->known, &((BlockMap *)object)->unknown, 0);
}
static PyObject *blocks_own(PyObject *object, PyObject *unused) {
    (void)unused;
    return entries(&((BlockMap *)object)->known, NULL, 1);
}
static PyObject *blocks_distrust(PyObject *object, PyObject *unused) {
    (void)unused;
    map_free(&((BlockMap *)object)->copies);
    ((BlockMap *)object)->spare = 0;
    Py_RETURN_NONE;
}
static Py_ssize_t blocks_length(PyObject *object) {
    return (Py_ssize_t)(((BlockMap *)object)->known.count + ((BlockMap *)object)->unknown.count);
}
static PyObject *blocks_spare(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((BlockMap *)object)->spare);
}
static PyObject *blocks_bytes(PyObject *object, void *unused) {
    (void)unused;
    BlockMap *b = (BlockMap *)object;
    return PyLong_FromUnsignedLongLong(map_bytes(&b->known) + map_bytes(&b->unknown) + map_bytes(&b->copies));
}

static int hold_one(KeyCounts *self, uint64_t key) {
    if (!map_has(&self->held, key)) return map_put(&self->held, key, 0) < 0 ? -1 : 1;
    uint64_t *times = map_value(&self->times, key);
    if (times) ++*times; else return map_put(&self->times, key, 2);
    return 0;
}

static int release_one(KeyCounts *self, uint64_t key) {
    uint64_t *times = self->times.count ? map_value(&self->times, key) : NULL;
    if (!times) return map_drop(&self->held, key);
    if (--*times == 1) map_drop(&self->times, key);
    return 0;
}

/* The keys that came or went: the very object that was given when it was all of them. */
static PyObject *count_keys(PyObject *object, PyObject *keys, int (*change)(KeyCounts *, uint64_t)) {
    KeyCounts *self = (KeyCounts *)object;
    Numbers n;
    if (get_numbers(keys, &n, 8) < 0) return NULL;
    uint64_t *key = n.at, changed = 0;
    PyObject *result = NULL;
    int did = 0;
    for (int64_t at = 0; did >= 0 && at < n.count; at++) {
        map_ahead(&self->held, key, at + AHEAD, n.count);
        uint64_t own = key[at];
        did = change(self, own);
        if (did > 0) key[changed++] = own; /* behind what is read */
    }
    if (did < 0) {
        PyErr_NoMemory();
    } else {
        result = changed == (uint64_t)n.count ? Py_NewRef(keys) : to_list(key, changed);
    }
    free_numbers(&n);
    return result;
}

static PyObject *counts_hold(PyObject *self, PyObject *keys) { return count_keys(self, keys, hold_one); }
static PyObject *counts_release(PyObject *self, PyObject *keys) { return count_keys(self, keys, release_one); }
static Py_ssize_t counts_length(PyObject *object) { return (Py_ssize_t)((KeyCounts *)object)->held.count; }
static PyObject *counts_bytes(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(map_bytes(&((KeyCounts *)object)->held) + map_bytes(&((KeyCounts *)object)->times));
}

static PyObject *map_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names)) return NULL;
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0); /* all zero */
}
static PyObject *blocks_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *self = map_object(type, args, kwargs);
    if (self) ((BlockMap *)self)->unknown.set = 1;
    return self;
}
static PyObject *counts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *self = map_object(type, args, kwargs);
    if (self) ((KeyCounts *)self)->held.set = 1;
    return self;
}
static void end_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}
static void blocks_dealloc(PyObject *self) {
    map_free(&((BlockMap *)self)->known);
    map_free(&((BlockMap *)self)->unknown);
    map_free(&((BlockMap *)self)->copies);
    end_object(self);
}
static void counts_dealloc(PyObject *self) {
    map_free(&((KeyCounts *)self)->held);
    map_free(&((KeyCounts *)self)->times);
    end_object(self);
}

static PyMethodDef blocks_methods[] = {
    {"add", blocks_add, METH_VARARGS, "add(hashes, keys, most_copies) -> (keys that are new, whether a block got late news)"},
    {"remove", blocks_remove, METH_O, "remove(hashes) -> (keys that went, how many were not there, hashes without a key)"},
    {"fill", blocks_fill, METH_VARARGS, "fill(hash, key) -> whether a live block had no key and has one now"},
    {"get", blocks_get, METH_O, "get(hash) -> own key or None"},
    {"hashes", blocks_hashes, METH_NOARGS, "hashes() -> live hashes in no order"},
    {"own", blocks_own, METH_NOARGS, "own() -> own keys in no order"},
    {"distrust", blocks_distrust, METH_NOARGS, "distrust(): every block has one copy"},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef blocks_getset[] = {
    {"spare", blocks_spare, NULL, "copies beyond the first of each block", NULL},
    {"nbytes", blocks_bytes, NULL, "memory in bytes", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot blocks_slots[] = {
    {Py_tp_new, blocks_new},         {Py_tp_dealloc, blocks_dealloc},  {Py_tp_methods, blocks_methods},
    {Py_tp_getset, blocks_getset},   {Py_mp_length, blocks_length},    {Py_sq_contains, blocks_contain},
    {Py_tp_doc, "Live blocks of one engine: hash to own key, and copies."}, {0, NULL},
};
static PyType_Spec blocks_spec = {"pointsman._speedups.BlockMap", sizeof(BlockMap), 0, Py_TPFLAGS_DEFAULT, blocks_slots};

static PyMethodDef counts_methods[] = {
    {"hold", counts_hold, METH_O, "hold(keys) -> those not held before"},
    {"release", counts_release, METH_O, "release(keys) -> those not held any more"},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef counts_getset[] = {
    {"nbytes", counts_bytes, NULL, "memory in bytes", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot counts_slots[] = {
    {Py_tp_new, counts_new},       {Py_tp_dealloc, counts_dealloc}, {Py_tp_methods, counts_methods},
    {Py_tp_getset, counts_getset}, {Py_mp_length, counts_length},   {Py_tp_doc, "Keys and how often each is held."},
    {0, NULL},
};
static PyType_Spec counts_spec = {"pointsman._speedups.KeyCounts", sizeof(KeyCounts), 0, Py_TPFLAGS_DEFAULT, counts_slots};

#endif
