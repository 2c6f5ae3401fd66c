"""Compiled cast; the contract is the folder's docstring, the loops are those of elementwise.h."""

include "kernel.pxi"

cdef extern from "cast.h":
    int cast_run(const fd_tensor *x, const fd_tensor *out, int threads) nogil


def cast_forward(problem, x, out, int threads):
    """out = x in the dtype of out, rounded to nearest even once."""
    cdef fd_tensor x_tensor, out_tensor
    cdef int status
    fd_tensor_of(x, &x_tensor)
    fd_tensor_of(out, &out_tensor)
    with nogil:
        status = cast_run(&x_tensor, &out_tensor, threads)
    finish(status)
