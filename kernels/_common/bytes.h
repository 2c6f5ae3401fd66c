/* Integers of 8 bits in memory, in registers as wide as the values that they belong to: comparisons of values then select
 * them without conversion. GCC 12 takes conversions between 8 and 32 bits apart into single bytes (max_pool2d_backward ran
 * at half its speed), hence the instructions. */
#ifndef FASTDL_BYTES_H
#define FASTDL_BYTES_H
#include "simd.h"

typedef int32_t fd_i_f32 __attribute__((vector_size(FD_VECTOR_BYTES)));
typedef int64_t fd_i_f64 __attribute__((vector_size(FD_VECTOR_BYTES)));

#if FD_VECTOR_BYTES == 64
static inline fd_i_f32 fd_load_bytes_f32(const char *from) {
    return (fd_i_f32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}
static inline fd_i_f64 fd_load_bytes_f64(const char *from) {
    return (fd_i_f64)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)from));
}
static inline void fd_store_bytes_f32(char *to, fd_i_f32 v) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v));
}
static inline void fd_store_bytes_f64(char *to, fd_i_f64 v) {
    _mm_storel_epi64((__m128i *)to, _mm512_cvtepi64_epi8((__m512i)v));
}
#elif FD_VECTOR_BYTES == 32
static inline fd_i_f32 fd_load_bytes_f32(const char *from) {
    return (fd_i_f32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}
static inline fd_i_f64 fd_load_bytes_f64(const char *from) {
    int four;
    memcpy(&four, from, 4);
    return (fd_i_f64)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
}
static inline void fd_store_bytes_f32(char *to, fd_i_f32 v) {
    const __m256i i = (__m256i)v;
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
}
static inline void fd_store_bytes_f64(char *to, fd_i_f64 v) {
    const __m256i low = _mm256_permutevar8x32_epi32((__m256i)v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_castsi256_si128(low));
    const int four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(to, &four, 4);
}
#else
static inline fd_i_f32 fd_load_bytes_f32(const char *from) {
    const uint8_t *u = (const uint8_t *)from;
    return (fd_i_f32){u[0], u[1], u[2], u[3]};
}
static inline fd_i_f64 fd_load_bytes_f64(const char *from) {
    const uint8_t *u = (const uint8_t *)from;
    return (fd_i_f64){u[0], u[1]};
}
static inline void fd_store_bytes_f32(char *to, fd_i_f32 v) {
    for (int i = 0; i < 4; i++) to[i] = (char)v[i];
}
static inline void fd_store_bytes_f64(char *to, fd_i_f64 v) {
    for (int i = 0; i < 2; i++) to[i] = (char)v[i];
}
#endif

#endif
