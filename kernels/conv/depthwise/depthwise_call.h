/* Arguments of the depthwise convolutions, and both instantiations. */
#ifndef FASTDL_DEPTHWISE_CALL_H
#define FASTDL_DEPTHWISE_CALL_H
#include "blocks.h"
#include "depthwise_tiles.h"
#include "windows.h"

/* Positions start + step * q of one axis of the output, which read source positions q * scale + offset[i] at tap[i]. */
typedef struct {
    ptrdiff_t start, count, taps, *tap, *offset;
} depthwise_class;

typedef struct {
    ptrdiff_t classes, step, scale, most; /* most: positions of the largest class */
    ptrdiff_t first, last;                /* smallest and largest offset of all classes */
    depthwise_class *at;
} depthwise_axis;

typedef struct {
    fd_tensor x, w, out;  /* x: dout and out: dx in backward_input; out: dout in backward_weight */
    const fd_tensor *mask;                    /* like out, or NULL */
    ptrdiff_t stride[2], dilation[2], pad[2]; /* vertical, horizontal */
    ptrdiff_t rows, columns, channels;        /* of a block: positions of each class, channels (plan.py) */
    ptrdiff_t slices, lines;                  /* backward_weight: slices of blocks, rows that a tile sums */
    int gradient, relu;                       /* gradient: by the input */
    /* worked out by depthwise_begin */
    depthwise_axis axis[2];
    ptrdiff_t taps, buffer_rows, buffer_columns, row_blocks, column_blocks, channel_blocks, planes;
    ptrdiff_t *tap;    /* of each phase's taps: r * S + s */
    ptrdiff_t *offset; /* and where they lie in the buffer, in bytes: a table for each row that a window may begin in */
    const void *bias;
    void *packed, *partial;
} depthwise_call;

/* One block: image, first position of each class, channels; and how far its buffer is filled. */
typedef struct {
    ptrdiff_t n, i, j, c, channels, filled;
} depthwise_block;

static depthwise_block depthwise_block_of(const depthwise_call *g, ptrdiff_t index, ptrdiff_t channel_block) {
    depthwise_block b = {0};
    b.c = channel_block * g->channels;
    b.channels = fd_min(g->channels, g->out.shape[1] - b.c);
    b.j = index % g->column_blocks * g->columns;
    b.i = index / g->column_blocks % g->row_blocks * g->rows;
    b.n = index / g->column_blocks / g->row_blocks;
    return b;
}

/* Asks for what the next row will read or write. There are so few operations for each byte that waiting for memory
 * would take longer than the rest (32 channels, 112 x 112: 1.75 ms without, 1.1 ms with it). An address beside the
 * array does no harm. */
static inline void depthwise_prefetch(const char *p, ptrdiff_t rows, ptrdiff_t line, ptrdiff_t pixels, ptrdiff_t step) {
    for (; rows > 0; rows--, p += line)
        for (ptrdiff_t i = 0; i < pixels; i++) __builtin_prefetch(p + i * step);
}

/* Forward has one class, position q reading q * stride + t * dilation - pad. The gradient has one for each remainder by
 * the stride: position h of the input met position i of the output at tap t where h = i * stride + t * dilation - pad.
 */
static int depthwise_axis_of(const depthwise_call *g, int a, depthwise_axis *axis) {
    const ptrdiff_t kernel = g->w.shape[2 + a], size = g->out.shape[2 + a], stride = g->stride[a];
    ptrdiff_t *table = (ptrdiff_t *)rt->push((size_t)(2 * kernel) * sizeof(ptrdiff_t));
    axis->classes = g->gradient ? fd_min(stride, size) : 1;
    axis->step = g->gradient ? stride : 1;
    axis->scale = g->gradient ? 1 : stride;
    axis->most = fd_ceil_div(size, axis->step);
    axis->first = PTRDIFF_MAX;
    axis->last = PTRDIFF_MIN;
    axis->at = (depthwise_class *)rt->push((size_t)axis->classes * sizeof(depthwise_class));
    if (!table || !axis->at) return FD_NO_MEMORY;
    for (ptrdiff_t start = 0; start < axis->classes; start++) {
        depthwise_class *c = &axis->at[start];
        *c = (depthwise_class){start, fd_ceil_div(size - start, axis->step), 0, table, NULL};
        for (ptrdiff_t t = 0; t < kernel; t++)
            if (!g->gradient || (start + g->pad[a] - t * g->dilation[a]) % stride == 0) c->tap[c->taps++] = t;
        c->offset = c->tap + c->taps;
        table = c->offset + c->taps;
        for (ptrdiff_t i = 0; i < c->taps; i++) {
            const ptrdiff_t at = c->tap[i] * g->dilation[a] - g->pad[a];
            c->offset[i] = g->gradient ? (start - at) / stride : at;
            axis->first = fd_min(axis->first, c->offset[i]);
            axis->last = fd_max(axis->last, c->offset[i]);
        }
    }
    if (axis->first > axis->last) axis->first = axis->last = 0;
    return FD_OK;
}

/* Sizes, and the tables on the arena. */
static int depthwise_begin(depthwise_call *g, int weight, ptrdiff_t lanes, ptrdiff_t itemsize) {
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    g->taps = g->w.shape[2] * g->w.shape[3];
    if (depthwise_axis_of(g, 0, &g->axis[0]) || depthwise_axis_of(g, 1, &g->axis[1])) return FD_NO_MEMORY;
    /* A gather needs the rows of one window at a time: its buffer is a ring of so many. */
    g->buffer_rows = ((weight ? g->rows : 1) - 1) * row->scale + row->last - row->first + 1;
    g->tap = (ptrdiff_t *)rt->push((size_t)((1 + (weight ? 1 : g->buffer_rows)) * g->taps) * sizeof(ptrdiff_t));
    if (!g->tap) return FD_NO_MEMORY;
    g->offset = g->tap + g->taps;
    g->buffer_columns = (g->columns - 1) * column->scale + column->last - column->first + 1;
    g->row_blocks = fd_ceil_div(row->most, g->rows);
    g->column_blocks = fd_ceil_div(column->most, g->columns);
    g->channel_blocks = fd_ceil_div(g->out.shape[1], g->channels);
    g->planes = fd_ceil_div(g->out.shape[1], lanes);
    ptrdiff_t i = 0;
    for (const depthwise_class *a = row->at; a < row->at + row->classes; a++)
        for (const depthwise_class *b = column->at; b < column->at + column->classes; b++)
            for (ptrdiff_t r = 0; r < a->taps; r++)
                for (ptrdiff_t s = 0; s < b->taps; s++, i++) {
                    g->tap[i] = a->tap[r] * g->w.shape[3] + b->tap[s];
                    for (ptrdiff_t start = 0; start < (weight ? 1 : g->buffer_rows); start++) {
                        const ptrdiff_t y = (start + a->offset[r] - row->first) % g->buffer_rows;
                        g->offset[start * g->w.shape[2] * g->w.shape[3] + i] =
                            (y * g->buffer_columns + b->offset[s] - column->first) * lanes * itemsize;
                    }
                }
    g->taps = i; /* an image smaller than the stride has no use for some */
    return FD_OK;
}

#define T float
#define SFX f32
#include "depthwise_gather.h"
#include "depthwise_weight.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "depthwise_gather.h"
#include "depthwise_weight.h"
#undef T
#undef SFX

static int depthwise_gather_start(depthwise_call *g, const fd_tensor *bias, int threads) {
    if (g->out.size == 0) return FD_OK;
    return g->out.type == FD_F64 ? depthwise_gather_run_f64(g, bias, threads)
                                 : depthwise_gather_run_f32(g, bias, threads);
}
static int depthwise_weight_start(depthwise_call *g, int threads) {
    if (g->w.size == 0) return FD_OK;
    return g->out.type == FD_F64 ? depthwise_weight_run_f64(g, threads) : depthwise_weight_run_f32(g, threads);
}
#endif
