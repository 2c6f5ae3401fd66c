/* Gradients times 1 / scale, in place, and whether one of them was infinite or NaN: the element-wise engine over a list
 * of arrays, whose tasks are numbered through all arrays. */
#ifndef FASTDL_UNSCALE_H
#define FASTDL_UNSCALE_H
#include "elementwise.h"

typedef struct {
    fd_elementwise e;
    ptrdiff_t end; /* number of the task behind the last one of this array */
} unscale_array;

_Static_assert(sizeof(unscale_array) <= 1024, "the workspace of a step counts 1024 bytes for each array");

typedef struct {
    double by; /* 1 / scale */
    int32_t *overflow;
    ptrdiff_t count; /* of arrays that have elements */
    double work;     /* in nanoseconds */
    unscale_array *arrays;
} unscale_call;

/* Tasks may do this at the same time: all of them store the same. */
static inline void unscale_found(const unscale_call *c) { __atomic_store_n(c->overflow, 1, __ATOMIC_RELAXED); }

#define UNSCALE_ROW(name, T, Word, EXPONENT, product)                                              \
    static void name(const T *const *in, T *out, ptrdiff_t n, const void *parameters) {           \
        const unscale_call *c = (const unscale_call *)parameters;                                 \
        const T *g = in[0], by = (T)c->by;                                                        \
        Word found = 0;                                                                           \
        FD_EW_LOOP                                                                                \
        for (ptrdiff_t i = 0; i < n; i++) {                                                       \
            union { T v; Word u; } x = {g[i]};                                                    \
            found |= (x.u & EXPONENT) == EXPONENT;                                                \
            out[i] = product;                                                                     \
        }                                                                                         \
        if (found) unscale_found(c);                                                              \
    }
UNSCALE_ROW(unscale_f32, float, uint32_t, 0x7f800000u, x.v * by)
UNSCALE_ROW(unscale_f64, double, uint64_t, 0x7ff0000000000000u, x.v * by)
/* A half has 11 bits at most: the product is exact in double, and its rounding to a half the only one. */
UNSCALE_ROW(unscale_half, float, uint32_t, 0x7f800000u, fd_f64_to_f32_odd((double)x.v * (double)by))
#undef UNSCALE_ROW

/* Appends one gradient. */
static void unscale_add(unscale_call *c, const fd_tensor *g) {
    if (g->size == 0) return;
    unscale_array *a = &c->arrays[c->count];
    const fd_tensor *operands[2] = {g, g};
    fd_elementwise_init(&a->e, operands, 2);
    a->e.row32 = g->type == FD_F32 ? unscale_f32 : unscale_half;
    a->e.row64 = unscale_f64;
    a->e.parameters = c;
    a->end = fd_ceil_div(g->size, FD_EW_TASK) + (c->count ? a[-1].end : 0);
    c->work += (g->itemsize == 2 ? 0.6 : 0.2) * (double)g->size;
    c->count++;
}

static int unscale_task(void *context, ptrdiff_t task) {
    const unscale_call *c = (const unscale_call *)context;
    ptrdiff_t low = 0, high = c->count - 1;
    while (low < high) { /* the first array that ends behind the task */
        const ptrdiff_t middle = (low + high) / 2;
        if (c->arrays[middle].end > task) high = middle;
        else low = middle + 1;
    }
    return fd_elementwise_task(&c->arrays[low].e, task - (low ? c->arrays[low - 1].end : 0));
}

static int unscale_run(unscale_call *c, int threads) {
    *c->overflow = 0;
    if (c->count == 0) return FD_OK;
    return rt->parallel_for(unscale_task, c, c->arrays[c->count - 1].end, threads, c->work);
}
#endif
