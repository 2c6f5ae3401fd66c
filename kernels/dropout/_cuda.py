"""CUDA kernels of dropout: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from .._common.cuda.elementwise import run
from ..problem import Problem
from . import threshold

SOURCE = Source(__file__)


def dropout_mask(problem: Problem, state: Any, out: Any, threads: int) -> None:
    gpu, to = place_of(out, threads), pointer(out)
    (seed, seed_value), (step, step_value) = gpu.number_of(state[:1]), gpu.number_of(state[1:])
    gpu.load(SOURCE, problem.storage).launch(
        "dropout_mask", cut(out.size, 4 * 256), out=to, n=out.size, least=threshold(problem.attr("ratio")),
        seed=seed, step=step, seed_value=seed_value, step_value=step_value, aligned=to % 4 == 0,
    )  # fmt: skip


def dropout_forward(problem: Problem, x: Any, mask: Any, out: Any, threads: int) -> None:
    scale = problem.attr("scale")
    run(SOURCE, "dropout_forward", problem.storage, threads, x, mask, out, scale=scale)
