"""Compiled direct convolution; the contract is kernels/conv's docstring, the algorithm this folder's."""

include "kernel.pxi"

from fastdl.kernels.conv.direct.plan import plan

include "chunks.pxi"

cdef extern from "direct_call.h":
    int direct_gather_start(direct_call *g, const fd_tensor *bias, int threads) nogil
    int direct_weight_start(direct_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _gather(problem, source, w, bias, mask, out, int threads) except -1:
    """forward and backward_input: the same loops over other axes."""
    cdef direct_call g
    cdef fd_tensor bias_tensor, mask_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    chunk_call(&g, problem, plan(problem, ISA), source, w, out)
    bias_or_null = optional(bias, &bias_tensor)
    g.mask = optional(mask, &mask_tensor)
    with nogil:
        status = direct_gather_start(&g, bias_or_null, threads)
    return finish(status)


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b)."""
    _gather(problem, x, w, b, None, out, threads)


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    _gather(problem, dout, w, None, y, dx, threads)


def conv2d_backward_weight(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout."""
    cdef direct_call g
    cdef int status
    chunk_call(&g, problem, plan(problem, ISA), x, dw, dout)
    with nogil:
        status = direct_weight_start(&g, threads)
    finish(status)
