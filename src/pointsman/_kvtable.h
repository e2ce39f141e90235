/* Block key -> (slot, tier) pairs, oldest block first out. No Python in here.
 *
 * Memory per block of one holder: 24 B block + 5 to 10 B hash table + 4 to 8 B in the slot's log. Blocks of several
 * holders refer to a shared, counted bit set, so that a prefix held by 512 pods costs one set and not one per block,
 * and a match compares one number per block as long as the holders stay the same. */
#ifndef POINTSMAN_KVTABLE_H
#define POINTSMAN_KVTABLE_H

#include "_kvsets.h"

enum { SEGMENT_BITS = 14, SEGMENT = 1 << SEGMENT_BITS, FIRST_TABLE = 1024, MIGRATE = 8 };
#define NONE 0U          /* no block: ids start at 1 */
#define GONE 0xffffffffU /* table place whose block went or moved to the new table */
#define ID_BITS 27       /* 134 M blocks; the five bits above are of the key's hash and save a look at most blocks */
#define ID_MASK ((1U << ID_BITS) - 1)
#define MOST_BLOCKS ((1LL << ID_BITS) - (1LL << 20)) /* what one call may store past the bound must have ids too */

typedef struct {
    uint64_t key;
    uint32_t holders; /* Ref; 0 for a free block */
    uint32_t older, newer;
    uint32_t mark; /* used while a log is compacted */
} Block;

typedef struct {
    uint32_t *place; /* tag and block id */
    uint64_t size, used; /* used counts GONE places too */
} Places;

typedef struct {
    uint32_t *log; /* ids of blocks this slot took, some of them stale; at most 2 * blocks + 64 */
    uint32_t length, room;
    uint32_t blocks;
    uint32_t tier[TIERS];
} Slot;

typedef struct {
    Sets sets;
    Block **segment;
    uint32_t segments, next_id, free_id;
    uint64_t blocks, bound, evicted;
    uint32_t oldest, newest;
    Places table, old; /* old: being moved over while the table grows, a few places per store */
    uint64_t moved;
    Slot *slot;
    uint32_t width; /* highest slot ever stored + 1 */
} Table;

static inline Block *block_at(Table *t, uint32_t id) { return &t->segment[id >> SEGMENT_BITS][id & (SEGMENT - 1)]; }
static inline uint64_t mixed(uint64_t key) { return (key ^ (key >> 29)) * 0x9E3779B97F4A7C15ULL; }
static inline uint64_t home(const Places *p, uint64_t mix) { return (mix >> 20) & (p->size - 1); }
static inline uint32_t tag_of(uint64_t mix) { return (uint32_t)(mix >> 59) << ID_BITS; }
static inline uint32_t id_in(uint32_t place) { return place & ID_MASK; }

static uint32_t *find_in(Table *t, const Places *p, uint64_t key) {
    if (!p->size) return NULL;
    uint64_t mix = mixed(key);
    uint32_t tag = tag_of(mix), at;
    for (uint64_t n = home(p, mix); (at = p->place[n]); n = (n + 1) & (p->size - 1)) {
        if ((at & ~ID_MASK) == tag && at != GONE && block_at(t, id_in(at))->key == key) return &p->place[n];
    }
    return NULL;
}

static inline uint32_t *find(Table *t, uint64_t key) {
    uint32_t *place = find_in(t, &t->table, key);
    return place || !t->old.size ? place : find_in(t, &t->old, key);
}

static void put(Table *t, Places *p, uint32_t id) {
    uint64_t mix = mixed(block_at(t, id)->key), at = home(p, mix);
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
        uint32_t *place = &t->old.place[t->moved];
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
    *block_at(t, id) = (Block){.key = key};
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

static int grow_slots(Table *t, uint32_t slot) {
    if (slot < t->width) return 0;
    Slot *grown = realloc(t->slot, (slot + 1) * sizeof *grown);
    if (!grown) return -1;
    memset(grown + t->width, 0, (slot + 1 - t->width) * sizeof *grown);
    t->slot = grown;
    t->width = slot + 1;
    return 0;
}

/* Keep each block that the slot holds, once. A stale id whose block the slot holds again is as good as a new one. */
static void compact(Table *t, uint32_t slot) {
    Slot *s = &t->slot[slot];
    uint32_t kept = 0;
    for (uint32_t at = 0; at < s->length; at++) {
        Block *b = block_at(t, s->log[at]);
        if (b->mark || !tiers_of(&t->sets, b->holders, slot)) continue;
        b->mark = 1;
        s->log[kept++] = s->log[at];
    }
    for (uint32_t at = 0; at < kept; at++) block_at(t, s->log[at])->mark = 0;
    s->length = kept;
    if (s->room > 2 * kept + 256) {
        uint32_t *less = realloc(s->log, (kept + 64) * sizeof *less);
        if (less) { s->log = less; s->room = kept + 64; }
    }
}

static void tidy(Table *t, uint32_t slot) {
    if (t->slot[slot].length > 2 * (uint64_t)t->slot[slot].blocks + 64) compact(t, slot);
}

static int append(Table *t, uint32_t slot, uint32_t id) {
    tidy(t, slot);
    Slot *s = &t->slot[slot];
    if (s->length == s->room) {
        uint32_t room = s->room + s->room / 4 + 16;
        uint32_t *grown = realloc(s->log, room * sizeof *grown);
        if (!grown) return -1;
        s->log = grown;
        s->room = room;
    }
    s->log[s->length++] = id;
    return 0;
}

/* Give the block `id` to a slot's tier: 1 if it was new there, 0 if not, -1 without memory. */
static int give(Table *t, uint32_t id, uint32_t slot, int tier) {
    uint32_t holders = block_at(t, id)->holders, had = tiers_of(&t->sets, holders, slot);
    if (had >> tier & 1) return 0;
    if (!had && append(t, slot, id) < 0) return -1;
    uint32_t now = flip(&t->sets, holders, slot, tier);
    if (now == REF_FAILED) return -1;
    release(&t->sets, holders);
    block_at(t, id)->holders = now;
    t->slot[slot].tier[tier]++;
    t->slot[slot].blocks += !had;
    return 1;
}

/* Take a block from tiers (bit set) of a slot: from how many it went, -1 without memory. */
static int take(Table *t, uint32_t id, uint32_t slot, uint32_t tiers) {
    Block *b = block_at(t, id);
    uint32_t had = tiers_of(&t->sets, b->holders, slot);
    int taken = 0;
    for (int tier = 0; tier < TIERS; tier++) {
        if (!((had & tiers) >> tier & 1)) continue;
        uint32_t now = flip(&t->sets, b->holders, slot, tier);
        if (now == REF_FAILED) return -1;
        release(&t->sets, b->holders);
        b->holders = now;
        t->slot[slot].tier[tier]--;
        taken++;
    }
    if (had && !(had & ~tiers)) t->slot[slot].blocks--;
    if (!b->holders) free_block(t, find(t, b->key));
    return taken;
}

#endif
