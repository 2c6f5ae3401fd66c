/* The conversions of the element-wise engine, with nothing between them. */
#ifndef FASTDL_CAST_H
#define FASTDL_CAST_H
#include "elementwise.h"

static void cast_row_f32(const float *const *in, float *out, ptrdiff_t n, const void *parameters) {
    (void)parameters;
    memcpy(out, in[0], (size_t)n * sizeof(float));
}

static void cast_row_f64(const double *const *in, double *out, ptrdiff_t n, const void *parameters) {
    (void)parameters;
    memcpy(out, in[0], (size_t)n * sizeof(double));
}

static int cast_run(const fd_tensor *x, const fd_tensor *out, int threads) {
    fd_elementwise e;
    const fd_tensor *operands[2] = {x, out};
    fd_elementwise_init(&e, operands, 2);
    /* From float64 to a half by way of a nearest float32 would round twice. */
    e.wide = out->type == FD_F64 || (x->type == FD_F64 && out->type != FD_F32);
    e.row32 = cast_row_f32;
    e.row64 = cast_row_f64;
    return fd_elementwise_run(&e, threads, 0.3);
}
#endif
