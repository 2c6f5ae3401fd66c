/* Pairs of bfloat16 and their dot product in hardware. */
#ifndef FASTDL_DOT_H
#define FASTDL_DOT_H
#include "words_types.h"

typedef float fd_word_sum;
typedef float fd_word_sums __attribute__((vector_size(FD_VECTOR_BYTES), aligned(4), may_alias));
#define FD_WORD_ROWS 28
#define FD_WORD_STEP(sums, x, w) sums = (fd_word_sums)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(x), (__m512bh)(w))
#define WORD_CHANNELS 2
#define WORD_SOURCE 2
#define WORD_WEIGHT 2
#include "blocks.h"
#include "words.h"

static inline void word_pack(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) {
    ptrdiff_t i = 0;
    if (stride == 2) {
        fd_copy_f32((float *)(void *)to, (const float *)(const void *)from, n / 2);
        i = n / 2;
    } else
        for (; i < n / 2; i++)
            to[i] = *(const uint16_t *)(from + 2 * i * stride) |
                    (uint32_t) * (const uint16_t *)(from + (2 * i + 1) * stride) << 16;
    if (n % 2) to[i] = *(const uint16_t *)(from + 2 * i * stride);
}

static void word_pack_weight(const char *from, ptrdiff_t stride, ptrdiff_t n, uint32_t *to) { word_pack(from, stride, n, to); }

static void word_table(const words_call *g, ptrdiff_t panel, const uint32_t *packed) {
    (void)g, (void)panel, (void)packed;
}

static void word_store(const words_call *g, const words_place *at, ptrdiff_t p0, ptrdiff_t p1, fd_word_sum *sums) {
    const direct_call *d = &g->d;
    const fd_tensor *out = &d->out, *mask = d->mask;
    const float *bias = d->bias ? (const float *)d->bias + at->k0 : NULL;
    char *to = words_at(out, at, p0);
    const char *y = mask ? words_at(mask, at, p0) : NULL;
    const ptrdiff_t nr = d->nr, move = at->column->step * out->stride[3];
    for (; p0 < p1; p0++, sums += nr, to += move) {
        fd_epilogue_f32(sums, bias, d->relu, at->n);
        if (mask) {
            fd_relu_mask_f32(sums, mask->type, y, mask->stride[1], at->n);
            y += at->column->step * mask->stride[3];
        }
        if (at->n == nr && out->stride[1] == 2)
            for (ptrdiff_t j = 0; j < nr; j += FD_LANES_f32) fd_write_vector_f32(FD_BF16, sums + j, to + 2 * j);
        else fd_write_f32(out->type, sums, to, out->stride[1], at->n);
    }
}

static int dot_start(words_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    if (g->d.out.size == 0) return FD_OK;
    g->d.bias = fd_load_bias_f32(bias, g->d.groups * g->d.produce, &status);
    if (!status) status = words_run(g, threads, 200);
    rt->release(mark);
    return status;
}
#endif
