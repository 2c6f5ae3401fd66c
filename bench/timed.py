"""What ``pytest bench/`` is asked for, and how it times a call."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
from networks import words

from fastdl.backend import missing
from fastdl.bench.record import Check
from fastdl.bench.work import Work

BACKENDS = ("cython", "numba", "numpy", "cuda")
#: What others are compared with, and whose kernels tell the work: the best backend that this CPU has.
HOST = next(name for name in BACKENDS if not missing(name))
HAS_TORCH = importlib.util.find_spec("torch") is not None
#: Seconds of a round, at least: shorter calls are repeated.
ROUND = 1e-3
#: Before the first round: the threads of other libraries still spin.
PAUSE = 0.03


class Options(NamedTuple):
    """Of the command line."""

    backends: tuple[str, ...]
    dtype: str
    threads: int
    rounds: int
    every: bool  # layer and network, of which -k may choose; otherwise a few
    tiny: bool  # sizes, as nothing is timed


def add_options(parser: pytest.Parser) -> None:
    """Beside those of pytest-benchmark."""
    group = parser.getgroup("fastdl")
    add = group.addoption
    add("--bench-all", action="store_true", help="every layer and network (so does -k: those that it selects)")
    add("--bench-backends", type=words, help=f"{', '.join(BACKENDS)} (default: cython and numba where they are here)")
    add("--bench-dtype", default="float32", choices=["float32", "float64", "float16"], help="default float32")
    add("--bench-threads", type=int, default=2, help="threads of every participant (default 2)")
    add("--bench-rounds", type=int, default=9, help="times of each participant (default 9)")


def options_of(config: pytest.Config) -> Options:
    """Raises ``pytest.UsageError`` where one of them cannot be."""
    given = config.getoption
    backends = tuple(given("--bench-backends") or [name for name in BACKENDS[:2] if not missing(name)] or [HOST])
    if unknown := set(backends) - set(BACKENDS):
        raise pytest.UsageError(f"--bench-backends: {sorted(unknown)[0]!r} is none of {', '.join(BACKENDS)}")
    threads, rounds = given("--bench-threads"), given("--bench-rounds")
    if threads < 1 or rounds < 1:
        raise pytest.UsageError(f"--bench-threads and --bench-rounds are at least 1, not {threads} and {rounds}")
    chosen = given("--bench-all") or given("keyword") or any("::" in argument for argument in config.args)
    return Options(backends, given("--bench-dtype"), threads, rounds, bool(chosen), given("benchmark_disable", False))


def ours(backend: str) -> str:
    """The participant that is fastdl on this backend."""
    return f"fastdl {backend}"


def backend_of(participant: str) -> str:
    """Of fastdl's participant, empty for others. Skips the test where this machine cannot run it."""
    name, _, backend = participant.partition(" ")
    if name != "fastdl":
        return ""
    if reason := missing(backend):
        pytest.skip(reason)
    return backend


def latest(make: Callable[..., Any]) -> Callable[..., Any]:
    """``make`` that remembers its last result, and gives it up before it makes the next: they are large."""
    kept: dict[tuple[Any, ...], Any] = {}

    def get(*key: Any) -> Any:
        if key not in kept:
            kept.clear()
            kept[key] = make(*key)
        return kept[key]

    return get


def describe(
    benchmark: Any,
    options: Options,
    group: str,
    participant: str,
    work: Work,
    kernels: Iterable[str],
    check: Check | None,
    **more: Any,
) -> None:
    """Names the line of the table, and says in ``extra_info`` what was timed. ``check`` is None for the first one."""
    benchmark.group, benchmark.name = group, participant
    benchmark.extra_info.update(
        participant=participant,
        dtype=options.dtype,
        threads=options.threads,
        flop=work.flop,
        bytes=work.bytes,
        kernels=list(kernels),
        difference=check and check.difference,
        tolerance=check and check.tolerance,
        **more,
    )


def time_it(benchmark: Any, options: Options, call: Callable[..., Any], setup: Callable[[], Any] | None = None) -> None:
    """Times ``call`` after one that is not counted; ``setup`` comes before each, and may return its arguments."""
    iterations = 1
    if benchmark.enabled:
        time.sleep(PAUSE)
        if setup is None:
            begin = time.perf_counter()
            call()
            iterations = max(1, min(1000, math.ceil(ROUND / (time.perf_counter() - begin))))
    benchmark.pedantic(call, setup=setup, rounds=options.rounds, warmup_rounds=1, iterations=iterations)
