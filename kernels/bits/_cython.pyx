"""Compiled pack_bits; the contract is the folder's docstring, the loops are in bits.h."""

include "kernel.pxi"

cdef extern from "bits.h":
    ctypedef struct bits_call:
        fd_tensor x
        fd_tensor out
        const fd_tensor *threshold
        ptrdiff_t groups
        ptrdiff_t channels
        ptrdiff_t words
    int bits_start(bits_call *b, int threads) nogil


def pack_bits_forward(problem, x, threshold, out, int threads):
    """out = bits of x >= threshold."""
    cdef bits_call b
    cdef fd_tensor levels
    cdef int status
    if x.ndim == 2:  # the rows are the pixels of one image
        x, out = x.T[None, :, None, :], out.T[None, :, None, :]
    fd_tensor_of(x, &b.x)
    fd_tensor_of(out, &b.out)
    b.threshold = optional(threshold, &levels)
    b.groups = problem.groups
    b.channels = b.x.shape[1] // b.groups
    b.words = b.out.shape[1] // b.groups
    with nogil:
        status = bits_start(&b, threads)
    finish(status)
