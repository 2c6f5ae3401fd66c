"""The activations in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


def relu_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 0 where x <= 0, else x."""
    out[...] = np.where(x <= 0, x.dtype.type(0), x)


def relu_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = 0 where y <= 0, else dout."""
    dx[...] = np.where(y <= 0, dout.dtype.type(0), dout)


def relu6_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 0 where x <= 0, 6 where x >= 6, else x."""
    six = x.dtype.type(6)
    out[...] = np.where(x <= 0, x.dtype.type(0), np.where(x >= six, six, x))


def relu6_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = 0 where y <= 0 or y >= 6, else dout."""
    dx[...] = np.where((y <= 0) | (y >= y.dtype.type(6)), dout.dtype.type(0), dout)


def sigmoid_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 1 / (1 + exp(-x)), or what is the same, exp(x) / (1 + exp(x)): the one that does not overflow."""
    x = x.astype(problem.compute)
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        out[...] = np.where(x < 0, e, x.dtype.type(1)) / (1 + e)


def sigmoid_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = dout * y * (1 - y)."""
    dout, y = dout.astype(problem.compute), y.astype(problem.compute)
    with np.errstate(all="ignore"):
        dx[...] = dout * y * (1 - y)


def tanh_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = tanh(x)."""
    with np.errstate(under="ignore"):
        out[...] = np.tanh(x.astype(problem.compute))


def tanh_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = dout * (1 - y * y)."""
    dout, y = dout.astype(problem.compute), y.astype(problem.compute)
    with np.errstate(all="ignore"):
        dx[...] = dout * (1 - y * y)
