/* Bytes that count steps, element by element. */
#ifndef FASTDL_QUANTIZE_H
#define FASTDL_QUANTIZE_H
#include "elementwise.h"

typedef struct {
    float scale, zero;
} quantize_parameters;

static void quantize_row(const float *const *in, float *out, ptrdiff_t n, const void *parameters) {
    const quantize_parameters p = *(const quantize_parameters *)parameters;
    const float *x = in[0], low = -p.zero, high = 255 - p.zero, magic = 12582912.0f;
    FD_EW_LOOP
    for (ptrdiff_t i = 0; i < n; i++) {
        /* Clipped first: the bounds are whole, and 1.5 * 2**23 then leaves nothing but the integer. NaN becomes low. */
        float v = x[i] * p.scale;
        v = v > low ? v : low;
        v = v < high ? v : high;
        out[i] = ((v + magic) - magic) + p.zero;
    }
}

static void dequantize_row(const float *const *in, float *out, ptrdiff_t n, const void *parameters) {
    const quantize_parameters p = *(const quantize_parameters *)parameters;
    const float *x = in[0];
    FD_EW_LOOP
    for (ptrdiff_t i = 0; i < n; i++) out[i] = (x[i] - p.zero) * p.scale;
}

static int quantize_run(const fd_tensor *x, const fd_tensor *out, float scale, int zero, int back, int threads) {
    fd_elementwise e;
    const fd_tensor *operands[2] = {x, out};
    const quantize_parameters p = {scale, (float)zero};
    fd_elementwise_init(&e, operands, 2);
    e.wide = 0;
    e.row32 = back ? dequantize_row : quantize_row;
    e.row64 = NULL;
    e.parameters = &p;
    return fd_elementwise_run(&e, threads, 0.2);
}
#endif
