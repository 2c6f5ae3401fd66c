"""Compiled convolution of bytes; the contract is the folder's docstring, the loops are those of words.h."""

include "kernel.pxi"

from fastdl.kernels.conv.int8.plan import plan

include "chunks.pxi"

cdef extern from "int8.h":
    enum: WORD_CHANNELS
    ctypedef struct words_call:
        direct_call d
        ptrdiff_t channels
        unsigned int padding
        int keep_rows
        ptrdiff_t bias_step
        const fd_tensor *scale
        int zero
        int out_zero
        int low
        ptrdiff_t table_size
    int int8_start(words_call *g, int threads) nogil

ISA = __name__.rpartition("_")[2]


def conv2d_int8_forward(problem, x, w, bias, scale, zeros, out, int threads):
    """out = f((correlation of x - zero with w, + bias) * scale)."""
    cdef words_call g
    cdef fd_tensor bias_tensor, scale_tensor
    cdef int status
    chunk_call(&g.d, problem, plan(problem, ISA), x, w, out)
    g.channels = g.d.reduce
    g.d.reduce = (g.channels + WORD_CHANNELS - 1) // WORD_CHANNELS
    g.zero, g.out_zero = zeros
    g.low = g.out_zero if g.d.relu else 0
    g.padding = <unsigned int>g.zero * (0x01010101 if WORD_CHANNELS == 4 else 0x00010001)
    g.keep_rows = g.zero != 0
    fd_tensor_of(scale, &scale_tensor)
    g.scale = &scale_tensor
    g.d.bias, g.bias_step, g.table_size = NULL, 0, 1
    if bias is not None:
        fd_tensor_of(bias, &bias_tensor)
        g.d.bias, g.bias_step = bias_tensor.data, bias_tensor.stride[0]
    with nogil:
        status = int8_start(&g, threads)
    finish(status)
