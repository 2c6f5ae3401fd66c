/* Arguments of the small-channel convolutions, and both instantiations. */
#ifndef FASTDL_SMALL_CALL_H
#define FASTDL_SMALL_CALL_H
#include "blocks.h"
#include "small_tiles.h"
#include "windows.h"

typedef struct {
    fd_tensor x, w, out;                /* by their role in the forward pass: dx, dw and dout in the backward passes */
    const fd_tensor *mask;              /* of backward_input, or NULL */
    ptrdiff_t stride_h, stride_w, dilation_h, dilation_w, top, left;
    ptrdiff_t rows, columns, slices;    /* output pixels of a block, input pixels in backward_input; slices of
                                           backward_weight (plan.py) */
    int relu;
    /* worked out by small_begin */
    ptrdiff_t c, k, taps, run_length, runs, wide;       /* wide: output channels in whole vectors */
    ptrdiff_t buffer_rows, buffer_columns, row_blocks, column_blocks, blocks;
    ptrdiff_t *offset;                  /* of each tap, in bytes */
    const void *bias;
    void *packed, *partial;
} small_call;

/* One block of output pixels. */
typedef struct {
    ptrdiff_t n, i, j, rows, columns;
} small_block;

static small_block small_block_of(const small_call *g, ptrdiff_t index) {
    small_block b;
    b.j = index % g->column_blocks * g->columns;
    b.i = index / g->column_blocks % g->row_blocks * g->rows;
    b.n = index / g->column_blocks / g->row_blocks;
    b.rows = fd_min(g->rows, g->out.shape[2] - b.i);
    b.columns = fd_min(g->columns, g->out.shape[3] - b.j);
    return b;
}

/* Sizes, and the table of offsets on the arena. */
static int small_begin(small_call *g, ptrdiff_t itemsize, ptrdiff_t lanes) {
    const ptrdiff_t r = g->w.shape[2], s = g->w.shape[3];
    g->c = g->w.shape[1];
    g->k = g->w.shape[0];
    g->taps = r * s * g->c;
    g->runs = g->dilation_w == 1 ? r : r * s;
    g->run_length = g->dilation_w == 1 ? s * g->c : g->c;
    g->wide = fd_round_up(g->k, lanes);
    g->buffer_rows = (g->rows - 1) * g->stride_h + (r - 1) * g->dilation_h + 1;
    g->buffer_columns = (g->columns - 1) * g->stride_w + (s - 1) * g->dilation_w + 1;
    g->row_blocks = fd_ceil_div(g->out.shape[2], g->rows);
    g->column_blocks = fd_ceil_div(g->out.shape[3], g->columns);
    g->blocks = g->x.shape[0] * g->row_blocks * g->column_blocks;
    g->offset = (ptrdiff_t *)rt->push((size_t)g->taps * sizeof(ptrdiff_t));
    if (!g->offset) return FD_NO_MEMORY;
    ptrdiff_t *to = g->offset;
    for (ptrdiff_t a = 0; a < r; a++)
        for (ptrdiff_t b = 0; b < s; b++)
            for (ptrdiff_t c = 0; c < g->c; c++)
                *to++ = ((a * g->dilation_h * g->buffer_columns + b * g->dilation_w) * g->c + c) * itemsize;
    return FD_OK;
}

/* What backward_input has beside it. A class is a pair of remainders by the strides. */
typedef struct {
    small_call *g;
    ptrdiff_t *first;                   /* of each class: where it begins in the table of offsets */
    ptrdiff_t low_y, low_x;             /* of a block at 0: the first row and column of dout that it reads */
    ptrdiff_t rows, columns;            /* of dout that a block reads */
    ptrdiff_t row_blocks, column_blocks;
} small_input_call;

/* The lowest position of dout that a block at 0 reads on one axis, and how many there are. plan.py counts as well. */
static void small_input_axis(ptrdiff_t taps, ptrdiff_t dilation, ptrdiff_t before, ptrdiff_t stride, ptrdiff_t block,
                             ptrdiff_t *low, ptrdiff_t *count) {
    const ptrdiff_t reach = (taps - 1) * dilation;
    *low = before >= reach ? (before - reach) / stride : -((reach - before + stride - 1) / stride);
    *count = (block - 1 + before) / stride - *low + 1;
}

/* Whether an input position that leaves `rest` by the stride sees the filter's `tap`, and in which row or column of dout,
 * counted from where the block begins. */
static inline int small_reaches(ptrdiff_t rest, ptrdiff_t before, ptrdiff_t tap, ptrdiff_t stride, ptrdiff_t *at) {
    const ptrdiff_t place = rest + before - tap;
    *at = place / stride;
    return place % stride == 0;
}

#define T float
#define SFX f32
#include "padded.h"
#include "small_forward.h"
#include "small_weight.h"
#include "small_input.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "padded.h"
#include "small_forward.h"
#include "small_weight.h"
#include "small_input.h"
#undef T
#undef SFX

static int small_forward_start(small_call *g, const fd_tensor *bias, int threads) {
    if (g->out.size == 0) return FD_OK;
    return g->out.type == FD_F64 ? small_forward_run_f64(g, bias, threads) : small_forward_run_f32(g, bias, threads);
}
static int small_input_start(small_call *g, int threads) {
    if (g->x.size == 0) return FD_OK;
    return g->out.type == FD_F64 ? small_input_run_f64(g, threads) : small_input_run_f32(g, threads);
}
static int small_weight_start(small_call *g, int threads) {
    if (g->w.size == 0) return FD_OK;
    return g->out.type == FD_F64 ? small_weight_run_f64(g, threads) : small_weight_run_f32(g, threads);
}
#endif
