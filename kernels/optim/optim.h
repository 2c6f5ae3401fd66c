/* One step of an optimizer over a list of arrays, in one pass over memory and one parallel_for.
 *
 * Every array is cut into tiles of at most OPTIM_DIRECT elements, numbered through all arrays; a task takes
 * OPTIM_TASK of them, so that a network's many small arrays share a task and its large ones are shared by tasks.
 * Operands whose rows are contiguous are updated where they are. The others pass through a buffer in L1:
 *
 *              columns ->  axis along which the parameter is contiguous
 *     rows  +-----------+
 *      |    |   tile    |  A gradient that is a transposed view is contiguous along the rows: it is read down the rows,
 *      v    +-----------+  a cache line for each column, and each line is used up before the next tile.
 */
#ifndef FASTDL_OPTIM_H
#define FASTDL_OPTIM_H
#include "elementwise.h"
#include <math.h>

enum { OPTIM_SGD, OPTIM_MOMENTUM, OPTIM_NESTEROV, OPTIM_ADAGRAD, OPTIM_RMSPROP, OPTIM_ADAM };

#define OPTIM_OPERANDS 4 /* gradient, states, parameter */
#define OPTIM_DIRECT 4096
#define OPTIM_BUFFER 1024 /* 32 columns x 32 rows */
#define OPTIM_COLUMNS 32
#define OPTIM_TASK 4

typedef struct {
    fd_elementwise e; /* operands and merged axes: the last two span the tiles */
    ptrdiff_t rows, columns, row_tiles, column_tiles;
    ptrdiff_t end; /* number of the tile behind the last one of this array */
} optim_array;

_Static_assert(sizeof(optim_array) <= 1024, "the workspace of a step counts 1024 bytes for each array");

typedef struct {
    int kind, operands, wide;
    ptrdiff_t count;      /* of arrays that have elements */
    double work;          /* in nanoseconds */
    double scalar[4];     /* what each kind takes is said where its loop is */
    optim_array *arrays;
} optim_call;

#define T float
#define SFX f32
#define ROOT sqrtf
#include "optim_rows.h"
#undef T
#undef SFX
#undef ROOT
#define T double
#define SFX f64
#define ROOT sqrt
#include "optim_rows.h"
#undef T
#undef SFX
#undef ROOT

/* Appends one parameter; t: gradient, states, parameter. */
static void optim_add(optim_call *c, const fd_tensor *const *t) {
    static const double ns[] = {0.3, 0.4, 0.4, 0.6, 0.6, 0.8};
    const fd_tensor *p = t[c->operands - 1];
    if (p->size == 0) return;
    optim_array *a = &c->arrays[c->count];
    fd_elementwise *e = &a->e;
    fd_elementwise_init(e, t, c->operands);
    const int inner = e->ndim - 1;
    int strided = -1;
    for (int i = 0; i < c->operands && strided < 0; i++)
        if (e->stride[i][inner] != p->itemsize) strided = i;
    if (strided >= 0 && inner >= 2) { /* along which axis do the elements of that operand lie closest? */
        int best = inner - 1;
        for (int d = inner - 2; d >= 0; d--)
            if (fd_abs(e->stride[strided][d]) < fd_abs(e->stride[strided][best])) best = d;
        for (int d = best; d < inner - 1; d++) { /* that one comes last but one */
            ptrdiff_t keep = e->shape[d];
            e->shape[d] = e->shape[d + 1];
            e->shape[d + 1] = keep;
            for (int i = 0; i < c->operands; i++) {
                keep = e->stride[i][d];
                e->stride[i][d] = e->stride[i][d + 1];
                e->stride[i][d + 1] = keep;
            }
        }
    }
    const ptrdiff_t rows = inner ? e->shape[inner - 1] : 1, columns = e->shape[inner];
    const ptrdiff_t most = strided < 0 ? OPTIM_DIRECT : OPTIM_BUFFER;
    a->columns = fd_min(columns, strided < 0 ? most : fd_max(OPTIM_COLUMNS, most / rows));
    a->rows = fd_min(rows, most / a->columns);
    a->row_tiles = fd_ceil_div(rows, a->rows);
    a->column_tiles = fd_ceil_div(columns, a->columns);
    a->end = a->row_tiles * a->column_tiles * (e->size / (rows * columns)) + (c->count ? a[-1].end : 0);
    c->work += ns[c->kind] * (double)p->size;
    c->count++;
}

static void optim_tile(const optim_call *c, const optim_array *a, ptrdiff_t tile) {
    const fd_elementwise *e = &a->e;
    const int inner = e->ndim - 1;
    const ptrdiff_t column = tile % a->column_tiles * a->columns;
    tile /= a->column_tiles;
    const ptrdiff_t row = tile % a->row_tiles * a->rows;
    tile /= a->row_tiles;
    char *at[OPTIM_OPERANDS];
    for (int i = 0; i < c->operands; i++)
        at[i] = e->data[i] + column * e->stride[i][inner] + (inner ? row * e->stride[i][inner - 1] : 0);
    for (int d = inner - 2; d >= 0; d--) {
        const ptrdiff_t index = tile % e->shape[d];
        tile /= e->shape[d];
        for (int i = 0; i < c->operands; i++) at[i] += index * e->stride[i][d];
    }
    const ptrdiff_t columns = fd_min(a->columns, e->shape[inner] - column);
    const ptrdiff_t rows = inner ? fd_min(a->rows, e->shape[inner - 1] - row) : 1;
    if (c->wide) optim_tile_f64(c, e, at, rows, columns);
    else optim_tile_f32(c, e, at, rows, columns);
}

static int optim_task(void *context, ptrdiff_t task) {
    const optim_call *c = (const optim_call *)context;
    const ptrdiff_t last = fd_min((task + 1) * OPTIM_TASK, c->arrays[c->count - 1].end);
    ptrdiff_t tile = task * OPTIM_TASK, low = 0, high = c->count - 1;
    while (low < high) { /* the first array that ends behind the tile */
        const ptrdiff_t middle = (low + high) / 2;
        if (c->arrays[middle].end > tile) high = middle;
        else low = middle + 1;
    }
    for (; tile < last; tile++) {
        if (c->arrays[low].end == tile) low++;
        optim_tile(c, &c->arrays[low], tile - (low ? c->arrays[low - 1].end : 0));
    }
    return FD_OK;
}

static int optim_run(optim_call *c, int threads) {
    if (c->count == 0) return FD_OK;
    return rt->parallel_for(optim_task, c, fd_ceil_div(c->arrays[c->count - 1].end, OPTIM_TASK), threads, c->work);
}
#endif
