/* Arguments of im2col and col2im, their instantiations and their tasks. */
#ifndef FASTDL_IM2COL_CALL_H
#define FASTDL_IM2COL_CALL_H
#include "simd.h"
#include "windows.h"

typedef struct im2col_call im2col_call;
struct im2col_call {
    fd_tensor image, col;
    fd_axis h, w;
    /* One row of windows (im2col) or of pixels (col2im) of image n. */
    void (*row)(const im2col_call *p, ptrdiff_t n, ptrdiff_t row);
    ptrdiff_t rows, rows_per_task; /* rows of one image */
};

typedef void (*im2col_row)(const im2col_call *p, ptrdiff_t n, ptrdiff_t row);

/* The window whose tap k stands on a pixel; -1 where there is none. */
static inline ptrdiff_t im2col_window(const fd_axis *a, ptrdiff_t k, ptrdiff_t pixel) {
    const ptrdiff_t start = pixel + a->before - k * a->dilation;
    if (start < 0) return -1;
    const ptrdiff_t o = a->stride == 1 ? start : start % a->stride ? -1 : start / a->stride;
    return o < a->windows ? o : -1;
}

/* Row (n, oh, ow) of the matrix. */
static inline char *im2col_window_row(const im2col_call *p, ptrdiff_t n, ptrdiff_t oh, ptrdiff_t ow) {
    return p->col.data + ((n * p->h.windows + oh) * p->w.windows + ow) * p->col.stride[0];
}

/* A copy is a copy: elements go as integers of their size. */
#define E uint16_t
#define SFX 16
#include "im2col.h"
#undef E
#undef SFX
#define E uint32_t
#define SFX 32
#include "im2col.h"
#undef E
#undef SFX
#define E uint64_t
#define SFX 64
#include "im2col.h"
#undef E
#undef SFX

#define COL2IM_CHANNELS 8 /* from here on a run of channels is longer than what it costs to begin one */
#define COL2IM_RUN 256    /* channels or pixels summed at a time, in L1 */
#define T float
#define SFX f32
#include "col2im.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "col2im.h"
#undef T
#undef SFX

static int im2col_task(void *context, ptrdiff_t task) {
    const im2col_call *p = (const im2col_call *)context;
    const ptrdiff_t last = fd_min((task + 1) * p->rows_per_task, p->rows * p->image.shape[0]);
    for (ptrdiff_t i = task * p->rows_per_task; i < last; i++) p->row(p, i / p->rows, i % p->rows);
    return FD_OK;
}

/* `rows` rows an image, each of about `ns` nanoseconds on one thread; a task takes at least 20 us. */
static int im2col_run(im2col_call *p, im2col_row row, ptrdiff_t rows, double ns, int threads) {
    if (p->image.shape[0] == 0 || p->image.shape[1] == 0 || rows == 0) return FD_OK;
    p->row = row;
    p->rows = rows;
    p->rows_per_task = 1 + (ptrdiff_t)(20000 / (ns + 1));
    return rt->parallel_for(im2col_task, p, fd_ceil_div(rows * p->image.shape[0], p->rows_per_task), threads,
                            ns * (double)rows * (double)p->image.shape[0]);
}

static void im2col_sizes(im2col_call *p) {
    p->h.size = p->image.shape[2];
    p->w.size = p->image.shape[3];
}

static int im2col_start(im2col_call *p, int threads) {
    const ptrdiff_t size = p->image.itemsize;
    const im2col_row row = size == 2 ? im2col_row_16 : size == 4 ? im2col_row_32 : im2col_row_64;
    im2col_sizes(p);
    return im2col_run(p, row, p->h.windows, 0.5 * (double)p->w.windows * (double)p->col.shape[1], threads);
}

static int col2im_start(im2col_call *p, int threads) {
    const int wide = p->image.type == FD_F64;
    im2col_sizes(p);
    const im2col_row row = p->image.shape[1] >= COL2IM_CHANNELS ? wide ? col2im_channels_f64 : col2im_channels_f32
                                                                : wide ? col2im_lines_f64 : col2im_lines_f32;
    /* Every element of col is read once: about 1 ns each, and as much for each pixel. */
    const double matrix = (double)p->h.windows * (double)p->w.windows * (double)p->col.shape[1];
    const double ns = (double)p->w.size * (double)p->image.shape[1] + matrix / (double)fd_max(p->h.size, 1);
    return im2col_run(p, row, p->h.size, ns, threads);
}
#endif
