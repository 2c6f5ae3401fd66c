/* One register of channels: loaded from any storage dtype and stored to it, and indices of the same lanes. */
#ifndef FASTDL_POOL_VECTORS_H
#define FASTDL_POOL_VECTORS_H
#include "bytes.h"

static inline fd_v_f32 pool_load_f32(const float *from) { return *(const fd_v_f32 *)from; }
static inline void pool_store_f32(float *to, fd_v_f32 v) { *(fd_v_f32 *)to = v; }
static inline fd_v_f64 pool_load_f64(const double *from) { return *(const fd_v_f64 *)from; }
static inline void pool_store_f64(double *to, fd_v_f64 v) { *(fd_v_f64 *)to = v; }

/* The half formats, as the functions of the same names in simd.h but on one register: loops of a fixed few steps over
 * memory do not become vector code (bfloat16 pooling took three times as long with them). */
typedef fd_i_f32 pool_i_f32;
typedef fd_i_f64 pool_i_f64;
typedef uint32_t pool_u_f32 __attribute__((vector_size(FD_VECTOR_BYTES)));
typedef uint16_t pool_u16_f32 __attribute__((vector_size(2 * FD_LANES_f32), aligned(2), may_alias));

static inline fd_v_f32 pool_load_bf16(const uint16_t *from) {
    return (fd_v_f32)(__builtin_convertvector(*(const pool_u16_f32 *)from, pool_u_f32) << 16);
}

static inline void pool_store_bf16(uint16_t *to, fd_v_f32 v) {
    const pool_u_f32 in = (pool_u_f32)v, rounded = in + 0x7fffu + ((in >> 16) & 1u), nan = (pool_u_f32)(v != v);
    const pool_u_f32 r = (((in | 0x400000u) & nan) | (rounded & ~nan)) >> 16;
    *(pool_u16_f32 *)to = __builtin_convertvector(r, pool_u16_f32);
}

#if FD_VECTOR_BYTES > 16
static inline fd_v_f32 pool_load_f16(const uint16_t *from) {
    fd_v_f32 v;
    fd_widen_f16(from, (float *)&v, FD_LANES_f32); /* one instruction */
    return v;
}

static inline void pool_store_f16(uint16_t *to, fd_v_f32 v) { fd_narrow_f16((const float *)&v, to, FD_LANES_f32); }
#else
static inline fd_v_f32 pool_load_f16(const uint16_t *from) {
    const pool_i_f32 h = __builtin_convertvector(*(const pool_u16_f32 *)from, pool_i_f32), magnitude = h & 0x7fff;
    const pool_i_f32 normal = (pool_i_f32)((fd_v_f32)(magnitude << 13) * 0x1p112f);
    return (fd_v_f32)(normal | ((magnitude >= 0x7c00) & 0x7f800000) | (h & 0x8000) << 16);
}

static inline void pool_store_f16(uint16_t *to, fd_v_f32 v) {
    const pool_i_f32 magnitude = (pool_i_f32)v & 0x7fffffff, sign = ((pool_i_f32)v >> 16) & 0x8000;
    const pool_i_f32 nan = magnitude > 0x7f800000, large = magnitude >= 0x47800000, small = magnitude < 0x38800000;
    const pool_i_f32 normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const pool_i_f32 subnormal = (pool_i_f32)((fd_v_f32)magnitude + 0.5f) - 0x3f000000;
    const pool_i_f32 finite = (subnormal & small) | (normal & ~small);
    const pool_i_f32 r = sign | (((nan & 0x200) | 0x7c00) & large) | (finite & ~large);
    *(pool_u16_f32 *)to = __builtin_convertvector(r, pool_u16_f32);
}
#endif

/* Bits of a where the mask is set, else of b. A macro: behind a function GCC no longer sees that this is a blend. */
#define POOL_SELECT(mask, a, b) (((a) & (mask)) | ((b) & ~(mask)))

/* float8, as in simd.h: BITS of significand with the hidden one, SHIFT to where a float32 has them, SCALE from its bias to
 * the format's. What is SPECIAL or more becomes NAN_BITS | itself when it is loaded; FIRST is the least float32 that is
 * stored as a normal number, and ROUNDING + subnormal has the subnormal's bits at the end. */
#define POOL_FLOAT8(name, SHIFT, SCALE, SPECIAL, NAN_BITS, BIAS, FIRST, ROUNDING)                                        \
    static inline fd_v_f32 pool_load_##name(const uint8_t *from) {                                                     \
        const pool_i_f32 v = fd_load_bytes_f32((const char *)from), magnitude = v & 0x7f;                              \
        const pool_i_f32 number = (pool_i_f32)((fd_v_f32)(magnitude << SHIFT) * SCALE);                                \
        return (fd_v_f32)(number | ((magnitude >= SPECIAL) & NAN_BITS) | (v & 0x80) << 24);                            \
    }                                                                                                                  \
    static inline pool_i_f32 pool_finite_##name(pool_i_f32 magnitude) {                                                \
        const pool_i_f32 normal = (magnitude - BIAS + (1 << (SHIFT - 1)) - 1 + ((magnitude >> SHIFT) & 1)) >> SHIFT;   \
        const fd_v_f32 rounding = (fd_v_f32){0} + ROUNDING;                                                            \
        return POOL_SELECT(magnitude < FIRST, (pool_i_f32)((fd_v_f32)magnitude + rounding) - (pool_i_f32)rounding, normal); \
    }
POOL_FLOAT8(e5m2, 21, 0x1p112f, 0x7c, 0x7f800000, 0x38000000, 0x38800000, 0x1p7f)
POOL_FLOAT8(e4m3, 20, 0x1p120f, 0x7f, 0x7fc00000, 0x3c000000, 0x3c800000, 0x1p14f)

static inline void pool_store_e5m2(uint8_t *to, fd_v_f32 v) {
    const pool_i_f32 magnitude = (pool_i_f32)v & 0x7fffffff, special = 0x7c | ((magnitude > 0x7f800000) & 2);
    const pool_i_f32 r = POOL_SELECT(magnitude >= 0x47800000, special, pool_finite_e5m2(magnitude));
    fd_store_bytes_f32((char *)to, r | (((pool_i_f32)v >> 24) & 0x80));
}
static inline void pool_store_e4m3(uint8_t *to, fd_v_f32 v) {
    const pool_i_f32 r = pool_finite_e4m3((pool_i_f32)v & 0x7fffffff);
    fd_store_bytes_f32((char *)to, POOL_SELECT(r > 0x7f, (pool_i_f32){0} + 0x7f, r) | (((pool_i_f32)v >> 24) & 0x80));
}

/* Tap numbers: uint8 or int32 in memory, as wide as the values in registers. */
typedef int32_t pool_i32_f32 __attribute__((vector_size(4 * FD_LANES_f32), aligned(4), may_alias));
typedef int32_t pool_i32_f64 __attribute__((vector_size(4 * FD_LANES_f64), aligned(4), may_alias));

#define POOL_INDEX(SFX)                                                                           \
    static inline pool_i_##SFX pool_load_index_##SFX(int type, const char *from) {                \
        if (type == FD_U8) return fd_load_bytes_##SFX(from);                                      \
        return __builtin_convertvector(*(const pool_i32_##SFX *)from, pool_i_##SFX);              \
    }                                                                                             \
    static inline void pool_store_index_##SFX(int type, char *to, pool_i_##SFX v) {               \
        if (type == FD_U8) fd_store_bytes_##SFX(to, v);                                           \
        else *(pool_i32_##SFX *)to = __builtin_convertvector(v, pool_i32_##SFX);                  \
    }
POOL_INDEX(f32)
POOL_INDEX(f64)

/* All ones where a comparison holds, else 0. GCC 12 would take a combination of two SSE2 masks of doubles apart into
 * scalars (four times slower): there masks are made of 32-bit integers. */
typedef pool_i_f32 pool_mask_f32;
#if FD_VECTOR_BYTES > 16
typedef pool_i_f64 pool_mask_f64;
#else
typedef pool_i_f32 pool_mask_f64;
#endif

#define POOL_INLINE static inline __attribute__((always_inline))

#endif
