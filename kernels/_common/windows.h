/* Windows on one axis of an image, and single elements of four-dimensional arrays. */
#ifndef FASTDL_WINDOWS_H
#define FASTDL_WINDOWS_H
#include "runtime.h"

/* Window o's tap k stands on pixel o * stride - before + k * dilation, if that is in [0, size). */
typedef struct {
    ptrdiff_t size, windows; /* pixels, windows */
    ptrdiff_t kernel, stride, dilation, before, after;
    ptrdiff_t window_step, tap_step; /* from one window that has a tap on a pixel to the next (pooling) */
} fd_axis;

/* The taps of window o that stand on the image: their number, and the first of them. */
static inline ptrdiff_t fd_taps(const fd_axis *a, ptrdiff_t o, ptrdiff_t *first) {
    const ptrdiff_t start = o * a->stride - a->before;
    *first = 0;
    if (start >= 0 && start + (a->kernel - 1) * a->dilation < a->size) return a->kernel;
    if (start >= a->size) return 0;
    if (start < 0) *first = fd_ceil_div(-start, a->dilation);
    return fd_max(0, fd_min(a->kernel, fd_ceil_div(a->size - start, a->dilation)) - *first);
}

static inline char *fd_at(const fd_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w) {
    return t->data + n * t->stride[0] + c * t->stride[1] + h * t->stride[2] + w * t->stride[3];
}

#endif
