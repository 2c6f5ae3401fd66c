"""Compiled optimizer steps; the contract is the folder's docstring, the loops are in optim.h, optim_rows.h and unscale.h."""

include "kernel.pxi"

from libc.math cimport pow, sqrt
from libc.stdint cimport int32_t, int64_t

cdef extern from "optim.h":
    enum: OPTIM_SGD, OPTIM_MOMENTUM, OPTIM_NESTEROV, OPTIM_ADAGRAD, OPTIM_RMSPROP, OPTIM_ADAM, OPTIM_OPERANDS
    ctypedef struct optim_array:
        pass
    ctypedef struct optim_call:
        int kind
        int operands
        int wide
        ptrdiff_t count
        double work
        double scalar[4]
        optim_array *arrays
    void optim_add(optim_call *c, const fd_tensor *const *t)
    int optim_run(optim_call *c, int threads) nogil

cdef extern from "unscale.h":
    ctypedef struct unscale_array:
        pass
    ctypedef struct unscale_call:
        double by
        int32_t *overflow
        ptrdiff_t count
        double work
        unscale_array *arrays
    void unscale_add(unscale_call *c, const fd_tensor *g)
    int unscale_run(unscale_call *c, int threads) nogil

cdef extern from *:
    """
    #define optim_push(bytes) rt->push(bytes)
    #define optim_mark() rt->mark()
    #define optim_release(mark) rt->release(mark)
    """
    void *optim_push(size_t bytes)
    size_t optim_mark()
    void optim_release(size_t mark)


cdef double value(lr) except? -1:
    """The element of a one-element float64 array."""
    cdef fd_tensor t
    fd_tensor_of(lr, &t)
    return (<double *>t.data)[0]


cdef int run(optim_call *c, problem, tuple lists, int threads) except -1:
    """One step; ``lists``: gradients, states, parameters."""
    cdef fd_tensor tensor[OPTIM_OPERANDS]
    cdef const fd_tensor *operand[OPTIM_OPERANDS]
    cdef ptrdiff_t i, count = len(lists[0])
    cdef size_t mark = optim_mark()
    cdef int status
    c.operands = len(lists)
    c.wide = problem.storage == "float64"
    c.count = 0
    c.work = 0
    c.arrays = <optim_array *>optim_push(count * sizeof(optim_array))
    if c.arrays == NULL:
        raise MemoryError(f"no memory for the table of {count} arrays")
    for k in range(c.operands):
        operand[k] = &tensor[k]
    try:
        for i in range(count):
            for k in range(c.operands):
                fd_tensor_of(lists[k][i], &tensor[k])
            optim_add(c, operand)
        with nogil:
            status = optim_run(c, threads)
    finally:
        optim_release(mark)
    return finish(status)


def sgd_step(problem, params, grads, lr, int threads):
    """p -= lr * g."""
    cdef optim_call c
    c.kind = OPTIM_SGD
    c.scalar = [value(lr), 0, 0, 0]
    run(&c, problem, (grads, params), threads)


def momentum_step(problem, params, grads, v, lr, int threads):
    """v = momentum * v - lr * g; p += v."""
    cdef optim_call c
    c.kind = OPTIM_MOMENTUM
    c.scalar = [value(lr), problem.attr("momentum"), 0, 0]
    run(&c, problem, (grads, v, params), threads)


def nesterov_step(problem, params, grads, v, lr, int threads):
    """p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g."""
    cdef optim_call c
    cdef double rate = value(lr), momentum = problem.attr("momentum")
    c.kind = OPTIM_NESTEROV
    c.scalar = [rate, momentum, momentum * momentum, (1.0 + momentum) * rate]
    run(&c, problem, (grads, v, params), threads)


def adagrad_step(problem, params, grads, h, lr, int threads):
    """h += g * g; p -= lr * g / (sqrt(h) + eps)."""
    cdef optim_call c
    c.kind = OPTIM_ADAGRAD
    c.scalar = [value(lr), problem.attr("eps"), 0, 0]
    run(&c, problem, (grads, h, params), threads)


def rmsprop_step(problem, params, grads, h, lr, int threads):
    """h = decay * h + (1 - decay) * g * g; p -= lr * g / (sqrt(h) + eps)."""
    cdef optim_call c
    cdef double decay = problem.attr("decay_rate")
    c.kind = OPTIM_RMSPROP
    c.scalar = [value(lr), problem.attr("eps"), decay, 1.0 - decay]
    run(&c, problem, (grads, h, params), threads)


def adam_step(problem, params, grads, m, v, lr, step, int threads):
    """m += (1 - beta1) * (g - m); v += (1 - beta2) * (g * g - v); p -= rate * m / (sqrt(v) + eps)."""
    cdef optim_call c
    cdef fd_tensor t
    cdef double beta1 = problem.attr("beta1"), beta2 = problem.attr("beta2"), number
    fd_tensor_of(step, &t)
    number = <double>(<int64_t *>t.data)[0]
    c.kind = OPTIM_ADAM
    c.scalar = [
        value(lr) * sqrt(1.0 - pow(beta2, number)) / (1.0 - pow(beta1, number)),
        problem.attr("eps"),
        1.0 - beta1,
        1.0 - beta2,
    ]
    run(&c, problem, (grads, m, v, params), threads)


def unscale_step(problem, grads, scale, overflow, int threads):
    """overflow = 1 if some g is infinite or NaN, else 0; g *= 1 / scale."""
    cdef unscale_call c
    cdef fd_tensor t
    cdef size_t mark = optim_mark()
    cdef int status
    fd_tensor_of(overflow, &t)
    c.overflow = <int32_t *>t.data
    c.by = 1.0 / value(scale)
    c.count = 0
    c.work = 0
    c.arrays = <unscale_array *>optim_push(len(grads) * sizeof(unscale_array))
    if c.arrays == NULL:
        raise MemoryError(f"no memory for the table of {len(grads)} arrays")
    try:
        for g in grads:
            fd_tensor_of(g, &t)
            unscale_add(&c, &t)
        with nogil:
            status = unscale_run(&c, threads)
    finally:
        optim_release(mark)
    finish(status)
