"""Compiled cast; the contract is the folder's docstring, the loops are in elementwise.h and stochastic.h."""

include "kernel.pxi"

from libc.stdint cimport uint64_t

cdef extern from "cast.h":
    int cast_run(const fd_tensor *x, const fd_tensor *out, int threads) nogil
cdef extern from "stochastic.h":
    int stochastic_run(const fd_tensor *x, const fd_tensor *out, uint64_t seed, uint64_t step, int threads) nogil


def cast_forward(problem, x, out, int threads):
    """out = x in the dtype of out, rounded to nearest even once."""
    cdef fd_tensor x_tensor, out_tensor
    cdef int status
    fd_tensor_of(x, &x_tensor)
    fd_tensor_of(out, &out_tensor)
    with nogil:
        status = cast_run(&x_tensor, &out_tensor, threads)
    finish(status)


def cast_stochastic(problem, x, state, out, int threads):
    """out = x rounded up or down by chance, so that the mean is x."""
    cdef fd_tensor x_tensor, out_tensor, state_tensor
    cdef uint64_t seed, step
    cdef int status
    fd_tensor_of(x, &x_tensor)
    fd_tensor_of(out, &out_tensor)
    fd_tensor_of(state, &state_tensor)
    seed = (<uint64_t *>state_tensor.data)[0]
    step = (<uint64_t *>(state_tensor.data + state_tensor.stride[0]))[0]
    with nogil:
        status = stochastic_run(&x_tensor, &out_tensor, seed, step, threads)
    finish(status)
