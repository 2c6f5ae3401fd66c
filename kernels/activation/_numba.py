"""The activations in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen
from .._common.streaming import whole_lines
from .._common.tasks import elements
from .._common.vectors import AHEAD, choose, every, fence, fetch, lanes, load, stream
from .._common.vmath import sigmoid, tanh
from ..problem import Problem

RELU, SIGMOID, TANH, RELU6 = 0, 1, 2, 3
#: Nanoseconds of an element on one thread, forward and backward.
_COST = ((0.15, 0.4, 0.3, 0.15), (0.2, 0.2, 0.2, 0.2))


@inline
def _six(one):
    """In the compute dtype, which 6 * one is not: an integer and a float32 make a float64."""
    three = one + one + one
    return three + three


@inline
def _forward(function, x, one):
    if function == RELU:
        return one - one if x <= 0 else x
    if function == RELU6:
        six = _six(one)
        return one - one if x <= 0 else six if x >= six else x
    return tanh(x) if function == TANH else sigmoid(x)


@inline
def _backward(function, dout, y, one):
    if function == RELU:
        return one - one if y <= 0 else dout
    if function == RELU6:
        return one - one if y <= 0 or y >= _six(one) else dout
    if function == TANH:
        return dout * (one - y * y)
    return dout * y * (one - y)


@kernel
def _forward_line(first, last, streams, function, one, x, out):
    head, tail = whole_lines(first, last, streams and function == RELU, out)
    zero = every(out, one - one)
    for at in range(head, tail, lanes(out)):
        value = load(x, at)
        fetch(x, at + AHEAD // x.itemsize)
        stream(out, at, choose(value <= zero, zero, value))
    for a, b in ((first, head), (tail, last)):
        source, target = x[a:b], out[a:b]
        if function == RELU:
            for i in range(target.size):
                target[i] = narrow(_forward(RELU, widen(source[i]), one), out)
        elif function == RELU6:
            for i in range(target.size):
                target[i] = narrow(_forward(RELU6, widen(source[i]), one), out)
        elif function == TANH:
            for i in range(target.size):
                target[i] = narrow(tanh(widen(source[i])), out)
        else:
            for i in range(target.size):
                target[i] = narrow(sigmoid(widen(source[i])), out)
    fence()


@kernel
def _forward_grid(first, last, function, one, x, out):
    for t in range(first, last):
        i, j = divmod(t, x.shape[1])
        for k in range(x.shape[2]):
            for n in range(x.shape[3]):
                out[i, j, k, n] = narrow(_forward(function, widen(x[i, j, k, n]), one), out)


@kernel
def _backward_line(first, last, streams, function, one, dout, y, dx):
    head, tail = whole_lines(first, last, streams and function == RELU, dx)
    zero = every(dx, one - one)
    for at in range(head, tail, lanes(dx)):
        fetch(dout, at + AHEAD // dx.itemsize)
        fetch(y, at + AHEAD // dx.itemsize)
        stream(dx, at, choose(load(y, at) <= zero, zero, load(dout, at)))
    for a, b in ((first, head), (tail, last)):
        d, p, target = dout[a:b], y[a:b], dx[a:b]
        for i in range(target.size):
            target[i] = narrow(_backward(function, widen(d[i]), widen(p[i]), one), dx)
    fence()


@kernel
def _backward_grid(first, last, function, one, dout, y, dx):
    for t in range(first, last):
        i, j = divmod(t, dx.shape[1])
        for k in range(dx.shape[2]):
            for n in range(dx.shape[3]):
                dx[i, j, k, n] = narrow(_backward(function, widen(dout[i, j, k, n]), widen(y[i, j, k, n]), one), dx)


def _run(lines, grid, function: int, threads: int, *arrays: np.ndarray) -> None:
    one = compute_dtype(arrays[-1]).type(1)
    elements(lines, grid, _COST[len(arrays) - 2][function], threads, (function, one), *arrays)


def relu_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 0 where x <= 0, else x."""
    _run(_forward_line, _forward_grid, RELU, threads, x, out)


def relu_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = 0 where y <= 0, else dout."""
    _run(_backward_line, _backward_grid, RELU, threads, dout, y, dx)


def relu6_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = 0 where x <= 0, 6 where x >= 6, else x."""
    _run(_forward_line, _forward_grid, RELU6, threads, x, out)


def relu6_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = 0 where y <= 0 or y >= 6, else dout."""
    _run(_backward_line, _backward_grid, RELU6, threads, dout, y, dx)


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
