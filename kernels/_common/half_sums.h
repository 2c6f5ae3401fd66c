/* fd_panel_f32 as a processor would compute it that has nothing but float16: each product and each partial sum is rounded
 * to float16, here in float32 registers. (A float32 has so many bits that rounding its product or sum of two float16 once
 * more gives what a single rounding would have.) Every sum runs from its first term to its last, in one chain. */
#ifndef FASTDL_HALF_SUMS_H
#define FASTDL_HALF_SUMS_H
#include "simd.h"

#if FD_VECTOR_BYTES == 64
static inline fd_v_f32 fd_round_half(fd_v_f32 v) {
    return (fd_v_f32)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif FD_VECTOR_BYTES == 32
static inline fd_v_f32 fd_round_half(fd_v_f32 v) {
    return (fd_v_f32)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
static inline fd_v_f32 fd_round_half(fd_v_f32 v) {
    typedef int32_t words __attribute__((vector_size(FD_VECTOR_BYTES)));
    const words in = (words)v, sign = in & INT32_MIN, magnitude = in ^ sign;
    const words normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)) & ~0x1fff;
    const fd_v_f32 half = (fd_v_f32){0} + 0.5f; /* whose last bit is that of a subnormal float16 */
    const words subnormal = (words)(((fd_v_f32)magnitude + half) - half), small = magnitude < 0x38800000;
    const words finite = (subnormal & small) | (normal & ~small);
    const words large = normal >= 0x47800000, nan = magnitude > 0x7f800000, special = 0x7f800000 | (magnitude & nan);
    return (fd_v_f32)(sign | (special & large) | (finite & ~large));
}
#endif

#define FD_HALF_ROWS 8

/* Rows i to i + rows - 1 of one vector of columns. */
static void fd_half_tile(int rows, ptrdiff_t k, const float *a, ptrdiff_t row, ptrdiff_t step, const float *b,
                         ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
    fd_v_f32 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
    const float *at[FD_HALF_ROWS];
    float *to[FD_HALF_ROWS];
    for (int i = 0; i < FD_HALF_ROWS; i++) { /* rows that are not there repeat the last one */
        at[i] = a + (i < rows ? i : rows - 1) * row;
        to[i] = c + (i < rows ? i : rows - 1) * ldc;
    }
#define FD_HALF_EACH(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7)
#define FD_HALF_LOAD(i) s##i = *(const fd_v_f32 *)to[i];
#define FD_HALF_STEP(i) s##i = fd_round_half(s##i + fd_round_half(at[i][p * step] * w));
#define FD_HALF_STORE(i) *(fd_v_f32 *)to[i] = s##i;
    if (add) { FD_HALF_EACH(FD_HALF_LOAD) }
    for (ptrdiff_t p = 0; p < k; p++) {
        const fd_v_f32 w = *(const fd_v_f32 *)(b + p * ldb);
        FD_HALF_EACH(FD_HALF_STEP)
    }
    FD_HALF_EACH(FD_HALF_STORE)
}

/* c[m][nv vectors] = the sums of a[m][k] * b[k][nv vectors], with `add` continued from c; strides as of fd_panel_f32. */
static void fd_half_panel(int nv, ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t row, ptrdiff_t step, const float *b,
                          ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
    for (int v = 0; v < nv; v++)
        for (ptrdiff_t i = 0; i < m; i += FD_HALF_ROWS)
            fd_half_tile((int)fd_min(FD_HALF_ROWS, m - i), k, a + i * row, row, step, b + v * FD_LANES_f32, ldb,
                         c + i * ldc + v * FD_LANES_f32, ldc, add);
}
#endif
