/* The signs of 32 neighbouring channels in a word. */
#ifndef FASTDL_BITS_H
#define FASTDL_BITS_H
#include "simd.h"

#define BITS_PIXELS 256 /* of a task, at most */

typedef struct {
    fd_tensor x, out; /* (N, C, H, W), (N, groups * words, H, W) */
    const fd_tensor *threshold;
    const void *levels; /* contiguous, in the compute dtype; C of them */
    ptrdiff_t groups, channels, words;
} bits_call;

/* Bit i of the result: v[i] >= level[i], for 32 of them. */
static inline uint32_t bits_word_f32(const float *v, const float *level) {
#if FD_VECTOR_BYTES == 64
    const uint32_t low = _mm512_cmp_ps_mask(_mm512_loadu_ps(v), _mm512_loadu_ps(level), _CMP_GE_OQ);
    return low | (uint32_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(v + 16), _mm512_loadu_ps(level + 16), _CMP_GE_OQ) << 16;
#elif FD_VECTOR_BYTES == 32
    uint32_t word = 0;
    for (int i = 0; i < 32; i += 8)
        word |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v + i), _mm256_loadu_ps(level + i), _CMP_GE_OQ)) << i;
    return word;
#else
    uint32_t word = 0;
    for (int i = 0; i < 32; i++) word |= (uint32_t)(v[i] >= level[i]) << i;
    return word;
#endif
}
static inline uint32_t bits_word_f64(const double *v, const double *level) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i++) word |= (uint32_t)(v[i] >= level[i]) << i;
    return word;
}

static inline ptrdiff_t fd_distance(ptrdiff_t v) { return v < 0 ? -v : v; }

/* A run of pixels of one group: channels side by side a word at a time, or else pixels side by side a channel at a time. */
#define BITS_RUN(T, SFX, TYPE)                                                                                        \
    static void FD_CAT(bits_run, SFX)(const bits_call *b, const char *from, char *to, ptrdiff_t group, ptrdiff_t pixels) { \
        const ptrdiff_t sc = b->x.stride[1], sw = b->x.stride[3], tc = b->out.stride[1], tw = b->out.stride[3];       \
        const T *levels = (const T *)b->levels + group * b->channels;                                                 \
        T v[BITS_PIXELS], level[32];                                                                                  \
        uint32_t word[BITS_PIXELS];                                                                                   \
        const int beside = fd_distance(sc) <= fd_distance(sw) && b->channels > 1;                                     \
        for (ptrdiff_t j = 0; j < b->words; j++) {                                                                    \
            const ptrdiff_t c0 = 32 * j, n = fd_min(32, b->channels - c0);                                            \
            const char *at = from + c0 * sc;                                                                          \
            char *out = to + j * tc;                                                                                  \
            if (beside) {                                                                                             \
                const uint32_t kept = n == 32 ? ~0u : (1u << n) - 1;                                                  \
                for (ptrdiff_t i = 0; i < 32; i++) level[i] = i < n ? levels[c0 + i] : 0, v[i] = 0;                   \
                for (ptrdiff_t p = 0; p < pixels; p++) {                                                              \
                    const T *values = v;                                                                              \
                    if (n == 32 && b->x.type == TYPE && sc == (ptrdiff_t)sizeof(T)) values = (const T *)(at + p * sw); \
                    else FD_CAT(fd_load, SFX)(b->x.type, at + p * sw, sc, v, n);                                      \
                    *(uint32_t *)(out + p * tw) = FD_CAT(bits_word, SFX)(values, level) & kept;                       \
                }                                                                                                     \
                continue;                                                                                             \
            }                                                                                                         \
            memset(word, 0, (size_t)pixels * 4);                                                                      \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                       \
                const T least = levels[c0 + i];                                                                       \
                FD_CAT(fd_load, SFX)(b->x.type, at + i * sc, sw, v, pixels);                                          \
                for (ptrdiff_t p = 0; p < pixels; p++) word[p] |= (uint32_t)(v[p] >= least) << i;                     \
            }                                                                                                         \
            for (ptrdiff_t p = 0; p < pixels; p++) *(uint32_t *)(out + p * tw) = word[p];                             \
        }                                                                                                             \
    }
BITS_RUN(float, f32, FD_F32)
BITS_RUN(double, f64, FD_F64)

static int bits_task(void *context, ptrdiff_t index) {
    const bits_call *b = (const bits_call *)context;
    const ptrdiff_t pieces = fd_ceil_div(b->x.shape[3], BITS_PIXELS);
    const ptrdiff_t p0 = index % pieces * BITS_PIXELS, pixels = fd_min(BITS_PIXELS, b->x.shape[3] - p0);
    const ptrdiff_t h = index / pieces % b->x.shape[2], n = index / pieces / b->x.shape[2];
    for (ptrdiff_t g = 0; g < b->groups; g++) {
        const char *from = b->x.data + n * b->x.stride[0] + g * b->channels * b->x.stride[1] + h * b->x.stride[2] +
                           p0 * b->x.stride[3];
        char *to = b->out.data + n * b->out.stride[0] + g * b->words * b->out.stride[1] + h * b->out.stride[2] +
                   p0 * b->out.stride[3];
        if (b->x.type == FD_F64) bits_run_f64(b, from, to, g, pixels);
        else bits_run_f32(b, from, to, g, pixels);
    }
    return FD_OK;
}

static int bits_start(bits_call *b, int threads) {
    const size_t mark = rt->mark();
    const ptrdiff_t c = b->groups * b->channels;
    int status = FD_NO_MEMORY;
    if (b->out.size == 0) return FD_OK;
    char *levels = (char *)rt->push((size_t)c * 8);
    b->levels = levels;
    if (levels) {
        memset(levels, 0, (size_t)c * 8);
        if (b->threshold && b->x.type == FD_F64)
            fd_load_f64(b->threshold->type, b->threshold->data, b->threshold->stride[0], (double *)(void *)levels, c);
        else if (b->threshold)
            fd_load_f32(b->threshold->type, b->threshold->data, b->threshold->stride[0], (float *)(void *)levels, c);
        status = rt->parallel_for(bits_task, b, b->x.shape[0] * b->x.shape[2] * fd_ceil_div(b->x.shape[3], BITS_PIXELS),
                                  threads, 0.15 * (double)b->x.size);
    }
    rt->release(mark);
    return status;
}
#endif
