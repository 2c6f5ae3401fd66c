"""Participants, timed in turns: A a few calls, a pause, B a few calls, a pause, A ...

Drifts of the machine (its clock, its other users) then meet all of them alike. A pause comes before each turn because
the OpenMP threads of other libraries spin for some milliseconds after a call and would disturb whoever follows; each
turn begins with calls that are not counted, which bring caches, threads and the clock back: a sleeping thread may need
some milliseconds until the system has found it a CPU of its own.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple


class Participant(NamedTuple):
    """Somebody who can do the case: ``call()`` does it once, inside ``context()``."""

    name: str
    call: Callable[[], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


class Turns(NamedTuple):
    """How long to measure."""

    rounds: int = 5  # turns of each participant
    seconds: float = 0.025  # that a turn takes, where its calls are short
    most: int = 30  # timed calls in a turn
    pause: float = 0.03  # before a turn
    warm: float = 0.006  # seconds of calls before the timed ones, at least one call

    def calls(self, once: float) -> int:
        """Timed calls in a turn where one takes ``once`` seconds."""
        return max(1, min(self.most, int(self.seconds / once) if once > 0 else self.most))

    def estimate(self, once: float) -> float:
        """Seconds that all turns of one participant take."""
        return self.rounds * (self.pause + max(self.warm, once) + self.calls(once) * max(once, 1e-5))


def synchronised(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, done when it returns: it waits for what it has given the current CUDA device to do."""
    import cupy

    device = cupy.cuda.Device()

    def run(*args: Any) -> Any:
        out = call(*args)
        device.synchronize()
        return out

    return run


#: Calls are timed in groups of at least this many seconds; a time is then the mean of its group.
SHORTEST = 50e-6


@contextmanager
def _without_gc() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def interleave(participants: Sequence[Participant], turns: Turns, times: dict[str, list[float]]) -> None:
    """Fills ``times`` (name -> seconds of each timed call), turn by turn: an interrupt leaves what was measured."""
    for participant in participants:
        times.setdefault(participant.name, [])
    for _ in range(turns.rounds):
        for participant in participants:
            time.sleep(turns.pause)
            with participant.context(), _without_gc():
                times[participant.name] += _turn(participant.call, turns)


def _turn(call: Callable[[], Any], turns: Turns) -> list[float]:
    clock = time.perf_counter
    first = clock()
    while True:
        start = clock()
        call()
        end = clock()
        if end - first >= turns.warm:
            break
    once = end - start
    group = max(1, math.ceil(SHORTEST / once)) if once > 0 else 1
    found = []
    for _ in range(turns.calls(once * group)):
        if group == 1:
            start = clock()
            call()
            found.append(round(clock() - start, 9))
        else:
            start = clock()
            for _ in range(group):
                call()
            found.append(round((clock() - start) / group, 9))
    return found
