"""Compiled convolution and gemm by dot products of bfloat16 pairs; the contracts are those of the ops, the algorithm is
this folder's."""

include "kernel.pxi"

from fastdl.kernels.conv.dot.plan import as_conv, plan

include "chunks.pxi"

cdef extern from "dot.h":
    ctypedef struct words_call:
        direct_call d
        ptrdiff_t channels
        unsigned int padding
        int keep_rows
        ptrdiff_t table_size
    int dot_start(words_call *g, const fd_tensor *bias, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _gather(problem, source, w, bias, mask, out, int threads) except -1:
    cdef words_call g
    cdef fd_tensor bias_tensor, mask_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    chunk_call(&g.d, problem, plan(problem, ISA), source, w, out)
    g.channels = g.d.reduce
    g.d.reduce = (g.channels + 1) // 2
    g.padding = g.keep_rows = g.table_size = 0
    bias_or_null = optional(bias, &bias_tensor)
    g.d.mask = optional(mask, &mask_tensor)
    with nogil:
        status = dot_start(&g, bias_or_null, threads)
    return finish(status)


def conv2d_forward(problem, x, w, b, out, int threads):
    """out = f(correlation of x with w, + b)."""
    _gather(problem, x, w, b, None, out, threads)


def conv2d_backward_input(problem, dout, w, y, dx, int threads):
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    _gather(problem, dout, w, None, y, dx, threads)


def gemm_forward(problem, a, b, bias, out, int threads):
    """out = f(a @ b + bias): a convolution of one image of one row, whose pixels are the rows of a."""
    if out.size:
        _gather(as_conv(problem), a.T[None, :, None, :], b.T[:, :, None, None], bias, None, out.T[None, :, None, :], threads)
