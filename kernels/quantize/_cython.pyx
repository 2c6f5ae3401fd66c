"""Compiled quantize and dequantize; the contract is the folder's docstring, the loops are those of elementwise.h."""

include "kernel.pxi"

cdef extern from "quantize.h":
    int quantize_run(const fd_tensor *x, const fd_tensor *out, float scale, int zero, int back, int threads) nogil


cdef int _run(x, scale, zero, out, bint back, int threads) except -1:
    cdef fd_tensor x_tensor, out_tensor
    cdef float factor = scale[0]
    cdef int byte = zero[0], status
    fd_tensor_of(x, &x_tensor)
    fd_tensor_of(out, &out_tensor)
    with nogil:
        status = quantize_run(&x_tensor, &out_tensor, factor, byte, back, threads)
    return finish(status)


def quantize_forward(problem, x, scale, zero, out, int threads):
    """out = the bytes of x."""
    _run(x, scale, zero, out, False, threads)


def dequantize_forward(problem, x, scale, zero, out, int threads):
    """out = what the bytes x stand for."""
    _run(x, scale, zero, out, True, threads)
