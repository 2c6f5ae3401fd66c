/* Vector types of the level that this file is compiled for, and the conversions between storage and compute dtypes.
 *
 * GCC and Clang vector extensions carry everything but the half conversions, so the same text serves 128-bit (any CPU),
 * 256-bit (v3) and 512-bit (v4) registers. a * b + c is contracted to one FMA where the level has it. */
#ifndef FASTDL_SIMD_H
#define FASTDL_SIMD_H

#include <math.h>

#include "runtime.h"

#if defined(__AVX512F__)
#define FD_VECTOR_BYTES 64
#include <immintrin.h>
#elif defined(__AVX2__)
#define FD_VECTOR_BYTES 32
#include <immintrin.h>
#else
#define FD_VECTOR_BYTES 16
#endif

#define FD_LANES_f32 (FD_VECTOR_BYTES / 4)
#define FD_LANES_f64 (FD_VECTOR_BYTES / 8)

typedef float fd_v_f32 __attribute__((vector_size(FD_VECTOR_BYTES), aligned(4), may_alias));
typedef double fd_v_f64 __attribute__((vector_size(FD_VECTOR_BYTES), aligned(8), may_alias));

/* ---- float16 -------------------------------------------------------------------------------------------------- */

/* Exact; a NaN becomes quiet, as in the CPU's own conversion, so that all paths give the same bits. The exponent is
 * rebiased by a multiplication, which also normalises subnormals. */
static inline float fd_f16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } r;
    uint32_t magnitude = h & 0x7fffu;
    r.u = magnitude << 13;
    r.f *= 0x1p112f;
    r.u |= magnitude > 0x7c00u ? 0x7fc00000u : magnitude == 0x7c00u ? 0x7f800000u : 0u;
    r.u |= (uint32_t)(h & 0x8000u) << 16;
    return r.f;
}

/* Rounds to nearest, ties to even; overflows to infinity; NaN becomes quiet and keeps the top of its payload. */
static inline uint16_t fd_f32_to_f16(float f) {
    union { uint32_t u; float f; } in, small;
    in.f = f;
    uint32_t sign = (in.u >> 16) & 0x8000u, magnitude = in.u & 0x7fffffffu;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : 0x7c00u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    /* Adding 0.5 leaves the half's subnormal bits at the bottom of the mantissa, rounded by the addition itself. */
    small.u = magnitude;
    small.f += 0.5f;
    uint32_t subnormal = small.u - 0x3f000000u;
    uint32_t r = magnitude >= 0x47800000u ? special : magnitude < 0x38800000u ? subnormal : normal;
    return (uint16_t)(r | sign);
}

static inline void fd_widen_f16(const uint16_t *restrict from, float *restrict to, ptrdiff_t n) {
    ptrdiff_t i = 0;
#if FD_VECTOR_BYTES == 64
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
    if (i < n) {
        __mmask16 tail = (__mmask16)((1u << (n - i)) - 1);
        _mm512_mask_storeu_ps(to + i, tail, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(tail, from + i)));
    }
#else
#if FD_VECTOR_BYTES == 32
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < n; i++) to[i] = fd_f16_to_f32(from[i]);
#endif
}

static inline void fd_narrow_f16(const float *restrict from, uint16_t *restrict to, ptrdiff_t n) {
    ptrdiff_t i = 0;
#if FD_VECTOR_BYTES == 64
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
    if (i < n) {
        __mmask16 tail = (__mmask16)((1u << (n - i)) - 1);
        _mm256_mask_storeu_epi16(to + i, tail, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(tail, from + i), 0));
    }
#else
#if FD_VECTOR_BYTES == 32
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++) to[i] = fd_f32_to_f16(from[i]);
#endif
}

/* ---- bfloat16: the upper half of a float32 -------------------------------------------------------------------- */

static inline float fd_bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } r;
    r.u = (uint32_t)h << 16;
    return r.f;
}

/* Rounds to nearest, ties to even; NaN stays NaN (and becomes quiet). */
static inline uint16_t fd_f32_to_bf16(float f) {
    union { uint32_t u; float f; } in;
    in.f = f;
    uint32_t rounded = in.u + 0x7fffu + ((in.u >> 16) & 1u);
    uint32_t nan = in.u | 0x400000u;
    return (uint16_t)(((in.u & 0x7fffffffu) > 0x7f800000u ? nan : rounded) >> 16);
}

static inline void fd_widen_bf16(const uint16_t *restrict from, float *restrict to, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) to[i] = fd_bf16_to_f32(from[i]);
}

typedef uint32_t fd_v_u32 __attribute__((vector_size(FD_VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t fd_v_u16 __attribute__((vector_size(FD_VECTOR_BYTES / 2), aligned(2), may_alias));

/* GCC leaves the scalar formula scalar. */
static inline void fd_narrow_bf16(const float *restrict from, uint16_t *restrict to, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + FD_LANES_f32 <= n; i += FD_LANES_f32) {
        const fd_v_u32 in = *(const fd_v_u32 *)(from + i), rounded = in + 0x7fffu + ((in >> 16) & 1u);
        const fd_v_u32 nan = (fd_v_u32)((in & 0x7fffffffu) > 0x7f800000u);
        const fd_v_u32 result = (rounded & ~nan) | ((in | 0x400000u) & nan);
        *(fd_v_u16 *)(to + i) = __builtin_convertvector(result >> 16, fd_v_u16);
    }
    for (; i < n; i++) to[i] = fd_f32_to_bf16(from[i]);
}

/* ---- float64 to a half, rounded once -------------------------------------------------------------------------- */

/* An inexact value goes to the neighbour whose last bit is 1, which keeps on which side of every half and of every tie
 * between two halves it was: rounding the result again gives what a single rounding would have. */
static inline float fd_f64_to_f32_odd(double d) {
    union { uint32_t u; float f; } r;
    r.f = (float)d;
    const double nearest = fabs((double)r.f), exact = fabs(d);
    const uint32_t away = (uint32_t)(nearest < exact) - (uint32_t)(nearest > exact); /* 0 for NaN */
    r.u += away & ((r.u & 1u) - 1u); /* a branch here would be mispredicted every other time */
    return r.f;
}

static inline uint16_t fd_f64_to_f16(double d) { return fd_f32_to_f16(fd_f64_to_f32_odd(d)); }
static inline uint16_t fd_f64_to_bf16(double d) { return fd_f32_to_bf16(fd_f64_to_f32_odd(d)); }

/* ---- float8: e5m2, the upper byte of a float16, and e4m3fn, which has NaN but no infinity ------------------------ */

/* A float16 that is a float8 exactly: e5m2, or e4m3 divided by 256 (its exponent is biased by 7 and not by 15). */
static inline uint16_t fd_e5m2_to_f16(uint8_t v) { return (uint16_t)(v << 8); }
static inline uint16_t fd_e4m3_to_f16(uint8_t v) {
    const uint32_t magnitude = v & 0x7fu;
    return (uint16_t)((v & 0x80u) << 8 | (magnitude == 0x7fu ? 0x7e00u : magnitude << 7));
}

/* Rounds to nearest, ties to even. Adding a power of two leaves the bits of a subnormal at the bottom of the mantissa,
 * rounded by the addition itself. NaN becomes quiet; what is too large becomes e5m2's infinity, or e4m3's NaN. */
static inline uint8_t fd_f32_to_e5m2(float f) {
    union { uint32_t u; float f; } in, small;
    in.f = f;
    const uint32_t magnitude = in.u & 0x7fffffffu;
    small.u = magnitude;
    small.f += 0x1p7f;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffffu + ((magnitude >> 21) & 1u)) >> 21;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7eu | ((magnitude >> 21) & 3u) : 0x7cu;
    const uint32_t r = magnitude < 0x38800000u ? small.u - 0x43000000u : normal;
    return (uint8_t)(in.u >> 24 & 0x80u) | (uint8_t)(magnitude >= 0x47800000u ? special : r);
}
static inline uint8_t fd_f32_to_e4m3(float f) {
    union { uint32_t u; float f; } in, small;
    in.f = f;
    const uint32_t magnitude = in.u & 0x7fffffffu;
    small.u = magnitude;
    small.f += 0x1p14f;
    const uint32_t normal = (magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
    const uint32_t r = magnitude < 0x3c800000u ? small.u - 0x46800000u : normal;
    return (uint8_t)(in.u >> 24 & 0x80u) | (uint8_t)(r > 0x7fu ? 0x7fu : r);
}

#define FD_F8_PIECE 128

/* One copy of each in an extension, which the many places that load and store share. */
static __attribute__((noinline)) void fd_widen_f8(int type, const char *restrict from, ptrdiff_t stride,
                                                  float *restrict to, ptrdiff_t n) {
    uint16_t half[FD_F8_PIECE];
    uint8_t bytes[FD_F8_PIECE];
    for (ptrdiff_t i = 0; i < n; i += FD_F8_PIECE) {
        const ptrdiff_t many = fd_min(FD_F8_PIECE, n - i);
        const uint8_t *source = (const uint8_t *)from + i;
        if (stride != 1) {
            for (ptrdiff_t j = 0; j < many; j++) bytes[j] = *(const uint8_t *)(from + (i + j) * stride);
            source = bytes;
        }
        if (type == FD_E5M2)
            for (ptrdiff_t j = 0; j < many; j++) half[j] = fd_e5m2_to_f16(source[j]);
        else
            for (ptrdiff_t j = 0; j < many; j++) half[j] = fd_e4m3_to_f16(source[j]);
        fd_widen_f16(half, to + i, many);
        if (type == FD_E4M3)
            for (ptrdiff_t j = 0; j < many; j++) to[i + j] *= 0x1p8f;
    }
}

static __attribute__((noinline)) void fd_narrow_f8(int type, const float *restrict from, char *restrict to,
                                                   ptrdiff_t stride, ptrdiff_t n) {
    uint8_t bytes[FD_F8_PIECE];
    for (ptrdiff_t i = 0; i < n; i += FD_F8_PIECE) {
        const ptrdiff_t many = fd_min(FD_F8_PIECE, n - i);
        uint8_t *target = stride == 1 ? (uint8_t *)to + i : bytes;
        if (type == FD_E5M2)
            for (ptrdiff_t j = 0; j < many; j++) target[j] = fd_f32_to_e5m2(from[i + j]);
        else
            for (ptrdiff_t j = 0; j < many; j++) target[j] = fd_f32_to_e4m3(from[i + j]);
        for (ptrdiff_t j = 0; stride != 1 && j < many; j++) *(uint8_t *)(to + (i + j) * stride) = bytes[j];
    }
}

/* By way of float32: exact, and rounded to odd. */
static __attribute__((noinline)) void fd_widen_f8_f64(int type, const char *restrict from, ptrdiff_t stride,
                                                      double *restrict to, ptrdiff_t n) {
    float single[FD_F8_PIECE];
    for (ptrdiff_t i = 0; i < n; i += FD_F8_PIECE) {
        const ptrdiff_t many = fd_min(FD_F8_PIECE, n - i);
        fd_widen_f8(type, from + i * stride, stride, single, many);
        for (ptrdiff_t j = 0; j < many; j++) to[i + j] = single[j];
    }
}
static __attribute__((noinline)) void fd_narrow_f8_f64(int type, const double *restrict from, char *restrict to,
                                                       ptrdiff_t stride, ptrdiff_t n) {
    float single[FD_F8_PIECE];
    for (ptrdiff_t i = 0; i < n; i += FD_F8_PIECE) {
        const ptrdiff_t many = fd_min(FD_F8_PIECE, n - i);
        for (ptrdiff_t j = 0; j < many; j++) single[j] = fd_f64_to_f32_odd(from[i + j]);
        fd_narrow_f8(type, single, to + i * stride, stride, many);
    }
}

/* ---- any storage, any stride (in bytes) ----------------------------------------------------------------------- */

/* As a tensor core takes float32: rounded to 11 significant bits, ties away from zero. */
static __attribute__((noinline)) void fd_load_tf32(const char *restrict from, ptrdiff_t stride, float *restrict to,
                                                   ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, from + i * stride, 4);
        word = (word & 0x7f800000u) == 0x7f800000u ? word : (word + 0x1000u) & 0xffffe000u;
        memcpy(to + i, &word, 4);
    }
}

static inline ptrdiff_t fd_itemsize(int type) {
    return type == FD_F64 ? 8 : type == FD_F32 || type == FD_TF32 ? 4 : type == FD_F16 || type == FD_BF16 ? 2 : 1;
}

/* The first of the two loops is what the compiler turns into vectors. */
#define FD_GATHER(type, convert)                                                                  \
    if (stride == (ptrdiff_t)sizeof(type))                                                        \
        for (ptrdiff_t i = 0; i < n; i++) to[i] = convert(((const type *)from)[i]);               \
    else                                                                                          \
        for (ptrdiff_t i = 0; i < n; i++) to[i] = convert(*(const type *)(from + i * stride))
#define FD_SCATTER(type, convert)                                                                 \
    if (stride == (ptrdiff_t)sizeof(type))                                                        \
        for (ptrdiff_t i = 0; i < n; i++) ((type *)to)[i] = convert(from[i]);                     \
    else                                                                                          \
        for (ptrdiff_t i = 0; i < n; i++) *(type *)(to + i * stride) = convert(from[i])

/* n elements of dtype `type`, `stride` bytes apart, as contiguous float32. */
static inline void fd_load_f32(int type, const char *restrict from, ptrdiff_t stride, float *restrict to, ptrdiff_t n) {
    switch (type) {
    case FD_F32:
        if (stride == 4) memcpy(to, from, (size_t)n * 4);
        else FD_GATHER(float, );
        break;
    case FD_F16:
        if (stride == 2) fd_widen_f16((const uint16_t *)from, to, n);
        else FD_GATHER(uint16_t, fd_f16_to_f32);
        break;
    case FD_BF16:
        if (stride == 2) fd_widen_bf16((const uint16_t *)from, to, n);
        else FD_GATHER(uint16_t, fd_bf16_to_f32);
        break;
    case FD_F64: FD_GATHER(double, (float)); break;
    case FD_E4M3:
    case FD_E5M2: fd_widen_f8(type, from, stride, to, n); break;
    case FD_TF32: fd_load_tf32(from, stride, to, n); break;
    case FD_U8: FD_GATHER(uint8_t, (float)); break;
    }
}

/* n contiguous float32 values to dtype `type`, `stride` bytes apart, rounded to nearest even once. */
static inline void fd_store_f32(int type, const float *restrict from, char *restrict to, ptrdiff_t stride, ptrdiff_t n) {
    switch (type) {
    case FD_F32:
        if (stride == 4) memcpy(to, from, (size_t)n * 4);
        else FD_SCATTER(float, );
        break;
    case FD_F16:
        if (stride == 2) fd_narrow_f16(from, (uint16_t *)to, n);
        else FD_SCATTER(uint16_t, fd_f32_to_f16);
        break;
    case FD_BF16:
        if (stride == 2) fd_narrow_bf16(from, (uint16_t *)to, n);
        else FD_SCATTER(uint16_t, fd_f32_to_bf16);
        break;
    case FD_F64: FD_SCATTER(double, (double)); break;
    case FD_E4M3:
    case FD_E5M2: fd_narrow_f8(type, from, to, stride, n); break;
    case FD_U8: FD_SCATTER(uint8_t, (uint8_t)); break;
    }
}

static inline void fd_load_f64(int type, const char *restrict from, ptrdiff_t stride, double *restrict to, ptrdiff_t n) {
    switch (type) {
    case FD_F64:
        if (stride == 8) memcpy(to, from, (size_t)n * 8);
        else FD_GATHER(double, );
        break;
    case FD_F32: FD_GATHER(float, (double)); break;
    case FD_F16: FD_GATHER(uint16_t, fd_f16_to_f32); break;
    case FD_BF16: FD_GATHER(uint16_t, fd_bf16_to_f32); break;
    case FD_E4M3:
    case FD_E5M2: fd_widen_f8_f64(type, from, stride, to, n); break;
    case FD_U8: FD_GATHER(uint8_t, (double)); break;
    }
}

static inline void fd_store_f64(int type, const double *restrict from, char *restrict to, ptrdiff_t stride, ptrdiff_t n) {
    switch (type) {
    case FD_F64:
        if (stride == 8) memcpy(to, from, (size_t)n * 8);
        else FD_SCATTER(double, );
        break;
    case FD_F32: FD_SCATTER(float, (float)); break;
    case FD_F16: FD_SCATTER(uint16_t, fd_f64_to_f16); break;
    case FD_BF16: FD_SCATTER(uint16_t, fd_f64_to_bf16); break;
    case FD_E4M3:
    case FD_E5M2: fd_narrow_f8_f64(type, from, to, stride, n); break;
    case FD_U8: FD_SCATTER(uint8_t, (uint8_t)); break;
    }
}

#endif
