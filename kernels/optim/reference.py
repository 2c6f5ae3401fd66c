"""The optimizers and unscale in NumPy: the specification.

A scalar of a formula is worked out in float64 and rounded once to the dtype of the arrays that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..cast.reference import cast_forward
from ..problem import Problem

Arrays = Sequence[np.ndarray]


def _each(params: Arrays, *others: Arrays) -> Iterator[tuple[np.ndarray, ...]]:
    """One parameter after the other, each with its gradient and its states."""
    return zip(params, *others, strict=True)


def adam_rate(lr: float, beta1: float, beta2: float, step: int) -> float:
    """The learning rate of Adam's step number ``step`` (the first is 1), both bias corrections folded in."""
    return lr * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)


def sgd_step(problem: Problem, params: Arrays, grads: Arrays, lr: np.ndarray, threads: int) -> None:
    """p -= lr * g."""
    rate = lr.item()
    for p, g in _each(params, grads):
        p -= p.dtype.type(rate) * g


def momentum_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """v = momentum * v - lr * g; p += v."""
    rate, momentum = lr.item(), problem.attr("momentum")
    for p, g, velocity in _each(params, grads, v):
        real = p.dtype.type
        velocity[...] = real(momentum) * velocity - real(rate) * g
        p += velocity


def nesterov_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g."""
    rate, momentum = lr.item(), problem.attr("momentum")
    for p, g, velocity in _each(params, grads, v):
        real = p.dtype.type
        p[...] = p + real(momentum * momentum) * velocity - real((1.0 + momentum) * rate) * g
        velocity[...] = real(momentum) * velocity - real(rate) * g


def adagrad_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h += g * g; p -= lr * g / (sqrt(h) + eps)."""
    rate, eps = lr.item(), problem.attr("eps")
    for p, g, squares in _each(params, grads, h):
        real = p.dtype.type
        squares += g * g
        p -= real(rate) * g / (np.sqrt(squares) + real(eps))


def rmsprop_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h = decay * h + (1 - decay) * g * g; p -= lr * g / (sqrt(h) + eps)."""
    rate, decay, eps = lr.item(), problem.attr("decay_rate"), problem.attr("eps")
    for p, g, squares in _each(params, grads, h):
        real = p.dtype.type
        squares[...] = real(decay) * squares + real(1.0 - decay) * g * g
        p -= real(rate) * g / (np.sqrt(squares) + real(eps))


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
    beta1, beta2, eps = problem.attr("beta1"), problem.attr("beta2"), problem.attr("eps")
    rate = adam_rate(lr.item(), beta1, beta2, step.item())
    for p, g, mean, square in _each(params, grads, m, v):
        real = p.dtype.type
        mean += real(1.0 - beta1) * (g - mean)
        square += real(1.0 - beta2) * (g * g - square)
        p -= real(rate) * mean / (np.sqrt(square) + real(eps))


def unscale_step(problem: Problem, grads: Arrays, scale: np.ndarray, overflow: np.ndarray, threads: int) -> None:
    """overflow = 1 if some g is infinite or NaN, else 0; g *= 1 / scale."""
    overflow[...] = 0
    with np.errstate(all="ignore"):
        by = (1.0 / scale[0]).astype(problem.compute).astype(np.float64)
        for g in grads:
            wide = g.astype(np.float64)
            if not np.isfinite(wide).all():
                overflow[...] = 1
            # Exact but for float64's own, which has its one rounding here.
            product = np.multiply(wide, by, out=wide)
            cast = Problem("cast", "forward", (g.shape,), problem.storage, attrs=(("source", "float64"),))
            cast_forward(cast, product, g, threads)
