"""Floating-point operations and bytes of a Problem: what its formula asks for, whatever the kernel does.

**flop**: an addition, multiplication, division, comparison, root or elementary function counts 1, a multiply-add 2.
Products with padding count (as in published figures), and Winograd's convolutions count as if done directly.

**bytes**: every input read once and every output written once, in the dtype they are stored in. A kernel may move more
(when caches are too small for what it reads twice, or a store reads its line first), never less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..kernels.problem import Problem

_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Work(NamedTuple):
    """Of one call."""

    flop: float
    bytes: float

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.flop + other.flop, self.bytes + other.bytes)


def of(problem: Problem) -> Work:
    """The work of one call of the kernel; ``KeyError`` for an op that is not counted."""
    return _COUNTS[problem.op](problem)


def _size(problem: Problem) -> tuple[int, int, int]:
    """Elements of the first array, bytes of one in storage, and in the compute dtype."""
    return math.prod(problem.shapes[0]), _ITEMSIZE[problem.storage], _ITEMSIZE[problem.compute]


def _conv2d(p: Problem) -> Work:
    x, s, _ = _size(p)
    if p.direction == "backward_bias":
        return Work(x, (x + p.shapes[0][1]) * s)
    k, c, kh, kw = p.shapes[1]
    oh, ow = p.grid()
    out = p.shapes[0][0] * k * oh * ow
    bias, relu = p.epilogue.startswith("bias"), p.epilogue.endswith("relu")
    mask = 0 if p.direction != "backward_input" or p.epilogue == "none" else x  # the ReLU's output is read too
    windows = p.shapes[0][0] * k * (oh // 2) * (ow // 2) if p.direction == "forward_pooled" else 0
    every = x + math.prod(p.shapes[1]) + out + (k if bias else 0) + mask + windows
    return Work(2.0 * out * c * kh * kw + out * (bias + relu) + 4 * windows, every * s + windows)


def _gemm(p: Problem) -> Work:
    (m, k), (_, n) = p.shapes
    bias, relu = p.epilogue.startswith("bias"), p.epilogue.endswith("relu")
    return Work(2.0 * m * n * k + m * n * (bias + relu), (m * k + k * n + m * n + bias * n) * _ITEMSIZE[p.storage])


def _windows(p: Problem) -> tuple[int, int]:
    """Elements of the output, taps of a window."""
    from ..kernels.geometry import window_grid

    n, c, h, w = p.shapes[0]
    ceil_mode = dict(p.attrs).get("ceil_mode", False)
    oh, ow = window_grid((h, w), p.attr("kernel"), p.stride, p.pads, p.dilation, ceil_mode)
    return n * c * oh * ow, math.prod(p.attr("kernel"))


def _im2col(p: Problem) -> Work:
    (out, taps), (x, s, _) = _windows(p), _size(p)
    return Work(out * taps if p.op == "col2im" else 0, (x + out * taps) * s)


def _max_pool2d(p: Problem) -> Work:
    """Forward with indices, as training needs them."""
    (out, taps), (x, s, _) = _windows(p), _size(p)
    return Work(out * (taps if p.direction == "forward" else 1), (x + out) * s + out * (1 if taps <= 255 else 4))


def _avg_pool2d(p: Problem) -> Work:
    (out, taps), (x, s, _) = _windows(p), _size(p)
    return Work(out * taps, (x + out) * s)


def _global_avg_pool2d(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(x, (x + math.prod(p.shapes[0][:2])) * s)


def _batch_norm(p: Problem) -> Work:
    """forward: the mean (1), squared deviations (3), the map (3); backward: two sums (4), dx (5)."""
    x, s, c = _size(p)
    flop, arrays = {"forward": (7, 2), "inference": (3, 2), "backward": (9, 3)}[p.direction]
    return Work(flop * x, arrays * x * s + p.shapes[0][1] * (2 * c + 2 * s))


def _local_response_norm(p: Problem) -> Work:
    """A square and a window's sum for each element, the power, the product; backward has two windows."""
    x, s, _ = _size(p)
    size = p.attr("size")
    return Work(
        x * (size + 5 if p.direction == "forward" else 2 * size + 12), x * s * (2 if p.direction == "forward" else 3)
    )


def _elementwise(forward: int, backward: int) -> Callable[[Problem], Work]:
    def count(p: Problem) -> Work:
        x, s, _ = _size(p)
        return Work(forward * x, 2 * x * s) if p.direction == "forward" else Work(backward * x, 3 * x * s)

    return count


def _add(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(x, 3 * x * s)


def _concat(p: Problem) -> Work:
    return Work(0, 2 * sum(math.prod(shape) for shape in p.shapes) * _ITEMSIZE[p.storage])


def _softmax(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(5 * x, 2 * x * s) if p.direction == "forward" else Work(4 * x, 3 * x * s)


def _softmax_cross_entropy(p: Problem) -> Work:
    x, s, c = _size(p)
    rows = p.shapes[0][0]
    return Work((5 if p.direction == "forward" else 2) * x, x * (s + c) + rows * (8 + c * (p.direction == "forward")))


def _dropout(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(0, x) if p.direction == "mask" else Work(x, 2 * x * s + x)


def _cast(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(0, x * (s + _ITEMSIZE[p.attr("source")]))


def _optimizer(flop: int, read: int, written: int) -> Callable[[Problem], Work]:
    def count(p: Problem) -> Work:
        x = sum(math.prod(shape) for shape in p.shapes)
        return Work(flop * x, (read + written) * x * _ITEMSIZE[p.storage])

    return count


_COUNTS: dict[str, Callable[[Problem], Work]] = {
    "im2col": _im2col,
    "col2im": _im2col,
    "gemm": _gemm,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool2d": _global_avg_pool2d,
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "relu": _elementwise(1, 1),
    "relu6": _elementwise(2, 2),
    "sigmoid": _elementwise(4, 3),
    "tanh": _elementwise(1, 3),
    "add": _add,
    "concat": _concat,
    "softmax": _softmax,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "dropout": _dropout,
    "cast": _cast,
    "sgd": _optimizer(2, 2, 1),
    "momentum": _optimizer(4, 3, 2),
    "nesterov": _optimizer(7, 3, 2),
    "adagrad": _optimizer(7, 3, 2),
    "rmsprop": _optimizer(9, 3, 2),
    "adam": _optimizer(12, 4, 3),
    "unscale": _optimizer(1, 1, 1),
}
