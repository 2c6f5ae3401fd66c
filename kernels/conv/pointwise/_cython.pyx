"""Compiled 1x1 convolution; the contract is kernels/conv's docstring, the algorithm this folder's."""

include "kernel.pxi"

from fastdl.kernels.conv.pointwise.plan import plan

cdef extern from "pointwise_call.h":
    ctypedef struct pointwise_call:
        fd_tensor source
        fd_tensor weight
        fd_tensor out
        const fd_tensor *mask
        int relu
        ptrdiff_t reduce
        ptrdiff_t produce
        ptrdiff_t w_reduce
        ptrdiff_t w_produce
        ptrdiff_t pixels
        ptrdiff_t block
        ptrdiff_t slices
        ptrdiff_t panel_step
    int pointwise_start(pointwise_call *g, const fd_tensor *bias, int threads) nogil
    int pointwise_weight_start(pointwise_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _start(pointwise_call *g, problem, source, weight, out) except -1:
    """Fills what all three directions share."""
    fd_tensor_of(source, &g.source)
    fd_tensor_of(weight, &g.weight)
    fd_tensor_of(out, &g.out)
    g.block, g.panel_step, g.slices = plan(problem, ISA)
    g.pixels = g.source.shape[0] * g.source.shape[2] * g.source.shape[3]
    g.relu = problem.epilogue == "bias_relu"
    g.mask = NULL
    # Seen from the pass: forward sums over c and produces k, backward_input the other way round.
    cdef int reduced = 0 if problem.direction == "backward_input" else 1
    g.reduce, g.produce = g.weight.shape[reduced], g.weight.shape[1 - reduced]
    g.w_reduce, g.w_produce = g.weight.stride[reduced], g.weight.stride[1 - reduced]
    return 0


cdef int _product(problem, source, w, bias, mask, out, int threads) except -1:
    """forward and backward_input: the same loops with the weight's axes exchanged."""
    cdef pointwise_call g
    cdef fd_tensor bias_tensor, mask_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    _start(&g, problem, source, w, out)
    bias_or_null = optional(bias, &bias_tensor)
    g.mask = optional(mask, &mask_tensor)
    with nogil:
        status = pointwise_start(&g, bias_or_null, threads)
    return finish(status)


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(x times w, + b)."""
    _product(problem, x, w, b, None, out, threads)


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = dout times the transposed w; 0 where y <= 0."""
    _product(problem, dout, w, None, y, dx, threads)


def conv2d_backward_weight(problem, dout, x, dw, int threads):
    """dw = the transposed x times dout."""
    cdef pointwise_call g
    cdef int status
    _start(&g, problem, x, dw, dout)
    with nogil:
        status = pointwise_weight_start(&g, threads)
    finish(status)
