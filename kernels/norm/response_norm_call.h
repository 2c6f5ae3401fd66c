/* Arguments of one local response normalisation, and both instantiations of the loops. */
#ifndef FASTDL_RESPONSE_NORM_CALL_H
#define FASTDL_RESPONSE_NORM_CALL_H
#include "batch_norm_call.h" /* for access.h, which it has instantiated */
#include "vmath.h"

#define LRN_FEW 16     /* channels; with fewer, pixels side by side fill the vectors better */
#define LRN_PIXELS 64  /* slabs of one pixel that go through the loops together, at most; and about */
#define LRN_BATCH 1024 /* this many elements: one at a time takes 2.5 times as long with C = 16 */

typedef struct {
    /* arguments; out is dx in backward */
    fd_tensor x, dout, out;
    double factor, beta, k, slope; /* alpha / size and 2 alpha beta / size */
    ptrdiff_t before, after;       /* channels of a window on either side of its own */
    ptrdiff_t pixels, task;
    int backward;
    /* set by lrn_start */
    norm_grid grid;
    norm_operand from, gradient, to; /* x, dout, out */
    int together;                    /* the channels of a pixel are beside each other */
} lrn_call;

#define T float
#define SFX f32
#define TYPE FD_F32
#include "response_norm.h"
#undef T
#undef SFX
#undef TYPE
#define T double
#define SFX f64
#define TYPE FD_F64
#include "response_norm.h"
#undef T
#undef SFX
#undef TYPE

static int lrn_start(lrn_call *l, int threads) {
    const fd_tensor *tensors[] = {&l->x, &l->out, &l->dout};
    norm_operand *operands[] = {&l->from, &l->to, &l->gradient};
    const norm_grid *g = &l->grid;
    norm_view(&l->grid, tensors, operands, l->backward ? 3 : 2);
    if (g->channels == 0 || g->rows == 0) return FD_OK;
    l->before = fd_min(l->before, g->channels - 1);
    l->after = fd_min(l->after, g->channels - 1);
    l->together = g->channels >= LRN_FEW && !norm_prefers_runs(g, &l->from);
    if (l->together) l->pixels = fd_max(1, LRN_BATCH / g->channels);
    const double ns = (l->x.type == FD_F64 ? 3 : 0.8) * (l->backward ? 2 : 1);
    return rt->parallel_for(l->x.type == FD_F64 ? lrn_task_f64 : lrn_task_f32, l, fd_ceil_div(g->rows, l->task),
                            threads, ns * (double)g->rows * (double)g->channels);
}
#endif
