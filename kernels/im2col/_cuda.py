"""CUDA kernels of im2col and col2im: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from ..geometry import window_grid
from ..problem import Problem

SOURCE = Source(__file__)
#: As in the source.
_THREADS, _CHANNELS = 256, 4


def _arguments(problem: Problem, image: Any, col: Any) -> dict[str, Any]:
    n, c, h, w = problem.shapes[0]
    kernel, stride, pads, dilation = problem.attr("kernel"), problem.stride, problem.pads, problem.dilation
    oh, ow = window_grid((h, w), kernel, stride, pads, dilation)
    by_n, by_c, by_h, by_w = image.strides
    by_window, by_tap = col.strides
    return {
        "image": pointer(image), "by_n": by_n, "by_c": by_c, "by_h": by_h, "by_w": by_w,
        "col": pointer(col), "by_window": by_window, "by_tap": by_tap,
        "n": n, "c": c, "h": h, "w": w, "oh": oh, "ow": ow, "kernel_h": kernel[0], "kernel_w": kernel[1],
        "stride_h": stride[0], "stride_w": stride[1], "top": pads[0], "left": pads[2],
        "dilation_h": dilation[0], "dilation_w": dilation[1],
    }  # fmt: skip


def _across(units: int) -> int:
    """Threads beside each other in a block for so many units in a row: those that leave the fewest idle."""
    least = cut(units, _THREADS)

    def idle(parts: int) -> float:
        across = cut(units, parts)
        return 1 - units / (parts * across) * (across * (_THREADS // across) / _THREADS)

    return cut(units, min(range(least, least + 8), key=idle))


def im2col_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    if not out.size:
        return
    windows, columns = out.shape
    width = 16 // out.itemsize
    packed = (
        columns % width == 0
        and out.strides[1] == out.itemsize
        and (out.strides[0] % 16 == 0 or windows == 1)
        and pointer(out) % 16 == 0
    )
    units = columns // width if packed else columns
    across = _across(units)
    down, chunks = _THREADS // across, cut(units, across)
    # Long runs find their taps once; short ones have blocks for every multiprocessor of a large chip.
    steps = max(1, min(8, windows * chunks // (down * 1024)))
    place_of(out, threads).load(SOURCE, problem.storage).launch(
        "im2col_packed" if packed else "im2col_forward", cut(windows, down * steps) * chunks, chunks=chunks,
        across=across, steps=steps, **_arguments(problem, x, out),
    )  # fmt: skip


def col2im_forward(problem: Problem, col: Any, out: Any, threads: int) -> None:
    if not out.size:
        return
    n, c, h, w = out.shape
    # Neighbouring threads write neighbouring addresses: channels of a channels-last image, otherwise pixels.
    across = min(c, 32) if out.strides[1] == out.itemsize and c > 1 else 1
    chunks = cut(c, across * _CHANNELS)
    place_of(out, threads).load(SOURCE, problem.storage).launch(
        "col2im_forward", cut(n * h * w, _THREADS // across) * chunks, chunks=chunks, across=across, steps=0,
        **_arguments(problem, out, col),
    )  # fmt: skip
