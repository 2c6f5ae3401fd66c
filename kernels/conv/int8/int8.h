/* Bytes: four of them are a word where the CPU multiplies and adds four pairs at once (VNNI), else two, widened to 16 bits.
 * Both give the same integers. */
#ifndef FASTDL_INT8_H
#define FASTDL_INT8_H
#include "words_types.h"

typedef int32_t fd_word_sum;
typedef fd_ints fd_word_sums;
#define FD_WORD_ROWS 28
#if defined(__AVX512VNNI__)
#define WORD_CHANNELS 4
#define FD_WORD_STEP(sums, x, w) sums = (fd_ints)_mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(x), (__m512i)(w))
#else
#define WORD_CHANNELS 2
#if defined(__AVX512BW__)
#define FD_WORD_STEP(sums, x, w) sums += (fd_ints)_mm512_madd_epi16((__m512i)(x), (__m512i)(w))
#elif defined(__AVX2__)
#define FD_WORD_STEP(sums, x, w) sums += (fd_ints)_mm256_madd_epi16((__m256i)(x), (__m256i)(w))
#elif defined(__SSE2__)
#include <emmintrin.h>
#define FD_WORD_STEP(sums, x, w) sums += (fd_ints)_mm_madd_epi16((__m128i)(x), (__m128i)(w))
#else
#define FD_WORD_STEP(sums, x, w)                                                           \
    sums += ((fd_ints)((x) << 16) >> 16) * ((fd_ints)((w) << 16) >> 16) + ((fd_ints)(x) >> 16) * ((fd_ints)(w) >> 16)
#endif
#endif
#define WORD_SOURCE 1
#define WORD_WEIGHT 1
#include "words.h"

/* A byte as the part of a word that holds it. */
#if WORD_CHANNELS == 4
#define INT8_PART(byte) ((uint32_t)(uint8_t)(byte))
#else
#define INT8_PART(byte) ((uint32_t)(uint16_t)(byte))
#endif

#define INT8_PACK(type)                                                                              \
    for (ptrdiff_t i = 0; i < n; i += WORD_CHANNELS) {                                               \
        uint32_t word = 0;                                                                           \
        for (ptrdiff_t e = 0; e < fd_min(WORD_CHANNELS, n - i); e++)                                 \
            word |= INT8_PART(*(const type *)(from + (i + e) * stride)) << (32 / WORD_CHANNELS * e); \
        to[i / WORD_CHANNELS] = word;                                                                \
    }

static void word_pack(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) {
    if (stride == 1) {
        const ptrdiff_t whole = n - n % WORD_CHANNELS;
#if WORD_CHANNELS == 4
        if (whole > 64) memcpy(to, from, (size_t)whole);
        else
            for (ptrdiff_t i = 0; i < whole; i += 4) memcpy(to + i / 4, from + i, 4);
#else
        const uint8_t *bytes = (const uint8_t *)from;
        uint16_t *parts = (uint16_t *)(void *)to;
        for (ptrdiff_t i = 0; i < whole; i++) parts[i] = bytes[i];
#endif
        from += whole, to += whole / WORD_CHANNELS, n -= whole;
    }
    INT8_PACK(uint8_t)
}

static void word_pack_weight(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) {
#if WORD_CHANNELS == 4
    if (stride == 1) {
        word_pack(from, stride, n, to);
        return;
    }
#endif
    INT8_PACK(int8_t)
}

/* What each sum begins with: the bias, less the sum of the weights times what stands for 0 in the source. */
static void word_table(const words_call *g, ptrdiff_t panel, const uint32_t *packed) {
    const direct_call *d = &g->d;
    const ptrdiff_t nr = d->nr, rows = d->rows[0].taps * d->columns[0].taps * d->reduce;
    int32_t *to = g->table + panel * nr;
    const ptrdiff_t first = panel / d->panels * d->produce + panel % d->panels * nr;
    const ptrdiff_t n = fd_min(nr, d->produce - panel % d->panels * nr);
    memset(to, 0, (size_t)nr * 4);
    for (ptrdiff_t i = 0; i < rows && g->zero; i++, packed += nr)
        for (ptrdiff_t j = 0; j < nr; j++)
#if WORD_CHANNELS == 4
            to[j] += (int8_t)packed[j] + (int8_t)(packed[j] >> 8) + (int8_t)(packed[j] >> 16) + ((int32_t)packed[j] >> 24);
#else
            to[j] += (int16_t)packed[j] + ((int32_t)packed[j] >> 16);
#endif
    for (ptrdiff_t j = 0; j < nr; j++) to[j] *= -g->zero;
    if (d->bias)
        for (ptrdiff_t j = 0; j < n; j++) to[j] += *(const int32_t *)((const char *)d->bias + (first + j) * g->bias_step);
}

typedef uint8_t int8_bytes __attribute__((vector_size(FD_VECTOR_BYTES / 4), aligned(1), may_alias));

/* Nearest integers of n values, ties to even, between low and high, as bytes with `zero` added. Clipped first, which
 * for whole bounds is the same, each is small enough for 1.5 * 2**23 to leave nothing but the integer. */
static inline void int8_round(const float *v, ptrdiff_t n, float low, float high, int zero, uint8_t *to) {
    const float magic = 12582912.0f;
    ptrdiff_t i = 0;
    for (; i + FD_LANES_f32 <= n; i += FD_LANES_f32) {
        fd_v_f32 x = *(const fd_v_f32 *)(v + i);
        const fd_ints above = (fd_ints)(x > low), below = (fd_ints)(x < high); /* NaN becomes low */
        x = (fd_v_f32)((above & (fd_ints)x) | (~above & (fd_ints)(low - (fd_v_f32){0})));
        x = (fd_v_f32)((below & (fd_ints)x) | (~below & (fd_ints)(high - (fd_v_f32){0})));
        x = (x + magic) - magic;
        *(int8_bytes *)(to + i) = __builtin_convertvector(__builtin_convertvector(x, fd_ints) + zero, int8_bytes);
    }
    for (; i < n; i++) {
        float x = v[i] > low ? v[i] : low;
        x = x < high ? x : high;
        to[i] = (uint8_t)((int)((x + magic) - magic) + zero);
    }
}

static void word_store(const words_call *g, const words_place *at, ptrdiff_t p0, ptrdiff_t p1, fd_word_sum *sums) {
    const direct_call *d = &g->d;
    const fd_tensor *out = &d->out;
    const ptrdiff_t nr = d->nr, n = at->n, move = at->column->step * out->stride[3];
    const int32_t *start = g->table + at->panel * nr;
    const float low = (float)(g->low - g->out_zero), high = (float)(255 - g->out_zero);
    char *to = words_at(out, at, p0);
    float scale[2 * FD_LANES_f32], v[2 * FD_LANES_f32];
    uint8_t bytes[2 * FD_LANES_f32];
    for (ptrdiff_t j = 0; j < nr; j++)
        scale[j] = j < n ? *(const float *)(g->scale->data + (at->k0 + j) * g->scale->stride[0]) : 0.0f;
    for (; p0 < p1; p0++, sums += nr, to += move) {
        for (ptrdiff_t j = 0; j < nr; j++) v[j] = (float)(sums[j] + start[j]) * scale[j];
        if (out->type == FD_U8) {
            const int whole = out->stride[1] == 1 && n == nr;
            int8_round(v, nr, low, high, g->out_zero, whole ? (uint8_t *)to : bytes);
            for (ptrdiff_t j = 0; j < n && !whole; j++) to[j * out->stride[1]] = (char)bytes[j];
            continue;
        }
        if (d->relu)
            for (ptrdiff_t j = 0; j < nr; j++) v[j] = v[j] <= 0 ? 0 : v[j];
        fd_store_f32(FD_F32, v, to, out->stride[1], n);
    }
}

static int int8_start(words_call *g, int threads) { return words_run(g, threads, WORD_CHANNELS == 4 ? 350 : 100); }
#endif
