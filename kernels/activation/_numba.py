"""The activations in Numba; the contract is the folder's docstring. exp and tanh are the C library's."""

from __future__ import annotations

import math

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen
from .._common.tasks import elements
from ..problem import Problem

RELU, SIGMOID, TANH = 0, 1, 2
#: Nanoseconds of an element on one thread.
_COST = (0.3, 4.0, 8.0)


@inline
def _forward(function, x, one):
    if function == RELU:
        return one - one if x <= 0 else x
    if function == TANH:
        return math.tanh(x)
    e = math.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


@inline
def _backward(function, dout, y, one):
    if function == RELU:
        return one - one if y <= 0 else dout
    if function == TANH:
        return dout * (one - y * y)
    return dout * y * (one - y)


@kernel
def _forward_line(first, last, function, one, x, out):
    x, out = x[first:last], out[first:last]
    for i in range(x.size):
        out[i] = narrow(_forward(function, widen(x[i]), one), out)


@kernel
def _forward_grid(first, last, function, one, x, out):
    for t in range(first, last):
        i, j = divmod(t, x.shape[1])
        for k in range(x.shape[2]):
            for n in range(x.shape[3]):
                out[i, j, k, n] = narrow(_forward(function, widen(x[i, j, k, n]), one), out)


@kernel
def _backward_line(first, last, function, one, dout, y, dx):
    dout, y, dx = dout[first:last], y[first:last], dx[first:last]
    for i in range(dx.size):
        dx[i] = narrow(_backward(function, widen(dout[i]), widen(y[i]), one), dx)


@kernel
def _backward_grid(first, last, function, one, dout, y, dx):
    for t in range(first, last):
        i, j = divmod(t, dx.shape[1])
        for k in range(dx.shape[2]):
            for n in range(dx.shape[3]):
                dx[i, j, k, n] = narrow(_backward(function, widen(dout[i, j, k, n]), widen(y[i, j, k, n]), one), dx)


def _run(line, grid, function: int, threads: int, *arrays: np.ndarray) -> None:
    one = compute_dtype(arrays[-1]).type(1)
    elements(line, grid, _COST[function], threads, (function, one), *arrays)


def relu_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 0 where x <= 0, else x."""
    _run(_forward_line, _forward_grid, RELU, threads, x, out)


def relu_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = 0 where y <= 0, else dout."""
    _run(_backward_line, _backward_grid, RELU, threads, dout, y, dx)


def sigmoid_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 1 / (1 + exp(-x)), or what is the same, exp(x) / (1 + exp(x)): the one that does not overflow."""
    _run(_forward_line, _forward_grid, SIGMOID, threads, x, out)


def sigmoid_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = dout * y * (1 - y)."""
    _run(_backward_line, _backward_grid, SIGMOID, threads, dout, y, dx)


def tanh_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = tanh(x)."""
    _run(_forward_line, _forward_grid, TANH, threads, x, out)


def tanh_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = dout * (1 - y * y)."""
    _run(_backward_line, _backward_grid, TANH, threads, dout, y, dx)
