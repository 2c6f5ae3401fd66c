"""Compiled convolution; the contract is the folder's docstring, the loops are in conv_gather.h and conv_weight.h."""

include "kernel.pxi"

from cpython.mem cimport PyMem_Free, PyMem_Malloc

from fastdl.kernels.conv.plan import BIAS_SLICES, plan

cdef extern from "conv_call.h":
    ctypedef struct conv_axis:
        ptrdiff_t start
        ptrdiff_t step
        ptrdiff_t count
        ptrdiff_t scale
        int taps
        const ptrdiff_t *tap
        const ptrdiff_t *offset
    ctypedef struct conv_call:
        fd_tensor source
        fd_tensor weight
        fd_tensor out
        const fd_tensor *mask
        int relu
        int groups
        int half_sums
        ptrdiff_t mc
        ptrdiff_t kc
        ptrdiff_t slices
        int row_classes
        int column_classes
        const conv_axis *rows
        const conv_axis *columns
        ptrdiff_t reduce
        ptrdiff_t produce
        ptrdiff_t w_group
        ptrdiff_t w_reduce
        ptrdiff_t w_produce
        ptrdiff_t batch
    int conv_gather_start(conv_call *g, const fd_tensor *bias, int threads) nogil
    int conv_weight_start(conv_call *g, int threads) nogil
    int conv_bias_start(const fd_tensor *dout, const fd_tensor *db, ptrdiff_t slices, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef class _Axes:
    """The classes of positions along one axis (``plan.Axis``), in C."""

    cdef conv_axis *axes
    cdef ptrdiff_t *tables
    cdef int count

    def __cinit__(self, axes):
        cdef ptrdiff_t total = 2 * sum([len(axis.taps) for axis in axes]) + 1
        cdef ptrdiff_t *table
        cdef int i, t
        self.count = len(axes)
        self.axes = <conv_axis *>PyMem_Malloc((self.count + 1) * sizeof(conv_axis))
        self.tables = table = <ptrdiff_t *>PyMem_Malloc(total * sizeof(ptrdiff_t))
        if self.axes == NULL or self.tables == NULL:
            raise MemoryError()
        for i, axis in enumerate(axes):
            self.axes[i].start, self.axes[i].step = axis.start, axis.step
            self.axes[i].count, self.axes[i].scale = axis.length, axis.scale
            self.axes[i].taps = len(axis.taps)
            self.axes[i].tap = table
            self.axes[i].offset = table + self.axes[i].taps
            for t in range(self.axes[i].taps):
                table[t] = axis.taps[t]
                table[self.axes[i].taps + t] = axis.offsets[t]
            table += 2 * self.axes[i].taps

    def __dealloc__(self):
        PyMem_Free(self.axes)
        PyMem_Free(self.tables)


cdef dict _axes_of = {}  # plan.Axis tuples -> _Axes, so that a repeated call pays one look-up


cdef int _start(conv_call *g, problem, source, weight, out, _Axes rows, _Axes columns, chosen, arithmetic) except -1:
    """Fills what all three directions share."""
    fd_tensor_of(source, &g.source)
    fd_tensor_of(weight, &g.weight)
    fd_tensor_of(out, &g.out)
    g.mc, g.kc, g.slices = chosen.mc, chosen.kc, chosen.slices
    g.groups = problem.groups
    g.rows, g.row_classes = rows.axes, rows.count
    g.columns, g.column_classes = columns.axes, columns.count
    g.batch = g.source.shape[0]
    g.relu = problem.epilogue == "bias_relu"
    g.half_sums = arithmetic == "float16_sums"
    if arithmetic == "tf32":
        g.source.type = FD_TF32
        if problem.direction == "backward_weight":
            g.out.type = FD_TF32
        else:
            g.weight.type = FD_TF32
    # Seen from the pass: forward sums over c and produces k, backward_input the other way round.
    cdef ptrdiff_t k = g.weight.shape[0] // g.groups
    g.w_group = k * g.weight.stride[0]
    if problem.direction == "backward_input":
        g.reduce, g.produce = k, g.weight.shape[1]
        g.w_reduce, g.w_produce = g.weight.stride[0], g.weight.stride[1]
    else:
        g.reduce, g.produce = g.weight.shape[1], k
        g.w_reduce, g.w_produce = g.weight.stride[1], g.weight.stride[0]
    return 0


cdef _Axes _axes(key):
    axes = _axes_of.get(key)
    if axes is None:
        if len(_axes_of) >= 4096:
            _axes_of.clear()
        axes = _axes_of[key] = _Axes(key)
    return axes


cdef int _gather(problem, source, w, bias, mask, out, int threads, arithmetic) except -1:
    """forward and backward_input: the same loops over other axes. (For ``arithmetic`` see ``registry.Row``.)"""
    cdef conv_call g
    cdef fd_tensor bias_tensor, mask_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    chosen = plan(problem, ISA)
    cdef _Axes rows = _axes(chosen.rows), columns = _axes(chosen.columns)
    _start(&g, problem, source, w, out, rows, columns, chosen, arithmetic)
    bias_or_null = optional(bias, &bias_tensor)
    g.mask = optional(mask, &mask_tensor)
    with nogil:
        status = conv_gather_start(&g, bias_or_null, threads)
    return finish(status)


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b)."""
    _gather(problem, x, w, b, None, out, threads, "")


def conv2d_forward_tf32(problem, x, w, b, out, int threads):
    """conv2d_forward with x and w rounded to TF32."""
    _gather(problem, x, w, b, None, out, threads, "tf32")


def conv2d_forward_float16_sums(problem, x, w, b, out, int threads):
    """conv2d_forward, each product and each partial sum rounded to float16."""
    _gather(problem, x, w, b, None, out, threads, "float16_sums")


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    _gather(problem, dout, w, None, y, dx, threads, "")


def conv2d_backward_input_tf32(problem, dout, w, y, dx, int threads):
    """conv2d_backward_input with dout and w rounded to TF32."""
    _gather(problem, dout, w, None, y, dx, threads, "tf32")


cdef int _weight(problem, dout, x, dw, int threads, arithmetic) except -1:
    cdef conv_call g
    cdef int status
    chosen = plan(problem, ISA)
    cdef _Axes rows = _axes(chosen.rows), columns = _axes(chosen.columns)
    _start(&g, problem, x, dw, dout, rows, columns, chosen, arithmetic)
    with nogil:
        status = conv_weight_start(&g, threads)
    return finish(status)


def conv2d_backward_weight(problem, dout, x, dw, int threads):
    """dw = correlation of x with dout."""
    _weight(problem, dout, x, dw, threads, "")


def conv2d_backward_weight_tf32(problem, dout, x, dw, int threads):
    """conv2d_backward_weight with dout and x rounded to TF32."""
    _weight(problem, dout, x, dw, threads, "tf32")


def conv2d_backward_bias(problem, dout, db, int threads):
    """db = dout summed over everything but the channels."""
    cdef fd_tensor d, to
    cdef ptrdiff_t slices = BIAS_SLICES
    cdef int status
    fd_tensor_of(dout, &d)
    fd_tensor_of(db, &to)
    with nogil:
        status = conv_bias_start(&d, &to, slices, threads)
    finish(status)
