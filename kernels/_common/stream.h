/* Stores around the caches, for results that no cache would keep.
 *
 * A plain store first reads the line that it changes: a copy then moves three bytes over the bus for two. And the
 * result drives out what the next pass might still have found. Where an input comes from memory as well, fetching it ahead is
 * worth as much: the processor's own prefetching leaves the bus idle (Zen 5, one thread, a map of 25 MB from and to
 * memory: 32 GB/s plainly, 38 around the caches, 44 with both; each result worked out in a buffer in L1: 37).
 *
 * But the next pass reads the result. A chain of five copies, 32 MB L3, both: 77 -> 61 GB/s with arrays of 1 MB,
 * 54 -> 53 at 4 MB, 48 -> 50 at 6 MB, 38 -> 44 at 8 MB, 38 -> 45 at 12 MB, 36 -> 51 at 25 MB. So this is for results of
 * at least FD_STREAM_BYTES. What is stored is the same. */
#ifndef FASTDL_STREAM_H
#define FASTDL_STREAM_H
#include "simd.h"

#define FD_STREAM_BYTES ((ptrdiff_t)8 << 20)
/* Bytes between what is computed and what is fetched: a fifth slower with 2048, half as slow again with 4096 where rows
 * have that many bytes. */
#define FD_STREAM_AHEAD 5120

static inline int fd_streams(const fd_tensor *out) { return out->size * out->itemsize >= FD_STREAM_BYTES; }

static inline void fd_stream_fetch(const void *p) { __builtin_prefetch((const char *)p + FD_STREAM_AHEAD); }

/* fd_stream_store(to, v): a vector to an address that is a multiple of its size. GCC has no extension for it.
 * fd_stream_end(): after the last one of a task, so that later stores, such as the one that tells that the task is
 * done, come later. */
#if defined(__AVX512F__)
#define fd_stream_store(to, v) _mm512_stream_ps((float *)(to), (__m512)(v))
#define fd_stream_end() _mm_sfence()
#elif defined(__AVX2__)
#define fd_stream_store(to, v) _mm256_stream_ps((float *)(to), (__m256)(v))
#define fd_stream_end() _mm_sfence()
#elif defined(__x86_64__)
#include <immintrin.h>
#define fd_stream_store(to, v) _mm_stream_ps((float *)(to), (__m128)(v))
#define fd_stream_end() _mm_sfence()
#else
#define fd_stream_store(to, v) memcpy(to, &(v), FD_VECTOR_BYTES)
#define fd_stream_end() ((void)0)
#endif

/* Copies `bytes`, and fetches what comes after them. Lines shared with what lies beside are stored plainly. */
static inline void fd_stream_copy(char *restrict to, const char *restrict from, ptrdiff_t bytes) {
    const ptrdiff_t head = fd_min(bytes, (ptrdiff_t)(-(uintptr_t)to & 63));
    ptrdiff_t i = head;
    memcpy(to, from, (size_t)head);
    for (; i + 64 <= bytes; i += 64) {
        fd_stream_fetch(from + i);
        for (int j = 0; j < 64; j += FD_VECTOR_BYTES) {
            fd_v_f32 v;
            memcpy(&v, from + i + j, FD_VECTOR_BYTES); /* halves are aligned to two bytes */
            fd_stream_store(to + i + j, v);
        }
    }
    memcpy(to + i, from + i, (size_t)(bytes - i));
}
#endif
