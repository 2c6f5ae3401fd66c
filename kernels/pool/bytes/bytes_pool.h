/* Max pooling of bytes: a row of outputs in a task, the channels side by side in registers while the taps pass. */
#ifndef FASTDL_BYTES_POOL_H
#define FASTDL_BYTES_POOL_H
#include "runtime.h"

typedef struct {
    fd_tensor x, out;
    ptrdiff_t kernel[2], stride[2], before[2], dilation[2];
} bytes_pool_call;

/* The taps of a window that lie on the image: the first one's place, how many, and their distances in bytes. */
typedef struct {
    const uint8_t *from;
    ptrdiff_t rows, columns, down, right;
} bytes_window;

static inline uint8_t bytes_largest(const bytes_window *w, ptrdiff_t offset) {
    uint8_t best = 0;
    for (ptrdiff_t r = 0; r < w->rows; r++)
        for (ptrdiff_t s = 0; s < w->columns; s++) {
            const uint8_t v = w->from[offset + r * w->down + s * w->right];
            best = v > best ? v : best;
        }
    return best;
}

/* So many channels side by side in a register; the last register overlaps the one before it. */
#define BYTES_LARGEST(SIZE)                                                                          \
    typedef uint8_t bytes_##SIZE __attribute__((vector_size(SIZE), aligned(1), may_alias));          \
    static inline void bytes_registers_##SIZE(const bytes_window *w, ptrdiff_t channels, uint8_t *to) { \
        for (ptrdiff_t block = 0; block < channels; block += SIZE) {                                 \
            const ptrdiff_t c = fd_min(block, channels - SIZE);                                      \
            bytes_##SIZE best = {0};                                                                 \
            for (ptrdiff_t r = 0; r < w->rows; r++)                                                  \
                for (ptrdiff_t s = 0; s < w->columns; s++) {                                         \
                    const bytes_##SIZE v = *(const bytes_##SIZE *)(w->from + c + r * w->down + s * w->right); \
                    const bytes_##SIZE larger = (bytes_##SIZE)(v > best);                            \
                    best = (v & larger) | (best & ~larger);                                          \
                }                                                                                    \
            *(bytes_##SIZE *)(to + c) = best;                                                        \
        }                                                                                            \
    }
BYTES_LARGEST(16)
BYTES_LARGEST(32)

/* First and number of the taps at window `at` on one axis that lie on the image. */
static inline ptrdiff_t bytes_taps(const bytes_pool_call *p, int axis, ptrdiff_t at, ptrdiff_t size, ptrdiff_t *first) {
    const ptrdiff_t start = at * p->stride[axis] - p->before[axis], step = p->dilation[axis];
    *first = start < 0 ? fd_ceil_div(-start, step) : 0;
    return fd_max(0, fd_min(p->kernel[axis], start < size ? fd_ceil_div(size - start, step) : 0) - *first);
}

static int bytes_pool_task(void *context, ptrdiff_t index) {
    const bytes_pool_call *p = (const bytes_pool_call *)context;
    const fd_tensor *x = &p->x, *out = &p->out;
    const ptrdiff_t n = index / out->shape[2], oh = index % out->shape[2], channels = x->shape[1];
    const int beside = x->stride[1] == 1 && out->stride[1] == 1;
    bytes_window w = {NULL, 0, 0, p->dilation[0] * x->stride[2], p->dilation[1] * x->stride[3]};
    ptrdiff_t r, s;
    w.rows = bytes_taps(p, 0, oh, x->shape[2], &r);
    for (ptrdiff_t ow = 0; ow < out->shape[3]; ow++) {
        uint8_t *to = (uint8_t *)out->data + n * out->stride[0] + oh * out->stride[2] + ow * out->stride[3];
        w.columns = bytes_taps(p, 1, ow, x->shape[3], &s);
        w.from = (const uint8_t *)x->data + n * x->stride[0] +
                 (oh * p->stride[0] - p->before[0] + r * p->dilation[0]) * x->stride[2] +
                 (ow * p->stride[1] - p->before[1] + s * p->dilation[1]) * x->stride[3];
        if (beside && channels >= 32) bytes_registers_32(&w, channels, to);
        else if (beside && channels >= 16) bytes_registers_16(&w, channels, to);
        else
            for (ptrdiff_t c = 0; c < channels; c++) to[c * out->stride[1]] = bytes_largest(&w, c * x->stride[1]);
    }
    return FD_OK;
}

static int bytes_pool_run(bytes_pool_call *p, int threads) {
    if (p->out.size == 0) return FD_OK;
    return rt->parallel_for(bytes_pool_task, p, p->out.shape[0] * p->out.shape[2], threads,
                            0.05 * (double)(p->out.size * p->kernel[0] * p->kernel[1]));
}
#endif
