"""Compiled Winograd convolution: arguments of winograd_gather.h and winograd_weight.h."""

include "kernel.pxi"

from fastdl.kernels.conv.winograd.plan import VARIANTS, plan

cdef extern from "winograd_call.h":
    ctypedef struct winograd_call:
        fd_tensor source
        fd_tensor weight
        fd_tensor out
        const fd_tensor *mask
        const fd_tensor *pooled
        const fd_tensor *indices
        int relu
        int flip
        int variant
        ptrdiff_t m
        ptrdiff_t r
        ptrdiff_t n
        ptrdiff_t top
        ptrdiff_t left
        ptrdiff_t down
        ptrdiff_t across
        ptrdiff_t batch
        ptrdiff_t groups
        ptrdiff_t reduce
        ptrdiff_t produce
        ptrdiff_t w_group
        ptrdiff_t w_reduce
        ptrdiff_t w_produce
        ptrdiff_t block
        ptrdiff_t panel_block
        ptrdiff_t kc
        ptrdiff_t slices
    int winograd_gather_start(winograd_call *g, const fd_tensor *bias, int threads) nogil
    int winograd_weight_start(winograd_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _start(winograd_call *g, int variant, problem, source, weight, out) except -1:
    """Fills what all three directions share."""
    cdef ptrdiff_t k
    fd_tensor_of(source, &g.source)
    fd_tensor_of(weight, &g.weight)
    fd_tensor_of(out, &g.out)
    chosen = plan(problem, ISA, variant)
    g.down, g.across, g.block, g.panel_block, g.kc, g.slices = chosen
    g.variant = variant
    g.m, g.r = VARIANTS[variant]
    g.n = g.m + g.r - 1
    g.top, g.left = problem.pads[0], problem.pads[2]
    g.mask = g.pooled = g.indices = NULL
    g.relu = problem.epilogue == "bias_relu"
    g.flip = problem.direction == "backward_input"
    g.batch, g.groups = g.source.shape[0], problem.groups
    k = g.weight.shape[0] // g.groups
    g.w_group = k * g.weight.stride[0]
    if g.flip:  # seen from this pass, k is summed over, c comes out, and the padding is what the filter reaches beyond
        g.top, g.left = g.r - 1 - g.top, g.r - 1 - g.left
        g.reduce, g.produce = k, g.weight.shape[1]
        g.w_reduce, g.w_produce = g.weight.stride[0], g.weight.stride[1]
    else:
        g.reduce, g.produce = g.weight.shape[1], k
        g.w_reduce, g.w_produce = g.weight.stride[1], g.weight.stride[0]
    return 0


cdef int _forward(int variant, problem, x, w, b, out, int threads) except -1:
    cdef winograd_call g
    cdef fd_tensor bias
    cdef const fd_tensor *bias_or_null
    cdef int status
    _start(&g, variant, problem, x, w, out)
    bias_or_null = optional(b, &bias)
    with nogil:
        status = winograd_gather_start(&g, bias_or_null, threads)
    return finish(status)


cdef int _forward_pooled(int variant, problem, x, w, b, out, pooled, indices, int threads) except -1:
    cdef winograd_call g
    cdef fd_tensor bias, largest, taps
    cdef int status
    _start(&g, variant, problem, x, w, pooled if out is None else out)
    if out is None:
        g.out.data = NULL
        g.out.shape[2], g.out.shape[3] = problem.grid()
    g.pooled = optional(pooled, &largest)
    g.indices = optional(indices, &taps)
    fd_tensor_of(b, &bias)
    with nogil:
        status = winograd_gather_start(&g, &bias, threads)
    return finish(status)


cdef int _backward_input(int variant, problem, dout, w, y, dx, int threads) except -1:
    cdef winograd_call g
    cdef fd_tensor mask
    cdef int status
    _start(&g, variant, problem, dout, w, dx)
    g.mask = optional(y, &mask)
    with nogil:
        status = winograd_gather_start(&g, NULL, threads)
    return finish(status)


cdef int _backward_weight(int variant, problem, dout, x, dw, int threads) except -1:
    cdef winograd_call g
    cdef int status
    _start(&g, variant, problem, x, dw, dout)
    with nogil:
        status = winograd_weight_start(&g, threads)
    return finish(status)


def conv2d_forward_4x4_3x3(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b) by F(4x4, 3x3)."""
    _forward(0, problem, x, w, b, out, threads)


def conv2d_forward_2x2_3x3(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b) by F(2x2, 3x3)."""
    _forward(1, problem, x, w, b, out, threads)


def conv2d_forward_2x2_5x5(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b) by F(2x2, 5x5)."""
    _forward(2, problem, x, w, b, out, threads)


def conv2d_forward_pooled_4x4_3x3(problem, x, w, b, out, pooled, indices, int threads):
    """out = relu(correlation of x with w, + b) by F(4x4, 3x3), and the largest of its 2x2 windows."""
    _forward_pooled(0, problem, x, w, b, out, pooled, indices, threads)


def conv2d_forward_pooled_2x2_3x3(problem, x, w, b, out, pooled, indices, int threads):
    """out = relu(correlation of x with w, + b) by F(2x2, 3x3), and the largest of its 2x2 windows."""
    _forward_pooled(1, problem, x, w, b, out, pooled, indices, threads)


def conv2d_forward_pooled_2x2_5x5(problem, x, w, b, out, pooled, indices, int threads):
    """out = relu(correlation of x with w, + b) by F(2x2, 5x5), and the largest of its 2x2 windows."""
    _forward_pooled(2, problem, x, w, b, out, pooled, indices, threads)


def conv2d_backward_input_4x4_3x3(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout, by F(4x4, 3x3); 0 where y <= 0."""
    _backward_input(0, problem, dout, w, y, dx, threads)


def conv2d_backward_input_2x2_3x3(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout, by F(2x2, 3x3); 0 where y <= 0."""
    _backward_input(1, problem, dout, w, y, dx, threads)


def conv2d_backward_input_2x2_5x5(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout, by F(2x2, 5x5); 0 where y <= 0."""
    _backward_input(2, problem, dout, w, y, dx, threads)


def conv2d_backward_weight_4x4_3x3(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout by F(3x3, 4x4)."""
    _backward_weight(0, problem, dout, x, dw, threads)


def conv2d_backward_weight_2x2_3x3(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout by F(3x3, 2x2)."""
    _backward_weight(1, problem, dout, x, dw, threads)


def conv2d_backward_weight_2x2_5x5(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout by F(5x5, 2x2)."""
    _backward_weight(2, problem, dout, x, dw, threads)
