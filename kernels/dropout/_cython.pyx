"""Compiled dropout; the contract is the folder's docstring, the loops are in dropout.h and philox.h."""

include "kernel.pxi"

from libc.stdint cimport uint8_t, uint64_t

from fastdl.kernels.dropout import threshold

cdef extern from "dropout.h":
    ctypedef struct mask_call:
        uint64_t seed
        uint64_t step
        uint64_t first
        uint64_t threshold
        uint8_t *out
        ptrdiff_t size
    int mask_run(mask_call *m, int threads) nogil
    int dropout_run(const fd_tensor *x, const fd_tensor *mask, const fd_tensor *out, double scale, int threads) nogil


def mask_from_block(problem, first, state, out, int threads):
    """dropout_mask, with ``first`` as the number of the first block.

    It lets a test see what happens at the 2**34th element without 16 GiB of mask.
    """
    cdef mask_call m
    cdef fd_tensor state_tensor, out_tensor
    cdef int status
    fd_tensor_of(state, &state_tensor)
    fd_tensor_of(out, &out_tensor)
    m.seed = (<uint64_t *>state_tensor.data)[0]
    m.step = (<uint64_t *>(state_tensor.data + state_tensor.stride[0]))[0]
    m.first = first
    m.threshold = threshold(problem.attr("ratio"))
    m.out = <uint8_t *>out_tensor.data
    m.size = out_tensor.size
    with nogil:
        status = mask_run(&m, threads)
    finish(status)


def dropout_mask(problem, state, out, int threads):
    """out[i] = 1 where word i is at least ratio * 2**32, else 0."""
    mask_from_block(problem, 0, state, out, threads)


def dropout_forward(problem, x, mask, out, int threads):
    """out = x * (mask * scale)."""
    cdef fd_tensor x_tensor, mask_tensor, out_tensor
    cdef double scale = problem.attr("scale")
    cdef int status
    fd_tensor_of(x, &x_tensor)
    fd_tensor_of(mask, &mask_tensor)
    fd_tensor_of(out, &out_tensor)
    with nogil:
        status = dropout_run(&x_tensor, &mask_tensor, &out_tensor, scale, threads)
    finish(status)
