/* Arguments of the 1x1 convolution, and both instantiations. */
#ifndef FASTDL_POINTWISE_CALL_H
#define FASTDL_POINTWISE_CALL_H
#include "blocks.h"

/* Pixels a multiple of so many bytes apart lie in one set of L1, which has fewer ways than a tile has rows: on one
 * thread 1024 -> 256 and 2048 -> 512 channels ran at 127-195 GFLOP/s, depending on where the arrays lay, and with 16
 * channels more at 185-210. */
#define POINTWISE_ALIAS 4096

typedef struct {
    fd_tensor source, weight, out; /* the source is channels-last, in the compute dtype */
    const fd_tensor *mask;         /* like out, or NULL */
    const void *bias;              /* contiguous, compute dtype, or NULL */
    int relu;
    ptrdiff_t reduce, produce;       /* channels summed over, and coming out */
    ptrdiff_t w_reduce, w_produce;   /* the weight's strides in bytes */
    ptrdiff_t pixels, block, slices; /* of all images together, of a task; partial sums of backward_weight */
    ptrdiff_t panel_step;            /* backward_weight: panels of a task */
    ptrdiff_t nr, panels, ahead;
    int aliased; /* the pixels of a tile would lie in the same few sets of L1: they are copied first */
    void *packed, *partial;
} pointwise_call;

/* Where pixel p of all images lies in an array of any strides. */
static inline char *pointwise_at(const fd_tensor *t, ptrdiff_t p) {
    const ptrdiff_t w = t->shape[3], plane = t->shape[2] * w;
    return t->data + p / plane * t->stride[0] + p % plane / w * t->stride[2] + p % w * t->stride[3];
}

/* Whether an array is channels-last memory: then its pixels follow one another. */
static inline int pointwise_flat(const fd_tensor *t) {
    const ptrdiff_t pixel = t->itemsize * t->shape[1];
    return t->stride[1] == t->itemsize && t->stride[3] == pixel && t->stride[2] == pixel * t->shape[3] &&
           t->stride[0] == pixel * t->shape[3] * t->shape[2];
}

#define T float
#define SFX f32
#include "pointwise.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "pointwise.h"
#undef T
#undef SFX

static int pointwise_start(pointwise_call *g, const fd_tensor *bias, int threads) {
    g->ahead = threads;
    return g->out.type == FD_F64 ? pointwise_run_f64(g, bias, threads) : pointwise_run_f32(g, bias, threads);
}
static int pointwise_weight_start(pointwise_call *g, int threads) {
    g->ahead = threads;
    return g->out.type == FD_F64 ? pointwise_weight_run_f64(g, threads) : pointwise_weight_run_f32(g, threads);
}
#endif
