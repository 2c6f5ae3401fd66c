/* All instantiations, and the choice between them: whole registers of channels where the channels lie side by side and
 * fill a register, else lines along the width. Both give the same bits. */
#ifndef FASTDL_POOL_CALL_H
#define FASTDL_POOL_CALL_H
#include <math.h>
#include "vectors.h"
#include "covers.h"

#define POOL_LINES 256 /* elements of a block of lines: its buffers stay in L1 */
#define POOL_BLOCK 128 /* pixels in one block of a global mean */
#define POOL_GROUP 16  /* registers of channels whose global means are made together: a run of memory in each pixel */

#define T float
#define SFX f32
#define I int32_t
#include "lines.h"
#define S float
#define STO f32
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef S
#undef STO
#define S uint16_t
#define STO f16
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef STO
#define STO bf16
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef S
#undef STO
#define S uint8_t /* only their forward passes are used, and nothing is made of the others */
#define STO e4m3
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef STO
#define STO e5m2
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef S
#undef STO
#undef T
#undef SFX
#undef I
#define T double
#define SFX f64
#define I int64_t
#include "lines.h"
#define S double
#define STO f64
#include "max_pool.h"
#include "max_pool_3x3.h"
#include "avg_pool.h"
#undef S
#undef STO
#undef T
#undef SFX
#undef I

typedef void (*pool_row)(const pool_call *p, ptrdiff_t n, ptrdiff_t row);

/* By FD_F32, FD_F64, FD_F16, FD_BF16, FD_E4M3, FD_E5M2; gradients have no float8. */
#define POOL_STORED(name) {name##_f32, name##_f64, name##_f16, name##_bf16}
#define POOL_STORED_ALL(name) {name##_f32, name##_f64, name##_f16, name##_bf16, name##_e4m3, name##_e5m2}
#define POOL_COMPUTED(name) {name##_f32, name##_f64, name##_f32, name##_f32, name##_f32, name##_f32}

static int pool_side_by_side(const fd_tensor *t) {
    const ptrdiff_t lanes = t->type == FD_F64 ? FD_LANES_f64 : FD_LANES_f32;
    return t->stride[1] == t->itemsize && t->shape[1] >= lanes;
}

static int pool_registers(const pool_call *p) {
    return pool_side_by_side(&p->image) && pool_side_by_side(&p->pooled) &&
           (!p->indices.data || p->indices.stride[1] == p->indices.itemsize) &&
           (!p->out.data || pool_side_by_side(&p->out));
}

static int pool_task(void *context, ptrdiff_t task) {
    const pool_call *p = (const pool_call *)context;
    const ptrdiff_t last = fd_min((task + 1) * p->rows_per_task, p->rows * p->image.shape[0]);
    for (ptrdiff_t i = task * p->rows_per_task; i < last; i++) p->row(p, i / p->rows, i % p->rows);
    return FD_OK;
}

/* `rows` rows an image, each of about `ns` nanoseconds on one thread. A task takes at least 4 us, and up to 100 where
 * there are many: the rows that overlapping windows share are in its thread's cache. */
static int pool_run(pool_call *p, pool_row row, ptrdiff_t rows, double ns, int threads) {
    const double total = (double)rows * (double)p->image.shape[0];
    if (p->image.shape[0] == 0 || p->image.shape[1] == 0 || rows == 0) return FD_OK;
    p->row = row;
    p->rows = rows;
    const double task = total * ns / 64;
    p->rows_per_task = 1 + (ptrdiff_t)((task < 4000 ? 4000 : task > 100000 ? 100000 : task) / (ns + 1));
    return rt->parallel_for(pool_task, p, fd_ceil_div(rows * p->image.shape[0], p->rows_per_task), threads, ns * total);
}

/* Nanoseconds for `taps` taps of one row: about 0.03 a tap in registers, 1 in lines, and 5 to reach a pixel. */
static double pool_cost(const pool_call *p, int registers, ptrdiff_t pixels, double taps) {
    return (double)pixels * (5 + (double)p->image.shape[1] * (1 + taps) * (registers ? 0.03 : 1));
}

static void pool_axis_init(fd_axis *a, ptrdiff_t size, ptrdiff_t windows) {
    ptrdiff_t common = a->stride, rest = a->dilation; /* their greatest common divisor, by Euclid */
    while (rest) {
        const ptrdiff_t next = common % rest;
        common = rest;
        rest = next;
    }
    a->size = size;
    a->windows = windows;
    a->window_step = a->dilation / common;
    a->tap_step = a->stride / common;
}

static void pool_axes(pool_call *p) {
    pool_axis_init(&p->h, p->image.shape[2], p->pooled.shape[2]);
    pool_axis_init(&p->w, p->image.shape[3], p->pooled.shape[3]);
}

static int pool_forward(pool_call *p, const pool_row *registers, const pool_row *lines, int threads) {
    const int fast = pool_registers(p), type = p->image.type;
    pool_axes(p);
    return pool_run(p, (fast ? registers : lines)[type], p->h.windows,
                    pool_cost(p, fast, p->w.windows, (double)p->h.kernel * p->w.kernel), threads);
}

static int pool_backward(pool_call *p, const pool_row *registers, const pool_row *lines, int threads) {
    const int fast = pool_registers(p), type = p->image.type;
    /* windows that cover a pixel, on average */
    const double windows = (double)p->h.kernel * p->w.kernel / ((double)p->h.stride * p->w.stride);
    pool_axes(p);
    return pool_run(p, (fast ? registers : lines)[type], p->h.size, pool_cost(p, fast, p->w.size, windows), threads);
}

/* Whether windows of 3x3 go through max_pool_3x3.h. */
static int pool_three(const pool_call *p) {
    return p->h.kernel == 3 && p->w.kernel == 3 && p->indices.type == FD_U8;
}

static int max_pool_forward(pool_call *p, int threads) {
    static const pool_row registers[] = POOL_STORED_ALL(max_forward), lines[] = POOL_COMPUTED(max_forward_lines);
    static const pool_row three[] = POOL_STORED_ALL(max_forward_3x3);
    return pool_forward(p, pool_three(p) ? three : registers, lines, threads);
}

static int max_pool_backward(pool_call *p, int threads) {
    static const pool_row registers[] = POOL_STORED(max_backward), lines[] = POOL_COMPUTED(max_backward_lines);
    static const pool_row apart[] = POOL_STORED(max_backward_apart), three[] = POOL_STORED(max_backward_3x3);
    pool_axes(p);
    if (pool_registers(p) && pool_apart(&p->h) && pool_apart(&p->w))
        return pool_run(p, apart[p->image.type], p->h.windows,
                        pool_cost(p, 1, p->w.windows, (double)p->h.kernel * p->w.kernel), threads);
    if (pool_registers(p) && pool_three(p) && p->h.windows > 0 && p->w.windows > 0 && p->h.stride == p->w.stride &&
        p->h.stride <= 2 && p->h.dilation == 1 && p->w.dilation == 1)
        return pool_run(p, three[p->image.type], fd_ceil_div(p->h.size + p->h.before, p->h.stride),
                        (double)p->h.stride * pool_cost(p, 1, p->w.size, 9.0 / (double)(p->h.stride * p->w.stride)),
                        threads);
    return pool_backward(p, registers, lines, threads);
}

static int avg_pool_forward(pool_call *p, int threads) {
    static const pool_row registers[] = POOL_STORED_ALL(avg_forward), lines[] = POOL_COMPUTED(avg_forward_lines);
    return pool_forward(p, registers, lines, threads);
}

static int avg_pool_backward(pool_call *p, int threads) {
    static const pool_row registers[] = POOL_STORED(avg_backward), lines[] = POOL_COMPUTED(avg_backward_lines);
    return pool_backward(p, registers, lines, threads);
}

static int global_avg_pool_forward(pool_call *p, int threads) {
    static const pool_row registers[] = POOL_STORED_ALL(global_forward), lines[] = POOL_COMPUTED(global_forward_line);
    const ptrdiff_t lanes = p->image.type == FD_F64 ? FD_LANES_f64 : FD_LANES_f32;
    const int fast = pool_registers(p);
    const ptrdiff_t channels = p->image.shape[1], rows = fast ? fd_ceil_div(channels, POOL_GROUP * lanes) : channels;
    p->h.size = p->image.shape[2];
    p->w.size = p->image.shape[3];
    const double pixels = (double)p->h.size * (double)p->w.size;
    return pool_run(p, (fast ? registers : lines)[p->image.type], rows, 5 + pixels * (fast ? 20 : 0.5), threads);
}

static int global_avg_pool_backward(pool_call *p, int threads) {
    static const pool_row rows[] = POOL_COMPUTED(global_backward);
    p->h.size = p->image.shape[2];
    p->w.size = p->image.shape[3];
    return pool_run(p, rows[p->image.type], p->h.size, pool_cost(p, 1, p->w.size, 0), threads);
}
#endif
