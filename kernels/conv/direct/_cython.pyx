"""Compiled direct convolution; the contract is kernels/conv's docstring, the algorithm this folder's."""

include "kernel.pxi"

from fastdl.kernels.conv.direct.plan import plan

cdef extern from "direct_call.h":
    ctypedef struct direct_axis:
        ptrdiff_t start
        ptrdiff_t step
        ptrdiff_t count
        ptrdiff_t scale
        ptrdiff_t taps
        ptrdiff_t tap
        ptrdiff_t tap_step
        ptrdiff_t offset
    ctypedef struct direct_call:
        fd_tensor source
        fd_tensor weight
        fd_tensor out
        const fd_tensor *mask
        int relu
        int row_classes
        int column_classes
        direct_axis rows[8]
        direct_axis columns[8]
        ptrdiff_t groups
        ptrdiff_t reduce
        ptrdiff_t produce
        ptrdiff_t w_group
        ptrdiff_t w_reduce
        ptrdiff_t w_produce
        ptrdiff_t cb
        ptrdiff_t images
        ptrdiff_t height
        ptrdiff_t width
        ptrdiff_t panel_step
        ptrdiff_t channel_step
        ptrdiff_t slices
    int direct_gather_start(direct_call *g, const fd_tensor *bias, int threads) nogil
    int direct_weight_start(direct_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _axes(direct_axis *to, axes) except -1:
    """Fills the classes of positions along one axis; returns how many there are."""
    cdef int i = 0
    for axis in axes:
        taps, offsets = axis.taps, axis.offsets
        to[i].start, to[i].step, to[i].count, to[i].scale = axis.start, axis.step, axis.length, axis.scale
        to[i].taps = len(taps)
        to[i].tap = taps[0] if taps else 0
        to[i].tap_step = taps[1] - taps[0] if len(taps) > 1 else 0
        to[i].offset = offsets[0] if taps else 0
        i += 1
    return i


cdef int _start(direct_call *g, problem, source, weight, out) except -1:
    """Fills what all three directions share."""
    cdef ptrdiff_t k
    chosen = plan(problem, ISA)
    fd_tensor_of(source, &g.source)
    fd_tensor_of(weight, &g.weight)
    fd_tensor_of(out, &g.out)
    g.row_classes = _axes(g.rows, chosen.rows)
    g.column_classes = _axes(g.columns, chosen.columns)
    g.images, g.height, g.width = chosen.chunk
    g.cb = chosen.cb
    g.panel_step, g.channel_step, g.slices = chosen.panel_step, chosen.channel_step, chosen.slices
    g.groups = problem.groups
    g.relu = problem.epilogue == "bias_relu"
    g.mask = NULL
    # Seen from the pass: forward sums over c and produces k, backward_input the other way round.
    k = g.weight.shape[0] // g.groups
    g.w_group = k * g.weight.stride[0]
    if problem.direction == "backward_input":
        g.reduce, g.produce = k, g.weight.shape[1]
        g.w_reduce, g.w_produce = g.weight.stride[0], g.weight.stride[1]
    else:
        g.reduce, g.produce = g.weight.shape[1], k
        g.w_reduce, g.w_produce = g.weight.stride[1], g.weight.stride[0]
    return 0


cdef int _gather(problem, source, w, bias, mask, out, int threads) except -1:
    """forward and backward_input: the same loops over other axes."""
    cdef direct_call g
    cdef fd_tensor bias_tensor, mask_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    _start(&g, problem, source, w, out)
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
    _start(&g, problem, x, dw, dout)
    with nogil:
        status = direct_weight_start(&g, threads)
    finish(status)
