"""Where a script's time went: clocks around fastdl's classes, and each layer's calls once more on the reader's own."""

from __future__ import annotations

import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

#: From its third call on a layer's arguments are kept: by then memory is warm and the batch is a usual one.
KEPT_CALL = 3
#: Layers whose calls are kept, at most: each keeps copies of its arrays.
MOST_LAYERS = 200
REPEATS = 3
#: Bytes that are written between two calls.
BETWEEN = 64 << 20
METHODS = ("forward", "backward", "update")


class _Clock:
    """Calls, seconds and elements of one method of one layer, and one call's arguments."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.elements = 0
        self.kept: tuple[tuple[Any, ...], dict[str, Any]] | None = None


class _Record:
    """One layer or optimizer of the script."""

    def __init__(self, theirs: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.theirs, self.arguments, self.keywords = theirs, arguments, keywords
        #: The constructor's arguments when the first call was kept.
        self.made: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.clocks: dict[str, _Clock] = defaultdict(_Clock)
        #: Forward calls since the last backward call; which of them was the kept one; which one a backward call needs.
        self.forwards = self.kept_forward = self.own_forward = 0

    def wants(self, method: str) -> bool:
        """Whether this call's arguments are to be kept.

        A backward call is kept with the forward call before it. Which of the forward calls that will be, of those that
        compute losses and accuracies as well, is seen from the backward call before: copying each would cost more than
        the layers.
        """
        clock = self.clocks[method]
        late = clock.calls >= KEPT_CALL
        if method == "update":
            return late and clock.kept is None
        complete = self.clocks["backward"].kept is not None
        if method == "forward":
            self.forwards += 1
            if complete or not (late and (clock.kept is None or self.forwards == self.own_forward)):
                return False
            self.kept_forward = self.forwards
            return True
        own, self.own_forward, self.forwards = self.forwards, self.forwards, 0
        found = not complete and own == self.kept_forward
        self.kept_forward = 0
        return found


class Line(NamedTuple):
    """All layers of one class, or optimizers: seconds here, and what the reader's own class would have taken."""

    name: str
    layers: int
    calls: int
    seconds: float
    plain: float | None


class Report:
    """Clocks around classes; see :meth:`timed`."""

    def __init__(self) -> None:
        self._records: dict[str, list[_Record]] = defaultdict(list)
        # Apart from the layers, whose copies and pickles are none of a report's business.
        self._of: weakref.WeakKeyDictionary[Any, _Record] = weakref.WeakKeyDictionary()
        self._start = time.perf_counter()

    def timed(self, ours: Any, theirs: Any) -> Any:
        """``ours`` with clocks; ``theirs`` is what it stands in for."""
        report, name = self, theirs.__name__

        def start(layer: Any, *arguments: Any, **keywords: Any) -> None:
            ours.__init__(layer, *arguments, **keywords)
            new(layer, _Record(theirs, arguments, keywords))

        def new(layer: Any, record: _Record) -> _Record:
            report._of[layer] = record
            report._records[name].append(record)
            return record

        def clocked(method: str) -> Callable[..., Any]:
            own = getattr(ours, method)

            def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
                record = report._of.get(layer) or new(layer, _Record(None, (), {}))  # a copy's arguments are unknown
                clock = record.clocks[method]
                clock.calls += 1
                clock.elements += _elements(arguments)
                if len(report._records[name]) <= MOST_LAYERS and record.wants(method):
                    record.made = record.made or _copied(record.arguments, record.keywords)
                    clock.kept = _copied(arguments, keywords)
                begin = time.perf_counter()
                try:
                    return own(layer, *arguments, **keywords)
                finally:
                    clock.seconds += time.perf_counter() - begin

            call.__name__, call.__doc__ = method, own.__doc__
            return call

        methods = {method: clocked(method) for method in METHODS if method in dir(ours)}
        names = {"__init__": start, "__doc__": ours.__doc__, "__module__": theirs.__module__, **methods}
        return type(name, (ours,), names)

    def lines(self) -> list[Line]:
        """For each class, the slowest first. Call it in ``book.without()``: it runs the reader's classes.

        They may draw from ``np.random``.
        """
        found = []
        between = np.empty(BETWEEN, np.uint8)
        for name, records in self._records.items():
            clocks = [clock for record in records for clock in record.clocks.values()]
            if not clocks:
                continue
            plain = [_plain(record, between) for record in records]
            known = [seconds for seconds in plain if seconds is not None]
            found.append(
                Line(
                    name,
                    len(records),
                    sum(clock.calls for clock in clocks),
                    sum(clock.seconds for clock in clocks),
                    sum(known) if len(known) == len(plain) else None,
                )
            )
        return sorted(found, key=lambda line: -line.seconds)

    def seconds(self) -> float:
        """Since the report was made."""
        return time.perf_counter() - self._start


def _elements(arguments: tuple[Any, ...]) -> int:
    """Of the first array, which a layer's time goes with; 1 for the dicts of an optimizer."""
    return getattr(arguments[0], "size", 1) if arguments else 1


def _copied(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(_copy(a) for a in arguments), {name: _copy(a) for name, a in keywords.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    if isinstance(value, dict):
        return {key: _copy(a) for key, a in value.items()}
    return value


def _plain(record: _Record, between: np.ndarray) -> float | None:
    """Seconds that the reader's class would have taken for all calls; None where no call was kept, or it fails.

    ``between`` stands for the rest of a training step, after which a layer finds little of its arrays in the caches.
    """
    total = 0.0
    layer = None
    for method in METHODS:  # a backward pass follows its forward pass
        clock = record.clocks.get(method)
        if clock is None:
            continue
        if clock.kept is None or record.made is None or record.theirs is None:
            return None
        try:
            if layer is None:
                arguments, keywords = _copied(*record.made)
                layer = record.theirs(*arguments, **keywords)
            times = []
            for _ in range(REPEATS):
                arguments, keywords = _copied(*clock.kept)
                between.fill(0)
                begin = time.perf_counter()
                getattr(layer, method)(*arguments, **keywords)
                times.append(time.perf_counter() - begin)
        except Exception:
            return None
        total += statistics.median(times) * clock.elements / max(_elements(clock.kept[0]), 1)
    return total
