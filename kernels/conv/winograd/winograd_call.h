/* Arguments of Winograd's convolution, and both instantiations. See __init__.py for the algorithm. */
#ifndef FASTDL_WINOGRAD_CALL_H
#define FASTDL_WINOGRAD_CALL_H
#include "blocks.h"
#include "winograd_transforms.h"

/* Tiles that are transformed together while their columns lie in L1: 16 tiles of 4 are 66 columns, 25 KB. */
#define WINOGRAD_STRIP 16

typedef struct {
    fd_tensor source, weight, out; /* as in the other convolutions; backward_weight: x, dw, dout */
    const fd_tensor *mask;         /* like out, or NULL */
    const fd_tensor *pooled, *indices; /* largest of each 2x2 window of out and its tap, or NULL; then out.data may be */
    const void *bias;              /* contiguous, compute dtype, or NULL */
    int relu, flip, variant;       /* flip: the filter is read backwards (backward_input) */
    ptrdiff_t m, r, n, top, left;  /* tile (i, j) reads n x n source positions from (i * m - top, j * m - left) */
    ptrdiff_t down, across;        /* tiles of an image */
    ptrdiff_t batch, groups, reduce, produce;
    ptrdiff_t w_group, w_reduce, w_produce; /* strides of the weight in bytes: group, summed channel, output channel */
    ptrdiff_t block, panel_block, kc, slices; /* tiles in a block, panels in one, inner length, partial sums */
    ptrdiff_t tiles, blocks, nr, panels, u_point, first; /* worked out by the run functions */
    void *packed, *v, *d;
} winograd_call;

#define T float
#define SFX f32
#include "winograd_gather.h"
#include "winograd_weight.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "winograd_gather.h"
#include "winograd_weight.h"
#undef T
#undef SFX

static int winograd_gather_start(winograd_call *g, const fd_tensor *bias, int threads) {
    return g->out.type == FD_F64 ? winograd_gather_run_f64(g, bias, threads) : winograd_gather_run_f32(g, bias, threads);
}
static int winograd_weight_start(winograd_call *g, int threads) {
    return g->out.type == FD_F64 ? winograd_weight_run_f64(g, threads) : winograd_weight_run_f32(g, threads);
}
#endif
