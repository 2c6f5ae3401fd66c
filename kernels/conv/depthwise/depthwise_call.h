/* Arguments of the depthwise convolutions, and both instantiations. */
#ifndef FASTDL_DEPTHWISE_CALL_H
#define FASTDL_DEPTHWISE_CALL_H
#include "blocks.h"
#include "depthwise_tiles.h"
#include "windows.h"

/* Bytes of the tile that a strip may be written to (as in plan.py), and of its pixels; multiples of DEPTHWISE_CROWDED
 * bytes are distances between pixels at which it is. */
enum { DEPTHWISE_TILE = 32 * 1024, DEPTHWISE_GROUP = 512, DEPTHWISE_CROWDED = 2048 };

/* Positions start + step * q of one axis of the output. Their tap number i, which is the filter's tap + i * tap_step,
 * reads source position q * scale + offset + i * dilation. */
typedef struct {
    ptrdiff_t start, count, taps, tap, offset;
} depthwise_class;

typedef struct {
    ptrdiff_t classes, step, scale, most; /* most: positions of the largest class */
    ptrdiff_t dilation, tap_step;
    ptrdiff_t first, last; /* smallest and largest offset of a tap of any class */
    depthwise_class *at;
} depthwise_axis;

/* Neighbouring positions of a class that stand on the same taps, the first of which reads `source` at `start`. */
typedef struct {
    ptrdiff_t start, count, first, taps, source;
} depthwise_run;

typedef struct {
    fd_tensor x, w, out; /* x: dout and out: dx in backward_input; out: dout in backward_weight */
    const fd_tensor *mask;                    /* like out, or NULL */
    ptrdiff_t stride[2], dilation[2], pad[2]; /* vertical, horizontal */
    ptrdiff_t rows, columns, channels;        /* of a block: positions of each class, channels (plan.py) */
    ptrdiff_t slices, lines;                  /* backward_weight: slices of blocks, rows that a tile sums */
    int gradient, relu;                       /* gradient: by the input */
    /* worked out by depthwise_begin */
    depthwise_axis axis[2];
    ptrdiff_t taps, buffer_rows, buffer_columns, row_blocks, column_blocks, channel_blocks, planes;
    ptrdiff_t *tap; /* of each phase's taps: r * S + s */
    int strip;      /* of 3 x 3 windows: which kind of strips, or 0 */
    int direct;     /* whole vectors of channels are read from x itself */
    const void *bias;
    void *packed, *partial;
} depthwise_call;

/* One block: image, first position of each class, channels. Of the last channels, fewer than a vector, it is one. */
typedef struct {
    ptrdiff_t n, i, j, c, channels;
    int whole; /* whole vectors of channels */
} depthwise_block;

static depthwise_block depthwise_block_of(const depthwise_call *g, ptrdiff_t index, ptrdiff_t channel_block,
                                          ptrdiff_t lanes) {
    depthwise_block b = {0};
    const ptrdiff_t all = g->out.shape[1], whole = all - all % lanes;
    b.c = fd_min(channel_block * g->channels, whole);
    b.whole = b.c < whole;
    b.channels = fd_min(g->channels, (b.whole ? whole : all) - b.c);
    b.j = index % g->column_blocks * g->columns;
    b.i = index / g->column_blocks % g->row_blocks * g->rows;
    b.n = index / g->column_blocks / g->row_blocks;
    return b;
}

/* Where the source of a block is read: pixel (y, x) of its vector number k of channels lies at
 * data + (y - top) % ring * line + (x - left) * pixel + k * plane. Positions outside [low, high) are left out. */
typedef struct {
    char *data;
    ptrdiff_t top, ring, line, left, pixel, plane, low[2], high[2], filled;
} depthwise_source;

static inline ptrdiff_t depthwise_at(const depthwise_source *s, ptrdiff_t y, ptrdiff_t x) {
    return (y - s->top) % s->ring * s->line + (x - s->left) * s->pixel;
}

/* Cuts positions [q, end) of an axis into runs of at most `most` positions, of equal length; returns their number. */
static ptrdiff_t depthwise_cut(const depthwise_axis *axis, const depthwise_class *c, ptrdiff_t low, ptrdiff_t high,
                               ptrdiff_t q, ptrdiff_t end, ptrdiff_t most, depthwise_run *run) {
    const depthwise_run *const before = run;
    const ptrdiff_t d = axis->dilation, reach = fd_max(0, c->taps - 1) * d;
    while (q < end) {
        const ptrdiff_t at = q * axis->scale + c->offset;
        ptrdiff_t first = 0, taps = c->taps, many = 1;
        if (at >= low && at + reach < high) {
            many = fd_min(end - q, (high - 1 - reach - at) / axis->scale + 1);
        } else {
            first = at < low ? fd_min(taps, fd_ceil_div(low - at, d)) : 0;
            taps = at < high ? fd_max(0, fd_min(taps, fd_ceil_div(high - at, d)) - first) : 0;
        }
        for (ptrdiff_t parts = fd_ceil_div(many, most); parts; parts--, run++) {
            *run = (depthwise_run){q, fd_ceil_div(many, parts), first, taps, q * axis->scale + c->offset + first * d};
            many -= run->count;
            q += run->count;
        }
    }
    return run - before;
}

/* Asks for what the next row will read. There are so few operations for each byte that waiting for memory would take
 * longer than the rest (32 channels, 112 x 112: 1.75 ms without, 1.1 ms with it). An address beside the array does no
 * harm. */
static inline void depthwise_prefetch(const char *p, ptrdiff_t rows, ptrdiff_t line, ptrdiff_t pixels, ptrdiff_t step) {
    for (; rows > 0; rows--, p += line)
        for (ptrdiff_t i = 0; i < pixels; i++) __builtin_prefetch(p + i * step);
}

/* Forward has one class, position q reading q * stride + t * dilation - pad. The gradient has one for each remainder by
 * the stride: position h of the input met position i of the output at tap t where h = i * stride + t * dilation - pad:
 * every period-th tap, the last of them at the first position i. */
static int depthwise_axis_of(const depthwise_call *g, int a, depthwise_axis *axis) {
    const ptrdiff_t kernel = g->w.shape[2 + a], size = g->out.shape[2 + a], stride = g->stride[a];
    const ptrdiff_t dilation = g->dilation[a], pad = g->pad[a];
    ptrdiff_t period = 1;
    while (g->gradient && period * dilation % stride) period++;
    axis->classes = g->gradient ? fd_min(stride, size) : 1;
    axis->step = g->gradient ? stride : 1;
    axis->scale = g->gradient ? 1 : stride;
    axis->dilation = g->gradient ? period * dilation / stride : dilation;
    axis->tap_step = g->gradient ? -period : 1;
    axis->most = fd_ceil_div(size, axis->step);
    axis->first = PTRDIFF_MAX;
    axis->last = PTRDIFF_MIN;
    axis->at = (depthwise_class *)rt->push((size_t)axis->classes * sizeof(depthwise_class));
    if (!axis->at) return FD_NO_MEMORY;
    for (ptrdiff_t start = 0; start < axis->classes; start++) {
        depthwise_class *c = &axis->at[start];
        *c = (depthwise_class){start, fd_ceil_div(size - start, axis->step), kernel, 0, -pad};
        if (g->gradient) {
            ptrdiff_t t = 0;
            while (t < period && (start + pad - t * dilation) % stride) t++;
            c->taps = t < period && t < kernel ? (kernel - 1 - t) / period + 1 : 0;
            c->tap = t + (c->taps - 1) * period;
            c->offset = c->taps ? (start + pad - c->tap * dilation) / stride : 0;
        }
        if (!c->taps) continue;
        axis->first = fd_min(axis->first, c->offset);
        axis->last = fd_max(axis->last, c->offset + (c->taps - 1) * axis->dilation);
    }
    if (axis->first > axis->last) axis->first = axis->last = 0;
    return FD_OK;
}

/* Which strips serve an axis (depthwise_tiles.h.in), 0 for none: those of three taps, where no window lies further
 * beside the image than its first or last tap; 3 is the gradient of stride 2 and pad 1. */
static int depthwise_strip_of(const depthwise_axis *a, ptrdiff_t size) {
    const depthwise_class *c = a->at;
    if (a->dilation != 1) return 0;
    if (a->classes == 1 && c->taps == 3 && a->scale <= 2)
        return c->offset >= -1 && (a->most - 1) * a->scale + c->offset + 2 <= size ? (int)a->scale : 0;
    if (a->classes != 2 || c[0].taps != 1 || c[1].taps != 2 || c[0].offset || c[1].offset) return 0;
    return a->most <= size ? 3 : 0;
}

/* Sizes, and the tables on the arena. */
static int depthwise_begin(depthwise_call *g, int weight, ptrdiff_t lanes) {
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    g->taps = g->w.shape[2] * g->w.shape[3];
    g->tap = (ptrdiff_t *)rt->push((size_t)g->taps * sizeof(ptrdiff_t));
    if (!g->tap || depthwise_axis_of(g, 0, &g->axis[0]) || depthwise_axis_of(g, 1, &g->axis[1])) return FD_NO_MEMORY;
    /* A gather needs the rows of one window at a time: its buffer is a ring of so many. */
    g->buffer_rows = ((weight ? g->rows : 1) - 1) * row->scale + row->last - row->first + 1;
    g->buffer_columns = (g->columns - 1) * column->scale + column->last - column->first + 1;
    g->row_blocks = fd_ceil_div(row->most, g->rows);
    g->column_blocks = fd_ceil_div(column->most, g->columns);
    g->channel_blocks = fd_ceil_div(g->out.shape[1] / lanes * lanes, g->channels) + (g->out.shape[1] % lanes != 0);
    g->planes = fd_ceil_div(g->out.shape[1], lanes);
    ptrdiff_t i = 0;
    for (const depthwise_class *a = row->at; a < row->at + row->classes; a++)
        for (const depthwise_class *b = column->at; b < column->at + column->classes; b++)
            for (ptrdiff_t r = 0; r < a->taps; r++)
                for (ptrdiff_t s = 0; s < b->taps; s++)
                    g->tap[i++] = (a->tap + r * row->tap_step) * g->w.shape[3] + b->tap + s * column->tap_step;
    g->strip = depthwise_strip_of(row, g->x.shape[2]);
    if (g->strip != depthwise_strip_of(column, g->x.shape[3])) g->strip = 0;
    g->taps = i; /* an image smaller than the stride has no use for some */
    return FD_OK;
}

#define T float
#define SFX f32
#include "depthwise_source.h"
#include "depthwise_strips.h"
#include "depthwise_gather.h"
#include "depthwise_weight.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "depthwise_source.h"
#include "depthwise_strips.h"
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
