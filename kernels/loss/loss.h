/* Arguments of the ops on rows, and both instantiations. */
#ifndef FASTDL_LOSS_H
#define FASTDL_LOSS_H
#include "vmath.h"

#define LANES 16 /* of the sums along a row, whatever the vectors are like: every ISA level adds in the same order */

typedef int32_t loss_i_f32 __attribute__((vector_size(FD_VECTOR_BYTES)));
typedef int64_t loss_i_f64 __attribute__((vector_size(FD_VECTOR_BYTES)));

typedef struct {
    fd_tensor a, b;                     /* matrices that are read: x; dout and y; probabilities */
    fd_tensor to;                       /* the matrix that is written */
    fd_tensor labels, losses, scale;    /* of softmax_cross_entropy */
    int labelled;                       /* whether there are labels */
    ptrdiff_t rows, classes, block;     /* block: rows in one task */
} loss_call;

/* The label of a row, -1 if it is none of the classes. */
static inline ptrdiff_t loss_label(const loss_call *c, ptrdiff_t row) {
    const int64_t label = *(const int64_t *)(c->labels.data + row * c->labels.stride[0]);
    return label >= 0 && label < c->classes ? (ptrdiff_t)label : -1;
}

#define T float
#define SFX f32
#define TYPE FD_F32
#include "loss_rows.h"
#undef T
#undef SFX
#undef TYPE
#define T double
#define SFX f64
#define TYPE FD_F64
#include "loss_rows.h"
#undef T
#undef SFX
#undef TYPE

/* `wide`: computes in float64. `ns`: one element on one thread. */
static int loss_run(loss_call *c, fd_task f32, fd_task f64, int wide, ptrdiff_t block, int threads, double ns) {
    c->rows = c->to.shape[0];
    c->classes = c->to.shape[1];
    c->block = fd_max(1, block / fd_max(c->classes, 1));
    const double work = ns * (double)c->rows * (double)fd_max(c->classes, 1);
    return rt->parallel_for(wide ? f64 : f32, c, fd_ceil_div(c->rows, c->block), threads, work);
}

static int loss_softmax_forward(loss_call *c, ptrdiff_t block, int threads) {
    return loss_run(c, loss_forward_task_f32, loss_forward_task_f64, c->to.type == FD_F64, block, threads, 1.0);
}

static int loss_softmax_backward(loss_call *c, ptrdiff_t block, int threads) {
    return loss_run(c, loss_backward_task_f32, loss_backward_task_f64, c->to.type == FD_F64, block, threads, 0.5);
}

static int loss_entropy_backward(loss_call *c, ptrdiff_t block, int threads) {
    return loss_run(c, loss_entropy_task_f32, loss_entropy_task_f64, c->a.type == FD_F64, block, threads, 0.3);
}
#endif
