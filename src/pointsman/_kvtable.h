/* Block key -> (slot, tier) pairs, oldest block first out. No Python in here.
 *
 * Memory per block of one holder: 20 B block + 5 to 10 B hash table + 5 to 11 B in its row's ids. Blocks of several
 * holders refer to a shared, counted bit set, so that a prefix held by 512 pods costs one set and not one per block,
 * and a match compares one number per block as long as the holders stay the same.
 *
 * Holders are rows. A slot has a row from its first store until it is cleared; then the row is dying: it counts for
 * nothing, and its blocks are swept a few per call before it is given out again. So a clear takes no time. */
#ifndef POINTSMAN_KVTABLE_H
#define POINTSMAN_KVTABLE_H

#include "_kvids.h"
#include "_kvsets.h"

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(at) __builtin_prefetch(at)
static inline uint32_t lowest_bit(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }
#else
#define PREFETCH(at) ((void)0)
static inline uint32_t lowest_bit(uint64_t word) { uint32_t bit = 0; while (!(word >> bit & 1)) bit++; return bit; }
#endif

enum { SEGMENT_BITS = 14, SEGMENT = 1 << SEGMENT_BITS, FIRST_TABLE = 1024, MIGRATE = 8 };
#define NONE 0U          /* no block: ids start at 1 */
#define GONE 0xffffffffU /* table place whose block went or moved to the new table */
#define ID_BITS 27       /* 134 M blocks; the five bits above are of the key's hash and save a look at most blocks */
#define ID_MASK ((1U << ID_BITS) - 1)
#define MOST_BLOCKS ((1LL << ID_BITS) - (1LL << 20)) /* what one call may store past the bound must have ids too */

typedef struct {
    uint32_t key[2]; /* as one number the block would be 24 bytes */
    uint32_t holders; /* Ref; 0 for a free block */
    uint32_t older, newer;
} Block;

typedef struct {
    uint32_t *place; /* tag and block id */
    uint64_t size, used; /* used counts GONE places too */
} Places;

typedef struct {
    Sets sets;
    Block **segment;
    uint32_t segments, next_id, free_id;
    uint64_t blocks, bound, evicted;
    uint32_t oldest, newest;
    Places table, old; /* old: being moved over while the table grows, a few places per store */
    uint64_t moved;
    Row *row;
    uint32_t rows, free_row, dying_row; /* free and dying rows are chained; dying: the one that is swept */
    uint64_t *dying; /* bit set of rows */
    uint32_t *row_of; /* by slot; NO_ROW for none */
    uint32_t slots;   /* highest slot ever stored + 1 */
} Table;

static inline Block *block_at(Table *t, uint32_t id) { return &t->segment[id >> SEGMENT_BITS][id & (SEGMENT - 1)]; }
static inline uint64_t key_of(const Block *b) { uint64_t key; memcpy(&key, b->key, 8); return key; }
static inline uint64_t mixed(uint64_t key) { return (key ^ (key >> 29)) * 0x9E3779B97F4A7C15ULL; }
static inline uint64_t home(const Places *p, uint64_t mix) { return (mix >> 20) & (p->size - 1); }
static inline uint32_t tag_of(uint64_t mix) { return (uint32_t)(mix >> 59) << ID_BITS; }
static inline uint32_t id_in(uint32_t place) { return place & ID_MASK; }

static uint32_t *find_in(Table *t, const Places *p, uint64_t key) {
    if (!p->size) return NULL;
    uint64_t mix = mixed(key);
    uint32_t tag = tag_of(mix), at;
    for (uint64_t n = home(p, mix); (at = p->place[n]); n = (n + 1) & (p->size - 1)) {
        if ((at & ~ID_MASK) == tag && at != GONE && key_of(block_at(t, id_in(at))) == key) return &p->place[n];
    }
    return NULL;
}

static inline uint32_t *find(Table *t, uint64_t key) {
    uint32_t *place = find_in(t, &t->table, key);
    return place || !t->old.size ? place : find_in(t, &t->old, key);
}

static void put(Table *t, Places *p, uint32_t id) {
    uint64_t mix = mixed(key_of(block_at(t, id))), at = home(p, mix);
    while (p->place[at]) {
        if (p->place[at] == GONE) { p->used--; break; }
        at = (at + 1) & (p->size - 1);
    }
    p->place[at] = tag_of(mix) | id;
    p->used++;
}

/* A few places at a time: rehashing 10 M blocks in one go would stop every query for half a second. */
static void migrate(Table *t, uint64_t places) {
    for (; places && t->moved < t->old.size; places--, t->moved++) {
        uint32_t *place = &t->old.place[t->moved], soon = t->moved + 2 * MIGRATE < t->old.size ? place[2 * MIGRATE] : 0;
        if (soon && soon != GONE) PREFETCH(block_at(t, id_in(soon)));
        if (*place && *place != GONE) {
            put(t, &t->table, id_in(*place));
            *place = GONE;
        }
    }
    if (t->old.size && t->moved >= t->old.size) {
        free(t->old.place);
        memset(&t->old, 0, sizeof t->old);
    }
}

static int make_room(Table *t) {
    if (t->old.size) migrate(t, MIGRATE);
    if (t->table.size && t->table.used * 5 < t->table.size * 4) return 0;
    migrate(t, t->old.size);
    /* Twice the size when it is full of blocks, the same size when it is full of places that went. */
    uint64_t size = t->table.size ? t->table.size : FIRST_TABLE;
    while (t->blocks * 5 >= size * 3) size *= 2;
    uint32_t *place = calloc(size, sizeof *place);
    if (!place) return -1;
    t->old = t->table;
    t->moved = 0;
    t->table = (Places){place, size, 0};
    if (!t->old.size) free(t->old.place);
    return 0;
}

static uint32_t new_block(Table *t, uint64_t key) {
    if (make_room(t) < 0) return NONE;
    uint32_t id = t->free_id;
    if (id) {
        t->free_id = block_at(t, id)->older;
    } else {
        if (t->next_id >> SEGMENT_BITS >= t->segments) {
            Block **grown = realloc(t->segment, (t->segments + 1) * sizeof *grown);
            if (!grown) return NONE;
            t->segment = grown;
            if (!(grown[t->segments] = malloc(SEGMENT * sizeof(Block)))) return NONE;
            t->segments++;
        }
        if (t->next_id >= ID_MASK) return NONE;
        id = t->next_id++;
    }
    *block_at(t, id) = (Block){.holders = 0};
    memcpy(block_at(t, id)->key, &key, 8);
    put(t, &t->table, id);
    t->blocks++;
    return id;
}

static void unlink_block(Table *t, Block *b) {
    if (b->older) block_at(t, b->older)->newer = b->newer; else t->oldest = b->newer;
    if (b->newer) block_at(t, b->newer)->older = b->older; else t->newest = b->older;
}

static void make_newest(Table *t, uint32_t id) {
    Block *b = block_at(t, id);
    b->older = t->newest;
    b->newer = NONE;
    if (t->newest) block_at(t, t->newest)->newer = id; else t->oldest = id;
    t->newest = id;
}

static void touch_block(Table *t, uint32_t id) {
    if (t->newest == id) return;
    unlink_block(t, block_at(t, id));
    make_newest(t, id);
}

/* A look-up must not stop short at a place that went, unless nothing comes after it. */
static void vacate(Places *p, uint32_t *place) {
    *place = GONE;
    if ((uintptr_t)place < (uintptr_t)p->place || (uintptr_t)place >= (uintptr_t)(p->place + p->size)) return; /* in the old table */
    uint64_t at = (uint64_t)(place - p->place), mask = p->size - 1;
    for (; !p->place[(at + 1) & mask] && p->place[at] == GONE; at = (at - 1) & mask) {
        p->place[at] = 0;
        p->used--;
    }
}

/* The block has no holders left: give its place and id back. */
static void free_block(Table *t, uint32_t *place) {
    uint32_t id = id_in(*place);
    Block *b = block_at(t, id);
    unlink_block(t, b);
    vacate(&t->table, place);
    b->holders = 0;
    b->older = t->free_id;
    t->free_id = id;
    t->blocks--;
}

#endif
