"""Compiled convolution of bits; the contract is the folder's docstring, the loops are those of words.h."""

include "kernel.pxi"

from fastdl.kernels.conv.binary.plan import plan

include "chunks.pxi"

cdef extern from "binary.h":
    ctypedef struct words_call:
        direct_call d
        ptrdiff_t channels
        unsigned int padding
        int keep_rows
        const fd_tensor *scale
        ptrdiff_t bits
        ptrdiff_t table_size
    int binary_start(words_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


def conv2d_binary_forward(problem, x, w, scale, out, int threads):
    """out = correlation of signs * scale."""
    cdef words_call g
    cdef fd_tensor scale_tensor
    cdef int status
    chunk_call(&g.d, problem, plan(problem, ISA), x, w, out)
    g.channels = g.d.reduce
    g.bits = problem.attr("channels")
    g.padding = g.keep_rows = 0
    g.table_size = g.d.weight.shape[2] * g.d.weight.shape[3]
    g.scale = optional(scale, &scale_tensor)
    with nogil:
        status = binary_start(&g, threads)
    finish(status)
