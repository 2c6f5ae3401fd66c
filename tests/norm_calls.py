"""Calls of the normalisation rows, for the tests: each names its level and fails if another row would run."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from fastdl.kernels import registry
from fastdl.kernels.problem import Problem, memory_order

LEVELS = registry.available_levels()
STORAGE = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float32": 2.0**-149, "float64": 2.0**-1074, "float16": 2.0**-24, "bfloat16": 2.0**-133}
EPS = 10e-7  # the book's

CHANNELS = (1, 3, 7, 8, 15, 16, 17, 31, 33, 65)
PARAMETERS = [{"size": 5, "alpha": 0.3, "beta": 0.75, "k": 2.0}, {"size": 4, "alpha": 1e-2, "beta": 0.5, "k": 1.0}]


def problem(op: str, direction: str, like: np.ndarray, storage: str, **attrs) -> Problem:
    return Problem(
        op, direction, (like.shape,), storage, orders=(memory_order(like),), attrs=tuple(sorted(attrs.items()))
    )


def call(level: str, p: Problem, *args, threads: int = 1) -> None:
    """The row of ``level``, and no other."""
    row, function = registry.choose(p, "numpy" if level == "numpy" else "cython", level if level in LEVELS else "v4")
    assert (row.backend, row.isa) == (("numpy", "any") if level == "numpy" else ("cython", level))
    function(p, *args, threads)


def blank(like: np.ndarray) -> np.ndarray:
    """An output of the same shape, dtype and strides, full of values that no kernel would write."""
    out = like.copy(order="K")
    out[...] = 77
    return out


def batch_forward(level, storage, x, gamma, beta, eps=EPS, threads=1, out=None):
    p = problem("batch_norm", "forward", x, storage, eps=eps)
    out = blank(x) if out is None else out
    mean, var = (np.full(x.shape[1], 77, p.compute) for _ in range(2))
    call(level, p, x, gamma, beta, out, mean, var, threads=threads)
    return out, mean, var


def batch_inference(level, storage, x, gamma, beta, mean, var, eps=EPS, threads=1, out=None):
    out = blank(x) if out is None else out
    call(
        level, problem("batch_norm", "inference", x, storage, eps=eps), x, gamma, beta, mean, var, out, threads=threads
    )
    return out


def batch_backward(level, storage, dout, x, gamma, mean, var, eps=EPS, threads=1, dx=None):
    p = problem("batch_norm", "backward", x, storage, eps=eps)
    dx = blank(x) if dx is None else dx
    dgamma, dbeta = blank(gamma), blank(gamma)
    call(level, p, dout, x, gamma, mean, var, dx, dgamma, dbeta, threads=threads)
    return dx, dgamma, dbeta


def response(level, storage, x, threads=1, out=None, **attrs):
    out = blank(x) if out is None else out
    call(level, problem("local_response_norm", "forward", x, storage, **attrs), x, out, threads=threads)
    return out


def response_gradient(level, storage, dout, x, threads=1, dx=None, **attrs):
    dx = blank(x) if dx is None else dx
    call(level, problem("local_response_norm", "backward", x, storage, **attrs), dout, x, dx, threads=threads)
    return dx


def random(shape, storage, seed, offset=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * scale + offset).astype(STORAGE[storage])


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]
