"""The optimizers in Numba; the contract is the folder's docstring.

One kernel has all of them. The scalars of a formula are worked out in float64 and come rounded, as ``numbers``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .._common.jit import inline, kernel
from .._common.tasks import elements
from ..problem import Problem
from .reference import adam_rate

Arrays = Sequence[np.ndarray]
SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM = range(6)


@inline
def _sgd(rate, p, g):
    return p - rate * g


@inline
def _one_state(rule, n, p, g, s):
    """The parameter and its state after a step."""
    if rule == MOMENTUM:
        s = n[1] * s - n[0] * g
        return p + s, s
    if rule == NESTEROV:
        return p + n[2] * s - n[3] * g, n[1] * s - n[0] * g
    if rule == ADAGRAD:
        s = s + g * g
    else:
        s = n[1] * s + n[2] * g * g
    return p - n[0] * g / (math.sqrt(s) + n[3]), s


@inline
def _adam(n, p, g, m, v):
    m = m + n[1] * (g - m)
    v = v + n[2] * (g * g - v)
    return p - n[0] * m / (math.sqrt(v) + n[3]), m, v


@kernel
def _sgd_line(first, last, n, g, p):
    g, p = g[first:last], p[first:last]
    for i in range(p.size):
        p[i] = _sgd(n[0], p[i], g[i])


@kernel
def _sgd_grid(first, last, n, g, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for m in range(p.shape[3]):
                p[i, j, k, m] = _sgd(n[0], p[i, j, k, m], g[i, j, k, m])


@kernel
def _one_line(first, last, rule, n, g, s, p):
    g, s, p = g[first:last], s[first:last], p[first:last]
    for i in range(p.size):
        p[i], s[i] = _one_state(rule, n, p[i], g[i], s[i])


@kernel
def _one_grid(first, last, rule, n, g, s, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for m in range(p.shape[3]):
                p[i, j, k, m], s[i, j, k, m] = _one_state(rule, n, p[i, j, k, m], g[i, j, k, m], s[i, j, k, m])


@kernel
def _adam_line(first, last, n, g, m, v, p):
    g, m, v, p = g[first:last], m[first:last], v[first:last], p[first:last]
    for i in range(p.size):
        p[i], m[i], v[i] = _adam(n, p[i], g[i], m[i], v[i])


@kernel
def _adam_grid(first, last, n, g, m, v, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for q in range(p.shape[3]):
                p[i, j, k, q], m[i, j, k, q], v[i, j, k, q] = _adam(
                    n, p[i, j, k, q], g[i, j, k, q], m[i, j, k, q], v[i, j, k, q]
                )


def _run(line, grid, first: tuple, numbers: tuple[float, ...], threads: int, params: Arrays, *others: Arrays) -> None:
    """A kernel on one parameter after the other, with its gradient and its states."""
    for p, *beside in zip(params, *others, strict=True):
        rounded = tuple(p.dtype.type(number) for number in numbers)
        elements(line, grid, 1.0, threads, (*first, rounded), *beside, p)


def sgd_step(problem: Problem, params: Arrays, grads: Arrays, lr: np.ndarray, threads: int) -> None:
    """p -= lr * g."""
    _run(_sgd_line, _sgd_grid, (), (lr.item(),), threads, params, grads)


def momentum_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """v = momentum * v - lr * g; p += v."""
    numbers = (lr.item(), problem.attr("momentum"), 0.0, 0.0)
    _run(_one_line, _one_grid, (MOMENTUM,), numbers, threads, params, grads, v)


def nesterov_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g."""
    rate, momentum = lr.item(), problem.attr("momentum")
    numbers = (rate, momentum, momentum * momentum, (1.0 + momentum) * rate)
    _run(_one_line, _one_grid, (NESTEROV,), numbers, threads, params, grads, v)


def adagrad_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h += g * g; p -= lr * g / (sqrt(h) + eps)."""
    numbers = (lr.item(), 0.0, 0.0, problem.attr("eps"))
    _run(_one_line, _one_grid, (ADAGRAD,), numbers, threads, params, grads, h)


def rmsprop_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h = decay * h + (1 - decay) * g * g; p -= lr * g / (sqrt(h) + eps)."""
    decay = problem.attr("decay_rate")
    numbers = (lr.item(), decay, 1.0 - decay, problem.attr("eps"))
    _run(_one_line, _one_grid, (RMSPROP,), numbers, threads, params, grads, h)


def adam_step(
    problem: Problem,
    params: Arrays,
    grads: Arrays,
    m: Arrays,
    v: Arrays,
    lr: np.ndarray,
    step: np.ndarray,
    threads: int,
) -> None:
    """m += (1 - beta1) * (g - m); v += (1 - beta2) * (g * g - v); p -= rate * m / (sqrt(v) + eps)."""
    beta1, beta2 = problem.attr("beta1"), problem.attr("beta2")
    numbers = (adam_rate(lr.item(), beta1, beta2, step.item()), 1.0 - beta1, 1.0 - beta2, problem.attr("eps"))
    _run(_adam_line, _adam_grid, (), numbers, threads, params, grads, m, v)
