"""CUDA kernels of depthwise convolutions: one input and one output channel in each group."""

from __future__ import annotations

from typing import Any

from ..._common.cuda import Place, Source, cut, place_of, pointer
from ..._common.cuda.arrange import arrange, in_pieces, whole
from ..._common.cuda.tiles import BLOCKS, sums_dtype, vector
from ...problem import Problem
from .._cuda_window import MOST_PIXELS, Axis, Image, elements, forward_axes, image_of, phases, window

SOURCE = Source(__file__)

#: As in ``_cuda.cu``.
STRIP, TAPS, SIDE_BY_SIDE = 4, 4, 8


def eligible(problem: Problem) -> bool | str:
    """One input and one output channel in each group, and pixels that 32 bits count."""
    k, c, r, s = problem.shapes[1]
    if not c == 1 <= k == problem.groups or min(r, s) == 0:
        return "its groups have one input and one output channel"
    n, _, h, w = problem.shapes[0]
    oh, ow = problem.grid()
    if n * max(h * w, oh * ow) > MOST_PIXELS:
        return f"it counts at most {MOST_PIXELS} pixels"
    return True


def cost(problem: Problem, isa: str) -> float:
    """Below that of the implicit GEMM wherever it is eligible: that has 64 columns for each group's one."""
    return -1.0


def _wide(a: Any, channels: int) -> bool:
    """Whether the channels of a pixel are whole pieces beside each other; so does no array at all."""
    if a is None:
        return True
    n, c, h, w = a.strides
    return c == a.itemsize and channels * c % 16 == 0 and in_pieces(pointer(a), (n, h, w))


def _gather(
    gpu: Place, problem: Problem, image: Image, w: Any, axes: tuple[Axis, Axis], out: Any, mask: Any, bias: Any
) -> None:
    vertical, horizontal = axes
    kernels = gpu.load(SOURCE, problem.storage)
    channels, size = image.shape[1], out.itemsize
    sk, _, sr, ss = w.strides
    filters = arrange(
        gpu, problem.storage, pointer(w) + vertical.first_tap * sr + horizontal.first_tap * ss,
        (vertical.taps, horizontal.taps, channels), (vertical.tap_step * sr, horizontal.tap_step * ss, sk), size,
    )  # fmt: skip
    strips = image.shape[0] * vertical.positions * cut(horizontal.positions, STRIP)
    kernels.launch(
        "depthwise_gather", cut(strips * image.channels * size, 16 * 256),
        window=window(image, vertical, horizontal), filters=pointer(filters), mask=pointer(mask),
        out=pointer(out), mask_stride=elements(mask), out_stride=elements(out), strips=strips, channels=channels,
        first_h=vertical.first, first_w=horizontal.first, step_h=vertical.step, step_w=horizontal.step,
        wide=_wide(out, channels) and _wide(mask, channels),
        epilogue=(vector(bias), problem.epilogue == "bias_relu"),
    )  # fmt: skip


def conv2d_forward(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int) -> None:
    gpu = place_of(out, threads)
    _gather(gpu, problem, image_of(gpu, problem.storage, x, 1), w, forward_axes(problem), out, None, b)


def conv2d_backward_input(problem: Problem, dout: Any, w: Any, y: Any, dx: Any, threads: int) -> None:
    gpu = place_of(dx, threads)
    image = image_of(gpu, problem.storage, dout, 1)
    for axes in phases(problem):
        _gather(gpu, problem, image, w, axes, dx, y, None)


def conv2d_backward_weight(problem: Problem, dout: Any, x: Any, dw: Any, threads: int) -> None:
    gpu = place_of(dw, threads)
    kernels = gpu.load(SOURCE, problem.storage)
    channels, _, r, s = problem.shapes[1]
    oh, ow = problem.grid()
    image, gradient = image_of(gpu, problem.storage, x, 1), image_of(gpu, problem.storage, dout, 1)
    padded, size = whole(channels, dw.itemsize), dw.itemsize
    blocks = cut(padded * size, 16 * SIDE_BY_SIDE), r * cut(s, TAPS)
    pixels = x.shape[0] * oh * ow
    # Chunks depend on the problem alone: they order the sum.
    chunk = max(256, cut(pixels * blocks[0] * blocks[1], 4 * BLOCKS))
    chunks = cut(pixels, chunk)
    partial = gpu.scratch(chunks * r * s * padded * sums_dtype(problem.storage).itemsize)
    kernels.launch(
        "depthwise_weight", (chunks, *blocks), window=window(image, *forward_axes(problem)),
        dout=gradient.address, dout_batch=gradient.batch, dout_row=gradient.row, dout_pixel=gradient.pixel,
        partial=pointer(partial), pixels=pixels, chunk=chunk,
    )  # fmt: skip
    strides = elements(dw)
    kernels.launch(
        "depthwise_join", cut(r * s * padded, 256), partial=pointer(partial), out=pointer(dw),
        stride=(strides[0], *strides[2:]), size=r * s * padded, padded=padded, channels=channels, taps_w=s,
        chunks=chunks,
    )  # fmt: skip
