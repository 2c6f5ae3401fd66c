"""The geometry of convolutions' CUDA kernels: images in whole pieces, and the axes of ``window.cuh``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from .._common.cuda import Place, cut, pointer
from .._common.cuda.arrange import arrange, in_pieces, whole
from ..problem import Problem

#: Pixels of one launch: kernels count them with 32 bits.
MOST_PIXELS = 2**31 - 1


class Image(NamedTuple):
    """A (N, C, H, W) array as kernels read it: channels of each group in whole pieces."""

    memory: Any  # kept alive during the call
    shape: tuple[int, ...]
    address: int
    batch: int  # elements from one to the next
    row: int
    pixel: int
    group: int
    channels: int  # of a group, in whole pieces


def image_of(gpu: Place, storage: str, a: Any, groups: int, dense: bool = False) -> Image:
    """``a``, or a copy of it. ``dense``: with all pixels at one distance."""
    n, c, h, w = a.shape
    size, own = a.itemsize, c // groups
    sn, sc, sh, sw = a.strides
    even = not dense or (sh == w * sw and sn == h * sh)
    if even and sc == size and own * size % 16 == 0 and in_pieces(pointer(a), (sn, sh, sw)):
        return Image(a, a.shape, pointer(a), sn // size, sh // size, sw // size, own, own)
    channels = whole(own, size)
    memory = arrange(gpu, storage, pointer(a), (n, h, w, groups, own), (sn, sh, sw, own * sc, sc), size)
    pixel = groups * channels
    return Image(memory, a.shape, pointer(memory), h * w * pixel, w * pixel, pixel, channels, channels)


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


def window(image: Image, vertical: Axis, horizontal: Axis, carry: tuple[int, ...] = (0, 0, 0)) -> tuple[Any, ...]:
    """The fields of ``Window``."""
    _, _, h, w = image.shape
    return (
        image.address, image.batch, image.row, image.pixel, image.group, h, w, max(image.channels, 1),
        vertical.scale, horizontal.scale, vertical.start, horizontal.start, vertical.move, horizontal.move,
        vertical.taps if horizontal.taps else 0, max(horizontal.taps, 1), vertical.positions, horizontal.positions,
        carry,
    )  # fmt: skip


def digits(number: int, middle: int, last: int) -> tuple[int, int, int]:
    """``number`` with digits of these two bases below the first one."""
    rest, low = divmod(number, max(last, 1))
    high, mid = divmod(rest, max(middle, 1))
    return high, mid, low


def forward_axes(problem: Problem) -> tuple[Axis, Axis]:
    """Both axes of a forward pass, and of backward_weight."""
    grid, taps, pads = problem.grid(), problem.shapes[1][2:], (problem.pads[0], problem.pads[2])
    made = map(forward_axis, grid, taps, problem.stride, pads, problem.dilation)
    return tuple(made)  # type: ignore[return-value]


def phases(problem: Problem) -> Iterator[tuple[Axis, Axis]]:
    """Both axes of each part of backward_input."""
    sizes, taps, pads = problem.shapes[0][2:], problem.shapes[1][2:], (problem.pads[0], problem.pads[2])
    vertical, horizontal = map(backward_axes, sizes, taps, problem.stride, pads, problem.dilation)
    return itertools.product(vertical, horizontal)


def elements(a: Any) -> tuple[int, ...]:
    """The strides of an array in elements; zeros for None."""
    return (0,) * 4 if a is None else tuple(stride // a.itemsize for stride in a.strides)


def paired(out: Any, columns: int) -> bool:
    """Whether channels 2i and 2i + 1 of every pixel are one aligned access."""
    strides = elements(out)
    return (
        strides[1] == 1
        and columns % 2 == 0
        and all(stride % 2 == 0 for stride in (strides[0], *strides[2:]))
        and pointer(out) % (2 * out.itemsize) == 0
    )


def channels_last(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a dense (N, C, H, W) array in channels-last memory."""
    _, c, h, w = shape
    return (h * w * c * itemsize, itemsize, w * c * itemsize, c * itemsize)
