"""Compiled add and concat; the contract is the folder's docstring, the loops are in add.h and concat.h."""

include "kernel.pxi"

cdef extern from "add.h":
    int add_run(const fd_tensor *a, const fd_tensor *b, const fd_tensor *out, int threads) nogil

cdef extern from "concat.h":
    ctypedef struct concat_part:
        pass
    ctypedef struct concat_call:
        pass
    void concat_init(concat_call *c, const fd_tensor *out, int axis, concat_part *parts)
    void concat_add(concat_call *c, const fd_tensor *a)
    int concat_run(concat_call *c, int threads) nogil

cdef extern from *:
    """
    #define concat_push(bytes) rt->push(bytes)
    #define concat_mark() rt->mark()
    #define concat_release(mark) rt->release(mark)
    """
    void *concat_push(size_t bytes)
    size_t concat_mark()
    void concat_release(size_t mark)


def add_forward(problem, a, b, out, int threads):
    """out = a + b."""
    cdef fd_tensor a_tensor, b_tensor, out_tensor
    cdef int status
    fd_tensor_of(a, &a_tensor)
    fd_tensor_of(b, &b_tensor)
    fd_tensor_of(out, &out_tensor)
    with nogil:
        status = add_run(&a_tensor, &b_tensor, &out_tensor, threads)
    finish(status)


def concat_forward(problem, arrays, out, int threads):
    """The arrays one after the other along ``axis``."""
    cdef concat_call c
    cdef concat_part *parts
    cdef fd_tensor tensor
    cdef size_t mark = concat_mark()
    cdef int status
    parts = <concat_part *>concat_push(len(arrays) * sizeof(concat_part))
    if parts == NULL:
        raise MemoryError(f"no memory for the table of {len(arrays)} arrays")
    try:
        fd_tensor_of(out, &tensor)
        concat_init(&c, &tensor, problem.attr("axis"), parts)
        for a in arrays:
            fd_tensor_of(a, &tensor)
            concat_add(&c, &tensor)
        with nogil:
            status = concat_run(&c, threads)
    finally:
        concat_release(mark)
    finish(status)
