/* Which blocks a row took: a set of block ids that only grows, until what is stale is left out of a new one.
 *
 * A block that is discarded or evicted stays in the set; whoever reads it asks the block whether the row still holds it.
 * The new set is filled a few ids per put: going over 100 k of them at once took 10 ms. */
#ifndef POINTSMAN_KVIDS_H
#define POINTSMAN_KVIDS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_IDS = 16, NEIGHBOURS = 4 };

typedef struct {
    uint32_t *cell; /* id 0 is an empty cell */
    uint32_t size, used;
} Ids;

/* Neighbours share a cache line: blocks that were stored together have ids in a row. */
static inline uint32_t id_home(const Ids *ids, uint32_t id) {
    uint32_t group = (id / NEIGHBOURS) * 0x9E3779B1U;
    return ((group ^ group >> 15) * NEIGHBOURS + id % NEIGHBOURS) & (ids->size - 1);
}

static int ids_have(const Ids *ids, uint32_t id) {
    if (!ids->size) return 0;
    uint32_t at = id_home(ids, id);
    while (ids->cell[at] && ids->cell[at] != id) at = (at + 1) & (ids->size - 1);
    return ids->cell[at] == id;
}

/* There must be an empty cell. */
static void ids_put(Ids *ids, uint32_t id) {
    uint32_t at = id_home(ids, id);
    while (ids->cell[at] && ids->cell[at] != id) at = (at + 1) & (ids->size - 1);
    ids->used += !ids->cell[at];
    ids->cell[at] = id;
}

static inline int ids_full(const Ids *ids) { return (uint64_t)(ids->used + 1) * 4 > (uint64_t)ids->size * 3; }

/* Room for twice as many as live, and at least half of what was: going over the old set must end before it is full. */
static Ids new_ids(uint32_t live, uint32_t before) {
    Ids ids = {NULL, before / 2 > FIRST_IDS ? before / 2 : FIRST_IDS, 0};
    while ((uint64_t)(live + 1) * 8 > (uint64_t)ids.size * 3) ids.size *= 2;
    ids.cell = calloc(ids.size, sizeof *ids.cell);
    if (!ids.cell) ids.size = 0;
    return ids;
}

static void free_ids(Ids *ids) {
    free(ids->cell);
    memset(ids, 0, sizeof *ids);
}

typedef struct {
    Ids ids, old; /* old: being gone over */
    uint32_t moved; /* cells of `old`, or of `ids` while dying, that are done with */
    uint32_t next; /* in the chain of dying or free rows */
    uint32_t blocks, tier[3];
} Row;

#endif
