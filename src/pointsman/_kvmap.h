/* A map of 64-bit numbers, or a set of them: 20 to 40 B an entry, half of it in a set. No Python in here.
 *
 * It grows a few entries per put: at once, 100 k entries would stop every query for a millisecond. */
#ifndef POINTSMAN_KVMAP_H
#define POINTSMAN_KVMAP_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_kvtable.h"

enum { FIRST_MAP = 16, MOVE = 8, AHEAD = 8 };

typedef struct {
    uint64_t *key, *value; /* key 0 is an empty cell; the entry of 0 itself is kept apart */
    uint64_t size, used;
} Cells;

typedef struct {
    Cells now, old; /* old: being moved over; below `moved` it is empty, and looking goes on at `moved` */
    uint64_t moved, count, zero;
    int set, has_zero; /* set: no values */
} Map;

typedef struct {
    Cells *in; /* NULL: not there */
    uint64_t at;
} Found;

static inline uint64_t cell_of(const Cells *c, uint64_t key) { return (mixed(key) >> 20) & (c->size - 1); }
static inline uint64_t cell_after(const Cells *c, uint64_t at, uint64_t low) {
    at = (at + 1) & (c->size - 1);
    return at < low ? low : at;
}

static Found find_cell(Cells *c, uint64_t low, uint64_t key) {
    if (c->size) {
        uint64_t at = cell_of(c, key), left = c->size - low; /* near the end of a move no cell may be empty */
        for (at = at < low ? low : at; left && c->key[at]; at = cell_after(c, at, low), left--) {
            if (c->key[at] == key) return (Found){c, at};
        }
    }
    return (Found){NULL, 0};
}

/* For keys other than 0. */
static inline Found map_find(Map *m, uint64_t key) {
    Found f = find_cell(&m->now, 0, key);
    return f.in || !m->old.size ? f : find_cell(&m->old, m->moved, key);
}

static inline int map_has(Map *m, uint64_t key) { return key ? map_find(m, key).in != NULL : m->has_zero; }

/* The value of a key, NULL when it is not there; not for sets. */
static inline uint64_t *map_value(Map *m, uint64_t key) {
    if (!key) return m->has_zero ? &m->zero : NULL;
    Found f = map_find(m, key);
    return f.in ? &f.in->value[f.at] : NULL;
}

static inline void map_ahead(const Map *m, const uint64_t *keys, int64_t at, int64_t count) {
    if (at < 0 || at >= count) return;
    if (m->now.size) {
        uint64_t cell = cell_of(&m->now, keys[at]);
        PREFETCH(&m->now.key[cell]);
        if (!m->set) PREFETCH(&m->now.value[cell]);
    }
    if (m->old.size) PREFETCH(&m->old.key[cell_of(&m->old, keys[at])]);
}

static void free_cells(Cells *c) {
    free(c->key);
    free(c->value);
    memset(c, 0, sizeof *c);
}

static void map_free(Map *m) {
    free_cells(&m->now);
    free_cells(&m->old);
    *m = (Map){.set = m->set};
}

static void put_cell(Cells *c, uint64_t key, uint64_t value) {
    uint64_t at = cell_of(c, key);
    while (c->key[at]) at = (at + 1) & (c->size - 1);
    c->key[at] = key;
    if (c->value) c->value[at] = value;
    c->used++;
}

static void move_cells(Map *m, uint64_t cells) {
    Cells *from = &m->old;
    for (; cells && m->moved < from->size; cells--, m->moved++) {
        uint64_t at = m->moved;
        if (from->key[at]) put_cell(&m->now, from->key[at], from->value ? from->value[at] : 0);
        from->key[at] = 0;
    }
    if (from->size && m->moved >= from->size) free_cells(from);
}

static int map_room(Map *m) {
    if (m->old.size) move_cells(m, MOVE);
    if (m->now.size && (m->now.used + 1) * 5 <= m->now.size * 4) return 0;
    move_cells(m, m->old.size);
    uint64_t size = m->now.size ? m->now.size * 2 : FIRST_MAP;
    Cells grown = {calloc(size, 8), m->set ? NULL : malloc(size * 8), size, 0};
    if (!grown.key || (!m->set && !grown.value)) {
        free_cells(&grown);
        return -1;
    }
    m->old = m->now;
    m->now = grown;
    m->moved = 0;
    return 0;
}

/* A key that is not there; -1 without memory. */
static int map_put(Map *m, uint64_t key, uint64_t value) {
    if (!key) {
        m->has_zero = 1;
        m->zero = value;
    } else {
        if (map_room(m) < 0) return -1;
        put_cell(&m->now, key, value);
    }
    m->count++;
    return 0;
}

/* What comes after an emptied cell moves up, so that looking may stop at any empty one. */
static void close_up(Cells *c, uint64_t hole, uint64_t low) {
    uint64_t mask = c->size - 1, left = c->size - low;
    for (uint64_t at = cell_after(c, hole, low); --left && c->key[at]; at = cell_after(c, at, low)) {
        if (((at - cell_of(c, c->key[at])) & mask) < ((at - hole) & mask)) continue;
        c->key[hole] = c->key[at];
        if (c->value) c->value[hole] = c->value[at];
        c->key[at] = 0;
        hole = at;
    }
}

/* Whether the key was there. */
static int map_drop(Map *m, uint64_t key) {
    if (!key) {
        int had = m->has_zero;
        m->has_zero = 0;
        m->count -= (uint64_t)had;
        return had;
    }
    Found f = map_find(m, key);
    if (!f.in) return 0;
    f.in->key[f.at] = 0;
    f.in->used--;
    m->count--;
    close_up(f.in, f.at, f.in == &m->old ? m->moved : 0);
    return 1;
}

/* Every entry: copied to `keys` and `values` (either may be NULL), which have room for `count`. */
static void map_entries(const Map *m, uint64_t *keys, uint64_t *values) {
    uint64_t n = 0;
    for (int which = 0; which < 2; which++) {
        const Cells *c = which ? &m->old : &m->now;
        for (uint64_t at = which ? m->moved : 0; at < c->size; at++) {
            if (!c->key[at]) continue;
            if (keys) keys[n] = c->key[at];
            if (values) values[n] = c->value[at];
            n++;
        }
    }
    if (!m->has_zero) return;
    if (keys) keys[n] = 0;
    if (values) values[n] = m->zero;
}

static uint64_t map_bytes(const Map *m) { return (m->now.size + m->old.size) * (m->set ? 8 : 16); }

#endif
