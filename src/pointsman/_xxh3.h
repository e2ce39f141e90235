/* XXH3, 64 bits with a seed: written from the public description of the algorithm, for little-endian machines.
 *
 * Equal bit for bit to xxhash.xxh3_64_intdigest(data, seed), which is the Python twin; tests compare every length
 * from 0 to 2,000 bytes. */
#ifndef POINTSMAN_XXH3_H
#define POINTSMAN_XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian only: elsewhere the extension is left out and the Python twin does the work"
#endif

#define P32_1 0x9E3779B1U
#define P32_2 0x85EBCA77U
#define P32_3 0xC2B2AE3DU
#define P64_1 0x9E3779B185EBCA87ULL
#define P64_2 0xC2B2AE3D27D4EB4FULL
#define P64_3 0x165667B19E3779F9ULL
#define P64_4 0x85EBCA77C2B2AE63ULL
#define P64_5 0x27D4EB2F165667C5ULL
#define P_MX1 0x165667919E3779F9ULL
#define P_MX2 0x9FB21C651E98DF25ULL

enum { SECRET = 192, STRIPE = 64, STRIPES_PER_ROUND = (SECRET - STRIPE) / 8, ROUND = STRIPE * STRIPES_PER_ROUND };

static const uint8_t SECRET_BYTES[SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint32_t r32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline uint64_t r64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
static inline uint64_t rotl64(uint64_t v, int by) { return (v << by) | (v >> (64 - by)); }
static inline uint32_t swap32(uint32_t v) {
    return (v << 24) | ((v << 8) & 0xff0000U) | ((v >> 8) & 0xff00U) | (v >> 24);
}
static inline uint64_t swap64(uint64_t v) { return ((uint64_t)swap32((uint32_t)v) << 32) | swap32((uint32_t)(v >> 32)); }

/* Both halves of the 128-bit product, folded with xor. */
static inline uint64_t fold(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t ll = (a & 0xffffffffU) * (b & 0xffffffffU), hl = (a >> 32) * (b & 0xffffffffU);
    uint64_t lh = (a & 0xffffffffU) * (b >> 32), hh = (a >> 32) * (b >> 32);
    uint64_t cross = (ll >> 32) + (hl & 0xffffffffU) + lh;
    return (((cross << 32) | (ll & 0xffffffffU))) ^ ((hl >> 32) + (cross >> 32) + hh);
#endif
}

static inline uint64_t avalanche(uint64_t h) {
    h ^= h >> 37;
    h *= P_MX1;
    return h ^ (h >> 32);
}

static inline uint64_t avalanche_64(uint64_t h) {
    h ^= h >> 33;
    h *= P64_2;
    h ^= h >> 29;
    h *= P64_3;
    return h ^ (h >> 32);
}

static inline uint64_t mix16(const uint8_t *in, const uint8_t *secret, uint64_t seed) {
    return fold(r64(in) ^ (r64(secret) + seed), r64(in + 8) ^ (r64(secret + 8) - seed));
}

static uint64_t hash_to_16(const uint8_t *in, size_t len, uint64_t seed) {
    const uint8_t *s = SECRET_BYTES;
    if (len > 8) {
        uint64_t low = r64(in) ^ ((r64(s + 24) ^ r64(s + 32)) + seed);
        uint64_t high = r64(in + len - 8) ^ ((r64(s + 40) ^ r64(s + 48)) - seed);
        return avalanche(len + swap64(low) + high + fold(low, high));
    }
    if (len >= 4) {
        uint64_t flipped = seed ^ ((uint64_t)swap32((uint32_t)seed) << 32);
        uint64_t h = (r32(in + len - 4) + ((uint64_t)r32(in) << 32)) ^ ((r64(s + 8) ^ r64(s + 16)) - flipped);
        h ^= rotl64(h, 49) ^ rotl64(h, 24);
        h *= P_MX2;
        h ^= (h >> 35) + len;
        h *= P_MX2;
        return h ^ (h >> 28);
    }
    if (len) {
        uint32_t all = ((uint32_t)in[0] << 16) | ((uint32_t)in[len >> 1] << 24) | in[len - 1] | ((uint32_t)len << 8);
        return avalanche_64((uint64_t)all ^ ((uint64_t)(r32(s) ^ r32(s + 4)) + seed));
    }
    return avalanche_64(seed ^ r64(s + 56) ^ r64(s + 64));
}

static inline uint64_t hash_to_128(const uint8_t *in, size_t len, uint64_t seed) {
    const uint8_t *s = SECRET_BYTES;
    uint64_t acc = len * P64_1;
    /* Pairs from both ends inwards, outermost pair last: the sum does not care for the order. */
    for (size_t pair = 0; pair <= (len - 1) / 32; pair++) {
        acc += mix16(in + 16 * pair, s + 32 * pair, seed);
        acc += mix16(in + len - 16 * (pair + 1), s + 32 * pair + 16, seed);
    }
    return avalanche(acc);
}

static uint64_t hash_to_240(const uint8_t *in, size_t len, uint64_t seed) {
    uint64_t acc = len * P64_1;
    for (size_t at = 0; at < 8; at++) acc += mix16(in + 16 * at, SECRET_BYTES + 16 * at, seed);
    acc = avalanche(acc);
    for (size_t at = 8; at < len / 16; at++) acc += mix16(in + 16 * at, SECRET_BYTES + 16 * (at - 8) + 3, seed);
    return avalanche(acc + mix16(in + len - 16, SECRET_BYTES + 136 - 17, seed));
}

static inline void stripe(uint64_t acc[8], const uint8_t *in, const uint8_t *secret) {
    uint64_t value[8];
    for (int lane = 0; lane < 8; lane++) value[lane] = r64(in + 8 * lane);
    for (int lane = 0; lane < 8; lane++) {
        uint64_t keyed = value[lane] ^ r64(secret + 8 * lane);
        acc[lane] += value[lane ^ 1] + (keyed & 0xffffffffU) * (keyed >> 32);
    }
}

static uint64_t hash_long(const uint8_t *in, size_t len, uint64_t seed) {
    uint8_t secret[SECRET];
    for (int at = 0; at < SECRET; at += 16) {
        uint64_t low = r64(SECRET_BYTES + at) + seed, high = r64(SECRET_BYTES + at + 8) - seed;
        memcpy(secret + at, &low, 8);
        memcpy(secret + at + 8, &high, 8);
    }
    uint64_t acc[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    size_t rounds = (len - 1) / ROUND;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t n = 0; n < STRIPES_PER_ROUND; n++) stripe(acc, in + round * ROUND + n * STRIPE, secret + 8 * n);
        for (int lane = 0; lane < 8; lane++) {
            acc[lane] ^= acc[lane] >> 47;
            acc[lane] = (acc[lane] ^ r64(secret + SECRET - STRIPE + 8 * lane)) * P32_1;
        }
    }
    size_t left = (len - 1 - rounds * ROUND) / STRIPE;
    for (size_t n = 0; n < left; n++) stripe(acc, in + rounds * ROUND + n * STRIPE, secret + 8 * n);
    stripe(acc, in + len - STRIPE, secret + SECRET - STRIPE - 7);
    uint64_t h = len * P64_1;
    for (int at = 0; at < 4; at++) {
        h += fold(acc[2 * at] ^ r64(secret + 11 + 16 * at), acc[2 * at + 1] ^ r64(secret + 11 + 16 * at + 8));
    }
    return avalanche(h);
}

static inline uint64_t xxh3_64(const uint8_t *in, size_t len, uint64_t seed) {
    if (len <= 16) return hash_to_16(in, len, seed);
    if (len <= 128) return hash_to_128(in, len, seed);
    return len <= 240 ? hash_to_240(in, len, seed) : hash_long(in, len, seed);
}

#endif
