"""CUDA kernels of batch_norm and local_response_norm: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from .._common.cuda.image import channels_last, divisor, image, width
from .._common.cuda.sums import cut_matrix
from ..problem import Problem

SOURCE = Source(__file__)
#: As in batch_norm.cuh.
FEW, THREADS = 8, 256
#: Rows of a thread, and blocks, of a map.
MAP_PANEL, MAP_BLOCKS = 4, 1056
#: Blocks of a sum, about.
SUM_BLOCKS = 512

_KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}

# ---- batch_norm -----------------------------------------------------------------------------------------------------


def _vector(v: Any | None) -> tuple[int, int, int]:
    """A ``Vector`` of batch_norm.cuh."""
    return (0, 0, 0) if v is None else (pointer(v), v.strides[0], _KINDS[v.dtype.name])


def _steady(a: Any) -> bool:
    """Whether each row of channels is as far behind the last one, in images, lines and pixels."""
    (n, _, h, w), (by_image, _, by_line, by_pixel) = a.shape, a.strides
    return (w == 1 or h == 1 or by_line == w * by_pixel) and (
        n == 1 or h * w == 1 or by_image == h * (by_line if h > 1 else w * by_pixel)
    )


def _pitch(a: Any) -> int:
    """The distance of steady rows."""
    for size, stride in ((a.shape[3], a.strides[3]), (a.shape[2], a.strides[2])):
        if size > 1:
            return int(stride)
    return int(a.strides[0])


def _pixels(*arrays: Any) -> int:
    """Pixels of a channel in 16 bytes, if these can be read and written at once in every array; else 1."""
    n, c, h, w = arrays[0].shape
    lanes = 16 // arrays[0].itemsize
    for a in arrays:
        away = (pointer(a), *(stride for size, stride in ((n, a.strides[0]), (c, a.strides[1])) if size > 1))
        beside = a.strides[3] == a.itemsize and (h == 1 or a.strides[2] == w * a.itemsize)
        if w == 1 or h * w % lanes or not beside or any(v % 16 for v in away):
            return 1
    return lanes


class _Batch:
    """How the kernels of a call see its arrays: (N, C, H, W) as rows and channels."""

    def __init__(self, problem: Problem, to: Any, *others: Any) -> None:
        arrays = [a if a.ndim == 4 else a[:, :, None, None] for a in (to, *others)]
        n, self.channels, h, w = arrays[0].shape
        self.count = n * h * w
        wide = width(*arrays) if all(map(_steady, arrays)) else 1
        deep = _pixels(*arrays) if wide == 1 else 1
        self.name = "channels" if wide > 1 else "pixels" if deep > 1 else "plain"
        self.images = [image(a) if wide == 1 else (*image(a)[:4], _pitch(a)) for a in arrays]
        self.rows = self.count, divisor(h * w), divisor(w)
        # The order of the sums is a function of the problem; how threads are laid out over it, one of the arrays.
        self.lanes = 16 // arrays[0].itemsize
        planes = problem.orders[:1] == ("nchw",) and h * w > 1
        self.order = self.channels if planes or self.channels % self.lanes else self.channels // self.lanes, planes

    def tiling(self, panel: int, blocks: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """The grid, and ``Tiling`` of batch_norm.cuh."""
        columns, planes = self.order
        part = cut_matrix(self.count, columns, 1, planes, panel, blocks)
        lanes = part.lanes * (self.lanes if self.name == "pixels" else 1)  # with as many rows at once
        tiles = cut(self.channels, lanes * (self.lanes if self.name == "channels" else 1))
        return (tiles, part.chunks), (lanes, self.channels, part.chunk, part.chunks)

    def sums(self, gpu: Any, kernels: Any, name: str, mean: Any | None, x: Any, dout: Any) -> tuple[Any, int, int]:
        """Both sums of each channel: memory with some chunks for each, rows of a chunk, and their number."""
        grid, tiling = self.tiling(8 if mean is None else 4, SUM_BLOCKS)
        chunk, chunks = tiling[2:]
        totals = gpu.scratch(16 * self.channels * chunks)
        kernels.launch(
            f"{name}_{self.name}", grid, rows=self.rows, tiling=tiling, x=x, dout=dout, mean=_vector(mean),
            totals=pointer(totals),
        )  # fmt: skip
        if chunks <= FEW:
            return totals, chunk, chunks
        joined = gpu.scratch(16 * self.channels)
        kernels.launch(
            "batch_join", cut(self.channels, THREADS // 32), totals=pointer(totals), joined=pointer(joined),
            rows=self.count, chunk=chunk, channels=self.channels, chunks=chunks, moments=int(mean is None),
        )  # fmt: skip
        return joined, self.count, 1

    def map(
        self, kernels: Any, name: str, eps: float, sums: tuple[Any, int, int], vectors: dict[str, Any], **images: Any
    ) -> None:
        """Launches a map. ``sums`` are those of ``sums``, or of nothing."""
        grid, tiling = self.tiling(MAP_PANEL, MAP_BLOCKS)
        totals, chunk, chunks = sums
        names = "gamma", "beta", "mean", "var", "dgamma", "dbeta"
        kernels.launch(
            f"{name}_{self.name}", grid, rows=self.rows, tiling=tiling, totals=pointer(totals), sums_chunk=chunk,
            sums_chunks=chunks, eps=eps, **{v: _vector(vectors.get(v)) for v in names}, **images,
        )  # fmt: skip


_NONE = image(None)


def batch_norm_forward(
    problem: Problem, x: Any, gamma: Any, beta: Any, out: Any, mean: Any, var: Any, threads: int
) -> None:
    gpu, batch = place_of(out, threads), _Batch(problem, out, x)
    kernels = gpu.load(SOURCE, problem.storage)
    to, source = batch.images
    sums = batch.sums(gpu, kernels, "batch_moments", None, source, _NONE)
    vectors = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    batch.map(kernels, "batch_map", problem.attr("eps"), sums, vectors, x=source, dout=_NONE, out=to)


def batch_norm_inference(
    problem: Problem, x: Any, gamma: Any, beta: Any, mean: Any, var: Any, out: Any, threads: int
) -> None:
    gpu, batch = place_of(out, threads), _Batch(problem, out, x)
    to, source = batch.images
    vectors = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    kernels = gpu.load(SOURCE, problem.storage)
    batch.map(kernels, "batch_map", problem.attr("eps"), (None, 0, 0), vectors, x=source, dout=_NONE, out=to)


def batch_norm_backward(
    problem: Problem, dout: Any, x: Any, gamma: Any, mean: Any, var: Any, dx: Any, dgamma: Any, dbeta: Any, threads: int
) -> None:
    gpu, batch = place_of(dx, threads), _Batch(problem, dx, dout, x)
    kernels = gpu.load(SOURCE, problem.storage)
    to, gradient, source = batch.images
    sums = batch.sums(gpu, kernels, "batch_gradients", mean, source, gradient)
    vectors = {"gamma": gamma, "mean": mean, "var": var, "dgamma": dgamma, "dbeta": dbeta}
    batch.map(kernels, "batch_map_back", problem.attr("eps"), sums, vectors, x=source, dout=gradient, out=to)


# ---- local_response_norm --------------------------------------------------------------------------------------------


def _response(problem: Problem, name: str, x: Any, dout: Any | None, to: Any, threads: int) -> None:
    gpu = place_of(to, threads)
    kernels = gpu.load(SOURCE, problem.storage)
    (_, c, h, w), size = x.shape, problem.attr("size")
    alpha, beta, k = (problem.attr(v) for v in ("alpha", "beta", "k"))
    before, after = (max(min(v, c - 1), 0) for v in ((size - 1) // 2, size // 2))
    lanes = width(to, x, *(() if dout is None else (dout,)))
    if max(before, after) > lanes:
        lanes = 1
    planes = lanes == 1 and not channels_last(to)
    order = (w, h, c) if planes else (c // lanes, w, h)
    items = x.size // lanes
    seen = None if dout is None else gpu.scratch(x.size * (8 if problem.compute == "float64" else 4))
    for part in (name,) if dout is None else ("response_seen", name):
        kernels.launch(
            part if lanes > 1 else f"{part}_plain", cut(items, THREADS), items=items, planes=int(planes), channels=c,
            inner=divisor(order[0]), middle=divisor(order[1]), outer=divisor(order[2]), before=before, after=after,
            roots=int(beta == 0.75), k=k, factor=alpha / size, beta=beta, slope=2 * alpha * beta / size, x=image(x),
            dout=image(dout), out=image(to), seen=pointer(seen), seen_channel=h * w if planes else 1,
        )  # fmt: skip


def local_response_norm_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    _response(problem, "response_forward", x, None, out, threads)


def local_response_norm_backward(problem: Problem, dout: Any, x: Any, dx: Any, threads: int) -> None:
    _response(problem, "response_backward", x, dout, dx, threads)
