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
    const ptrdiff_t nr = d->nr, rows = d->rows[0].taps * words_inner(g, &d->columns[0], d->reduce);
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

/* What a store needs of one register of output channels, and how it treats all. */
typedef struct {
    fd_ints start;
    fd_v_f32 scale;
} int8_channels;
typedef struct {
    float low, high; /* whole numbers: bounds of a result in bytes, zero not yet added */
    int zero, relu;
} int8_limits;

static inline fd_v_f32 int8_number(const int32_t *sums, const int8_channels *c) {
    return __builtin_convertvector(*(const fd_ints *)sums + c->start, fd_v_f32) * c->scale;
}

static inline fd_v_f32 int8_positive(fd_v_f32 v) { return (fd_v_f32)((fd_ints)v & ~(fd_ints)(v <= (fd_v_f32){0})); }

/* Nearest integers, ties to even, between low and high, as bytes with `zero` added. Clipped first, which for whole bounds
 * is the same, each is small enough for 1.5 * 2**23 to leave nothing but the integer. */
static inline int8_bytes int8_byte(fd_v_f32 v, const int8_limits *l) {
    const fd_v_f32 zero = {0}, magic = 12582912.0f - zero;
    const fd_ints above = (fd_ints)(v > l->low - zero), below = (fd_ints)(v < l->high - zero);
    v = (fd_v_f32)((above & (fd_ints)v) | (~above & (fd_ints)(l->low - zero)));
    v = (fd_v_f32)((below & (fd_ints)v) | (~below & (fd_ints)(l->high - zero)));
    return __builtin_convertvector(__builtin_convertvector((v + magic) - magic, fd_ints) + l->zero, int8_bytes);
}

/* A run of results, `move` bytes apart, each of `vectors` whole registers side by side; inlined with constants. (With the
 * length of an inner loop a variable, 16 to 16 channels of 28x28 took 0.80 ms, and so 0.67.) */
static inline __attribute__((always_inline)) void int8_whole(const int32_t *sums, ptrdiff_t count, int vectors, int bytes,
                                                             const int8_channels *c, const int8_limits *l, char *to,
                                                             ptrdiff_t move) {
    for (; count > 0; count--, sums += vectors * FD_LANES_f32, to += move)
        for (int i = 0; i < vectors; i++) {
            const fd_v_f32 v = int8_number(sums + i * FD_LANES_f32, &c[i]);
            if (bytes) *(int8_bytes *)(to + i * FD_LANES_f32) = int8_byte(v, l);
            else *(fd_v_f32 *)(to + i * FD_VECTOR_BYTES) = l->relu ? int8_positive(v) : v;
        }
}

static void word_store(const words_call *g, const words_place *at, ptrdiff_t p0, ptrdiff_t p1, fd_word_sum *sums) {
    const direct_call *d = &g->d;
    const fd_tensor *out = &d->out;
    const ptrdiff_t nr = d->nr, n = at->n, move = at->column->step * out->stride[3];
    const int vectors = (int)(nr / FD_LANES_f32), bytes = out->type == FD_U8;
    const int8_limits limits = {(float)(g->low - g->out_zero), (float)(255 - g->out_zero), g->out_zero, d->relu};
    char *to = words_at(out, at, p0);
    int8_channels c[2];
    float scale[2 * FD_LANES_f32] = {0};
    for (ptrdiff_t j = 0; j < n; j++) scale[j] = *(const float *)(g->scale->data + (at->k0 + j) * g->scale->stride[0]);
    for (int i = 0; i < vectors; i++) {
        c[i].start = *(const fd_ints *)(g->table + at->panel * nr + i * FD_LANES_f32);
        c[i].scale = *(const fd_v_f32 *)(scale + i * FD_LANES_f32);
    }
    if (n == nr && out->stride[1] == out->itemsize) {
        if (vectors == 2 && bytes) int8_whole(sums, p1 - p0, 2, 1, c, &limits, to, move);
        else if (vectors == 2) int8_whole(sums, p1 - p0, 2, 0, c, &limits, to, move);
        else if (bytes) int8_whole(sums, p1 - p0, 1, 1, c, &limits, to, move);
        else int8_whole(sums, p1 - p0, 1, 0, c, &limits, to, move);
        return;
    }
    for (; p0 < p1; p0++, sums += nr, to += move) {
        uint8_t stored[2 * FD_VECTOR_BYTES];
        if (bytes) int8_whole(sums, 1, vectors, 1, c, &limits, (char *)stored, 0);
        else int8_whole(sums, 1, vectors, 0, c, &limits, (char *)stored, 0);
        for (ptrdiff_t j = 0; j < n; j++) memcpy(to + j * out->stride[1], stored + j * out->itemsize, (size_t)out->itemsize);
    }
}

static int int8_start(words_call *g, int threads) { return words_run(g, threads, WORD_CHANNELS == 4 ? 350 : 100); }
#endif
