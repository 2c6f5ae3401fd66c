/* Factors of one bit: 32 of them are a word, whose products are counted. */
#ifndef FASTDL_BINARY_H
#define FASTDL_BINARY_H
#include "words_types.h"

typedef int32_t fd_word_sum;
typedef fd_ints fd_word_sums;

/* How many bits of each lane are 1. */
#if defined(__AVX512VPOPCNTDQ__)
#define FD_WORD_ROWS 28
static inline fd_ints binary_count(fd_words v) { return (fd_ints)_mm512_popcnt_epi32((__m512i)v); }
#elif defined(__AVX512BW__)
#define FD_WORD_ROWS 24
static inline fd_ints binary_count(fd_words v) { /* of each half byte from a table of 16 */
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i half = _mm512_set1_epi8(15), one = _mm512_set1_epi8(1);
    const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512((__m512i)v, half));
    const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16((__m512i)v, 4), half));
    return (fd_ints)_mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_add_epi8(low, high), one), _mm512_set1_epi16(1));
}
#elif defined(__AVX2__)
#define FD_WORD_ROWS 8
static inline fd_ints binary_count(fd_words v) {
    const __m128i counts = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i table = _mm256_broadcastsi128_si256(counts), half = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256((__m256i)v, half));
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16((__m256i)v, 4), half));
    return (fd_ints)_mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_add_epi8(low, high), one), _mm256_set1_epi16(1));
}
#else
#define FD_WORD_ROWS 8
static inline fd_ints binary_count(fd_words v) { /* sums of neighbours: 2, 4, 8 bits wide, then all of a lane */
    v -= (v >> 1) & 0x55555555u;
    v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0fu;
    v += v >> 8;
    return (fd_ints)((v + (v >> 16)) & 0x3fu);
}
#endif
#define FD_WORD_STEP(sums, x, w) sums += binary_count((x) ^ (w))
#define WORD_CHANNELS 1
#define WORD_SOURCE 4
#define WORD_WEIGHT 4
#include "blocks.h"
#include "words.h"

static void word_pack(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) {
    if (stride == 4) {
        if (n >= 16) memcpy(to, from, (size_t)n * 4);
        else
            for (ptrdiff_t i = 0; i < n; i++) memcpy(to + i, from + 4 * i, 4);
    } else
        for (ptrdiff_t i = 0; i < n; i++) to[i] = *(const uint32_t *)(from + i * stride);
}

static void word_pack_weight(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) { word_pack(from, stride, n, to); }

/* table[tap][nr]: the ones of each tap, which is what a word beside the image, all zeros, adds to the count there. */
static void word_table(const words_call *g, ptrdiff_t panel, const uint32_t *packed) {
    const direct_call *d = &g->d;
    const ptrdiff_t nr = d->nr, taps = g->table_size;
    int32_t *table = g->table + panel * taps * nr;
    memset(table, 0, (size_t)(taps * nr) * 4);
    for (ptrdiff_t w0 = 0; w0 < d->reduce; w0 += d->cb)
        for (ptrdiff_t t = 0, wide = fd_min(d->cb, d->reduce - w0); t < taps; t++)
            for (ptrdiff_t i = 0; i < wide; i++, packed += nr)
                for (ptrdiff_t j = 0; j < nr; j += FD_LANES_f32)
                    *(fd_ints *)(table + t * nr + j) += binary_count(*(const fd_words *)(packed + j));
}

static void word_store(const words_call *g, const words_place *at, ptrdiff_t p0, ptrdiff_t p1, fd_word_sum *sums) {
    const direct_call *d = &g->d;
    const fd_tensor *out = &d->out;
    const ptrdiff_t nr = d->nr, n = at->n, move = at->column->step * out->stride[3], width = d->source.shape[3];
    const int32_t *table = g->table + at->panel * g->table_size * nr;
    char *to = words_at(out, at, p0);
    const int whole = n == nr && out->stride[1] == out->itemsize && out->type == FD_F32;
    float scale[2 * FD_LANES_f32] = {0}, v[2 * FD_LANES_f32];
    ptrdiff_t first, last;
    words_rows(g, at->row, at->q, &first, &last);
    for (ptrdiff_t j = 0; j < n; j++)
        scale[j] = g->scale ? *(const float *)(g->scale->data + (at->k0 + j) * g->scale->stride[0]) : 1.0f;
    for (; p0 < p1; p0++, sums += nr, to += move) {
        const ptrdiff_t x = p0 * at->column->scale + at->column->offset, taps = at->column->taps, gap = at->column->gap;
        ptrdiff_t inside = taps;
        if (x < 0 || x + (taps - 1) * gap >= width)
            for (ptrdiff_t s = 0; s < taps; s++) {
                if (x + s * gap >= 0 && x + s * gap < width) continue;
                inside--;
                for (ptrdiff_t r = first; r < last; r++)
                    for (ptrdiff_t j = 0; j < nr; j++) sums[j] -= table[(r * taps + s) * nr + j];
            }
        const int32_t pairs = (int32_t)((last - first) * inside * g->bits);
        float *result = whole ? (float *)(void *)to : v;
        for (ptrdiff_t j = 0; j < nr; j += FD_LANES_f32) /* registers: their number is 1 or 2 */
            *(fd_v_f32 *)(result + j) = __builtin_convertvector(pairs - 2 * *(const fd_ints *)(sums + j), fd_v_f32) *
                                        *(const fd_v_f32 *)(scale + j);
        if (!whole) fd_store_f32(out->type, v, to, out->stride[1], n);
    }
}

static int binary_start(words_call *g, int threads) { return words_run(g, threads, 40); }
#endif
