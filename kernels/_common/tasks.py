"""Threads for Numba's kernels, and the tasks of a kernel that goes through arrays of one shape.

The threads are Python's, since a kernel runs without the GIL: any number of callers may have theirs at once, and a
child after ``fork`` starts its own. (Of Numba's threading layers "workqueue" dies of two callers, OpenMP of a fork, and
TBB is one more library.) A caller takes the threads that are idle and does the rest itself: the bits are the same.

After its job a thread watches for the next one for some 60 microseconds, the gap between two layers, and then sleeps;
a caller watches for the end likewise. A job costs 7 microseconds then (see ``_next``), 60 where the thread has to be
woken (with concurrent.futures: 70, and see ``Worker.start``).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np.arrayobj import make_array

from .jit import bits, intrinsic, kernel

#: Nanoseconds of work that are worth another thread.
GRAIN = 25_000
#: Looks at a flag before a thread goes to sleep; one takes 30 ns, most of it the pause.
SPINS = 2000
#: Pauses from the flag of a new job to its start, while the sender calls its own kernel.
LATE = 100
#: Nanoseconds by which a worker begins after its caller.
BEHIND = 7_000

# ---- flags ----------------------------------------------------------------------------------------------------------


@intrinsic
def _look(context: Any, flag: Any) -> Any:
    """flag[0], as it is in memory now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(make_array(flag)(context, builder, arguments[0]).data, "acquire", 8)

    return types.int64(flag), generate


@intrinsic
def _pause(context: Any) -> Any:
    """Leaves the core to its other hyperthread for a moment, where the processor has a word for that."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            name, none = "llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, none, name), [])
        return context.get_dummy_value()

    return types.none(), generate


@kernel
def _watch(flag: Any, seen: int, spins: int) -> bool:
    """Whether flag[0] became another number than ``seen`` within so many looks."""
    for _ in range(spins):
        if _look(flag) != seen:
            return True
        _pause()
    return False


@kernel
def _next(over: Any, flag: Any, seen: int, spins: int, late: int) -> bool:
    """For a worker: says that its job is over, then watches for the next one, and goes for it so many looks later.

    Whoever sees a flag needs the GIL at once, which the other side has if it set the flag in Python: a thread that
    waits for the GIL sleeps, and wakes up 10 to 20 microseconds later. So the end is said here, without the GIL, and a
    new job begins when its sender is in its own kernel.
    """
    over[0] = 1
    for _ in range(spins):
        if _look(flag) != seen:
            for _ in range(late):
                _pause()
            return True
        _pause()
    return False


# ---- threads --------------------------------------------------------------------------------------------------------


class Job:
    """A call for another thread."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.error: BaseException | None = None
        self.over, self._ended = np.zeros(1, np.int64), threading.Lock()
        self._ended.acquire()

    def run(self) -> None:
        """In the other thread."""
        try:
            self.function(*self.arguments)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """In the other thread, when it is free for the next job; ``over`` is set after that."""
        self._ended.release()

    def wait(self) -> None:
        """In the caller: until the job is over."""
        if not _watch(self.over, 0, SPINS):
            self._ended.acquire()


try:
    _cpu: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu
    _allowed = os.sched_getaffinity
except (AttributeError, OSError, TypeError):  # not Linux
    _cpu, _allowed = (lambda: -1), (lambda thread: set())


class Worker:
    """A thread that does one job after the other."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._sent = np.zeros(1, np.int64)
        self._allowed, self._barred = _allowed(0), -1
        self._thread = threading.Thread(target=self._work, name="fastdl", daemon=True)
        self._thread.start()

    def start(self, job: Job) -> Job:
        """Begins with a job.

        An idle virtual CPU counts as preempted by its host, and Linux wakes no thread there: a worker that has last
        been where its caller is would share that CPU for many milliseconds (two threads took the time of one after
        each pause). So it is barred from there.
        """
        here = _cpu()
        if here != self._barred and len(self._allowed) > 1:
            os.sched_setaffinity(self._thread.native_id or 0, self._allowed - {here})
            self._barred = here
        self._jobs.put(job)
        self._sent[0] += 1
        return job

    def _work(self) -> None:
        over = np.zeros(1, np.int64)
        for seen in itertools.count():
            _next(over, self._sent, seen, SPINS, LATE)
            job = self._jobs.get()
            job.run()
            over = job.over
            _idle.append(self)
            job.end()
            del job  # and the arrays


_lock = threading.Lock()
_idle: list[Worker] = []
_started = 0


def _take(wanted: int) -> list[Worker]:
    """Up to so many workers that have nothing to do."""
    global _started
    with _lock:
        while _started < wanted:
            _idle.append(Worker())
            _started += 1
        return [_idle.pop() for _ in range(min(wanted, len(_idle)))]


def _after_fork() -> None:
    """Threads do not live on in a child."""
    global _lock, _idle, _started
    _lock, _idle, _started = threading.Lock(), [], 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def parallel(function: Callable[..., Any], tasks: int, threads: int, nanoseconds: float, *arguments: Any) -> None:
    """``function(first, last, *arguments)`` over all tasks, on up to ``threads`` threads.

    ``nanoseconds`` is what all of it takes one thread, roughly.
    """
    most = min(threads, tasks, int(nanoseconds // GRAIN) or 1)
    workers = _take(most - 1) if most > 1 else []
    if not workers:
        function(0, tasks, *arguments)
        return
    count = len(workers) + 1
    less = min(0.25, BEHIND / nanoseconds)  # the share of all work that the workers' delay is
    even = 64 if tasks >= 4096 else 1  # elements: whole registers, from aligned addresses on
    cuts = [0, *(int(tasks * (i + less * (count - i)) / count) // even * even for i in range(1, count)), tasks]
    (first, last), *rest = itertools.pairwise(cuts)
    jobs = [worker.start(Job(function, a, b, *arguments)) for worker, (a, b) in zip(workers, rest, strict=True)]
    try:
        function(first, last, *arguments)
    finally:
        for job in jobs:
            job.wait()
    for job in jobs:
        if job.error is not None:
            raise job.error


# ---- shapes ---------------------------------------------------------------------------------------------------------


def pieces(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Arrays of one shape, for a kernel that goes through their elements: views of one dimension or of four.

    Where all lie dense and in the same order there is one piece with one contiguous dimension. Else each piece has four
    dimensions and any strides, and there are several where the arrays have more.
    """
    first = arrays[0]
    if first.size == 0:
        return
    order = sorted(range(first.ndim), key=lambda axis: (-abs(first.strides[axis]), axis))
    turned = [a.transpose(order) for a in arrays]
    if all(a.flags.c_contiguous for a in turned):
        yield tuple(a.reshape(-1) for a in turned)
        return
    if first.ndim < 4:
        yield tuple(a[(None,) * (4 - first.ndim)] for a in turned)
        return
    outer = turned[0].shape[: first.ndim - 4]
    for index in np.ndindex(outer):
        yield tuple(a[index] for a in turned)


def elements(
    line: Callable[..., Any],
    grid: Callable[..., Any],
    cost: float,
    threads: int,
    first: tuple[Any, ...],
    *arrays: np.ndarray,
) -> None:
    """A kernel that goes through arrays of one shape, of which the last one is written.

    ``line(first, last, *first, *arrays)`` takes contiguous arrays of one dimension, its tasks are elements; ``grid``
    takes arrays of four dimensions, its tasks are pairs of indices of the first two. ``cost`` is the nanoseconds of an
    element.
    """
    for views in pieces(*map(bits, arrays)):
        out = views[-1]
        flat = out.ndim == 1
        tasks = out.size if flat else out.shape[0] * out.shape[1]
        parallel(line if flat else grid, tasks, threads, cost * out.size, *first, *views)
