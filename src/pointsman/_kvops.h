/* What a table is asked to do: store, discard, touch, clear, evict, match. */
#ifndef POINTSMAN_KVOPS_H
#define POINTSMAN_KVOPS_H

#include "_kvrows.h"

enum { FAR = 16, NEAR = 8, EVICT = 1024 };

/* Ask memory for what the loop needs a few keys later: a look-up of 400 keys in 10 M blocks is 800 cache misses. */
static inline void look_ahead(Table *t, const uint64_t *keys, int64_t far, int64_t near, int64_t count) {
    const Places *p = &t->table;
    if (!p->size) return;
    if (far >= 0 && far < count) PREFETCH(&p->place[home(p, mixed(keys[far]))]);
    if (near < 0 || near >= count) return;
    uint64_t mix = mixed(keys[near]), at = home(p, mix);
    for (int tries = 0; tries < 4 && p->place[at]; tries++, at = (at + 1) & (p->size - 1)) {
        if (p->place[at] == GONE || (p->place[at] & ~ID_MASK) != tag_of(mix)) continue;
        PREFETCH(block_at(t, id_in(p->place[at])));
        break;
    }
}

static void evict_one(Table *t) {
    Block *b = block_at(t, t->oldest);
    uint32_t ref = b->holders;
    if (ref & INLINE) {
        Row *r = &t->row[inline_slot(ref)];
        int counts = !is_dying(t, inline_slot(ref));
        for (int tier = 0; counts && tier < TIERS; tier++) r->tier[tier] -= inline_tiers(ref) >> tier & 1;
        r->blocks -= (uint32_t)counts;
    } else if (ref) {
        const Set *set = t->sets.set[ref];
        for (uint32_t at = 0; at < set->words; at++) {
            uint64_t any = 0;
            for (uint32_t tier = 0; tier < TIERS; tier++) {
                uint64_t bits = set->bits[tier * set->words + at] & ~t->dying[at];
                any |= bits;
                for (; bits; bits &= bits - 1) t->row[at * 64 + lowest_bit(bits)].tier[tier]--;
            }
            for (; any; any &= any - 1) t->row[at * 64 + lowest_bit(any)].blocks--;
        }
    }
    release(&t->sets, ref);
    free_block(t, find(t, key_of(b)));
    t->evicted++;
}

/* Past the bound, a 64th of the blocks goes at once, as in the Python twin (whose dict is slow at giving its oldest),
 * but no more than EVICT beyond what is needed: a 64th of 16 M blocks took 50 ms. */
static void evict(Table *t) {
    if (!t->bound || t->blocks <= t->bound) return;
    sweep(t, AT_ONCE);
    uint64_t more = t->bound / 64, keep = t->bound - (more < EVICT ? more : EVICT);
    while (t->blocks > keep && t->blocks) evict_one(t);
}

/* Tail first, so that within one call the tail is the oldest and goes before its head. */
static int64_t store_keys(Table *t, uint32_t slot, int tier, const uint64_t *keys, int64_t count) {
    int64_t stored = 0;
    uint32_t row = count ? row_for(t, slot) : NO_ROW;
    if (count && row == NO_ROW) return -1;
    sweep(t, (uint64_t)count * 4 + 64);
    for (int64_t at = count - 1; at >= 0; at--) {
        look_ahead(t, keys, at - FAR, at - NEAR, count);
        uint32_t *place = find(t, keys[at]), id = place ? id_in(*place) : new_block(t, keys[at]);
        if (!id) return -1;
        if (place) touch_block(t, id); else make_newest(t, id);
        int given = give(t, id, row, tier);
        if (given < 0) {
            if (!block_at(t, id)->holders) free_block(t, find(t, keys[at]));
            return -1;
        }
        stored += given;
    }
    evict(t);
    return stored;
}

static int64_t discard_keys(Table *t, uint32_t slot, int tier, const uint64_t *keys, int64_t count) {
    int64_t gone = 0;
    uint32_t row = row_at(t, slot);
    sweep(t, (uint64_t)count * 4 + 64);
    if (row == NO_ROW) return 0;
    for (int64_t at = 0; at < count; at++) {
        look_ahead(t, keys, at + FAR, at + NEAR, count);
        uint32_t *place = find(t, keys[at]);
        int taken = place ? take(t, id_in(*place), row, 1U << tier) : 0;
        if (taken < 0) return -1;
        gone += taken;
    }
    return gone;
}

static void touch_keys(Table *t, const uint64_t *keys, int64_t count) {
    for (int64_t at = count - 1; at >= 0; at--) {
        uint32_t *place = find(t, keys[at]);
        if (place) touch_block(t, id_in(*place));
    }
}

/* tier -1: every tier, at no cost; else in time to the slot's blocks. */
static int64_t clear_slot(Table *t, uint32_t slot, int tier) {
    uint32_t row = row_at(t, slot);
    int64_t gone = row == NO_ROW ? 0 : tier < 0 ? clear_row(t, row, slot) : clear_tier(t, row, tier);
    sweep(t, AT_ONCE);
    return gone;
}

typedef struct {
    uint32_t words; /* 64 rows each */
    uint64_t *alive; /* rows that held every block so far */
    int32_t *blocks, *cpu, *disk; /* by row; cpu and disk: of the blocks, those in no better tier */
    int any_cpu, any_disk;
} Match;

/* The planes of a Ref with their width; an inline Ref is unpacked to scratch. */
static const uint64_t *planes(Table *t, uint32_t ref, uint32_t *words) {
    if (ref && !(ref & INLINE)) {
        *words = t->sets.set[ref]->words;
        return t->sets.set[ref]->bits;
    }
    *words = ref ? inline_slot(ref) / 64 + 1 : 1;
    return unpack(&t->sets, ref ? ref : INLINE, *words) < 0 ? NULL : t->sets.scratch;
}

static void add_bits(int32_t *to, uint32_t word, uint64_t bits, int32_t value) {
    for (; bits; bits &= bits - 1) to[word * 64 + lowest_bit(bits)] += value;
}

/* A stretch of `run` blocks with the same holders ends; split it by best tier. GPU is what is left of the total. */
static int end_run(Table *t, Match *m, uint32_t ref, int32_t run) {
    uint32_t words;
    const uint64_t *gpu = planes(t, ref, &words);
    if (!gpu) return -1;
    for (uint32_t at = 0; at < words; at++) {
        uint64_t rest = m->alive[at] & ~gpu[at], cpu = rest & gpu[words + at], disk = rest & ~cpu;
        if (!rest) continue;
        add_bits(m->cpu, at, cpu, run);
        add_bits(m->disk, at, disk, run);
        m->any_cpu |= cpu != 0;
        m->any_disk |= disk != 0;
    }
    return 0;
}

/* Other holders from block `at` on: those who drop out held `at` blocks. 1 if somebody is left, -1 without memory. */
static int change(Table *t, Match *m, uint32_t ref, int32_t at) {
    uint32_t words;
    const uint64_t *gpu = planes(t, ref, &words);
    uint64_t left = 0;
    if (!gpu) return -1;
    for (uint32_t word = 0; word < m->words; word++) {
        uint64_t any = word < words ? gpu[word] | gpu[words + word] | gpu[2 * words + word] : 0;
        add_bits(m->blocks, word, m->alive[word] & ~any, at);
        left |= m->alive[word] &= any;
    }
    return left != 0;
}

/* Exact whatever was evicted first: every block is looked at until nobody is left. */
static int match_keys(Table *t, Match *m, const uint64_t *keys, int64_t count) {
    uint32_t ref = 0;
    int64_t since = 0, at = 0;
    int left = 1;
    for (uint32_t word = 0; word < m->words; word++) m->alive[word] = ~t->dying[word];
    for (; left > 0 && at < count; at++) {
        look_ahead(t, keys, at + FAR, at + NEAR, count);
        uint32_t *place = find(t, keys[at]), now = place ? block_at(t, id_in(*place))->holders : 0;
        if (at && now == ref) continue;
        if (at && end_run(t, m, ref, (int32_t)(at - since)) < 0) return -1;
        left = change(t, m, now, (int32_t)at);
        ref = now;
        since = at;
    }
    if (left <= 0 || !count) return left < 0 ? -1 : 0;
    if (end_run(t, m, ref, (int32_t)(at - since)) < 0) return -1;
    for (uint32_t word = 0; word < m->words; word++) add_bits(m->blocks, word, m->alive[word], (int32_t)at);
    return 0;
}

static uint64_t table_bytes(const Table *t) {
    uint64_t bytes = (uint64_t)t->segments * (SEGMENT * sizeof(Block) + sizeof(Block *)) + t->sets.bytes;
    bytes += (t->table.size + t->old.size + t->sets.buckets) * 4 + (uint64_t)t->sets.room * 12;
    for (uint32_t row = 0; row < t->rows; row++) {
        bytes += sizeof(Row) + ((uint64_t)t->row[row].ids.size + t->row[row].old.size) * 4;
    }
    return bytes;
}

static void free_table(Table *t) {
    for (uint32_t at = 0; at < t->segments; at++) free(t->segment[at]);
    for (uint32_t row = 0; row < t->rows; row++) {
        free_ids(&t->row[row].ids);
        free_ids(&t->row[row].old);
    }
    free(t->segment);
    free(t->row);
    free(t->dying);
    free(t->row_of);
    free(t->table.place);
    free(t->old.place);
    free_sets(&t->sets);
}

#endif
