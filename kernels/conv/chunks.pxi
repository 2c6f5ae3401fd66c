# Arguments of convolutions that work on chunks of output positions: those of chunks.h, filled.
cdef extern from "chunks.h":
    ctypedef struct direct_axis:
        ptrdiff_t start
        ptrdiff_t step
        ptrdiff_t count
        ptrdiff_t scale
        ptrdiff_t taps
        ptrdiff_t tap
        ptrdiff_t tap_step
        ptrdiff_t offset
        ptrdiff_t gap
    ctypedef struct direct_call:
        fd_tensor source
        fd_tensor weight
        fd_tensor out
        const fd_tensor *mask
        const void *bias
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

cdef int chunk_axes(direct_axis *to, axes) except -1:
    """Fills the classes of positions along one axis; returns how many there are."""
    cdef int i = 0
    for axis in axes:
        taps, offsets = axis.taps, axis.offsets
        to[i].start, to[i].step, to[i].count, to[i].scale = axis.start, axis.step, axis.length, axis.scale
        to[i].taps = len(taps)
        to[i].tap = taps[0] if taps else 0
        to[i].tap_step = taps[1] - taps[0] if len(taps) > 1 else 0
        to[i].offset = offsets[0] if taps else 0
        to[i].gap = offsets[1] - offsets[0] if len(taps) > 1 else 1
        i += 1
    return i


cdef int chunk_call(direct_call *g, problem, chosen, source, weight, out) except -1:
    """Fills what all directions share, from ``direct.plan.Plan``."""
    cdef ptrdiff_t k
    fd_tensor_of(source, &g.source)
    fd_tensor_of(weight, &g.weight)
    fd_tensor_of(out, &g.out)
    g.row_classes = chunk_axes(g.rows, chosen.rows)
    g.column_classes = chunk_axes(g.columns, chosen.columns)
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
