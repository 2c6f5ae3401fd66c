/* The conversions of the element-wise engine, with nothing between them. */
#ifndef FASTDL_CAST_H
#define FASTDL_CAST_H
#include "elementwise.h"

static int cast_run(const fd_tensor *x, const fd_tensor *out, int threads) {
    fd_elementwise e;
    const fd_tensor *operands[2] = {x, out};
    fd_elementwise_init(&e, operands, 2);
    /* From float64 to a half by way of a nearest float32 would round twice. */
    e.wide = out->type == FD_F64 || (x->type == FD_F64 && out->type != FD_F32);
    e.row32 = NULL;
    e.row64 = NULL;
    return fd_elementwise_run(&e, threads, 0.3);
}
#endif
