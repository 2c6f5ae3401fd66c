"""CUDA kernels of conv2d: operands in whole pieces, tiles, splits."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Place, Source, cut, place_of, pointer
from .._common.cuda.arrange import arrange, in_pieces, whole
from .._common.cuda.tiles import BLOCKS, LINE, choose, splits, sums_dtype, variants, vector
from ..pool._cuda import max_pool2d_forward
from ..problem import Problem
from ._cuda_window import (
    MOST_PIXELS,
    Axis,
    Image,
    channels_last,
    digits,
    elements,
    forward_axes,
    image_of,
    paired,
    phases,
    window,
)

SOURCE = Source(__file__, variants=variants())


def _gather(
    gpu: Place,
    problem: Problem,
    image: Image,
    w: Any,
    axes: tuple[Axis, Axis],
    filter_strides: tuple[int, int],
    columns: int,
    out: Any,
    mask: Any,
    bias: Any,
    tf32: bool,
) -> None:
    """out = the filters over ``image``; ``filter_strides``: bytes from column to column, and along the sum."""
    vertical, horizontal = axes
    size, groups = out.itemsize, problem.groups
    batch, sums = image.shape[0], image.shape[1] // groups
    grid = vertical.positions * horizontal.positions
    if batch * grid * columns == 0:
        return
    tile = choose(problem.storage, gpu.architecture, batch * grid, columns, groups, tf32)
    kernels = gpu.load(SOURCE, problem.storage, **tile.macros)
    taps = vertical.taps * horizontal.taps
    _, _, sr, ss = w.strides
    start = pointer(w) + vertical.first_tap * sr + horizontal.first_tap * ss
    by_column, along = filter_strides
    # A group's filters are every K / groups-th of w, and its columns those, or channels of those.
    by_group = w.shape[0] // groups * w.strides[0]
    filters = arrange(
        gpu, problem.storage, start, (groups, columns, vertical.taps, horizontal.taps, sums),
        (by_group, by_column, vertical.tap_step * sr, horizontal.tap_step * ss, along), size,
    )  # fmt: skip
    each = max(1, MOST_PIXELS // grid)
    for first in range(0, batch, each):
        images = min(each, batch - first)
        part = image._replace(address=image.address + first * image.batch * size)
        carry = digits(LINE // size, horizontal.taps, image.channels)
        kernels.launch(
            "conv_gather",
            (cut(images * grid, tile.m), cut(columns, tile.n), groups),
            shared=tile.shared,
            window=window(part, vertical, horizontal, carry),
            filters=pointer(filters),
            mask=0 if mask is None else pointer(mask) + first * mask.strides[0],
            out=pointer(out) + first * out.strides[0],
            mask_stride=elements(mask),
            out_stride=elements(out),
            pixels=images * grid,
            columns=columns,
            depth=taps * image.channels,
            first_h=vertical.first,
            first_w=horizontal.first,
            step_h=vertical.step,
            step_w=horizontal.step,
            paired=paired(out, columns),
            epilogue=(vector(bias), problem.epilogue == "bias_relu"),
        )


def _forward(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int, tf32: bool) -> None:
    gpu = place_of(out, threads)
    columns = problem.shapes[1][0] // problem.groups
    image = image_of(gpu, problem.storage, x, problem.groups)
    _gather(gpu, problem, image, w, forward_axes(problem), w.strides[:2], columns, out, None, b, tf32)


def conv2d_forward(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int) -> None:
    _forward(problem, x, w, b, out, threads, False)


def conv2d_forward_tf32(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int) -> None:
    _forward(problem, x, w, b, out, threads, True)


def _backward_input(problem: Problem, dout: Any, w: Any, y: Any, dx: Any, threads: int, tf32: bool) -> None:
    gpu = place_of(dx, threads)
    image, columns = image_of(gpu, problem.storage, dout, problem.groups), problem.shapes[1][1]
    for axes in phases(problem):
        _gather(gpu, problem, image, w, axes, w.strides[1::-1], columns, dx, y, None, tf32)


def conv2d_backward_input(problem: Problem, dout: Any, w: Any, y: Any, dx: Any, threads: int) -> None:
    _backward_input(problem, dout, w, y, dx, threads, False)


def conv2d_backward_input_tf32(problem: Problem, dout: Any, w: Any, y: Any, dx: Any, threads: int) -> None:
    _backward_input(problem, dout, w, y, dx, threads, True)


def conv2d_backward_weight(problem: Problem, dout: Any, x: Any, dw: Any, threads: int) -> None:
    _backward_weight(problem, dout, x, dw, threads, False)


def conv2d_backward_weight_tf32(problem: Problem, dout: Any, x: Any, dw: Any, threads: int) -> None:
    _backward_weight(problem, dout, x, dw, threads, True)


def _backward_weight(problem: Problem, dout: Any, x: Any, dw: Any, threads: int, tf32: bool) -> None:
    k, c, r, s = problem.shapes[1]
    oh, ow = problem.grid()
    batch, groups, size = x.shape[0], problem.groups, dw.itemsize
    rows, grid = k // groups, oh * ow
    gpu = place_of(dw, threads)
    channels = whole(c, size)
    columns = r * s * channels
    if rows * columns * groups == 0:
        return
    tile = choose(problem.storage, gpu.architecture, rows, columns, groups, tf32)
    kernels = gpu.load(SOURCE, problem.storage, **tile.macros)
    image = image_of(gpu, problem.storage, x, groups)
    gradient = image_of(gpu, problem.storage, dout, groups, dense=True)
    vertical, horizontal = forward_axes(problem)
    each = max(1, MOST_PIXELS // max(grid, 1))
    parts = []  # first image, images, splits, pixels of a split
    for first in range(0, max(batch, 1), each):
        images = min(each, batch - first)
        parts.append((first, images, *splits(tile, rows, columns, images * grid, size, groups)))
    number = sum(part[2] for part in parts)
    item = sums_dtype(problem.storage).itemsize
    partial = gpu.scratch(number * groups * rows * columns * item) if number > 1 else None
    done = 0
    for first, images, many, length in parts:
        weight = {
            "window": window(
                image._replace(address=image.address + first * image.batch * size),
                vertical, horizontal, digits(LINE // size, oh, ow),
            ),
            "dout": gradient.address + first * gradient.batch * size,
            "out": pointer(dw),
            "partial": pointer(partial) + done * groups * rows * columns * item if partial is not None else 0,
            "pitch": gradient.pixel,
            "dout_group": gradient.group,
            "out_stride": elements(dw),
            "rows": rows,
            "columns": columns,
            "channels": c,
            "pixels": images * grid,
            "length": length,
            "groups": groups,
        }  # fmt: skip
        blocks = (cut(rows, tile.m), cut(columns, tile.n), many * groups)
        kernels.launch("conv_weight", blocks, shared=tile.shared, **weight)
        done += many
    if partial is not None:
        struct = tuple(weight[name] if name != "partial" else pointer(partial) for name in weight)
        gpu.load(SOURCE, problem.storage).launch(
            "conv_weight_join", cut(groups * rows * columns, 256), weight=struct, splits=number
        )


def conv2d_backward_bias(problem: Problem, dout: Any, db: Any, threads: int) -> None:
    n, channels, h, w = problem.shapes[0]
    gpu = place_of(db, threads)
    kernels = gpu.load(SOURCE, problem.storage)
    size, pixels = dout.itemsize, n * h * w
    wide = (
        dout.strides[1] == size
        and channels * size % 16 == 0
        and in_pieces(pointer(dout), (dout.strides[0], *dout.strides[2:]))
    )
    side = 8 * 16 // size
    # Chunks depend on the problem alone: they order the sum.
    chunk = max(512, cut(pixels * cut(channels, side), 4 * BLOCKS))
    chunks = cut(pixels, chunk)
    partial = gpu.scratch(chunks * channels * sums_dtype(problem.storage).itemsize)
    kernels.launch(
        "bias_chunks", (chunks, cut(channels, side)),
        dout=pointer(dout), partial=pointer(partial), stride=elements(dout),
        pixels=pixels, chunk=chunk, channels=channels, height=max(h, 1), width=max(w, 1), wide=wide,
    )  # fmt: skip
    blocks = cut(channels * 32, 128)
    kernels.launch("bias_join", blocks, partial=pointer(partial), db=vector(db), channels=channels, chunks=chunks)


def conv2d_forward_pooled(
    problem: Problem, x: Any, w: Any, b: Any, out: Any, pooled: Any, indices: Any, threads: int
) -> None:
    shape = (*pooled.shape[:2], *problem.grid())
    if out is None:
        out = place_of(pooled, threads).array(shape, pooled.dtype, channels_last(shape, pooled.itemsize))
    conv2d_forward(problem._replace(direction="forward"), x, w, b, out, threads)
    attrs = (("ceil_mode", False), ("kernel", (2, 2)))
    pool = Problem("max_pool2d", "forward", (shape,), problem.storage, ("nhwc",), stride=(2, 2), attrs=attrs)
    max_pool2d_forward(pool, out, pooled, indices, threads)
