"""Threads for Numba's kernels, and the tasks of a kernel that goes through arrays of one shape.

The threads are Python's, since a kernel runs without the GIL: any number of callers may have theirs at once, and a
child after ``fork`` starts its own. (Of Numba's threading layers "workqueue" dies of two callers, OpenMP of a fork, and
TBB is one more library.) A caller takes the threads that are idle and does the rest itself: the bits are the same.

After its job a thread watches for the next one for some 60 microseconds, the gap between two layers, and then sleeps;
a caller watches for the end likewise. A job costs 7 microseconds then, and 60 where the thread has to be woken (with
concurrent.futures: 70, and see ``Worker.start``).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np.arrayobj import make_array

from .jit import bits, intrinsic, kernel
from .streaming import streams

#: Nanoseconds of work that are worth another thread.
GRAIN = 15_000
#: Looks at a flag before a thread goes to sleep; one takes 30 ns, most of it the pause.
SPINS = 2000
#: Nanoseconds by which a worker begins after its caller.
BEHIND = 7_000
#: Pauses before a thread that has seen a job asks for the GIL. Its caller needs a microsecond to let go of it, and who
#: has to wait for it is sent to sleep: two threads cost 7 microseconds with this rest and 11 without.
REST = 40

# ---- flags ----------------------------------------------------------------------------------------------------------


@intrinsic
def _look(context: Any, flag: Any) -> Any:
    """flag[0], as it is in memory now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(make_array(flag)(context, builder, arguments[0]).data, "acquire", 8)

    return types.int64(flag), generate


@intrinsic
def _tell(context: Any, flag: Any) -> Any:
    """flag[0] = 1, after whatever was written before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = make_array(flag)(context, builder, arguments[0]).data
        builder.store_atomic(ir.Constant(ir.IntType(64), 1), place, "release", 8)
        return context.get_dummy_value()

    return types.none(flag), generate


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
def _tell_and_watch(over: Any, flag: Any, seen: int, spins: int, rest: int) -> None:
    """Sets over[0], waits until flag[0] became another number than ``seen``, and a little longer."""
    _tell(over)
    if _watch(flag, seen, spins):
        for _ in range(rest):
            _pause()


# ---- threads --------------------------------------------------------------------------------------------------------


class Job:
    """A call for another thread."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.error: BaseException | None = None
        self.over, self.ended = np.zeros(1, np.int64), threading.Lock()
        self.ended.acquire()

    def run(self) -> None:
        """In the other thread."""
        try:
            self.function(*self.arguments)
        except BaseException as error:
            self.error = error

    def wait(self) -> None:
        """In the caller: until the job is over."""
        if not _watch(self.over, 0, SPINS):
            self.ended.acquire()


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
            _tell_and_watch(over, self._sent, seen, SPINS, REST)
            job = self._jobs.get()
            job.run()
            _idle.append(self)
            over = job.over  # told without the GIL: its caller would ask for it, and be sent to sleep
            job.ended.release()
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
    most = 1 if nanoseconds < 2 * GRAIN else min(threads, tasks, int(nanoseconds // GRAIN))
    workers = _take(most - 1) if most > 1 else None
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


def pieces(*arrays: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Arrays of one shape, for a kernel that goes through their elements: views of one dimension or of four.

    Where all lie dense and in the same order there is one piece with one contiguous dimension. Else each piece has four
    dimensions and any strides, and there are several where the arrays have more.
    """
    if arrays[0].size == 0:
        return []
    if not all(a.flags.c_contiguous for a in arrays):
        strides = arrays[0].strides
        order = sorted(range(len(strides)), key=lambda axis: (-abs(strides[axis]), axis))
        arrays = tuple([a.transpose(order) for a in arrays])
    if all(a.flags.c_contiguous for a in arrays):
        return [tuple([a.ravel() for a in arrays])]
    shape = arrays[0].shape
    if len(shape) < 4:
        return [tuple([a[(None,) * (4 - len(shape))] for a in arrays])]
    return [tuple([a[index] for a in arrays]) for index in np.ndindex(shape[:-4])]


def elements(
    line: Callable[..., Any],
    grid: Callable[..., Any],
    cost: float,
    threads: int,
    first: tuple[Any, ...],
    *arrays: np.ndarray,
) -> None:
    """A kernel that goes through arrays of one shape, of which the last one is written.

    ``line(first, last, streams, *first, *arrays)`` takes contiguous arrays of one dimension, its tasks are elements
    (``streams``: see ``streaming.py``); ``grid(first, last, *first, *arrays)`` takes arrays of four dimensions, its
    tasks are pairs of indices of the first two. ``cost`` is the nanoseconds of an element.
    """
    flat = []  # the usual case without a look at strides: 1 microsecond less
    for a in arrays:
        if a.flags.c_contiguous:
            flat.append(bits(a).ravel())
    found = [flat] if len(flat) == len(arrays) else pieces(*[bits(a) for a in arrays])
    for views in found:
        out = views[-1]
        if out.ndim > 1:
            parallel(grid, out.shape[0] * out.shape[1], threads, cost * out.size, *first, *views)
        elif out.size:
            parallel(line, out.size, threads, cost * out.size, streams(out, *views[:-1]), *first, *views)
