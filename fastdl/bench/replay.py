"""Calls on a GPU, recorded as one CUDA graph and timed by events. CuPy is imported when one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Replay:
    """``calls`` in one graph on a stream of its own; where they cannot be recorded they are launched one by one, and
    ``reason`` says why.

    They run inside ``context()``. Their results, all at once in memory of their own, live as long as this object.
    """

    def __init__(
        self, calls: Sequence[Callable[[], Any]], context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        import cupy

        self._cupy: Any = cupy
        self._calls, self._context = list(calls), context
        self._stream, self._pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._graph: Any = None
        self._kept: list[Any] = []
        self.reason = ""
        with self._stream, cupy.cuda.using_allocator(self._pool.malloc), self._context():
            self._all()  # loads the kernels
            for _ in range(3):  # with its memory in the pool, and at the addresses that tables of addresses hold
                self._all()
                self._stream.synchronize()
                try:
                    self._stream.begin_capture()
                    try:
                        self._kept = self._all()
                    finally:
                        self._graph = self._stream.end_capture()
                    self.reason = ""
                    break
                except Exception as error:
                    self._graph, self.reason = None, first_line(error)

    def _all(self) -> list[Any]:
        return [call() for call in self._calls]

    def seconds(self, times: int) -> float:
        """Of ``times`` rounds of all calls."""
        allocator = nullcontext() if self._graph else self._cupy.cuda.using_allocator(self._pool.malloc)
        with self._stream, allocator, self._context():
            self._begin.record(self._stream)
            for _ in range(times):
                if self._graph is not None:
                    self._graph.launch(self._stream)
                else:
                    self._all()
            self._end.record(self._stream)
            self._end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(self._begin, self._end)) / 1e3


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
