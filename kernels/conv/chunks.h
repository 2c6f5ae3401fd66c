/* Chunks of output positions, and the source positions that they read: arguments of the direct convolution and of those
 * over words (words.h). */
#ifndef FASTDL_CHUNKS_H
#define FASTDL_CHUNKS_H
#include "runtime.h"

#define DIRECT_CLASSES 8 /* at most so many classes of positions along an axis: the stride, in backward_input */

/* A class of output positions along one axis, start + step * q for q < count (plan.Axis). Its taps, tap_step apart,
 * read the source positions q * scale + offset, ... + gap, ... (the direct convolution: neighbours, gap is 1). */
typedef struct {
    ptrdiff_t start, step, count, scale, taps, tap, tap_step, offset, gap;
} direct_axis;

typedef struct {
    fd_tensor source, weight, out; /* (N, C, H, W), (K, C/groups, R, S), (N, K, OH, OW) or their mirror images */
    const fd_tensor *mask;         /* like out, or NULL */
    const void *bias;              /* contiguous, compute dtype, or NULL */
    int relu, row_classes, column_classes;
    direct_axis rows[DIRECT_CLASSES], columns[DIRECT_CLASSES];
    ptrdiff_t groups, reduce, produce;      /* channels of one group that are summed over, and that come out */
    ptrdiff_t w_group, w_reduce, w_produce; /* strides of the weight in bytes: group, summed channel, output channel */
    ptrdiff_t cb;                           /* summed channels of a block */
    ptrdiff_t images, height, width;        /* output positions of a chunk, in each class */
    ptrdiff_t panel_step, channel_step, slices;  /* panels, summed channels and slices of pixels of a task */
    ptrdiff_t nr, panels;
    void *packed, *partial;
} direct_call;

/* The source positions that a run of output positions reads, in all classes of an axis, as they lie in a chunk's
 * buffer: `step` for each output position. Where a filter is narrower than the stride, those in between are missing. */
typedef struct {
    ptrdiff_t first, count, step, scale, low; /* low: offset of an output position's first source position */
} direct_span;

static inline direct_span direct_span_of(const direct_axis *axes, int classes, ptrdiff_t q0, ptrdiff_t q1) {
    ptrdiff_t low = PTRDIFF_MAX, high = PTRDIFF_MIN;
    for (int i = 0; i < classes; i++)
        if (axes[i].taps) low = fd_min(low, axes[i].offset), high = fd_max(high, axes[i].offset + (axes[i].taps - 1) * axes[i].gap + 1);
    if (low > high) low = high = 0; /* no taps at all: gradients of 0 */
    const ptrdiff_t scale = axes[0].scale, step = fd_min(scale, high - low);
    return (direct_span){q0 * scale + low, (q1 - q0 - 1) * step + high - low, step, scale, low};
}

/* The source position of buffer position i. */
static inline ptrdiff_t direct_source(const direct_span *s, ptrdiff_t i) {
    return s->first + (s->step == s->scale ? i : i / s->step * s->scale + i % s->step);
}

/* Which chunk a task works on: a few images, a few rows, a piece of each row. */
typedef struct {
    ptrdiff_t n0, images, q0, q1, p0, p1;
    direct_span rows, columns;
} direct_chunk;

static ptrdiff_t direct_chunks(const direct_call *g) {
    return fd_ceil_div(g->source.shape[0], g->images) * fd_ceil_div(g->rows[0].count, g->height) *
           fd_ceil_div(g->columns[0].count, g->width);
}

static direct_chunk direct_chunk_of(const direct_call *g, ptrdiff_t index) {
    const ptrdiff_t across = fd_ceil_div(g->columns[0].count, g->width);
    const ptrdiff_t down = fd_ceil_div(g->rows[0].count, g->height);
    direct_chunk c;
    c.p0 = index % across * g->width;
    c.q0 = index / across % down * g->height;
    c.n0 = index / across / down * g->images;
    c.p1 = fd_min(c.p0 + g->width, g->columns[0].count);
    c.q1 = fd_min(c.q0 + g->height, g->rows[0].count);
    c.images = fd_min(g->images, g->source.shape[0] - c.n0);
    c.rows = direct_span_of(g->rows, g->row_classes, c.q0, c.q1);
    c.columns = direct_span_of(g->columns, g->column_classes, c.p0, c.p1);
    return c;
}
#endif
