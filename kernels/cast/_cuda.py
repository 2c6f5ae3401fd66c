"""CUDA kernel of cast: its launch."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source
from .._common.cuda.elementwise import run
from .._common.cuda.source import STORAGES
from ..problem import Problem

SOURCE = Source(__file__, macros=[{"FD_SOURCE": name} for name in STORAGES.values()])


def cast_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    macros = {"FD_SOURCE": STORAGES[problem.attr("source")]}
    run(SOURCE, "cast_forward", problem.storage, threads, x, out, macros=macros)
