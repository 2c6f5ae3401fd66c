"""CUDA kernels of gemm: operands in whole pieces, tiles, splits."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Place, Source, cut, place_of, pointer
from .._common.cuda.arrange import arrange, in_pieces
from .._common.cuda.tiles import SIZES, choose, splits, sums_dtype, variants, vector
from ..problem import Problem

#: Two of the three sizes: four kernels for each tile are to be compiled.
GEMM_SIZES = SIZES[::2]
SOURCE = Source(__file__, variants=variants(GEMM_SIZES))


def _operand(gpu: Place, storage: str, a: Any, first: int, depth: int) -> tuple[Any, str, int]:
    """(memory or address, "rows" or "columns", pitch in elements) of a matrix; axis ``depth`` is summed over."""
    size = a.itemsize
    along, across = a.strides[depth], a.strides[first]
    if along == size and in_pieces(pointer(a), (across,)) and across >= 0:
        return pointer(a), "rows", across // size
    if across == size and in_pieces(pointer(a), (along,)) and along >= 0:
        return pointer(a), "columns", along // size
    if abs(across) < abs(along):
        memory = arrange(gpu, storage, pointer(a), (a.shape[depth], a.shape[first]), (along, across), size)
        return memory, "columns", memory.nbytes // size // max(a.shape[depth], 1)
    memory = arrange(gpu, storage, pointer(a), (a.shape[first], a.shape[depth]), (across, along), size)
    return memory, "rows", memory.nbytes // size // max(a.shape[first], 1)


def gemm_forward(problem: Problem, a: Any, b: Any, bias: Any, out: Any, threads: int) -> None:
    _product(problem, a, b, bias, out, threads, False)


def gemm_forward_tf32(problem: Problem, a: Any, b: Any, bias: Any, out: Any, threads: int) -> None:
    _product(problem, a, b, bias, out, threads, True)


def _product(problem: Problem, a: Any, b: Any, bias: Any, out: Any, threads: int, tf32: bool) -> None:
    (m, k), (_, n) = problem.shapes
    gpu = place_of(out, threads)
    tile = choose(problem.storage, gpu.architecture, m, n, tf32=tf32, sizes=GEMM_SIZES)
    kernels = gpu.load(SOURCE, problem.storage, **tile.macros)
    left, left_order, pitch_a = _operand(gpu, problem.storage, a, 0, 1)
    right, right_order, pitch_b = _operand(gpu, problem.storage, b, 1, 0)
    parts, length = splits(tile, m, n, k, out.itemsize)
    size = out.itemsize
    stride_m, stride_n = (stride // size for stride in out.strides)
    result = {
        "out": pointer(out), "stride_m": stride_m, "stride_n": stride_n, "m": m, "n": n,
        "epilogue": (vector(bias), problem.epilogue == "bias_relu"),
    }  # fmt: skip
    partial = gpu.scratch(parts * m * n * sums_dtype(problem.storage).itemsize) if parts > 1 else None
    paired = stride_n == 1 and n % 2 == 0 and pointer(out) % (2 * size) == 0 and stride_m % 2 == 0
    kernels.launch(
        f"gemm_{left_order}_{right_order}", (cut(m, tile.m), cut(n, tile.n), parts), shared=tile.shared,
        a=left if isinstance(left, int) else pointer(left), b=right if isinstance(right, int) else pointer(right),
        partial=pointer(partial), pitch_a=pitch_a, pitch_b=pitch_b, k=k, length=length, paired=paired, **result,
    )  # fmt: skip
    if partial is not None:
        gpu.load(SOURCE, problem.storage).launch(
            "join_splits", cut(m * n, 256), partial=pointer(partial), splits=parts, **result
        )
