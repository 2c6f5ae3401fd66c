"""CUDA kernels of pooling: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from .._common.cuda.image import channels_last, divisor, image, width
from .._common.cuda.sums import cut_matrix
from ..problem import Problem

SOURCE = Source(__file__)
THREADS = 256


def _axis(problem: Problem, axis: int, windows: int) -> tuple[Any, ...]:
    """``Axis`` of windows.cuh."""
    stride, dilation = problem.stride[axis], problem.dilation[axis]
    return (
        problem.shapes[0][2 + axis], windows, problem.attr("kernel")[axis], problem.pads[2 * axis], stride, dilation,
        divisor(stride), divisor(dilation),
    )  # fmt: skip


def _order(shape: tuple[int, ...], lanes: int, planes: bool) -> tuple[Any, ...]:
    """How threads go through (N, C, H, W): their number, divisors, and whether planes come before pixels."""
    n, c, h, w = shape
    groups = c // lanes
    sizes = (w, h, c) if planes else (groups, w, h)
    return n * groups * h * w, *map(divisor, sizes), int(planes)


def _windows(problem: Problem, shape: tuple[int, ...], grid: tuple[int, ...], lanes: int, planes: bool) -> Any:
    """``Windows`` of windows.cuh, for threads that go through ``shape``."""
    return *_order(shape, lanes, planes), _axis(problem, 0, grid[0]), _axis(problem, 1, grid[1])


def _name(name: str, lanes: int) -> str:
    return name if lanes > 1 else f"{name}_plain"


def _size(problem: Problem, sizes: tuple[tuple[int, int], ...]) -> str:
    """The kernel's size, where it is one of those that have code of their own."""
    kernel = problem.attr("kernel")
    return f"{kernel[0]}x{kernel[1]}" if kernel in sizes else "any"


def max_pool2d_forward(problem: Problem, x: Any, out: Any, indices: Any | None, threads: int) -> None:
    kernels = place_of(out, threads).load(SOURCE, problem.storage)
    large = indices is not None and indices.itemsize > 1
    lanes = 1 if large else width(x, out, indices)
    windows = _windows(problem, out.shape, out.shape[2:], lanes, lanes == 1 and not channels_last(out))
    kernels.launch(
        _name(f"max_forward_{_size(problem, ((2, 2), (3, 3)))}", lanes), cut(windows[0], THREADS), windows=windows,
        x=image(x), out=image(out), indices=image(indices), none=0x7FFFFFFF if large else 255, large=int(large),
    )  # fmt: skip


def max_pool2d_backward(problem: Problem, dout: Any, indices: Any, out: Any | None, dx: Any, threads: int) -> None:
    kernels = place_of(dx, threads).load(SOURCE, problem.storage)
    large = indices.itemsize > 1
    lanes = 1 if large else width(dx, dout, out, indices)
    shape, first, size = dx.shape, (0, 0), "any"
    if problem.stride == (2, 2) and problem.dilation == (1, 1):
        size = _size(problem, ((2, 2), (3, 3)))
    if size != "any":  # patches of 2x2 pixels
        before = problem.pads[::2]
        first = before[0] // 2, before[1] // 2
        patches = ((length - 1 + pad) // 2 - pad // 2 + 1 for length, pad in zip(dx.shape[2:], before, strict=True))
        shape = *dx.shape[:2], *patches
    windows = _windows(problem, shape, dout.shape[2:], lanes, lanes == 1 and not channels_last(dx))
    kernels.launch(
        _name(f"max_backward_{size}", lanes), cut(windows[0], THREADS), windows=windows, dout=image(dout),
        indices=image(indices), out=image(out), dx=image(dx), top=first[0], left=first[1], large=int(large),
    )  # fmt: skip


def _mean(problem: Problem, name: str, source: Any, to: Any, grid: tuple[int, ...], threads: int) -> None:
    kernels = place_of(to, threads).load(SOURCE, problem.storage)
    include, (_, _, h, w) = bool(problem.attr("count_include_pad")), problem.shapes[0]
    lanes = width(to, source)
    windows = _windows(problem, to.shape, grid, lanes, lanes == 1 and not channels_last(to))
    kernels.launch(
        _name(name if lanes > 1 else "_".join((*name.split("_")[:2], "any")), lanes), cut(windows[0], THREADS),
        windows=windows, to=image(to), include=int(include), below=h + problem.pads[1] * include,
        beyond=w + problem.pads[3] * include, **{"from": image(source)},
    )  # fmt: skip


def avg_pool2d_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    _mean(problem, f"mean_forward_{_size(problem, ((2, 2), (3, 3)))}", x, out, out.shape[2:], threads)


def avg_pool2d_backward(problem: Problem, dout: Any, dx: Any, threads: int) -> None:
    _mean(problem, "mean_backward_any", dout, dx, dout.shape[2:], threads)


def global_avg_pool2d_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    gpu = place_of(out, threads)
    kernels = gpu.load(SOURCE, problem.storage)
    n, c, h, w = x.shape
    lanes, most = width(x), 16 // x.itemsize
    planes = problem.orders[:1] == ("nchw",) and h * w > 1
    # The order of the sums is a function of the problem alone; only what a thread has of it depends on the array.
    part = cut_matrix(h * w, c if planes or c % most else c // most, n, planes)
    part = part._replace(tiles=cut(c, part.lanes * lanes))
    partial = gpu.scratch(8 * n * c * part.chunks) if part.chunks > 1 else None
    kernels.launch(
        _name("global_forward", lanes), n * part.tiles * part.chunks, x=image(x), out=image(out),
        tiles=divisor(part.tiles), chunks=divisor(part.chunks), width=divisor(w), lanes=part.lanes, channels=c,
        chunk=part.chunk, pixels=h * w, sums=pointer(partial),
    )  # fmt: skip
    if partial is not None:
        kernels.launch(
            "global_join", cut(n * c, THREADS // 32), out=image(out), means=n * c, channels=divisor(c),
            chunks=part.chunks, pixels=h * w, sums=pointer(partial),
        )  # fmt: skip


def global_avg_pool2d_backward(problem: Problem, dout: Any, dx: Any, threads: int) -> None:
    kernels = place_of(dx, threads).load(SOURCE, problem.storage)
    lanes = width(dx, dout)
    items, inner, middle, outer, planes = _order(dx.shape, lanes, lanes == 1 and not channels_last(dx))
    kernels.launch(
        _name("global_backward", lanes), cut(items, THREADS), items=items, inner=inner, middle=middle, outer=outer,
        planes=planes, dout=image(dout), dx=image(dx), share=1 / max(dx.shape[2] * dx.shape[3], 1),
    )  # fmt: skip
