"""The peak of this machine, measured now, with the loops of ``fastdl.kernels.peak``."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels import registry
from .record import FmaPeak, Peaks, Triad

#: Bytes of the triad's three arrays together: from the first-level cache to memory.
TRIAD_BYTES = tuple(24 * 4**k for k in range(6, 13))


def _module(isa: str) -> Any:
    return importlib.import_module(f"fastdl.kernels.peak._cython_{isa}")


def _fma(isa: str, dtype: str, threads: int, repetitions: int, seconds: float) -> FmaPeak:
    """Several tasks for each thread, so that one which starts late does less and nobody waits for it."""
    run, tasks, loops = _module(isa).fma, 8 * threads, 1000
    while True:
        start = time.perf_counter()
        run(dtype, loops, tasks, threads)
        taken = time.perf_counter() - start
        if taken > seconds / 4:
            break
        loops *= 2
    loops = max(1, int(loops * seconds / taken))
    rates = []
    for _ in range(repetitions):
        start = time.perf_counter()
        flop = run(dtype, loops, tasks, threads)
        rates.append(flop / (time.perf_counter() - start) / 1e9)
    return FmaPeak(isa, dtype, threads, rates)


def _triad(isa: str, nbytes: int, threads: int, repetitions: int) -> Triad:
    run, count = _module(isa).triad, nbytes // 24
    a, b, c = (np.full(count, value) for value in (0.0, 1.0, 2.0))
    rates: dict[bool, list[float]] = {}
    for streaming in (False, True):
        run(a, b, c, 3.0, streaming, threads)
        for _ in range(repetitions):
            start = time.perf_counter()
            run(a, b, c, 3.0, streaming, threads)
            rates.setdefault(streaming, []).append(24 * count / (time.perf_counter() - start) / 1e9)
    if not (a == 7.0).all():
        raise ArithmeticError("the triad computed something else")
    return Triad(24 * count, threads, rates[False], rates[True])


def core_to_core(repetitions: int = 5) -> float | None:
    """Seconds for one way of a cache line between two threads; None where there is but one."""
    levels = registry.available_levels()
    if not levels:
        return None
    ways = [_module(levels[-1]).ping_pong(5000) for _ in range(repetitions)]
    ways = sorted(way for way in ways if not math.isnan(way))
    return ways[len(ways) // 2] * 1e-9 if ways else None


def measure(threads: Sequence[int], *, quick: bool = False) -> Peaks | None:
    """With each of these thread counts, for every ISA level that runs here; None without compiled kernels.

    A second or two. ``quick`` measures just enough to fill a record.
    """
    levels = registry.available_levels()
    if not levels:
        return None
    repetitions, seconds = (2, 1e-3) if quick else (9, 1e-2)
    sizes = TRIAD_BYTES[:3] if quick else TRIAD_BYTES
    counts = sorted(set(threads))
    return Peaks(
        fma=[
            _fma(isa, dtype, count, repetitions, seconds)
            for isa in levels
            for dtype in ("float32", "float64")
            for count in counts
        ],
        triad=[_triad(levels[-1], nbytes, count, repetitions) for nbytes in sizes for count in counts],
        core_to_core=core_to_core(),
    )


def best(first: Peaks | None, again: Peaks | None) -> Peaks | None:
    """What two measurements with the same arguments saw at most: one may have met a busy machine."""
    if first is None or again is None:
        return first or again
    ways = [way for way in (first.core_to_core, again.core_to_core) if way is not None]
    return Peaks(
        fma=[max(pair, key=lambda peak: peak.best) for pair in zip(first.fma, again.fma, strict=True)],
        triad=[max(pair, key=lambda triad: triad.rate) for pair in zip(first.triad, again.triad, strict=True)],
        core_to_core=min(ways, default=None),
    )
