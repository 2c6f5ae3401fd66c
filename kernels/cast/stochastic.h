/* Rounding up or down by chance. The words are numbered in row-major order whatever lies where in memory, so the arrays
 * are gone through in that order, in pieces that pass through buffers in L1. */
#ifndef FASTDL_STOCHASTIC_H
#define FASTDL_STOCHASTIC_H
#include "philox.h"

#define STOCHASTIC_PIECE 512   /* elements in the buffers, a multiple of four for each lane */
#define STOCHASTIC_TASK 16384 /* elements in one task */

typedef struct {
    uint64_t seed, step, keys[10][2];
    char *x, *out;
    int type, ndim; /* of out; axes that both arrays allow are merged */
    ptrdiff_t size, shape[FD_MAX_DIMS], x_stride[FD_MAX_DIMS], out_stride[FD_MAX_DIMS];
} stochastic_call;

/* The words of elements first to first + n - 1; first is a multiple of four, and to has room for whole registers. */
static void stochastic_words(const stochastic_call *s, ptrdiff_t first, ptrdiff_t n, uint64_t *to) {
    for (ptrdiff_t i = 0; i < n; i += 4 * PHILOX_BLOCKS) {
        philox_words c[4];
        uint64_t pairs[2][PHILOX_BLOCKS];
        philox(s->keys, s->step, (uint64_t)(first + i) / 4, c);
        for (int p = 0; p < 2; p++) {
            const philox_words pair = (c[2 * p] & 0xffffffffu) | c[2 * p + 1] << 32;
            memcpy(pairs[p], &pair, sizeof pair);
        }
        for (int block = 0; block < PHILOX_BLOCKS; block++)
            for (int p = 0; p < 2; p++) to[i / 2 + 2 * block + p] = pairs[p][block];
    }
}

static inline uint32_t stochastic_word(const uint64_t *words, ptrdiff_t i) {
    return (uint32_t)(words[i / 2] >> 32 * (i % 2));
}

/* What x is above the value below it, in units of 2**-32 of the distance to the next one, decides with the word. */
static inline uint16_t stochastic_bf16(float x, uint32_t word) {
    union { float f; uint32_t u; } in = {x};
    const uint32_t nearest = fd_f32_to_bf16(x), drawn = (in.u >> 16) + (word < in.u << 16);
    return (uint16_t)((in.u & 0x7fffffffu) > 0x7f7f0000u ? nearest : drawn);
}

static inline uint16_t stochastic_f16(float x, uint32_t word) {
    union { float f; uint32_t u; } in = {x}, size;
    const uint32_t nearest = fd_f32_to_f16(x), magnitude = in.u & 0x7fffffffu;
    /* Below 2**-14 the distance is 2**-24. What is larger is cut off here, and not used. */
    size.u = magnitude < 0x38800000u ? magnitude : 0u;
    const float units = size.f * 0x1p24f, whole = (float)(int32_t)units;
    const double rest = (double)(units - whole) * 0x1p32;
    const uint32_t small = (uint32_t)(int32_t)units + (word < (uint32_t)(int64_t)rest);
    const uint32_t normal = ((magnitude - 0x38000000u) >> 13) + (word < magnitude << 19);
    const uint32_t drawn = (in.u >> 16 & 0x8000u) | (magnitude < 0x38800000u ? small : normal);
    return (uint16_t)(magnitude > 0x477fe000u ? nearest : drawn);
}

/* Both arrays in row-major order: runs of n elements, each along the last axis. */
static void stochastic_copy(const stochastic_call *s, ptrdiff_t first, ptrdiff_t n, float *x, const uint16_t *out) {
    const int inner = s->ndim - 1;
    for (ptrdiff_t done = 0; done < n;) {
        ptrdiff_t rest = first + done, at = 0;
        const ptrdiff_t run = fd_min(n - done, s->shape[inner] - rest % s->shape[inner]);
        const ptrdiff_t *stride = out ? s->out_stride : s->x_stride;
        for (int d = inner; d >= 0; d--) {
            at += rest % s->shape[d] * stride[d];
            rest /= s->shape[d];
        }
        if (!out) fd_load_f32(FD_F32, s->x + at, stride[inner], x + done, run);
        else if (stride[inner] == 2) memcpy(s->out + at, out + done, (size_t)run * 2);
        else
            for (ptrdiff_t i = 0; i < run; i++) memcpy(s->out + at + i * stride[inner], out + done + i, 2);
        done += run;
    }
}

static int stochastic_task(void *context, ptrdiff_t task) {
    const stochastic_call *s = (const stochastic_call *)context;
    const ptrdiff_t last = fd_min((task + 1) * STOCHASTIC_TASK, s->size);
    for (ptrdiff_t first = task * STOCHASTIC_TASK; first < last; first += STOCHASTIC_PIECE) {
        const ptrdiff_t n = fd_min(STOCHASTIC_PIECE, last - first);
        uint64_t words[STOCHASTIC_PIECE / 2];
        float x[STOCHASTIC_PIECE];
        uint16_t out[STOCHASTIC_PIECE];
        stochastic_words(s, first, n, words);
        stochastic_copy(s, first, n, x, NULL);
        if (s->type == FD_F16)
            for (ptrdiff_t i = 0; i < n; i++) out[i] = stochastic_f16(x[i], stochastic_word(words, i));
        else
            for (ptrdiff_t i = 0; i < n; i++) out[i] = stochastic_bf16(x[i], stochastic_word(words, i));
        stochastic_copy(s, first, n, NULL, out);
    }
    return FD_OK;
}

static int stochastic_run(const fd_tensor *x, const fd_tensor *out, uint64_t seed, uint64_t step, int threads) {
    stochastic_call s = {.seed = seed, .step = step, .x = x->data, .out = out->data, .type = out->type, .size = x->size};
    if (s.size == 0) return FD_OK;
    philox_keys(seed, s.keys);
    for (int d = 0; d < x->ndim; d++) {
        const int last = s.ndim - 1;
        if (x->shape[d] == 1) continue;
        const int merge = last >= 0 && s.x_stride[last] == x->stride[d] * x->shape[d] &&
                          s.out_stride[last] == out->stride[d] * x->shape[d];
        const int to = merge ? last : s.ndim++;
        s.shape[to] = merge ? s.shape[last] * x->shape[d] : x->shape[d];
        s.x_stride[to] = x->stride[d];
        s.out_stride[to] = out->stride[d];
    }
    if (s.ndim == 0) s.shape[s.ndim++] = 1;
    return rt->parallel_for(stochastic_task, &s, fd_ceil_div(s.size, STOCHASTIC_TASK), threads, 1.0 * (double)s.size);
}
#endif
