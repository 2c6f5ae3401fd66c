"""CUDA kernels of conv2d: geometry, operands in whole pieces, tiles, splits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._common.cuda import Kernels, Place, Source, cut, place_of, pointer
from .._common.cuda.arrange import arrange, in_pieces, whole
from .._common.cuda.tiles import BLOCKS, LINE, choose, splits, sums_dtype, variants, vector
from ..problem import Problem

SOURCE = Source(__file__, variants=variants())

#: Pixels of one launch: kernels count them with 32 bits.
MOST_PIXELS = 2**31 - 1


class Image(NamedTuple):
    """A (N, C, H, W) array as kernels read it: channels of each group in whole pieces."""

    memory: Any  # kept alive during the call
    address: int
    batch: int  # elements from one to the next
    row: int
    pixel: int
    group: int
    channels: int  # of a group, in whole pieces


def _image(gpu: Place, kernels: Kernels, a: Any, groups: int, dense: bool = False) -> Image:
    """``a``, or a copy of it. ``dense``: with all pixels at one distance."""
    n, c, h, w = a.shape
    size, own = a.itemsize, c // groups
    sn, sc, sh, sw = a.strides
    even = not dense or (sh == w * sw and sn == h * sh)
    if even and sc == size and own * size % 16 == 0 and in_pieces(pointer(a), (sn, sh, sw)):
        return Image(a, pointer(a), sn // size, sh // size, sw // size, own, own)
    channels = whole(own, size)
    memory = arrange(gpu, kernels, pointer(a), (n, h, w, groups, own), (sn, sh, sw, own * sc, sc), size)
    pixel = groups * channels
    return Image(memory, pointer(memory), h * w * pixel, w * pixel, pixel, channels, channels)


class Axis(NamedTuple):
    """One axis of a product: position u reads image position ``u * scale + start + tap * move``."""

    positions: int
    scale: int
    start: int
    move: int
    taps: int
    first: int = 0  # position u of the grid is ``first + u * step`` of the output
    step: int = 1
    first_tap: int = 0  # tap t is ``first_tap + t * tap_step`` of the filter
    tap_step: int = 1


def forward_axis(positions: int, taps: int, stride: int, before: int, dilation: int) -> Axis:
    """Output positions of a convolution, which read its input."""
    return Axis(positions, stride, -before, dilation, taps)


def backward_axes(size: int, taps: int, stride: int, before: int, dilation: int) -> list[Axis]:
    """Positions of the input, which gather from the output: one axis for each phase, position modulo ``stride``.

    Position ``phase + u * stride`` has met tap r at output position ``(phase + u * stride + before - r * dilation) /
    stride`` where that is whole: for every ``stride / gcd(stride, dilation)``-th r from the first one, or for none.
    """
    axes = []
    every = stride // math.gcd(stride, dilation)
    for phase in range(min(stride, size)):
        reach = (phase + before) % stride
        first = next((r for r in range(min(every, taps)) if (reach - r * dilation) % stride == 0), None)
        positions = cut(size - phase, stride)
        if first is None:
            axes.append(Axis(positions, 1, 0, 0, 0, phase, stride))
            continue
        start = (phase + before - first * dilation) // stride
        number = cut(taps - first, every)
        axes.append(Axis(positions, 1, start, -every * dilation // stride, number, phase, stride, first, every))
    return axes


def _window(image: Image, shape: tuple[int, ...], vertical: Axis, horizontal: Axis, digits: tuple[int, ...]) -> tuple:
    """The fields of ``Window``."""
    _, _, h, w = shape
    return (
        image.address, image.batch, image.row, image.pixel, image.group, h, w, max(image.channels, 1),
        vertical.scale, horizontal.scale, vertical.start, horizontal.start, vertical.move, horizontal.move,
        vertical.taps, max(horizontal.taps, 1), vertical.positions, horizontal.positions, digits,
    )  # fmt: skip


def _digits(number: int, middle: int, last: int) -> tuple[int, int, int]:
    """``number`` with digits of these two bases below the first one."""
    rest, low = divmod(number, max(last, 1))
    high, mid = divmod(rest, max(middle, 1))
    return high, mid, low


def _gather(
    gpu: Place,
    problem: Problem,
    a: Any,
    w: Any,
    axes: tuple[Axis, Axis],
    filter_strides: tuple[int, int],
    columns: int,
    out: Any,
    mask: Any,
    bias: Any,
) -> None:
    """out = the filters over the image ``a``; ``filter_strides``: bytes from column to column, and along the sum."""
    vertical, horizontal = axes
    size, groups = out.itemsize, problem.groups
    batch, sums = a.shape[0], a.shape[1] // groups
    grid = vertical.positions * horizontal.positions
    if batch * grid * columns == 0:
        return
    tile = choose(problem.storage, gpu.architecture, batch * grid, columns, groups)
    kernels = gpu.load(SOURCE, problem.storage, **tile.macros)
    image = _image(gpu, kernels, a, groups)
    taps = vertical.taps * horizontal.taps
    _, _, sr, ss = w.strides
    start = pointer(w) + vertical.first_tap * sr + horizontal.first_tap * ss
    by_column, along = filter_strides
    # A group's filters are every K / groups-th of w, and its columns those, or channels of those.
    by_group = w.shape[0] // groups * w.strides[0]
    filters = arrange(
        gpu, kernels, start, (groups, columns, vertical.taps, horizontal.taps, sums),
        (by_group, by_column, vertical.tap_step * sr, horizontal.tap_step * ss, along), size,
    )  # fmt: skip
    strides = tuple(stride // size for stride in out.strides)
    paired = (
        strides[1] == 1
        and columns % 2 == 0
        and all(stride % 2 == 0 for stride in (strides[0], *strides[2:]))
        and pointer(out) % (2 * size) == 0
    )
    each = max(1, MOST_PIXELS // grid)
    for first in range(0, batch, each):
        images = min(each, batch - first)
        part = image._replace(address=image.address + first * image.batch * size)
        digits = _digits(LINE // size, horizontal.taps, image.channels)
        kernels.launch(
            "conv_gather",
            (cut(images * grid, tile.m), cut(columns, tile.n), groups),
            shared=tile.shared,
            window=_window(part, a.shape, vertical, horizontal, digits),
            filters=pointer(filters),
            mask=0 if mask is None else pointer(mask) + first * mask.strides[0],
            out=pointer(out) + first * out.strides[0],
            mask_stride=(0,) * 4 if mask is None else tuple(stride // size for stride in mask.strides),
            out_stride=strides,
            pixels=images * grid,
            columns=columns,
            depth=taps * image.channels,
            first_h=vertical.first,
            first_w=horizontal.first,
            step_h=vertical.step,
            step_w=horizontal.step,
            paired=paired,
            epilogue=(vector(bias), problem.epilogue == "bias_relu"),
        )


def conv2d_forward(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int) -> None:
    oh, ow = problem.grid()
    k, _, r, s = problem.shapes[1]
    top, _, left, _ = problem.pads
    axes = (
        forward_axis(oh, r, problem.stride[0], top, problem.dilation[0]),
        forward_axis(ow, s, problem.stride[1], left, problem.dilation[1]),
    )
    gpu = place_of(out, threads)
    _gather(gpu, problem, x, w, axes, w.strides[:2], k // problem.groups, out, None, b)


def conv2d_backward_input(problem: Problem, dout: Any, w: Any, y: Any, dx: Any, threads: int) -> None:
    _, _, h, width = problem.shapes[0]
    _, c, r, s = problem.shapes[1]
    top, _, left, _ = problem.pads
    gpu = place_of(dx, threads)
    for vertical in backward_axes(h, r, problem.stride[0], top, problem.dilation[0]):
        for horizontal in backward_axes(width, s, problem.stride[1], left, problem.dilation[1]):
            _gather(gpu, problem, dout, w, (vertical, horizontal), w.strides[1::-1], c, dx, y, None)


def conv2d_backward_weight(problem: Problem, dout: Any, x: Any, dw: Any, threads: int) -> None:
    k, c, r, s = problem.shapes[1]
    oh, ow = problem.grid()
    top, _, left, _ = problem.pads
    batch, groups, size = x.shape[0], problem.groups, dw.itemsize
    rows, grid = k // groups, oh * ow
    gpu = place_of(dw, threads)
    channels = whole(c, size)
    columns = r * s * channels
    if rows * columns * groups == 0:
        return
    tile = choose(problem.storage, gpu.architecture, rows, columns, groups)
    kernels = gpu.load(SOURCE, problem.storage, **tile.macros)
    image = _image(gpu, kernels, x, groups)
    gradient = _image(gpu, kernels, dout, groups, dense=True)
    vertical = forward_axis(oh, r, problem.stride[0], top, problem.dilation[0])
    horizontal = forward_axis(ow, s, problem.stride[1], left, problem.dilation[1])
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
            "window": _window(
                image._replace(address=image.address + first * image.batch * size),
                x.shape, vertical, horizontal, _digits(LINE // size, oh, ow),
            ),
            "dout": gradient.address + first * gradient.batch * size,
            "out": pointer(dw),
            "partial": pointer(partial) + done * groups * rows * columns * item if partial is not None else 0,
            "pitch": gradient.pixel,
            "dout_group": gradient.group,
            "out_stride": tuple(stride // size for stride in dw.strides),
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
        kernels.launch("conv_weight_join", cut(groups * rows * columns, 256), weight=struct, splits=number)


def conv2d_backward_bias(problem: Problem, dout: Any, db: Any, threads: int) -> None:
    n, channels, h, w = problem.shapes[0]
    gpu = place_of(db, threads)
    kernels = gpu.load(SOURCE, problem.storage, **choose(problem.storage, gpu.architecture, 1, 1).macros)
    size, pixels = dout.itemsize, n * h * w
    wide = (
        dout.strides[1] == size
        and channels * size % 16 == 0
        and in_pieces(pointer(dout), (dout.strides[0], *dout.strides[2:]))
    )
    side = 8 * 16 // size if wide else 32
    # Chunks depend on the problem alone: they order the sum.
    chunk = max(512, cut(pixels * cut(channels, side), 4 * BLOCKS))
    chunks = cut(pixels, chunk)
    partial = gpu.scratch(chunks * channels * sums_dtype(problem.storage).itemsize)
    kernels.launch(
        "bias_chunks_wide" if wide else "bias_chunks", (chunks, cut(channels, side)),
        dout=pointer(dout), partial=pointer(partial), stride=tuple(stride // size for stride in dout.strides),
        pixels=pixels, chunk=chunk, channels=channels, height=max(h, 1), width=max(w, 1),
    )  # fmt: skip
    blocks = cut(channels * 32, 128)
    kernels.launch("bias_join", blocks, partial=pointer(partial), db=vector(db), channels=channels, chunks=chunks)


def conv2d_forward_pooled(
    problem: Problem, x: Any, w: Any, b: Any, out: Any, pooled: Any, indices: Any, threads: int
) -> None:
    raise NotImplementedError
