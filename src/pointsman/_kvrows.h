/* Rows: who holds blocks. Given to slots, filled, emptied a few blocks at a time. */
#ifndef POINTSMAN_KVROWS_H
#define POINTSMAN_KVROWS_H

#include "_kvtable.h"

#define NO_ROW 0xffffffffU
enum { AT_ONCE = 1024, MOVE_IDS = 8 }; /* ids swept at once, 0.1 ms; ids gone over per id that is put */

static inline int is_dying(const Table *t, uint32_t row) { return (int)(t->dying[row / 64] >> row % 64 & 1); }
static inline uint32_t row_at(const Table *t, uint32_t slot) { return slot < t->slots ? t->row_of[slot] : NO_ROW; }

static int new_row(Table *t) {
    uint32_t words = (t->rows + 64) / 64;
    Row *grown = realloc(t->row, (t->rows + 1) * sizeof *grown);
    if (!grown) return -1;
    t->row = grown;
    if (t->rows % 64 == 0) {
        uint64_t *dying = realloc(t->dying, words * 8);
        if (!dying) return -1;
        t->dying = dying;
        dying[words - 1] = 0;
    }
    grown[t->rows] = (Row){.next = t->free_row};
    t->free_row = t->rows++;
    return 0;
}

/* The row of a slot, made when it has none; NO_ROW without memory. */
static uint32_t row_for(Table *t, uint32_t slot) {
    if (slot >= t->slots) {
        uint32_t *grown = realloc(t->row_of, (slot + 1) * sizeof *grown);
        if (!grown) return NO_ROW;
        t->row_of = grown;
        while (t->slots <= slot) grown[t->slots++] = NO_ROW;
    }
    if (t->row_of[slot] == NO_ROW) {
        if (t->free_row == NO_ROW && new_row(t) < 0) return NO_ROW;
        uint32_t row = t->free_row;
        t->free_row = t->row[row].next;
        t->row[row] = (Row){.next = NO_ROW};
        t->row_of[slot] = row;
    }
    return t->row_of[slot];
}

static inline int holds(Table *t, uint32_t row, uint32_t id) {
    return id && tiers_of(&t->sets, block_at(t, id)->holders, row);
}

static void move_ids(Table *t, uint32_t row, uint32_t cells) {
    Row *r = &t->row[row];
    for (; cells && r->moved < r->old.size; cells--, r->moved++) {
        uint32_t soon = r->moved + 2 * MOVE_IDS < r->old.size ? r->old.cell[r->moved + 2 * MOVE_IDS] : 0;
        if (soon) PREFETCH(block_at(t, soon));
        if (holds(t, row, r->old.cell[r->moved])) ids_put(&r->ids, r->old.cell[r->moved]);
    }
    if (r->old.size && r->moved >= r->old.size) free_ids(&r->old);
}

static int append(Table *t, uint32_t row, uint32_t id) {
    Row *r = &t->row[row];
    if (r->old.size) move_ids(t, row, MOVE_IDS);
    if (!r->ids.size || ids_full(&r->ids)) {
        move_ids(t, row, r->old.size);
        Ids made = new_ids(r->blocks, r->ids.size);
        if (!made.cell) return -1;
        r->old = r->ids;
        r->ids = made;
        r->moved = 0;
        if (!r->old.size) free_ids(&r->old);
    }
    ids_put(&r->ids, id);
    return 0;
}

/* Give the block `id` to a row's tier: 1 if it was new there, 0 if not, -1 without memory. */
static int give(Table *t, uint32_t id, uint32_t row, int tier) {
    uint32_t holders = block_at(t, id)->holders, had = tiers_of(&t->sets, holders, row);
    if (had >> tier & 1) return 0;
    if (!had && append(t, row, id) < 0) return -1;
    uint32_t now = flip(&t->sets, holders, row, tier);
    if (now == REF_FAILED) return -1;
    release(&t->sets, holders);
    block_at(t, id)->holders = now;
    t->row[row].tier[tier]++;
    t->row[row].blocks += !had;
    return 1;
}

/* Take a block from tiers (bit set) of a row: from how many it went, -1 without memory. A dying row counts nothing. */
static int take(Table *t, uint32_t id, uint32_t row, uint32_t tiers) {
    Block *b = block_at(t, id);
    Row *r = is_dying(t, row) ? NULL : &t->row[row];
    uint32_t had = tiers_of(&t->sets, b->holders, row);
    int taken = 0;
    for (int tier = 0; had && tier < TIERS; tier++) {
        if (!((had & tiers) >> tier & 1)) continue;
        uint32_t now = flip(&t->sets, b->holders, row, tier);
        if (now == REF_FAILED) return -1;
        release(&t->sets, b->holders);
        b->holders = now;
        if (r) r->tier[tier]--;
        taken++;
    }
    if (r && had && !(had & ~tiers)) r->blocks--;
    if (had && !b->holders) free_block(t, find(t, key_of(b)));
    return taken;
}

static void sweep_ahead(Table *t, const Ids *ids, uint32_t at) {
    uint32_t far = at + 16 < ids->size ? ids->cell[at + 16] : 0, near = at + 8 < ids->size ? ids->cell[at + 8] : 0;
    if (far) PREFETCH(block_at(t, far));
    if (near) PREFETCH(&t->table.place[home(&t->table, mixed(key_of(block_at(t, near))))]);
}

/* Go over at most `cells` cells of dying rows; 0 when nothing is left to do. */
static uint64_t sweep(Table *t, uint64_t cells) {
    while (t->dying_row != NO_ROW) {
        uint32_t row = t->dying_row;
        Row *r = &t->row[row];
        Ids *ids = r->old.size ? &r->old : &r->ids;
        for (; r->moved < ids->size; r->moved++, cells--) {
            if (!cells) return 1;
            sweep_ahead(t, ids, r->moved);
            uint32_t id = ids->cell[r->moved];
            if (id && take(t, id, row, 7U) < 0) return 1; /* without memory: later */
        }
        r->moved = 0;
        int more = ids == &r->old && r->ids.size;
        free_ids(ids);
        if (more) continue;
        t->dying_row = r->next;
        t->dying[row / 64] &= ~(1ULL << row % 64);
        r->next = t->free_row;
        t->free_row = row;
    }
    return 0;
}

static int64_t clear_row(Table *t, uint32_t row, uint32_t slot) {
    Row *r = &t->row[row];
    int64_t gone = (int64_t)r->tier[0] + r->tier[1] + r->tier[2];
    t->row_of[slot] = NO_ROW;
    if (!r->old.size) r->moved = 0;
    t->dying[row / 64] |= 1ULL << row % 64;
    r->next = t->dying_row;
    t->dying_row = row;
    return gone;
}

static int64_t clear_tier(Table *t, uint32_t row, int tier) {
    int64_t gone = 0;
    move_ids(t, row, t->row[row].old.size);
    for (uint32_t at = 0; at < t->row[row].ids.size; at++) {
        sweep_ahead(t, &t->row[row].ids, at);
        uint32_t id = t->row[row].ids.cell[at];
        int taken = id ? take(t, id, row, 1U << tier) : 0;
        if (taken < 0) return -1;
        gone += taken;
    }
    return gone;
}

#endif
