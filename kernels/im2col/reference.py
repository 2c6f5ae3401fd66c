"""im2col and col2im in NumPy: the specification."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..geometry import Pair, window_grid
from ..problem import Problem


def axis_slices(size: int, windows: int, stride: int, before: int, offset: int) -> tuple[slice, slice]:
    """Along one axis: (the windows whose tap at ``offset`` stands on the image, the image elements it stands on).

    Window ``o`` starts at ``o * stride - before``. The two slices have equal lengths.
    """
    first = max(0, -((offset - before) // stride))
    last = min(windows, (size - 1 + before - offset) // stride + 1)
    start = first * stride - before + offset
    count = max(0, last - first)
    if count == 0:
        return slice(0, 0), slice(0, 0)
    return slice(first, last), slice(start, start + (count - 1) * stride + 1, stride)


def taps(
    problem: Problem, size: Pair, grid: Pair
) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """The window's taps in row-major order: (kh, kw, windows that see the image there, the elements they see)."""
    kernel_h, kernel_w = problem.attr("kernel")
    for kh in range(kernel_h):
        oh, h = axis_slices(size[0], grid[0], problem.stride[0], problem.pads[0], kh * problem.dilation[0])
        for kw in range(kernel_w):
            ow, w = axis_slices(size[1], grid[1], problem.stride[1], problem.pads[2], kw * problem.dilation[1])
            yield kh, kw, (oh, ow), (h, w)


def _grid(problem: Problem) -> Pair:
    _, _, h, w = problem.shapes[0]
    return window_grid((h, w), problem.attr("kernel"), problem.stride, problem.pads, problem.dilation)


def im2col_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[(n, oh, ow), (c, kh, kw)] = x[n, c, h, w], 0 in the padding."""
    n, c, h, w = x.shape
    grid = _grid(problem)
    windows = np.zeros((n, *grid, c, *problem.attr("kernel")), x.dtype)
    for kh, kw, (oh, ow), (ih, iw) in taps(problem, (h, w), grid):
        windows[:, oh, ow, :, kh, kw] = x[:, :, ih, iw].transpose(0, 2, 3, 1)
    out[...] = windows.reshape(out.shape)


def col2im_forward(problem: Problem, col: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[n, c, h, w] = sum of col over the windows and taps that stand on (h, w)."""
    n, c, h, w = out.shape
    grid = _grid(problem)
    windows = col.reshape(n, *grid, c, *problem.attr("kernel"))
    image = np.zeros(out.shape, problem.compute)
    for kh, kw, (oh, ow), (ih, iw) in taps(problem, (h, w), grid):
        image[:, :, ih, iw] += windows[:, oh, ow, :, kh, kw].transpose(0, 3, 1, 2).astype(image.dtype)
    out[...] = image
