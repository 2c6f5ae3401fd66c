/* The direct convolution, for both compute dtypes. */
#ifndef FASTDL_DIRECT_CALL_H
#define FASTDL_DIRECT_CALL_H
#include "blocks.h"
#include "chunks.h"

#define T float
#define SFX f32
#include "direct_pack.h"
#include "direct_gather.h"
#include "direct_weight.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "direct_pack.h"
#include "direct_gather.h"
#include "direct_weight.h"
#undef T
#undef SFX

static int direct_gather_start(direct_call *g, const fd_tensor *bias, int threads) {
    return g->out.type == FD_F64 ? direct_gather_run_f64(g, bias, threads) : direct_gather_run_f32(g, bias, threads);
}
static int direct_weight_start(direct_call *g, int threads) {
    return g->out.type == FD_F64 ? direct_weight_run_f64(g, threads) : direct_weight_run_f32(g, threads);
}
#endif
