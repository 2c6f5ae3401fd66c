"""The thread pool, the arena, pooled output memory and what the CPU can do: one of each for the whole process."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t

cimport numpy as cnp

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    enum: NPY_HALF, NPY_USERDEF
    ctypedef struct descr "PyArray_Descr":
        char kind
        char type
    descr *PyArray_DESCR(cnp.ndarray a)

cdef extern from "pool.h":
    enum: FD_F32, FD_F64, FD_F16, FD_BF16, FD_E4M3, FD_E5M2, FD_U8, FD_I32, FD_I64, FD_U64, FD_I8, FD_I16, FD_U16, FD_U32
    enum: FD_OTHER
    enum: FD_MAX_DIMS
    const char *FD_CAPSULE
    ctypedef struct fd_tensor:
        char *data
        int ndim
        int type
        ptrdiff_t itemsize
        ptrdiff_t size
        ptrdiff_t shape[16]
        ptrdiff_t stride[16]
    ctypedef struct fd_runtime:
        void *parallel_for
        void *push
        void *mark
        void *release
        int (*tensor)(object, fd_tensor *) except -1
    void *fd_parallel_for
    void *fd_push
    void *fd_mark
    void *fd_release
    int fd_pool_init()
    int fd_cpu_level()
    int fd_cpu_has(const char *feature)
    size_t fd_in_use, fd_peak, fd_reserved

cdef extern from *:
    """
    #if defined(__clang__)
    #define FD_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define FD_COMPILER "GCC " __VERSION__
    #else
    #define FD_COMPILER "unknown"
    #endif
    #ifdef FD_NO_THREADS
    #define FD_THREADING "none"
    #else
    #define FD_THREADING "pthreads"
    #endif
    #define FD_ADDRESS(function) ((void *)(function))
    """
    const char *FD_COMPILER
    const char *FD_THREADING
    void *FD_ADDRESS(void *function)


cdef int _type(cnp.ndarray a) noexcept:
    cdef int num = cnp.PyArray_TYPE(a)
    cdef ptrdiff_t itemsize = cnp.PyArray_ITEMSIZE(a)
    if num == cnp.NPY_FLOAT:
        return FD_F32
    if num == cnp.NPY_DOUBLE:
        return FD_F64
    if num == NPY_HALF:
        return FD_F16
    if num == cnp.NPY_BOOL or num == cnp.NPY_UBYTE:
        return FD_U8
    if PyArray_DESCR(a).kind == c"i":
        return FD_I8 if itemsize == 1 else FD_I16 if itemsize == 2 else FD_I32 if itemsize == 4 else FD_I64
    if PyArray_DESCR(a).kind == c"u":
        return FD_U16 if itemsize == 2 else FD_U32 if itemsize == 4 else FD_U64
    if num >= NPY_USERDEF:  # ml_dtypes registers its dtypes with these characters
        if itemsize == 2 and PyArray_DESCR(a).type == c"E":
            return FD_BF16
        if itemsize == 1 and PyArray_DESCR(a).type == c"4":
            return FD_E4M3
        if itemsize == 1 and PyArray_DESCR(a).type == c"5":
            return FD_E5M2
    return FD_OTHER


cdef int _tensor(object array, fd_tensor *out) except -1:
    if not isinstance(array, cnp.ndarray):
        raise TypeError(f"a kernel takes NumPy arrays, not {type(array).__name__}")
    cdef cnp.ndarray a = array
    cdef int i, ndim = cnp.PyArray_NDIM(a)
    if ndim > FD_MAX_DIMS:
        raise ValueError(f"arrays of at most {FD_MAX_DIMS} dimensions, not {ndim}")
    out.data = <char *>cnp.PyArray_DATA(a)
    out.ndim = ndim
    out.type = _type(a)
    out.itemsize = cnp.PyArray_ITEMSIZE(a)
    out.size = cnp.PyArray_SIZE(a)
    for i in range(ndim):
        out.shape[i] = cnp.PyArray_DIMS(a)[i]
        out.stride[i] = cnp.PyArray_STRIDES(a)[i]
    return 0


cdef fd_runtime _functions
_functions.parallel_for = FD_ADDRESS(fd_parallel_for)
_functions.push = FD_ADDRESS(fd_push)
_functions.mark = FD_ADDRESS(fd_mark)
_functions.release = FD_ADDRESS(fd_release)
_functions.tensor = _tensor
if fd_pool_init() != 0:
    raise ImportError("the system gives this process no thread-local storage key")
_api = PyCapsule_New(&_functions, FD_CAPSULE, NULL)


def cpu_level():
    """The highest member of ``registry.LEVELS`` that this CPU and operating system support."""
    return ("baseline", "v3", "v4")[fd_cpu_level()]


def cpu_has(feature):
    """Whether this CPU has a feature that ``registry.FEATURES`` names."""
    return fd_cpu_has(feature.encode()) != 0


def build_info():
    """Compiler and threading that the extensions were built with."""
    return {"compiler": FD_COMPILER.decode(), "threading": FD_THREADING.decode()}


def arena_peak(reset=False):
    """The most scratch bytes in use at once, by all threads together, since the start or the last reset."""
    global fd_peak
    cdef size_t peak = fd_peak
    if reset:
        fd_peak = fd_in_use
    return peak


def arena_reserved():
    """Bytes that the arenas of all threads keep for the next call."""
    return fd_reserved


# Output memory. A block goes back to the pool when the last array that views it is gone, never before, so two
# results never share memory. Fresh pages cost more than most layers (a page fault each 4 KiB): reuse is what
# makes a second training step faster than the first. Kept blocks and live ones together stay within 1.5 times the
# program's own peak: a training step's arrays come in a few sizes whose peaks differ in time, and with 1.0 times
# DeepConvNet's (30 MB) took 25 MB of fresh memory in every step, a tenth of its time; with 1.4 times it takes none.

cdef dict _free_blocks = {}  # size -> list of addresses, most recently used last
cdef size_t _cached = 0
cdef size_t _live = 0
cdef size_t _live_peak = 0
cdef size_t _fresh = 0


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **pointer, size_t alignment, size_t size)
    void free(void *)


cdef class Block:
    """Writable memory behind one output array, 64-byte aligned."""

    cdef void *data
    cdef size_t size

    def __cinit__(self, size_t nbytes):
        global _cached, _live, _live_peak, _fresh
        cdef list blocks
        self.size = (nbytes + 4095) // 4096 * 4096
        blocks = _free_blocks.get(self.size)
        if not blocks and _full(self.size):  # rather one that is up to twice as large than fresh memory
            larger = [size for size in _free_blocks if self.size <= size <= 2 * self.size and _free_blocks[size]]
            if larger:
                self.size = min(larger)
                blocks = _free_blocks[self.size]
        if blocks:
            self.data = <void *><uintptr_t>blocks.pop()
            _cached -= self.size
        else:
            while _free_blocks and _full(self.size):
                _evict()
            if posix_memalign(&self.data, 64, self.size) != 0:
                self.data = NULL
                trim_pool()
                if posix_memalign(&self.data, 64, self.size) != 0:
                    self.data = NULL
                    raise MemoryError(f"no memory for an array of {nbytes} bytes")
            _fresh += self.size
        _live += self.size
        _live_peak = max(_live_peak, _live)

    def __dealloc__(self):
        global _cached, _live
        if self.data == NULL:
            return
        _live -= self.size
        try:
            _free_blocks.setdefault(self.size, []).append(<uintptr_t>self.data)
            _cached += self.size
        except MemoryError:
            free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)


cdef bint _full(size_t more):
    """Whether a fresh block of ``more`` bytes would be too much, with what is kept."""
    return _cached + _live + more > max(_live_peak, _live + more) // 2 * 3


cdef void _evict():
    """Frees one block of the size that was put away first."""
    global _cached
    cdef size_t size = next(iter(_free_blocks))
    cdef list blocks = _free_blocks[size]
    if blocks:
        free(<void *><uintptr_t>blocks.pop())
        _cached -= size
    if not blocks:
        del _free_blocks[size]


def trim_pool():
    """Gives unused output memory back to the system; returns the number of bytes."""
    cdef size_t before = _cached
    while _free_blocks:
        _evict()
    return before


def pool_stats():
    """Bytes in live output blocks, kept for reuse, the peak of the former, and all that was ever fresh memory."""
    return {"live": _live, "cached": _cached, "peak": _live_peak, "fresh": _fresh}
