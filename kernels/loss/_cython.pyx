"""Compiled softmax and softmax_cross_entropy; the contract is the folder's docstring, the loops are in loss_rows.h."""

include "kernel.pxi"

from fastdl.kernels.loss import BLOCK

cdef extern from "loss.h":
    ctypedef struct loss_call:
        fd_tensor a
        fd_tensor b
        fd_tensor to
        fd_tensor labels
        fd_tensor losses
        fd_tensor scale
        int labelled
    int loss_softmax_forward(loss_call *c, ptrdiff_t block, int threads) nogil
    int loss_softmax_backward(loss_call *c, ptrdiff_t block, int threads) nogil
    int loss_entropy_backward(loss_call *c, ptrdiff_t block, int threads) nogil

cdef ptrdiff_t BLOCK_VALUES = BLOCK


def softmax_forward(problem, x, out, int threads):
    """out = exp(x - max) / sum(exp(x - max)) along the last axis."""
    cdef loss_call c
    cdef int status
    fd_tensor_of(x, &c.a)
    fd_tensor_of(out, &c.to)
    c.labelled = 0
    with nogil:
        status = loss_softmax_forward(&c, BLOCK_VALUES, threads)
    finish(status)


def softmax_backward(problem, dout, y, dx, int threads):
    """dx = y * (dout - sum(dout * y))."""
    cdef loss_call c
    cdef int status
    fd_tensor_of(dout, &c.a)
    fd_tensor_of(y, &c.b)
    fd_tensor_of(dx, &c.to)
    with nogil:
        status = loss_softmax_backward(&c, BLOCK_VALUES, threads)
    finish(status)


def softmax_cross_entropy_forward(problem, x, labels, losses, probabilities, int threads):
    """losses = log(sum(exp(x - max))) - (x[label] - max); probabilities = softmax(x)."""
    cdef loss_call c
    cdef int status
    fd_tensor_of(x, &c.a)
    fd_tensor_of(labels, &c.labels)
    fd_tensor_of(losses, &c.losses)
    fd_tensor_of(probabilities, &c.to)
    c.labelled = 1
    with nogil:
        status = loss_softmax_forward(&c, BLOCK_VALUES, threads)
    finish(status)


def softmax_cross_entropy_backward(problem, probabilities, labels, scale, dx, int threads):
    """dx = (probabilities - one_hot(labels)) * scale."""
    cdef loss_call c
    cdef int status
    fd_tensor_of(probabilities, &c.a)
    fd_tensor_of(labels, &c.labels)
    fd_tensor_of(scale, &c.scale)
    fd_tensor_of(dx, &c.to)
    with nogil:
        status = loss_entropy_backward(&c, BLOCK_VALUES, threads)
    finish(status)
