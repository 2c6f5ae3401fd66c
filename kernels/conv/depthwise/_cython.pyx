"""Compiled depthwise convolution; the contract is kernels/conv, the drawing is this folder's docstring."""

include "kernel.pxi"

from fastdl.kernels.conv.depthwise.plan import plan

cdef extern from "depthwise_call.h":
    ctypedef struct depthwise_call:
        fd_tensor x
        fd_tensor w
        fd_tensor out
        const fd_tensor *mask
        ptrdiff_t stride[2]
        ptrdiff_t dilation[2]
        ptrdiff_t pad[2]
        ptrdiff_t rows
        ptrdiff_t columns
        ptrdiff_t channels
        ptrdiff_t slices
        ptrdiff_t lines
        int gradient
        int relu
    int depthwise_gather_start(depthwise_call *g, const fd_tensor *bias, int threads) nogil
    int depthwise_weight_start(depthwise_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _start(depthwise_call *g, problem, source, w, out) except -1:
    """Fills what all directions share."""
    fd_tensor_of(source, &g.x)
    fd_tensor_of(w, &g.w)
    fd_tensor_of(out, &g.out)
    g.mask = NULL
    g.stride[0], g.stride[1] = problem.stride
    g.dilation[0], g.dilation[1] = problem.dilation
    g.pad[0], g.pad[1] = problem.pads[0], problem.pads[2]
    g.rows, g.columns, g.channels, g.slices, g.lines = plan(problem, ISA)
    g.gradient = problem.direction == "backward_input"
    g.relu = problem.epilogue == "bias_relu"
    return 0


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b)."""
    cdef depthwise_call g
    cdef fd_tensor bias
    cdef const fd_tensor *bias_or_null
    cdef int status
    _start(&g, problem, x, w, out)
    bias_or_null = optional(b, &bias)
    with nogil:
        status = depthwise_gather_start(&g, bias_or_null, threads)
    finish(status)


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    cdef depthwise_call g
    cdef fd_tensor mask
    cdef int status
    _start(&g, problem, dout, w, dx)
    g.mask = optional(y, &mask)
    with nogil:
        status = depthwise_gather_start(&g, NULL, threads)
    finish(status)


def conv2d_backward_weight(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout."""
    cdef depthwise_call g
    cdef int status
    _start(&g, problem, x, dw, dout)
    with nogil:
        status = depthwise_weight_start(&g, threads)
    finish(status)
