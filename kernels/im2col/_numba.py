"""im2col and col2im in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import functools
import math

import numpy as np

from .._common.jit import bits, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..problem import Problem
from .reference import _grid

#: col2im treats fewer channels one by one.
FEW = 12


@functools.lru_cache(512)
def windows(size: int, count: int, taps: int, stride: int, before: int, dilation: int) -> np.ndarray:
    """For each window on an axis: the first pixel under it, the tap on that pixel, how many taps are on the image."""
    start = np.arange(count) * stride - before
    first = np.maximum(0, -(start // dilation))
    stop = np.minimum(taps, -((start - size) // dilation))
    return np.stack((start + first * dilation, first, np.maximum(0, stop - first)), axis=1)


@functools.lru_cache(512)
def covers(size: int, count: int, taps: int, stride: int, before: int, dilation: int) -> np.ndarray:
    """For each pixel on an axis: the first window with a tap on it, that tap, and how many windows have one."""
    at = np.arange(size) + before
    window = np.maximum(0, -(((taps - 1) * dilation - at) // stride))
    step = steps(stride, dilation)[0]
    for _ in range(step - 1):  # with dilation some windows step over the pixel
        window += (at - window * stride) % dilation != 0
    tap, between = np.divmod(at - window * stride, dilation)
    last = np.minimum(count - 1, at // stride)
    several = np.where(between == 0, np.maximum(0, (last - window) // step + 1), 0)
    return np.stack((window, tap, several), axis=1)


def steps(stride: int, dilation: int) -> tuple[int, int]:
    """From one window with a tap on a pixel to the next one: so many windows further, so many taps less."""
    common = math.gcd(stride, dilation)
    return dilation // common, stride // common


@kernel
def _im2col(first, last, rows, columns, taps, dilation, by_channel, x, out):
    """Tasks are rows of windows; x is (N, H, W, C)."""
    step = taps[0] * taps[1]
    for task in range(first, last):
        n, oh = divmod(task, len(rows))
        h0, kh0, high = rows[oh]
        for ow in range(len(columns)):
            w0, kw0, wide = columns[ow]
            to = np.uintp(task * len(columns) + ow)  # unsigned: no index is negative
            if high < taps[0] or wide < taps[1]:
                for i in range(out.shape[1]):
                    out[to, i] = 0
            if by_channel:
                for i in range(high):
                    for j in range(wide):
                        ih, iw = np.uintp(h0 + i * dilation[0]), np.uintp(w0 + j * dilation[1])
                        tap = (kh0 + i) * taps[1] + kw0 + j
                        for c in range(x.shape[3]):
                            out[to, np.uintp(tap + c * step)] = x[n, ih, iw, c]
            else:
                for c in range(x.shape[3]):
                    for i in range(high):
                        ih, tap = np.uintp(h0 + i * dilation[0]), c * step + (kh0 + i) * taps[1] + kw0
                        for j in range(wide):
                            out[to, np.uintp(tap + j)] = x[n, ih, np.uintp(w0 + j * dilation[1]), c]


@kernel
def _col2im(first, last, rows, columns, grid, taps, step_h, step_w, col, out):
    """Tasks are rows of pixels; out is (N, H, W, C). The first tap is that of the last window."""
    total, step = np.full(out.shape[3], zero(out)), taps[0] * taps[1]
    for task in range(first, last):
        n, h = divmod(task, len(rows))
        oh0, kh0, high = rows[h]
        for w in range(len(columns)):
            ow0, kw0, wide = columns[w]
            for c in range(total.size):
                total[c] = zero(out)
            for i in range(high - 1, -1, -1):
                for j in range(wide - 1, -1, -1):
                    row = np.uintp((n * grid[0] + oh0 + i * step_h[0]) * grid[1] + ow0 + j * step_w[0])
                    tap = (kh0 - i * step_h[1]) * taps[1] + kw0 - j * step_w[1]
                    for c in range(total.size):
                        total[c] += widen(col[row, np.uintp(tap + c * step)])
            for c in range(total.size):
                out[n, h, w, c] = narrow(total[c], out)


@kernel
def _col2im_few(first, last, rows, shape, grid, taps, step_h, axis, col, out):
    """For few channels: one of them at a time, the pixels of a row side by side."""
    (height, width), (stride, left, dilation) = shape, axis
    total, step = np.full(width, zero(out)), taps[0] * taps[1]
    for task in range(first, last):
        n, h = divmod(task, height)
        oh0, kh0, high = rows[h]
        for c in range(out.shape[3]):
            total[:] = zero(out)
            for i in range(high - 1, -1, -1):
                row = (n * grid[0] + oh0 + i * step_h[0]) * grid[1]
                for kw in range(taps[1]):
                    k = np.uintp(c * step + (kh0 - i * step_h[1]) * taps[1] + kw)
                    shift = kw * dilation - left  # a window's pixel under this tap
                    for ow in range(max(0, -(shift // stride)), min(grid[1], -((shift - width) // stride))):
                        total[np.uintp(ow * stride + shift)] += widen(col[np.uintp(row + ow), k])
            for w in range(width):
                out[n, h, w, c] = narrow(total[w], out)


def im2col_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[(n, oh, ow), (c, kh, kw)] = x[n, c, h, w], 0 in the padding."""
    if out.size == 0:
        return
    n, c, h, w = x.shape
    (oh, ow), (kh, kw) = _grid(problem), problem.attr("kernel")
    (stride_h, stride_w), (top, _, left, _), dilation = problem.stride, problem.pads, problem.dilation
    rows = windows(h, oh, kh, stride_h, top, dilation[0])
    columns = windows(w, ow, kw, stride_w, left, dilation[1])
    by_channel = c > 1 and abs(x.strides[1]) < abs(x.strides[3] * dilation[1])
    word = {2: np.uint16, 4: np.uint32, 8: np.uint64}[x.itemsize]  # a copy is a copy, of NaN too
    parallel(
        _im2col, n * oh, threads, 0.5 * out.size,
        rows, columns, (kh, kw), dilation, by_channel, x.transpose(0, 2, 3, 1).view(word), out.view(word),
    )  # fmt: skip


def col2im_forward(problem: Problem, col: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[n, c, h, w] = sum of col over the windows and taps that stand on (h, w)."""
    if out.size == 0:
        return
    n, c, h, w = out.shape
    (oh, ow), (kh, kw) = _grid(problem), problem.attr("kernel")
    (stride_h, stride_w), (top, _, left, _), dilation = problem.stride, problem.pads, problem.dilation
    rows = covers(h, oh, kh, stride_h, top, dilation[0])
    columns = covers(w, ow, kw, stride_w, left, dilation[1])
    step_h, step_w = steps(stride_h, dilation[0]), steps(stride_w, dilation[1])
    cost, turned = 1.0 * col.size + out.size, bits(out).transpose(0, 2, 3, 1)
    if c < FEW:
        axis = stride_w, left, dilation[1]
        parallel(
            _col2im_few, n * h, threads, cost,
            rows, (h, w), (oh, ow), (kh, kw), step_h, axis, bits(col), turned,
        )  # fmt: skip
        return
    parallel(
        _col2im, n * h, threads, cost,
        rows, columns, (oh, ow), (kh, kw), step_h, step_w, bits(col), turned,
    )  # fmt: skip
