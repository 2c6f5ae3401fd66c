"""CUDA kernels of the optimizers and unscale: their launches, one for each 80 to 96 dense parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from .._common.cuda import Source, Variant, cut, place_of, pointer
from .._common.cuda.elementwise import merged
from ..problem import Problem

#: Of halves, which optimizers do not update.
_MACROS = {"float16": {"FD_UNSCALE": "1"}, "bfloat16": {"FD_UNSCALE": "1"}}
SOURCE = Source(
    __file__,
    variants=[
        Variant(storage, tuple(_MACROS.get(storage, {}).items()))
        for storage in ("float32", "float64", "float16", "bfloat16")
    ],
)
#: As in the source.
_WORDS, _ENTRIES, _THREADS, _PACKS = 400, 96, 256, 2

Arrays = Sequence[Any]


def _entry(arrays: Arrays) -> tuple[list[int], int]:
    """A parameter's words and blocks; ``arrays`` are its gradient, its states and itself."""
    param, item = arrays[-1], arrays[-1].itemsize
    strides, n, at = param.strides, param.size, [pointer(a) for a in arrays]
    axes: list[int] = []
    packed = True
    if not (param.flags.c_contiguous and all(a.strides == strides for a in arrays)):
        sizes, steps = merged(param.shape, [a.strides for a in arrays])
        packed = not sizes or (len(sizes) == 1 and all(step[0] == item for step in steps))
        axes = [word for size, *each in zip(sizes, *steps, strict=True) for word in (size, *each)]
    if packed and all(address % 16 == 0 for address in at):
        return [*at, n << 8], cut(n, _THREADS * _PACKS * (16 // item))
    if packed:
        axes = [n, *(item for _ in arrays)]
    return [*at, n << 8 | len(axes) // (len(arrays) + 1), *axes], cut(n, _THREADS * _PACKS)


def _tables(lists: Sequence[Arrays]) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Words, where each entry begins, and blocks of each entry, for each launch."""
    words: list[int] = []
    at: list[int] = []
    blocks: list[int] = []
    for arrays in zip(*lists, strict=True):
        if not arrays[0].size:
            continue
        entry, count = _entry(arrays)
        if len(words) + len(entry) > _WORDS or len(at) == _ENTRIES:
            yield words, at, blocks
            words, at, blocks = [], [], []
        at.append(len(words))
        words += entry
        blocks.append(count)
    if at:
        yield words, at, blocks


def _run(
    problem: Problem,
    threads: int,
    lists: Sequence[Arrays],
    by: tuple[float, ...],
    lr: Any,
    step: Any = None,
    overflow: Any = None,
) -> None:
    """One step; ``lists``: gradients, states, parameters."""
    for words, at, blocks in _tables(lists):
        gpu = place_of(lists[-1][0], threads)
        rate, rate_value = gpu.number_of(lr)
        count, count_value = (0, 0) if step is None else gpu.number_of(step)
        gpu.load(SOURCE, problem.storage, **_MACROS.get(problem.storage, {})).launch(
            f"{problem.op}_step", sum(blocks), words=tuple(words), at=tuple(at), entries=len(at), by=by,
            first=tuple(itertools.accumulate(blocks[:-1], initial=0)),
            lr=rate, lr_value=rate_value, step=count, step_value=count_value,
            overflow=pointer(overflow),
        )  # fmt: skip


def sgd_step(problem: Problem, params: Arrays, grads: Arrays, lr: Any, threads: int) -> None:
    _run(problem, threads, (grads, params), (), lr)


def momentum_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: Any, threads: int) -> None:
    _run(problem, threads, (grads, v, params), (problem.attr("momentum"),), lr)


def nesterov_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: Any, threads: int) -> None:
    momentum = problem.attr("momentum")
    _run(problem, threads, (grads, v, params), (momentum, momentum * momentum, 1.0 + momentum), lr)


def adagrad_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: Any, threads: int) -> None:
    _run(problem, threads, (grads, h, params), (problem.attr("eps"),), lr)


def rmsprop_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: Any, threads: int) -> None:
    decay = problem.attr("decay_rate")
    _run(problem, threads, (grads, h, params), (decay, 1.0 - decay, problem.attr("eps")), lr)


def adam_step(
    problem: Problem, params: Arrays, grads: Arrays, m: Arrays, v: Arrays, lr: Any, step: Any, threads: int
) -> None:
    betas = problem.attr("beta1"), problem.attr("beta2")
    logs = (math.log(beta) if beta else -math.inf for beta in betas)
    by = (*(1.0 - beta for beta in betas), problem.attr("eps"), *logs)
    _run(problem, threads, (grads, m, v, params), by, lr, step)


def unscale_step(problem: Problem, grads: Arrays, scale: Any, overflow: Any, threads: int) -> None:
    kernels = place_of(overflow, threads).load(SOURCE, problem.storage, **_MACROS.get(problem.storage, {}))
    kernels.launch("unscale_clear", 1, overflow=pointer(overflow))
    _run(problem, threads, (grads,), (), scale, overflow=overflow)
