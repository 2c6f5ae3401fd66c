/* Where the values of a normalisation lie.
 *
 * An array (M, D) or (N, D, H, W) is a matrix of rows x channels whose rows are numbered r = (n * H + h) * W + w,
 * whatever the memory order. Axes of rows that follow each other in memory in every operand become one:
 *
 *     channels-last     rows   | c c c c c |       one axis of N * H * W rows, the channels beside each other
 *     NCHW              rows   | c . . . c |       N times H * W rows beside each other, the channels H * W apart
 */
#ifndef FASTDL_NORM_LAYOUT_H
#define FASTDL_NORM_LAYOUT_H
#include "simd.h"

#include <math.h>

typedef struct {
    char *data;
    int type;
    ptrdiff_t item, channel; /* bytes: of an element, to the next channel */
    ptrdiff_t stride[3];     /* bytes: along the axes of norm_grid.shape */
} norm_operand;

typedef struct {
    ptrdiff_t rows, channels;
    ptrdiff_t shape[3]; /* of the rows, row-major; unused axes come first and are 1 */
} norm_grid;

static inline ptrdiff_t norm_abs(ptrdiff_t v) { return v < 0 ? -v : v; }

/* Describes operands of one shape. */
static void norm_view(norm_grid *g, const fd_tensor *const *t, norm_operand *const *o, int operands) {
    ptrdiff_t shape[3];
    int axes = 0;
    g->channels = t[0]->shape[1];
    g->rows = 1;
    for (int p = 0; p < operands; p++) {
        o[p]->data = t[p]->data;
        o[p]->type = t[p]->type;
        o[p]->item = t[p]->itemsize;
        o[p]->channel = g->channels == 1 ? t[p]->itemsize : t[p]->stride[1];
        for (int d = 0; d < 3; d++) o[p]->stride[d] = t[p]->itemsize;
    }
    for (int d = 0; d < t[0]->ndim; d++) {
        const ptrdiff_t extent = t[0]->shape[d];
        if (d == 1) continue;
        g->rows *= extent;
        if (extent == 1) continue;
        int merge = axes > 0;
        for (int p = 0; merge && p < operands; p++) merge = o[p]->stride[axes - 1] == t[p]->stride[d] * extent;
        if (!merge) shape[axes++] = 1;
        shape[axes - 1] *= extent;
        for (int p = 0; p < operands; p++) o[p]->stride[axes - 1] = t[p]->stride[d];
    }
    for (int d = 2; d >= 0; d--) {
        const int from = axes - 3 + d;
        g->shape[d] = from >= 0 ? shape[from] : 1;
        for (int p = 0; p < operands && from >= 0; p++) o[p]->stride[d] = o[p]->stride[from];
    }
}

static inline char *norm_at(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t channel) {
    char *at = o->data + channel * o->channel;
    if (row < g->shape[2]) return at + row * o->stride[2];
    const ptrdiff_t rest = row / g->shape[2];
    at += rest / g->shape[1] * o->stride[0] + rest % g->shape[1] * o->stride[1];
    return at + row % g->shape[2] * o->stride[2];
}

/* How many of the n rows from `row` on lie at a constant distance. */
static inline ptrdiff_t norm_reach(const norm_grid *g, ptrdiff_t row, ptrdiff_t n) {
    return row + n <= g->shape[2] ? n : fd_min(n, g->shape[2] - row % g->shape[2]);
}

/* Whether neighbouring rows lie closer together than neighbouring channels. */
static inline int norm_prefers_runs(const norm_grid *g, const norm_operand *o) {
    return g->channels == 1 || (g->shape[2] > 1 && norm_abs(o->stride[2]) < norm_abs(o->channel));
}

/* Per-channel parameters in double, from and to any float dtype; n <= NORM_PIECE. */
#define NORM_PIECE 256

static void norm_load_parameter(const fd_tensor *t, ptrdiff_t first, ptrdiff_t n, double *to) {
    const char *from = t->data + first * t->stride[0];
    if (t->type == FD_F64 || t->type == FD_F32) {
        fd_load_f64(t->type, from, t->stride[0], to, n);
        return;
    }
    float half[NORM_PIECE];
    fd_load_f32(t->type, from, t->stride[0], half, n);
    for (ptrdiff_t i = 0; i < n; i++) to[i] = half[i];
}

static void norm_store_parameter(const fd_tensor *t, ptrdiff_t first, ptrdiff_t n, const double *from) {
    char *to = t->data + first * t->stride[0];
    if (t->type == FD_F64 || t->type == FD_F32) {
        fd_store_f64(t->type, from, to, t->stride[0], n);
        return;
    }
    float half[NORM_PIECE];
    for (ptrdiff_t i = 0; i < n; i++) half[i] = (float)from[i];
    fd_store_f32(t->type, half, to, t->stride[0], n);
}

#endif
