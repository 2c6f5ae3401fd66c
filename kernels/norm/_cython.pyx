"""Compiled normalisations; contracts are in the folder's docstring, loops in batch_norm.h and response_norm.h."""

include "kernel.pxi"

from fastdl.kernels.norm.plan import batch_norm_plan, response_plan

cdef extern from "response_norm_call.h":
    enum: BN_FORWARD, BN_INFERENCE, BN_BACKWARD
    ctypedef struct bn_call:
        fd_tensor x
        fd_tensor dout
        fd_tensor out
        fd_tensor gamma
        fd_tensor beta
        fd_tensor mean
        fd_tensor var
        fd_tensor dgamma
        fd_tensor dbeta
        double eps
        ptrdiff_t tile
        ptrdiff_t chunk
        ptrdiff_t chunks
    int bn_start(bn_call *b, int direction, int threads) nogil
    ctypedef struct lrn_call:
        fd_tensor x
        fd_tensor dout
        fd_tensor out
        double factor
        double beta
        double k
        double slope
        ptrdiff_t before
        ptrdiff_t after
        ptrdiff_t pixels
        ptrdiff_t task
        bint backward
    int lrn_start(lrn_call *l, int threads) nogil


cdef int _normalise(bn_call *b, problem, int direction, int threads) except -1:
    cdef int status
    b.chunk, b.chunks, b.tile = batch_norm_plan(problem)
    b.eps = problem.attr("eps")
    with nogil:
        status = bn_start(b, direction, threads)
    return finish(status)


def batch_norm_forward(problem, x, gamma, beta, out, mean, var, int threads):
    """mean and var of the batch, and out = gamma * (x - mean) / sqrt(var + eps) + beta."""
    cdef bn_call b
    fd_tensor_of(x, &b.x)
    fd_tensor_of(gamma, &b.gamma)
    fd_tensor_of(beta, &b.beta)
    fd_tensor_of(out, &b.out)
    fd_tensor_of(mean, &b.mean)
    fd_tensor_of(var, &b.var)
    _normalise(&b, problem, BN_FORWARD, threads)


def batch_norm_inference(problem, x, gamma, beta, mean, var, out, int threads):
    """out = gamma * (x - mean) / sqrt(var + eps) + beta."""
    cdef bn_call b
    fd_tensor_of(x, &b.x)
    fd_tensor_of(gamma, &b.gamma)
    fd_tensor_of(beta, &b.beta)
    fd_tensor_of(mean, &b.mean)
    fd_tensor_of(var, &b.var)
    fd_tensor_of(out, &b.out)
    _normalise(&b, problem, BN_INFERENCE, threads)


def batch_norm_backward(problem, dout, x, gamma, mean, var, dx, dgamma, dbeta, int threads):
    """Gradients through the statistics of the batch."""
    cdef bn_call b
    fd_tensor_of(dout, &b.dout)
    fd_tensor_of(x, &b.x)
    fd_tensor_of(gamma, &b.gamma)
    fd_tensor_of(mean, &b.mean)
    fd_tensor_of(var, &b.var)
    fd_tensor_of(dx, &b.out)
    fd_tensor_of(dgamma, &b.dgamma)
    fd_tensor_of(dbeta, &b.dbeta)
    _normalise(&b, problem, BN_BACKWARD, threads)


cdef int _respond(lrn_call *l, problem, bint backward, int threads) except -1:
    cdef int status
    cdef ptrdiff_t size = problem.attr("size")
    cdef double alpha = problem.attr("alpha")
    l.k = problem.attr("k")
    l.beta = problem.attr("beta")
    l.factor = alpha / size
    l.slope = 2 * alpha * l.beta / size
    l.before = (size - 1) // 2
    l.after = size // 2
    l.pixels, l.task = response_plan(problem)
    l.backward = backward
    with nogil:
        status = lrn_start(l, threads)
    return finish(status)


def local_response_norm_forward(problem, x, out, int threads):
    """out = x * s ** -beta with s = k + alpha / size * (sum of the window's squares)."""
    cdef lrn_call l
    fd_tensor_of(x, &l.x)
    fd_tensor_of(out, &l.out)
    _respond(&l, problem, False, threads)


def local_response_norm_backward(problem, dout, x, dx, int threads):
    """dx = dout * s ** -beta - 2 * alpha * beta / size * x * (sum of dout * x * s ** (-beta - 1) over who saw x)."""
    cdef lrn_call l
    fd_tensor_of(dout, &l.dout)
    fd_tensor_of(x, &l.x)
    fd_tensor_of(dx, &l.out)
    _respond(&l, problem, True, threads)
