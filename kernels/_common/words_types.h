/* Vectors of 32-bit words. */
#ifndef FASTDL_WORDS_TYPES_H
#define FASTDL_WORDS_TYPES_H
#include "simd.h"
typedef uint32_t fd_words __attribute__((vector_size(FD_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t fd_ints __attribute__((vector_size(FD_VECTOR_BYTES), aligned(4), may_alias));
#endif
