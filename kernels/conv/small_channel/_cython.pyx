"""Compiled small-channel convolution; the contract is kernels/conv, the drawing is this folder's docstring."""

include "kernel.pxi"

from fastdl.kernels.conv.small_channel.plan import plan

cdef extern from "small_call.h":
    ctypedef struct small_call:
        fd_tensor x
        fd_tensor w
        fd_tensor out
        const fd_tensor *mask
        ptrdiff_t stride_h
        ptrdiff_t stride_w
        ptrdiff_t dilation_h
        ptrdiff_t dilation_w
        ptrdiff_t top
        ptrdiff_t left
        ptrdiff_t rows
        ptrdiff_t columns
        ptrdiff_t slices
        int relu
    int small_forward_start(small_call *g, const fd_tensor *bias, int threads) nogil
    int small_input_start(small_call *g, int threads) nogil
    int small_weight_start(small_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _start(small_call *g, problem, x, w, out) except -1:
    """Fills what all directions share; x, w and out by their role in the forward pass."""
    fd_tensor_of(x, &g.x)
    fd_tensor_of(w, &g.w)
    fd_tensor_of(out, &g.out)
    g.stride_h, g.stride_w = problem.stride
    g.dilation_h, g.dilation_w = problem.dilation
    g.top, g.left = problem.pads[0], problem.pads[2]
    g.rows, g.columns, g.slices = plan(problem, ISA)
    g.mask = NULL
    g.relu = problem.epilogue == "bias_relu"
    return 0


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b)."""
    cdef small_call g
    cdef fd_tensor bias
    cdef const fd_tensor *bias_or_null
    cdef int status
    _start(&g, problem, x, w, out)
    bias_or_null = optional(b, &bias)
    with nogil:
        status = small_forward_start(&g, bias_or_null, threads)
    finish(status)


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    cdef small_call g
    cdef fd_tensor mask
    cdef int status
    _start(&g, problem, dx, w, dout)
    g.mask = optional(y, &mask)
    with nogil:
        status = small_input_start(&g, threads)
    finish(status)


def conv2d_backward_weight(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout."""
    cdef small_call g
    cdef int status
    _start(&g, problem, x, dw, dout)
    with nogil:
        status = small_weight_start(&g, threads)
    finish(status)
