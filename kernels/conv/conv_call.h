/* Arguments of the convolution kernels, and both instantiations.
 *
 * Forward and backward_input are one gather: an output position reads, at each of its taps, the source position
 * q * scale + offset. Forward has one class of positions along an axis; backward_input one for each remainder by the
 * stride (plan.py). A pair of classes, one for rows and one for columns, is a phase. */
#ifndef FASTDL_CONV_CALL_H
#define FASTDL_CONV_CALL_H
#include "blocks.h"
#include "half_sums.h"

typedef struct {
    ptrdiff_t start, step, count, scale;
    int taps;
    const ptrdiff_t *tap, *offset; /* taps entries each; offsets ascend */
} conv_axis;

typedef struct {
    fd_tensor source, weight, out; /* (N, C, H, W), (K, C/groups, R, S), (N, K, OH, OW) or their mirror images */
    const void *bias;              /* contiguous, compute dtype, or NULL */
    const fd_tensor *mask;         /* like out, or NULL */
    int relu, groups, half_sums; /* half_sums: sums are rounded to float16, see half_sums.h */
    ptrdiff_t mc, kc, slices;
    int row_classes, column_classes;
    const conv_axis *rows, *columns;
    ptrdiff_t reduce, produce;           /* channels of one group that are summed over, and that come out */
    ptrdiff_t w_group, w_reduce, w_produce; /* strides of the weight in bytes: group, summed channel, output channel */
    ptrdiff_t batch, panels, nr, inner_total;
    void *packed, *partial;
} conv_call;

/* The source of one block of output positions: its axes, its channels, and what the copy loop wants to know once. */
typedef struct {
    const conv_axis *row, *column;
    const char *data; /* first channel of the group */
    ptrdiff_t sn, sc, sh, sw, height, width, channels;
    int type, merged; /* merged: neighbouring taps of a row are neighbours in memory, channels included */
} conv_source;

static conv_source conv_source_of(const conv_call *g, const conv_axis *row, const conv_axis *column, ptrdiff_t group) {
    const fd_tensor *t = &g->source;
    conv_source s = {row, column, t->data + group * g->reduce * t->stride[1], t->stride[0], t->stride[1],
                     t->stride[2], t->stride[3], t->shape[2], t->shape[3], g->reduce, t->type, 1};
    s.merged = s.sc == t->itemsize && (column->taps == 1 || s.sw == s.sc * g->reduce);
    for (int i = 1; i < column->taps; i++) s.merged = s.merged && column->offset[i] == column->offset[i - 1] + 1;
    return s;
}

/* Inner length of a phase: taps times channels. */
static inline ptrdiff_t conv_phase_inner(const conv_call *g, ptrdiff_t phase) {
    return (ptrdiff_t)g->rows[phase / g->column_classes].taps * g->columns[phase % g->column_classes].taps * g->reduce;
}

/* Where the channels of output position i, j of a phase lie in an array like the output, from channel k on. */
static inline char *conv_place(const fd_tensor *t, const conv_axis *row, const conv_axis *column, ptrdiff_t n,
                               ptrdiff_t k, ptrdiff_t i, ptrdiff_t j) {
    return t->data + n * t->stride[0] + k * t->stride[1] + (row->start + i * row->step) * t->stride[2] +
           (column->start + j * column->step) * t->stride[3];
}

#define T float
#define SFX f32
#include "conv_gather.h"
#include "conv_weight.h"
#include "conv_bias.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "conv_gather.h"
#include "conv_weight.h"
#include "conv_bias.h"
#undef T
#undef SFX

static int conv_gather_start(conv_call *g, const fd_tensor *bias, int threads) {
    return g->out.type == FD_F64 ? conv_gather_run_f64(g, bias, threads) : conv_gather_run_f32(g, bias, threads);
}
static int conv_weight_start(conv_call *g, int threads) {
    return g->out.type == FD_F64 ? conv_weight_run_f64(g, threads) : conv_weight_run_f32(g, threads);
}
static int conv_bias_start(const fd_tensor *dout, const fd_tensor *db, ptrdiff_t slices, int threads) {
    return dout->type == FD_F64 ? conv_bias_run_f64(dout, db, slices, threads)
                                : conv_bias_run_f32(dout, db, slices, threads);
}
#endif
