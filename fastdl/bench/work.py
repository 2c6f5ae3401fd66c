"""Floating-point operations and bytes of a Problem: what its formula asks for, whatever the kernel does.

**flop**: an addition, multiplication, division, comparison, change of sign, root or elementary function counts 1, a
multiply-add 2. A sum starts at 0 and a maximum at -inf, so that n terms count n. What a window does in the padding
counts like the rest (as in published figures), and Winograd's convolutions count as if done directly. What is the same
for all of a channel, a row or a window is computed once for it; what is the same for all of them, from the numbers in
``attrs`` and the learning rate, is free, and so are integers, masks and labels.

**bytes**: every element that the formula reads once, every element that it writes once, in the dtype they are stored
in; parameters (bias, gamma, beta) in the dtype of the storage. Windows with gaps between them do not read all of an
image. Arrays of one number (learning rate, step, scale, seed) are left out. A kernel may move more (when caches are too
small for what it reads twice, or a store reads its line first), never less.

Where a value decides what is read or added, the most counts; an output that may be left out counts as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..kernels.geometry import Pair, window_grid
from ..kernels.problem import FLOAT8, Problem

_ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, **dict.fromkeys(FLOAT8, 1), "uint8": 1, "uint32": 4
}  # fmt: skip


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


def total(kernels: Iterable[tuple[Problem, str, int]]) -> Work:
    """Of all calls that ``fastdl.explain`` has seen: its ``kernels()``."""
    found = Work(0.0, 0.0)
    for problem, _, calls in kernels:
        one = of(problem)
        found += Work(calls * one.flop, calls * one.bytes)
    return found


def names(kernels: Iterable[tuple[Problem, str, int]]) -> list[str]:
    """What they are called in records: op, direction and the row of the registry, each once."""
    return list(dict.fromkeys(f"{problem.op} {problem.direction}: {label}" for problem, label, _ in kernels))


def _size(problem: Problem) -> tuple[int, int, int]:
    """Elements of the first array, bytes of one in storage, and in the compute dtype."""
    return math.prod(problem.shapes[0]), _ITEMSIZE[problem.storage], _ITEMSIZE[problem.compute]


@functools.cache
def _reads(size: int, windows: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[int, int]:
    """Elements along an axis that some window reads, and taps of windows that stand on one."""
    taps = [w * stride + k * dilation - before for w in range(windows) for k in range(kernel)]
    inside = [at for at in taps if 0 <= at < size]
    return len(set(inside)), len(inside)


def _image_reads(p: Problem, kernel: Pair, grid: Pair) -> tuple[int, int]:
    """Elements of the image ``shapes[0]`` that some window reads, and taps of windows that stand on one."""
    n, c, *size = p.shapes[0]
    (rows, row_taps), (columns, column_taps) = (
        _reads(size[a], grid[a], kernel[a], p.stride[a], p.pads[2 * a], p.dilation[a]) for a in (0, 1)
    )
    return n * c * rows * columns, n * c * row_taps * column_taps


def _conv2d(p: Problem) -> Work:
    x, s, _ = _size(p)
    if p.direction == "backward_bias":
        return Work(x, (x + p.shapes[0][1]) * s)
    k, c, kh, kw = p.shapes[1]
    oh, ow = p.grid()
    out = p.shapes[0][0] * k * oh * ow
    arrays, flop = math.prod(p.shapes[1]) + out, 2.0 * out * c * kh * kw
    if p.direction == "backward_input":
        mask = x if p.epilogue == "relu_mask" else 0  # the ReLU's output is read too
        return Work(flop + mask, (arrays + x + mask) * s)
    bias, relu = p.epilogue.startswith("bias"), p.epilogue.endswith("relu")
    windows = p.shapes[0][0] * k * (oh // 2) * (ow // 2) if p.direction == "forward_pooled" else 0
    arrays += _image_reads(p, (kh, kw), (oh, ow))[0] + k * bias + windows
    return Work(flop + out * (bias + relu) + 4 * windows, arrays * s + windows)


def _gemm(p: Problem) -> Work:
    (m, k), (_, n) = p.shapes
    bias, relu = p.epilogue.startswith("bias"), p.epilogue.endswith("relu")
    return Work(2.0 * m * n * k + m * n * (bias + relu), (m * k + k * n + m * n + bias * n) * _ITEMSIZE[p.storage])


class _Windows(NamedTuple):
    """Of a pooling or im2col: elements of the output, taps of a window, and what :func:`_image_reads` gives."""

    out: int
    taps: int
    seen: int
    hits: int


def _windows(p: Problem) -> _Windows:
    n, c, h, w = p.shapes[0]
    ceil_mode, kernel = dict(p.attrs).get("ceil_mode", False), p.attr("kernel")
    oh, ow = window_grid((h, w), kernel, p.stride, p.pads, p.dilation, ceil_mode)
    return _Windows(n * c * oh * ow, math.prod(kernel), *_image_reads(p, kernel, (oh, ow)))


def _im2col(p: Problem) -> Work:
    """col2im reads no element of the matrix that stands in the padding."""
    windows, (x, s, _) = _windows(p), _size(p)
    matrix = windows.out * windows.taps
    return Work(0, (windows.seen + matrix) * s) if p.op == "im2col" else Work(matrix, (windows.hits + x) * s)


def _max_pool2d(p: Problem) -> Work:
    (out, taps, seen, _), (x, s, _) = _windows(p), _size(p)
    indices = out * (1 if taps <= 255 else 4)
    if p.direction == "forward":
        return Work(out * taps, (seen + out) * s + indices)
    mask = out if p.epilogue == "relu_mask" else 0  # what forward has put out is read too
    return Work(out + mask, (x + out + mask) * s + indices)


def _avg_pool2d(p: Problem) -> Work:
    """A sum and a division for each window."""
    windows, (x, s, _) = _windows(p), _size(p)
    image = windows.seen if p.direction == "forward" else x
    return Work(windows.out * (windows.taps + 1), (image + windows.out) * s)


def _global_avg_pool2d(p: Problem) -> Work:
    x, s, _ = _size(p)
    means = math.prod(p.shapes[0][:2])
    return Work(x + means if p.direction == "forward" else means, (x + means) * s)


def _batch_norm(p: Problem) -> Work:
    """For each element: forward the mean (1), squared deviations (3), the map (3); backward two sums (4), dx (5).

    For each channel: forward the mean, the variance, the root of it and eps, the factor of the map (5); inference the
    last three; backward the root (2), its quotients with gamma and dgamma (2), the two means of dx and the quotient of
    one with the root (3).
    """
    x, s, c = _size(p)
    flop, once, arrays = {"forward": (7, 5, 2), "inference": (3, 3, 2), "backward": (9, 7, 3)}[p.direction]
    d = p.shapes[0][1]
    parameters = 3 if p.direction == "backward" else 2
    return Work(flop * x + once * d, arrays * x * s + d * (2 * c + parameters * s))


def _local_response_norm(p: Problem) -> Work:
    """A square, a window's sum, its two constants, the power, the product; backward has a second window."""
    x, s, _ = _size(p)
    size = p.attr("size")
    return Work(
        x * (size + 5 if p.direction == "forward" else 2 * size + 11), x * s * (2 if p.direction == "forward" else 3)
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
    if p.direction == "forward":
        return Work(5 * x + 2 * rows, x * (s + c) + rows * (8 + c))
    return Work(2 * x, x * (s + c) + rows * 8)


def _dropout(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(0, x) if p.direction == "mask" else Work(x, 2 * x * s + x)


def _cast(p: Problem) -> Work:
    x, s, _ = _size(p)
    return Work(0, x * (s + _ITEMSIZE["float32" if p.direction == "stochastic" else p.attr("source")]))


def _quantize(p: Problem) -> Work:
    """A product, a rounding and a sum; on the way back a sum and a product."""
    x, s, _ = _size(p)
    return Work((3 if p.op == "quantize" else 2) * x, x * (s + 1))


def _conv2d_int8(p: Problem) -> Work:
    """Of each output a product with its scale, of each channel a scale of 32 bits and a bias where there is one."""
    k, c, kh, kw = p.shapes[1]
    oh, ow = p.grid()
    out = p.shapes[0][0] * k * oh * ow
    bias, relu = p.epilogue.startswith("bias"), p.epilogue.endswith("relu")
    seen = _image_reads(p, (kh, kw), (oh, ow))[0]
    nbytes = seen + math.prod(p.shapes[1]) + out * _ITEMSIZE[p.attr("out")] + 4 * k * (1 + bias)
    return Work(2.0 * out * c * kh * kw + out * (1 + bias + relu), nbytes)


def _conv2d_binary(p: Problem) -> Work:
    """Multiply-adds of signs, 32 in a word."""
    k, _, kh, kw = p.shapes[1]
    oh, ow = p.grid()
    out = p.shapes[0][0] * k * oh * ow
    nbytes = 4 * (_image_reads(p, (kh, kw), (oh, ow))[0] + math.prod(p.shapes[1]) + out)
    return Work(2.0 * out * p.attr("channels") * kh * kw, nbytes)


def _max_pool2d_int8(p: Problem) -> Work:
    windows = _windows(p)
    return Work(windows.out * windows.taps, windows.seen + windows.out)


def _pack_bits(p: Problem) -> Work:
    """A comparison for each bit."""
    x, s, _ = _size(p)
    channels = p.shapes[0][1] // p.groups
    words = x // max(channels, 1) * math.ceil(channels / 32)
    return Work(x, x * s + 4 * words)


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
    "quantize": _quantize,
    "dequantize": _quantize,
    "conv2d_int8": _conv2d_int8,
    "conv2d_binary": _conv2d_binary,
    "max_pool2d_int8": _max_pool2d_int8,
    "pack_bits": _pack_bits,
    "sgd": _optimizer(2, 2, 1),
    "momentum": _optimizer(4, 3, 2),
    "nesterov": _optimizer(7, 3, 2),
    "adagrad": _optimizer(7, 3, 2),
    "rmsprop": _optimizer(9, 3, 2),
    "adam": _optimizer(12, 4, 3),
    "unscale": _optimizer(2, 1, 1),
}
