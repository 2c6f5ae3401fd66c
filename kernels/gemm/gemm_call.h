/* Arguments of one gemm, and both instantiations. */
#ifndef FASTDL_GEMM_CALL_H
#define FASTDL_GEMM_CALL_H
#include "blocks.h"
#include "half_sums.h"

typedef struct {
    fd_tensor a, b, out;
    const void *bias; /* contiguous, compute dtype, or NULL */
    int relu, half_sums; /* half_sums: sums are rounded to float16, see half_sums.h */
    ptrdiff_t m, n, k, mc, nc, kc, thin, n_blocks;
    ptrdiff_t a_row, a_col, a_size, b_row, b_col; /* bytes */
} gemm_call;

#define T float
#define SFX f32
#include "gemm.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "gemm.h"
#undef T
#undef SFX

static int gemm_start(gemm_call *g, const fd_tensor *bias, int threads) {
    g->m = g->a.shape[0];
    g->k = g->a.shape[1];
    g->n = g->b.shape[1];
    g->a_row = g->a.stride[0];
    g->a_col = g->a.stride[1];
    g->a_size = g->a.itemsize;
    g->b_row = g->b.stride[0];
    g->b_col = g->b.stride[1];
    if (g->m == 0 || g->n == 0) return FD_OK;
    return g->out.type == FD_F64 ? gemm_run_f64(g, bias, threads) : gemm_run_f32(g, bias, threads);
}
#endif
