/* Element-wise operations on operands of any dtype and memory layout.
 *
 * A kernel is a row function on contiguous float32 or float64; this engine brings it to the arrays: axes are ordered by
 * the output's strides and merged where every operand allows it, the work is cut into pieces of fixed size, and
 * operands that are strided or stored in a half format pass through small buffers in L1. The last operand is the
 * output. It may be the same memory as an input if it has the same strides and dtype. */
#ifndef FASTDL_ELEMENTWISE_H
#define FASTDL_ELEMENTWISE_H

#include "stream.h"

#define FD_EW_OPERANDS 4
#define FD_EW_BUFFER 512
#define FD_EW_TASK 16384 /* elements in one task: 64 KiB of float32, an L1 and a bit */

/* Before the loop of a row function: the output may be an input's memory, but never that of another element, so the
 * iterations are independent. Without it the compiler's check for overlap sends calls in place to a scalar loop. */
#if defined(__clang__)
#define FD_EW_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define FD_EW_LOOP _Pragma("GCC ivdep")
#endif

typedef void (*fd_row_f32)(const float *const *in, float *out, ptrdiff_t n, const void *parameters);
typedef void (*fd_row_f64)(const double *const *in, double *out, ptrdiff_t n, const void *parameters);

typedef struct {
    int operands, ndim, wide; /* wide: computes in float64 */
    int streams;              /* the output is stored around the caches, where its elements are adjacent */
    ptrdiff_t size, shape[FD_MAX_DIMS], stride[FD_EW_OPERANDS][FD_MAX_DIMS];
    char *data[FD_EW_OPERANDS];
    int type[FD_EW_OPERANDS];
    ptrdiff_t item[FD_EW_OPERANDS]; /* bytes of an element */
    fd_row_f32 row32;               /* NULL: the output is the first input */
    fd_row_f64 row64;
    const void *parameters;
} fd_elementwise;

static inline ptrdiff_t fd_abs(ptrdiff_t v) { return v < 0 ? -v : v; }

/* Fills `e` from operands of one shape (the caller has checked that), the output last. */
static void fd_elementwise_init(fd_elementwise *e, const fd_tensor *const *t, int operands) {
    const fd_tensor *out = t[operands - 1];
    int axis[FD_MAX_DIMS], n = 0;
    e->operands = operands;
    e->size = out->size;
    e->wide = out->type == FD_F64;
    for (int d = 0; d < out->ndim; d++) {
        if (out->shape[d] == 1) continue;
        int at = n++;
        for (; at > 0 && fd_abs(out->stride[axis[at - 1]]) < fd_abs(out->stride[d]); at--) axis[at] = axis[at - 1];
        axis[at] = d;
    }
    e->ndim = 0;
    for (int i = 0; i < n; i++) {
        int d = axis[i], last = e->ndim - 1, merge = last >= 0;
        for (int p = 0; merge && p < operands; p++)
            merge = e->stride[p][last] == t[p]->stride[d] * out->shape[d];
        if (!merge) last = e->ndim++;
        e->shape[last] = merge ? e->shape[last] * out->shape[d] : out->shape[d];
        for (int p = 0; p < operands; p++) e->stride[p][last] = t[p]->stride[d];
    }
    if (e->ndim == 0) {
        e->ndim = 1;
        e->shape[0] = out->size; /* 0 or 1 */
        for (int p = 0; p < operands; p++) e->stride[p][0] = t[p]->itemsize;
    }
    for (int p = 0; p < operands; p++) {
        e->data[p] = t[p]->data;
        e->type[p] = t[p]->type;
        e->item[p] = t[p]->itemsize;
    }
    e->streams = fd_streams(out);
    for (int p = 0; p < operands - 1; p++) /* in place: the line is in the cache */
        if (t[p]->data == out->data) e->streams = 0;
}

/* `lines` runs of n elements, one step of the next-to-last axis apart. An operand is used where it lies if its elements
 * are adjacent from the first to the last; the others pass through buffers, as many lines as these hold at a time.
 *
 * Short runs could also be used where they lie, one by one. But a loop that leaps after every few vectors defeats the
 * prefetching of some processors, where a plain copy does not: relu on 64 of 192 channels of 60 MB took 1.1 to 2 ns for
 * an element that way and takes 0.4 to 0.6 ns this way (Zen 4). */
#define FD_EW_LINES(T, SFX, TYPE, ROW)                                                                             \
    static void FD_CAT(fd_elementwise_lines, SFX)(const fd_elementwise *e, char *const *at, ptrdiff_t n,           \
                                                  ptrdiff_t lines) {                                               \
        const int inner = e->ndim - 1, outputs = e->operands - 1;                                                  \
        T buffer[FD_EW_OPERANDS][FD_EW_BUFFER];                                                                    \
        double stored[FD_EW_BUFFER];                                                                               \
        const T *in[FD_EW_OPERANDS];                                                                               \
        ptrdiff_t step[FD_EW_OPERANDS], along[FD_EW_OPERANDS];                                                     \
        int adjacent[FD_EW_OPERANDS] = {0}, direct[FD_EW_OPERANDS], all = 1;                                       \
        for (int p = 0; p <= outputs; p++) {                                                                       \
            along[p] = e->stride[p][inner];                                                                        \
            step[p] = lines > 1 ? e->stride[p][inner - 1] : 0;                                                     \
            adjacent[p] = (along[p] == e->item[p] || n == 1) && (lines == 1 || step[p] == n * e->item[p]);         \
            direct[p] = e->type[p] == TYPE && adjacent[p];                                                         \
            all = all && direct[p];                                                                                \
        }                                                                                                          \
        const int streams = e->streams && adjacent[outputs];                                                       \
        if (streams) all = direct[outputs] = 0;                                                                    \
        const ptrdiff_t width = all ? n : fd_min(n, FD_EW_BUFFER), height = all ? lines : FD_EW_BUFFER / width;    \
        for (ptrdiff_t line = 0; line < lines; line += height)                                                     \
            for (ptrdiff_t i = 0; i < n; i += width) {                                                             \
                const ptrdiff_t rows = fd_min(height, lines - line), run = fd_min(width, n - i);                   \
                for (int p = 0; p < outputs; p++) {                                                                \
                    const char *from = at[p] + line * step[p] + i * along[p];                                      \
                    in[p] = direct[p] ? (const T *)from : buffer[p];                                               \
                    for (ptrdiff_t b = 0; streams && adjacent[p] && b < rows * run * e->item[p]; b += 64)          \
                        fd_stream_fetch(from + b);                                                                 \
                    for (ptrdiff_t j = 0; !direct[p] && j < rows; j++)                                             \
                        FD_CAT(fd_load, SFX)(e->type[p], from + j * step[p], along[p], buffer[p] + j * run, run);  \
                }                                                                                                  \
                char *to = at[outputs] + line * step[outputs] + i * along[outputs];                                \
                const T *result = in[0];                                                                           \
                if (e->ROW) {                                                                                      \
                    T *computed = direct[outputs] ? (T *)to : buffer[outputs];                                     \
                    e->ROW(in, computed, rows * run, e->parameters);                                               \
                    result = computed;                                                                             \
                }                                                                                                  \
                if (streams && e->type[outputs] == TYPE) {                                                         \
                    fd_stream_copy(to, (const char *)result, rows * run * (ptrdiff_t)sizeof(T));                   \
                } else if (streams) {                                                                              \
                    FD_CAT(fd_store, SFX)(e->type[outputs], result, (char *)stored, e->item[outputs], rows * run); \
                    fd_stream_copy(to, (const char *)stored, rows * run * e->item[outputs]);                       \
                } else if (!direct[outputs] || !e->ROW) {                                                          \
                    for (ptrdiff_t j = 0; j < rows; j++)                                                           \
                        FD_CAT(fd_store, SFX)(e->type[outputs], result + j * run, to + j * step[outputs],          \
                                              along[outputs], run);                                                \
                }                                                                                                  \
            }                                                                                                      \
    }
FD_EW_LINES(float, f32, FD_F32, row32)
FD_EW_LINES(double, f64, FD_F64, row64)

static int fd_elementwise_task(void *context, ptrdiff_t task) {
    const fd_elementwise *e = (const fd_elementwise *)context;
    ptrdiff_t first = task * FD_EW_TASK, last = fd_min(first + FD_EW_TASK, e->size);
    const int inner = e->ndim - 1;
    while (first < last) {
        ptrdiff_t rest = first, line = 0, lines = 1;
        char *at[FD_EW_OPERANDS];
        for (int p = 0; p < e->operands; p++) at[p] = e->data[p];
        for (int d = inner; d >= 0; d--) {
            const ptrdiff_t index = rest % e->shape[d];
            rest /= e->shape[d];
            if (d == inner - 1) line = index;
            for (int p = 0; p < e->operands; p++) at[p] += index * e->stride[p][d];
        }
        const ptrdiff_t run = fd_min(last - first, e->shape[inner] - first % e->shape[inner]);
        if (inner > 0 && run == e->shape[inner] && run <= FD_EW_BUFFER / 2)
            lines = fd_min((last - first) / run, e->shape[inner - 1] - line);
        if (e->wide) fd_elementwise_lines_f64(e, at, run, lines);
        else fd_elementwise_lines_f32(e, at, run, lines);
        first += run * lines;
    }
    if (e->streams) fd_stream_end();
    return FD_OK;
}

/* Runs the row function over everything. `ns` is the cost of one element in nanoseconds on one thread. */
static int fd_elementwise_run(fd_elementwise *e, int threads, double ns) {
    if (e->size == 0) return FD_OK;
    return rt->parallel_for(fd_elementwise_task, e, fd_ceil_div(e->size, FD_EW_TASK), threads, ns * (double)e->size);
}

#endif
