"""CUDA kernels of add and concat: their launches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from .._common.cuda import Source, cut, place_of
from .._common.cuda.elementwise import THREADS, Extent, View, extents, run
from ..problem import Problem

SOURCE = Source(__file__)
#: As in the source.
_JOBS, _WORDS = 20, 2


def add_forward(problem: Problem, a: Any, b: Any, out: Any, threads: int) -> None:
    run(SOURCE, "add_forward", problem.storage, threads, a, b, out)


def _in_words(itemsize: int, extent: Extent, views: tuple[View, ...]) -> dict[str, Any]:
    """A copy by elements as one by the widest words: those that runs, strides and addresses are multiples of."""
    n, shape, axes, flat = extent
    last, word = axes - 1, itemsize
    if axes and all(strides[last] == itemsize for _, strides in views):
        steps = [stride for _, strides in views for stride in strides[:last]]
        numbers = shape[last] * itemsize, *(at for at, _ in views), *steps
        word = math.gcd(16, *numbers)
        shape = (*shape[:last], shape[last] * itemsize // word, *shape[axes:])
        views = tuple((at, (*strides[:last], word, *strides[axes:])) for at, strides in views)
    return {"extent": (n * itemsize // word, shape, axes, flat), "views": views, "word": word}


def _jobs(arrays: Sequence[Any], axis: int, out: Any) -> Iterator[dict[str, Any]]:
    start = 0
    for a in arrays:
        stop = start + a.shape[axis]
        for extent, views in extents(a, out[(slice(None),) * axis + (slice(start, stop),)]):
            yield _in_words(a.itemsize, extent, views)
        start = stop


def concat_forward(problem: Problem, arrays: Sequence[Any], out: Any, threads: int) -> None:
    kernels = place_of(out, threads).load(SOURCE, problem.storage)
    jobs = list(_jobs(arrays, problem.attr("axis"), out))
    for begin in range(0, len(jobs), _JOBS):
        some = jobs[begin : begin + _JOBS]
        blocks = [cut(job["extent"][0], THREADS * _WORDS) for job in some]
        firsts = itertools.accumulate(blocks, initial=0)
        table = tuple((*job.values(), first) for job, first in zip(some, firsts, strict=False))
        kernels.launch("concat_forward", sum(blocks), job=table, jobs=len(some))
