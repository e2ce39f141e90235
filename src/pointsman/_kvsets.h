/* Who holds a block, as one 32-bit number (a Ref): 0 for nobody, one slot with its tiers inline, or a shared bit set.
 *
 * Sets are interned: equal holders have equal Refs, so comparing two numbers compares two sets. */
#ifndef POINTSMAN_KVSETS_H
#define POINTSMAN_KVSETS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TIERS = 3, MAX_SLOTS = 1 << 16 };
#define INLINE 0x80000000U
#define REF_FAILED 0xffffffffU

typedef struct {
    uint32_t refs, next, slots, words; /* next: in the bucket; slots: members; words: per tier, no zero word on top */
    uint64_t hash;
    uint64_t bits[]; /* tier-major: bits[tier * words + slot / 64] */
} Set;

typedef struct {
    Set **set; /* by Ref, from 1 */
    uint32_t *spare; /* Refs given back */
    uint32_t next_ref, room, spares, live;
    uint32_t *bucket;
    uint32_t buckets;
    uint64_t *scratch; /* TIERS * scratch_words */
    uint32_t scratch_words;
    uint64_t bytes;
    uint32_t from, to, slot; /* the last flip: a batch flips the same one hundreds of times */
    int tier;
} Sets;

static inline uint32_t inline_ref(uint32_t slot, uint32_t tiers) { return tiers ? INLINE | slot << TIERS | tiers : 0; }
static inline uint32_t inline_slot(uint32_t ref) { return (ref & ~INLINE) >> TIERS; }
static inline uint32_t inline_tiers(uint32_t ref) { return ref & ((1U << TIERS) - 1); }
static inline uint64_t member_hash(uint32_t slot, int tier) {
    uint64_t h = ((uint64_t)slot * TIERS + (uint64_t)tier + 1) * 0x9E3779B97F4A7C15ULL;
    h = (h ^ (h >> 31)) * 0xD6E8FEB86659FD93ULL;
    return h ^ (h >> 32);
}

/* Tiers (bit set) that a slot has in a Ref. */
static inline uint32_t tiers_of(const Sets *s, uint32_t ref, uint32_t slot) {
    if (!ref) return 0;
    if (ref & INLINE) return inline_slot(ref) == slot ? inline_tiers(ref) : 0;
    const Set *set = s->set[ref];
    uint32_t word = slot / 64, tiers = 0;
    if (word >= set->words) return 0;
    for (int tier = 0; tier < TIERS; tier++) {
        tiers |= (uint32_t)(set->bits[(uint32_t)tier * set->words + word] >> (slot % 64) & 1) << tier;
    }
    return tiers;
}

static inline void retain(Sets *s, uint32_t ref) { if (ref && !(ref & INLINE)) s->set[ref]->refs++; }

static void release(Sets *s, uint32_t ref) {
    if (!ref || ref & INLINE || --s->set[ref]->refs) return;
    Set *set = s->set[ref];
    uint32_t *link = &s->bucket[set->hash & (s->buckets - 1)];
    while (*link != ref) link = &s->set[*link]->next;
    *link = set->next;
    if (s->from == ref || s->to == ref) s->from = s->to = 0;
    s->bytes -= sizeof *set + set->words * TIERS * 8;
    free(set);
    s->set[ref] = NULL;
    s->spare[s->spares++] = ref;
    s->live--;
}

static int sets_room(Sets *s) {
    if (s->live + 1 > s->buckets) {
        uint32_t buckets = s->buckets ? s->buckets * 2 : 64;
        uint32_t *bucket = calloc(buckets, sizeof *bucket);
        if (!bucket) return -1;
        for (uint32_t ref = 1; ref < s->next_ref; ref++) {
            if (!s->set[ref]) continue;
            uint32_t *head = &bucket[s->set[ref]->hash & (buckets - 1)];
            s->set[ref]->next = *head;
            *head = ref;
        }
        free(s->bucket);
        s->bucket = bucket;
        s->buckets = buckets;
    }
    if (s->spares || s->next_ref < s->room) return 0;
    uint32_t room = s->room ? s->room + s->room / 2 : 64;
    Set **set = realloc(s->set, room * sizeof *set);
    if (!set) return -1;
    s->set = set;
    uint32_t *spare = realloc(s->spare, room * sizeof *spare);
    if (!spare) return -1;
    s->spare = spare;
    s->room = room;
    if (!s->next_ref) s->next_ref = 1;
    return 0;
}

/* The Ref of the set in `scratch` (width words per tier, packed), made when there is none; with one reference more. */
static uint32_t intern(Sets *s, uint32_t words, uint32_t slots, uint64_t hash) {
    size_t size = (size_t)words * TIERS * 8;
    if (s->buckets) {
        for (uint32_t ref = s->bucket[hash & (s->buckets - 1)]; ref; ref = s->set[ref]->next) {
            Set *set = s->set[ref];
            if (set->hash == hash && set->words == words && !memcmp(set->bits, s->scratch, size)) {
                set->refs++;
                return ref;
            }
        }
    }
    if (sets_room(s) < 0) return REF_FAILED;
    Set *set = malloc(sizeof *set + size);
    if (!set) return REF_FAILED;
    uint32_t ref = s->spares ? s->spare[--s->spares] : s->next_ref++, *head = &s->bucket[hash & (s->buckets - 1)];
    *set = (Set){.refs = 1, .next = *head, .slots = slots, .words = words, .hash = hash};
    memcpy(set->bits, s->scratch, size);
    *head = ref;
    s->set[ref] = set;
    s->bytes += sizeof *set + size;
    s->live++;
    return ref;
}

/* Unpack a Ref into scratch with `words` words per tier. */
static int unpack(Sets *s, uint32_t ref, uint32_t words) {
    if (words > s->scratch_words) {
        uint64_t *grown = realloc(s->scratch, (size_t)words * TIERS * 8);
        if (!grown) return -1;
        s->scratch = grown;
        s->scratch_words = words;
    }
    memset(s->scratch, 0, (size_t)words * TIERS * 8);
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        uint64_t *to = s->scratch + tier * words;
        if (!(ref & INLINE)) {
            memcpy(to, s->set[ref]->bits + tier * s->set[ref]->words, s->set[ref]->words * 8);
        } else if (inline_tiers(ref) >> tier & 1) {
            to[inline_slot(ref) / 64] = 1ULL << inline_slot(ref) % 64;
        }
    }
    return 0;
}

/* Close the gaps between the tiers when top words went empty; the new number of words. */
static uint32_t trim(Sets *s, uint32_t words) {
    uint32_t kept = words;
    while (kept > 1 && !(s->scratch[kept - 1] | s->scratch[words + kept - 1] | s->scratch[2 * words + kept - 1])) kept--;
    for (uint32_t tier = 1; kept < words && tier < TIERS; tier++) {
        memmove(s->scratch + tier * kept, s->scratch + tier * words, kept * 8);
    }
    return kept;
}

/* The one member of a set of one in scratch, as an inline Ref. */
static uint32_t as_inline(const Sets *s, uint32_t words) {
    uint32_t slot = 0, tiers = 0;
    for (uint32_t at = 0; at < TIERS * words; at++) {
        if (!s->scratch[at]) continue;
        uint32_t bit = 0;
        while (!(s->scratch[at] >> bit & 1)) bit++;
        slot = at % words * 64 + bit;
        tiers |= 1U << at / words;
    }
    return inline_ref(slot, tiers);
}

static uint32_t flip_shared(Sets *s, uint32_t ref, uint32_t slot, int tier) {
    int one = (ref & INLINE) != 0;
    uint32_t words = one ? inline_slot(ref) / 64 + 1 : s->set[ref]->words, slots = one ? 1 : s->set[ref]->slots;
    uint64_t hash = 0;
    if (!one) hash = s->set[ref]->hash;
    for (int at = 0; one && at < TIERS; at++) {
        if (inline_tiers(ref) >> at & 1) hash ^= member_hash(inline_slot(ref), at);
    }
    if (words < slot / 64 + 1) words = slot / 64 + 1;
    uint32_t had = tiers_of(s, ref, slot), has = had ^ 1U << tier;
    if (unpack(s, ref, words) < 0) return REF_FAILED;
    s->scratch[(uint32_t)tier * words + slot / 64] ^= 1ULL << slot % 64;
    slots = slots + (has != 0) - (had != 0);
    words = trim(s, words);
    return slots == 1 ? as_inline(s, words) : intern(s, words, slots, hash ^ member_hash(slot, tier));
}

/* A Ref with one (slot, tier) put in or taken out, with one reference more; REF_FAILED without memory. */
static uint32_t flip(Sets *s, uint32_t ref, uint32_t slot, int tier) {
    if (!ref) return inline_ref(slot, 1U << tier);
    if (ref & INLINE && inline_slot(ref) == slot) return inline_ref(slot, inline_tiers(ref) ^ 1U << tier);
    if (s->from == ref && s->slot == slot && s->tier == tier) {
        retain(s, s->to);
        return s->to;
    }
    uint32_t to = flip_shared(s, ref, slot, tier);
    if (to != REF_FAILED) {
        s->from = ref;
        s->to = to;
        s->slot = slot;
        s->tier = tier;
    }
    return to;
}

static void free_sets(Sets *s) {
    for (uint32_t ref = 1; ref < s->next_ref; ref++) free(s->set[ref]);
    free(s->set);
    free(s->spare);
    free(s->bucket);
    free(s->scratch);
}

#endif
