/* Arguments of a pooling call, and where windows, taps and pixels meet along one axis. */
#ifndef FASTDL_POOL_COVERS_H
#define FASTDL_POOL_COVERS_H
#include "simd.h"
#include "windows.h"

typedef struct pool_call pool_call;
struct pool_call {
    fd_tensor image, pooled; /* x or dx; out or dout */
    fd_tensor indices, out;  /* data is NULL where there are none; out: the result whose sign masks dout */
    fd_axis h, w;
    int include_pad;
    /* One row of windows (forward) or of pixels (backward) of image n, all channels. */
    void (*row)(const pool_call *p, ptrdiff_t n, ptrdiff_t row);
    ptrdiff_t rows, rows_per_task; /* rows of one image */
};

/* The windows with a tap on one pixel: there are `count`, the first is `window` with its tap `tap`, and each next one
 * is fd_axis.window_step windows further with a tap fd_axis.tap_step less. Without dilation the steps are 1 and
 * the stride; with it, only every so many windows have a tap there and the others step over the pixel. */
typedef struct {
    ptrdiff_t first, last; /* windows that reach over the pixel */
    ptrdiff_t window, tap, count;
} pool_cover;

static inline void pool_cover_find(const fd_axis *a, pool_cover *c, ptrdiff_t at) {
    ptrdiff_t offset = at - c->first * a->stride;
    c->window = c->first;
    c->tap = offset;
    c->count = fd_max(0, c->last - c->first + 1);
    if (a->dilation == 1) return;
    for (; c->window <= c->last && offset % a->dilation; c->window++) offset -= a->stride;
    c->tap = offset / a->dilation;
    c->count = c->window > c->last ? 0 : (c->last - c->window) / a->window_step + 1;
}

static inline pool_cover pool_cover_at(const fd_axis *a, ptrdiff_t pixel) {
    const ptrdiff_t at = pixel + a->before, reach = at - (a->kernel - 1) * a->dilation;
    pool_cover c;
    c.first = reach <= 0 ? 0 : fd_ceil_div(reach, a->stride);
    c.last = fd_min(a->windows - 1, at / a->stride);
    pool_cover_find(a, &c, at);
    return c;
}

/* The same for the next pixel, without a division. */
static inline void pool_cover_next(const fd_axis *a, pool_cover *c, ptrdiff_t pixel) {
    const ptrdiff_t at = pixel + a->before;
    if (c->first * a->stride + (a->kernel - 1) * a->dilation < at) c->first++;
    if (c->last + 1 < a->windows && (c->last + 1) * a->stride <= at) c->last++;
    pool_cover_find(a, c, at);
}

static inline ptrdiff_t pool_floor_div(ptrdiff_t a, ptrdiff_t b) {
    return b == 1 ? a : a >= 0 ? a / b : -((b - 1 - a) / b);
}

/* The windows out of [o0, o1) whose tap k stands on one of the pixels [p0, p1): their number, and the first of them. */
static inline ptrdiff_t pool_standing(const fd_axis *a, ptrdiff_t k, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t o0,
                                      ptrdiff_t o1, ptrdiff_t *first) {
    const ptrdiff_t shift = a->before - k * a->dilation; /* window o's tap k stands on o * stride - shift */
    *first = fd_max(o0, -pool_floor_div(-(p0 + shift), a->stride));
    return fd_max(0, fd_min(o1, pool_floor_div(p1 - 1 + shift, a->stride) + 1) - *first);
}

/* How many windows from o on, the first of which has all its taps on the image, have all of them there. */
static inline ptrdiff_t pool_whole(const fd_axis *a, ptrdiff_t o) {
    const ptrdiff_t last = a->size - 1 - (a->kernel - 1) * a->dilation + a->before; /* where the last one may begin */
    return fd_min(a->windows, last / a->stride + 1) - o;
}

/* Whether no two windows share a pixel and every pixel before the last window's end belongs to one. */
static inline int pool_apart(const fd_axis *a) {
    return a->windows > 0 && a->kernel == a->stride && a->dilation == 1;
}

/* How many taps of window o count for the divisor of a mean. */
static inline ptrdiff_t pool_counted(const fd_axis *a, ptrdiff_t o, int include_pad) {
    const ptrdiff_t start = o * a->stride - a->before, stop = start + a->kernel;
    if (include_pad) return fd_min(stop, a->size + a->after) - start;
    return fd_max(0, fd_min(stop, a->size) - fd_max(start, 0));
}

static inline ptrdiff_t pool_divisor(const pool_call *p, ptrdiff_t counted_h, ptrdiff_t ow) {
    return fd_max(1, counted_h * pool_counted(&p->w, ow, p->include_pad));
}

#endif
