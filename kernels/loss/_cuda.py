"""CUDA kernels of softmax and softmax_cross_entropy: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from .._common.tiling import itemsize
from ..problem import Problem

SOURCE = Source(__file__)
#: As in the source.
_THREADS = 128


def _matrix(a: Any) -> tuple[int, int, int]:
    return pointer(a), *a.strides


def _packed(problem: Problem, *matrices: Any) -> bool:
    """Whether rows are dense, aligned to 16 bytes and as long as whole packs of the storage dtype."""
    return problem.shapes[0][1] * min(a.itemsize for a in matrices) % 16 == 0 and all(
        a.strides[1] == a.itemsize and (a.strides[0] % 16 == 0 or a.shape[0] == 1) and pointer(a) % 16 == 0
        for a in matrices
    )


def _split(problem: Problem) -> tuple[str, int, int]:
    """The kernel for so many classes, rows of a block, and classes that fit into its registers."""
    rows, classes = problem.shapes[0]
    size = itemsize(problem.compute)
    few, more = 8 * 32 // size, 32 * 128 // size
    if classes <= few:
        return "few", cut(rows, _THREADS // 8), few
    return ("more", cut(rows, _THREADS // 32), more) if classes <= more else ("many", rows, more)


def _forward(problem: Problem, x: Any, labels: Any, losses: Any, out: Any, threads: int) -> None:
    kind, blocks, _ = _split(problem)
    rows, classes = problem.shapes[0]
    place_of(out, threads).load(SOURCE, problem.storage).launch(
        f"softmax_forward_{kind}", blocks, x=_matrix(x), out=_matrix(out), rows=rows, classes=classes,
        labels=pointer(labels), label_stride=0 if labels is None else labels.strides[0],
        losses=pointer(losses), loss_stride=0 if losses is None else losses.strides[0], packed=_packed(problem, x, out),
    )  # fmt: skip


def softmax_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    _forward(problem, x, None, None, out, threads)


def softmax_backward(problem: Problem, dout: Any, y: Any, dx: Any, threads: int) -> None:
    kind, blocks, _ = _split(problem)
    rows, classes = problem.shapes[0]
    place_of(dx, threads).load(SOURCE, problem.storage).launch(
        f"softmax_backward_{kind}", blocks, dout=_matrix(dout), y=_matrix(y), dx=_matrix(dx), rows=rows,
        classes=classes, packed=_packed(problem, dout, y, dx),
    )  # fmt: skip


def softmax_cross_entropy_forward(
    problem: Problem, x: Any, labels: Any, losses: Any, probabilities: Any, threads: int
) -> None:
    _forward(problem, x, labels, losses, probabilities, threads)


def softmax_cross_entropy_backward(
    problem: Problem, probabilities: Any, labels: Any, scale: Any, dx: Any, threads: int
) -> None:
    kind, _, held = _split(problem)
    rows, classes = problem.shapes[0]
    lanes = 8 if kind == "few" else 32
    gpu = place_of(dx, threads)
    scale_at, scale_value = gpu.number_of(scale)
    gpu.load(SOURCE, problem.storage).launch(
        f"softmax_cross_entropy_backward_{'few' if kind == 'few' else 'more'}",
        (cut(rows, _THREADS // lanes), cut(classes, held)), probabilities=_matrix(probabilities), dx=_matrix(dx),
        labels=pointer(labels), label_stride=labels.strides[0], scale=scale_at, scale_value=scale_value,
        rows=rows, classes=classes, packed=_packed(problem, probabilities, dx),
    )  # fmt: skip
