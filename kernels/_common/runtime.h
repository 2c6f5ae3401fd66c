/* What every compiled kernel gets from fastdl.kernels._common._runtime: one way to run in parallel, one way to get
 * scratch memory, one way to look into a NumPy array. The functions live in the _runtime extension; the others reach
 * them through a capsule, so that the whole process has a single thread pool and a single arena. */
#ifndef FASTDL_RUNTIME_H
#define FASTDL_RUNTIME_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FD_MAX_DIMS 16

/* Element types, as fd_tensor.type. FD_TF32 is a float32 that is rounded to TF32 when it is read: no array has it, a kernel
 * may say it of one. */
enum { FD_F32, FD_F64, FD_F16, FD_BF16, FD_E4M3, FD_E5M2, FD_U8, FD_I32, FD_I64, FD_U64, FD_I8, FD_I16, FD_U16, FD_U32,
       FD_TF32, FD_OTHER };

typedef struct {
    char *data;
    int ndim;
    int type;
    ptrdiff_t itemsize;
    ptrdiff_t size;                /* number of elements */
    ptrdiff_t shape[FD_MAX_DIMS];
    ptrdiff_t stride[FD_MAX_DIMS]; /* in bytes */
} fd_tensor;

enum { FD_OK = 0, FD_NO_MEMORY = 1 };

/* One unit of work; returns FD_OK or FD_NO_MEMORY. Whatever it pushed on the arena is popped when it returns. */
typedef int (*fd_task)(void *context, ptrdiff_t index);

typedef struct {
    /* Runs task(context, i) for i in 0..tasks-1 on at most `threads` threads, in no particular order: what a task
     * computes must not depend on the others. `work` is the total in rough nanoseconds of one thread; small totals
     * stay on the calling thread. Returns the first failure, or FD_OK. */
    int (*parallel_for)(fd_task task, void *context, ptrdiff_t tasks, int threads, double work);
    /* The arena: a stack for each thread, 64-byte aligned, kept between calls. push returns NULL when out of memory. */
    void *(*push)(size_t bytes);
    size_t (*mark)(void);
    void (*release)(size_t mark);
    /* Fills a tensor from an ndarray; returns -1 with a Python exception for anything else. */
    int (*tensor)(PyObject *array, fd_tensor *out);
} fd_runtime;

#define FD_CAPSULE "fastdl.kernels._common._runtime._api"

#ifndef FD_RUNTIME_OWNER
static const fd_runtime *rt;

/* Called once by each extension when it is imported. */
static inline int fd_use_runtime(PyObject *capsule) {
    rt = (const fd_runtime *)PyCapsule_GetPointer(capsule, FD_CAPSULE);
    return rt ? 0 : -1;
}

static inline int fd_tensor_of(PyObject *array, fd_tensor *out) { return rt->tensor(array, out); }
#endif

static inline ptrdiff_t fd_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t fd_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t fd_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
static inline ptrdiff_t fd_round_up(ptrdiff_t a, ptrdiff_t b) { return fd_ceil_div(a, b) * b; }

#define FD_CAT_(a, b) a##_##b
#define FD_CAT(a, b) FD_CAT_(a, b)

#endif
