/* Max pooling of bytes: a row of outputs at a time, tap by tap, with the channels (or else the pixels) side by side. */
#ifndef FASTDL_BYTES_POOL_H
#define FASTDL_BYTES_POOL_H
#include "runtime.h"

typedef struct {
    fd_tensor x, out;
    ptrdiff_t kernel[2], stride[2], before[2], dilation[2];
} bytes_pool_call;

/* to[i] = max(to[i], from[i]) of n bytes, strides in bytes. */
static inline void bytes_larger(uint8_t *to, ptrdiff_t to_step, const uint8_t *from, ptrdiff_t step, ptrdiff_t n) {
    if (to_step == 1 && step == 1) {
        _Pragma("GCC ivdep")
        for (ptrdiff_t i = 0; i < n; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
    } else
        for (ptrdiff_t i = 0; i < n; i++) {
            const uint8_t v = from[i * step];
            if (v > to[i * to_step]) to[i * to_step] = v;
        }
}

static int bytes_pool_task(void *context, ptrdiff_t index) {
    const bytes_pool_call *p = (const bytes_pool_call *)context;
    const fd_tensor *x = &p->x, *out = &p->out;
    const ptrdiff_t n = index / out->shape[2], oh = index % out->shape[2], channels = x->shape[1];
    for (ptrdiff_t ow = 0; ow < out->shape[3]; ow++) {
        uint8_t *to = (uint8_t *)out->data + n * out->stride[0] + oh * out->stride[2] + ow * out->stride[3];
        for (ptrdiff_t c = 0; c < channels; c++) to[c * out->stride[1]] = 0;
        for (ptrdiff_t r = 0; r < p->kernel[0]; r++) {
            const ptrdiff_t y = oh * p->stride[0] - p->before[0] + r * p->dilation[0];
            if (y < 0 || y >= x->shape[2]) continue;
            for (ptrdiff_t s = 0; s < p->kernel[1]; s++) {
                const ptrdiff_t at = ow * p->stride[1] - p->before[1] + s * p->dilation[1];
                if (at < 0 || at >= x->shape[3]) continue;
                bytes_larger(to, out->stride[1],
                             (const uint8_t *)x->data + n * x->stride[0] + y * x->stride[2] + at * x->stride[3], x->stride[1],
                             channels);
            }
        }
    }
    return FD_OK;
}

static int bytes_pool_run(bytes_pool_call *p, int threads) {
    if (p->out.size == 0) return FD_OK;
    return rt->parallel_for(bytes_pool_task, p, p->out.shape[0] * p->out.shape[2], threads,
                            0.05 * (double)(p->out.size * p->kernel[0] * p->kernel[1]));
}
#endif
