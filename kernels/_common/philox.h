/* Philox4x32-10: four random 32-bit words from a counter of four words and a key of two.
 *
 * One round (M0, M1 constants; a product has a high and a low half):
 *
 *     c0 --x M0--> hi0 : lo0          c0' = hi1 ^ c1 ^ k0      c1' = lo1
 *     c2 --x M1--> hi1 : lo1          c2' = hi0 ^ c3 ^ k1      c3' = lo0
 *
 * Each word lives in the lower half of a 64-bit lane, one block of four words in each lane. Nothing clears the upper
 * halves: the multiplication does not read them, and what is shifted out of a product does not come from them. A round
 * of a whole vector of blocks is then two multiplications, two shifts and four exclusive-ors; with 32-bit lanes it
 * would need shuffles besides, since only every other lane can be multiplied at once. */
#ifndef FASTDL_PHILOX_H
#define FASTDL_PHILOX_H
#include "simd.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define PHILOX_BLOCKS FD_LANES_f64 /* blocks computed together */

typedef uint64_t philox_words __attribute__((vector_size(FD_VECTOR_BYTES)));

/* Full products of the lower halves. Left to itself, GCC takes the longer 64 x 64-bit product. */
static inline philox_words philox_multiply(philox_words a, philox_words b) {
#if FD_VECTOR_BYTES == 64
    return (philox_words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif FD_VECTOR_BYTES == 32
    return (philox_words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (philox_words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

/* The key words of every round. They are read back from memory, one lane broadcast to all in the instruction that uses
 * it: computing them beside the rounds costs a tenth of the time. */
static inline void philox_keys(uint64_t seed, uint64_t keys[10][2]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        keys[round][0] = k0;
        keys[round][1] = k1;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* The words of blocks first, first + 1, ..., one block in each lane, in the lower halves of c. */
static inline void philox(const uint64_t keys[10][2], uint64_t step, uint64_t first, philox_words c[4]) {
    const philox_words zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
    static const uint64_t numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    memcpy(&c[0], numbers, sizeof c[0]);
    c[0] += first;
    c[1] = c[0] >> 32;
    c[2] = zero + step;
    c[3] = c[2] >> 32;
    for (int round = 0; round < 10; round++) {
        const philox_words p0 = philox_multiply(c[0], m0), p1 = philox_multiply(c[2], m1);
        c[0] = (p1 >> 32) ^ c[1] ^ (zero + keys[round][0]);
        c[1] = p1;
        c[2] = (p0 >> 32) ^ c[3] ^ (zero + keys[round][1]);
        c[3] = p0;
    }
}
#endif
