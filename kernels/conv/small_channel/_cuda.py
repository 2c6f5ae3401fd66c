"""The CUDA kernel of convolutions with few input channels, forward."""

from __future__ import annotations

from typing import Any

from ..._common.cuda import Source, cut, place_of, pointer
from ..._common.cuda.arrange import in_pieces
from ..._common.cuda.tiles import HALVES, vector
from ...problem import Problem
from .._cuda_window import MOST_PIXELS, Image, elements, forward_axes, window

SOURCE = Source(__file__)

#: As in ``_cuda.cu``.
FILTERS, PIXELS, MOST_TAPS = 16, 2, 384


def eligible(problem: Problem) -> bool | str:
    """One group, at most four channels, a filter that shared memory holds."""
    _, c, r, s = problem.shapes[1]
    if problem.groups != 1 or not 1 <= c <= 4:
        return "it has one group of one to four channels"
    if c * r * s > MOST_TAPS:
        return f"its filters have at most {MOST_TAPS} elements"
    oh, ow = problem.grid()
    if problem.shapes[0][0] * oh * ow > MOST_PIXELS:
        return f"it counts at most {MOST_PIXELS} pixels"
    return True


def cost(problem: Problem, isa: str) -> float:
    """Below that of the implicit GEMM but for halves of two to four channels: those are left to the tensor cores,
    though they multiply with zeros up to eight channels."""
    return 1.0 if problem.storage in HALVES and problem.shapes[1][1] > 1 else -1.0


def conv2d_forward(problem: Problem, x: Any, w: Any, b: Any, out: Any, threads: int) -> None:
    kernels = place_of(out, threads).load(SOURCE, problem.storage)
    columns, channels = problem.shapes[1][:2]
    sn, sc, sh, sw = elements(x)
    oh, ow = problem.grid()
    pixels = x.shape[0] * oh * ow
    strides = out.strides
    wide = (
        strides[1] == out.itemsize
        and columns * out.itemsize % 16 == 0
        and in_pieces(pointer(out), (strides[0], *strides[2:]))
    )
    kernels.launch(
        "small_forward", (cut(pixels, 256 * PIXELS), cut(columns, FILTERS)),
        window=window(Image(x, x.shape, pointer(x), sn, sh, sw, 0, channels), *forward_axes(problem)),
        channel=sc, filters=pointer(w), filter_stride=elements(w), out=pointer(out), out_stride=elements(out),
        pixels=pixels, columns=columns, wide=wide, epilogue=(vector(b), problem.epilogue == "bias_relu"),
    )  # fmt: skip
