"""Where a program's time goes: each layer's calls, and the kernels in them, on a clock.

::

    with fastdl.profile() as p:
        for x, t in batches:
            optimizer.update(net.params, net.gradient(x, t))
    print(p)                # a line for each layer and pass, the slowest first
    p.save("trace.json")    # a timeline for ui.perfetto.dev or chrome://tracing

Layers are seen however they are called: by a network, by hand, or fused with their neighbours (then the time is that
of the layer whose kernel does the work, and the other one has no line). Outside the block nothing is slower by it.

On a GPU times are those between two events on the stream, gaps between launches included, and the timeline shows the
launches. The steps of a CUDA graph (``Trainer(graph=True)``) are not seen: profile with ``graph=False``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import _device, backend, fusion
from ._device import is_device
from ._files import replacing
from .kernels.problem import Problem
from .kernels.registry import Row
from .layers import Layer
from .network import Container

#: What a layer is called in tables, before its number.
NAMES = {
    "Convolution": "conv",
    "Affine": "affine",
    "Pooling": "pool",
    "AveragePooling": "avgpool",
    "BatchNormalization": "bn",
    "LocalResponseNormalization": "lrn",
    "SoftmaxWithLoss": "loss",
    "Residual": "add",
    "BinaryConvolution": "conv",
    "BinaryAffine": "affine",
    "PackedConvolution": "conv",
    "PackedAffine": "affine",
    "QuantizedConvolution": "conv",
    "QuantizedAffine": "affine",
    "QuantizedPooling": "pool",
}
_METHODS = {
    "forward": "forward",
    "_forward": "forward",
    "_forward_pooled": "forward",
    "backward": "backward",
    "_backward": "backward",
}
#: Calls in the timeline, at most: some 50 MB of JSON. Later ones are in the table only.
MOST_EVENTS = 400_000
#: Pairs of events on a device before it is waited for.
MOST_WAITING = 10_000


class Kernel(NamedTuple):
    """One kernel of a line: the problem and the row of the registry."""

    problem: Problem
    row: Row
    threads: int


class Line:
    """All calls of one pass of one layer; kernels that no layer called have a line for each op."""

    def __init__(self, name: str, kind: str, direction: str) -> None:
        self.name, self.kind, self.direction = name, kind, direction
        self.seconds = array("d")  # of each call
        self.kernels: Counter[Kernel] = Counter()  # -> calls
        self.kernel_seconds = 0.0
        self.output: tuple[tuple[int, ...], int] | None = None  # shape and bytes of the last one

    @property
    def total(self) -> float:
        """Seconds of all calls."""
        return sum(self.seconds)

    def work(self) -> Any:
        """Floating-point operations and bytes of all calls (``fastdl.bench.work``); None where a kernel is not
        counted."""
        from .bench import work

        found = work.Work(0.0, 0.0)
        for kernel, calls in self.kernels.items():
            try:
                one = work.of(kernel.problem)
            except KeyError:
                return None
            found += work.Work(calls * one.flop, calls * one.bytes)
        return found


class _Open:
    """A call that is running."""

    def __init__(self, layer: Any, line: Line, direction: str) -> None:
        self.layer, self.line, self.direction = layer, line, direction


class _Watch:
    """From its making to ``stop``: by the host's clock, and on a device between two events."""

    def __init__(self, on_device: bool) -> None:
        self.on_device = on_device
        self._first = _device.event() if on_device else None
        self.begin = self.end = time.perf_counter_ns()

    def stop(self) -> None:
        """Now."""
        self.end = time.perf_counter_ns()
        self._last = None if self._first is None else _device.event()

    def seconds(self) -> float:
        """Waits for a device."""
        if self._first is None:
            return (self.end - self.begin) * 1e-9
        return _device.seconds_between(self._first, self._last)


class Profile:
    """Times every layer and kernel that runs inside its ``with`` blocks; see the module.

    ``lines`` in the order of the first calls. A profile may be entered several times, and adds up. Raises
    ``RuntimeError`` where another one is active: there is one in a process at a time.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # inside the blocks
        self.left_out = 0  # calls that the timeline does not show
        self._lines: dict[tuple[Any, str], Line] = {}
        self._names: dict[int, tuple[Any, str]] = {}  # the layer is kept, so that its id stays its own
        self._numbers: Counter[str] = Counter()
        self._events: list[tuple[str, str, int, int, int]] = []
        self._choice: backend.Choice | None = None
        self._waiting: list[tuple[_Watch, Callable[[float], None]]] = []  # for a device
        self._local = threading.local()
        self._paused = False

    # ---- results ----

    @property
    def lines(self) -> list[Line]:
        """Those that were called, in the order of their first calls."""
        return [line for line in self._lines.values() if line.seconds]

    def line(self, layer: Any, direction: str) -> Line | None:
        """The line of a layer's ``"forward"`` or ``"backward"``; None where it had no call of its own."""
        found = self._lines.get((id(layer), direction))
        return found if found is not None and found.seconds else None

    def name(self, layer: Any) -> str:
        """``conv2``: by kind, numbered in the order of the first calls."""
        held = self._names.get(id(layer))
        if held is None:
            kind = type(layer).__name__
            short = NAMES.get(kind, kind.lower())
            self._numbers[short] += 1
            between = "_" if short[-1].isdigit() else ""
            held = self._names[id(layer)] = layer, f"{short}{between}{self._numbers[short]}"
        return held[1]

    def clear(self) -> None:
        """Forgets all times; the names stay."""
        self.seconds, self.left_out = 0.0, 0
        self._lines.clear()
        self._events.clear()

    def __str__(self) -> str:
        from .cli.profiling import text

        return text(self)

    def to_json(self) -> dict[str, Any]:
        """As JSON can express it: seconds, calls and work of each line."""
        found = []
        for line in self.lines:
            work = line.work()
            found.append(
                {
                    "name": line.name,
                    "kind": line.kind,
                    "direction": line.direction,
                    "calls": len(line.seconds),
                    "seconds": line.total,
                    "kernel_seconds": line.kernel_seconds,
                    "flop": None if work is None else work.flop,
                    "bytes": None if work is None else work.bytes,
                    "kernels": sorted({kernel.row.label for kernel in line.kernels}),
                }
            )
        return {"seconds": self.seconds, "lines": found}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the timeline in Chrome's trace event format, whole or not at all: for ui.perfetto.dev.

        Of very many calls the first 400,000 are in it.
        """
        start = min((event[2] for event in self._events), default=0)
        shown = [
            {
                "name": name,
                "cat": category,
                "ph": "X",
                "ts": (begin - start) / 1e3,
                "dur": (end - begin) / 1e3,
                "pid": os.getpid(),
                "tid": thread,
            }
            for name, category, begin, end, thread in self._events
        ]
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps({"traceEvents": shown, "displayTimeUnit": "ms"}))

    # ---- while it runs ----

    def __enter__(self) -> Profile:
        global _active
        with _changing:
            if _active is not None:
                raise RuntimeError("another fastdl.profile() is active: there is one at a time")
            _active = self
            _patch(self)
        now = backend.current()
        # One for all blocks: the functions' plans of an earlier block then serve this one.
        own = self._choice = self._choice or backend.Choice(now.backend, now.cap, now.conv, now.arithmetic, log=self)
        self._token = backend._choice.set(own.replace(now.backend, now.cap, now.conv, now.arithmetic))
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        self._read()
        self.seconds += time.perf_counter() - self._begin
        backend._choice.reset(self._token)
        with _changing:
            _unpatch()
            _active = None

    def _stack(self) -> list[_Open]:
        stack: list[_Open] | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def _line_of(self, key: Any, direction: str, name: str, kind: str) -> Line:
        line = self._lines.get((key, direction))
        if line is None:
            line = self._lines[key, direction] = Line(name, kind, direction)
        return line

    def _book(self, watch: _Watch, name: str, category: str, add: Callable[[float], None]) -> None:
        """Stops the watch, and gives ``add`` its seconds now or when the device has come so far."""
        watch.stop()
        if not watch.on_device:
            add(watch.seconds())
        elif watch._first is not None:
            self._waiting.append((watch, add))
            if len(self._waiting) >= MOST_WAITING:
                self._read()
        if len(self._events) < MOST_EVENTS:
            self._events.append((name, category, watch.begin, watch.end, threading.get_native_id()))
        else:
            self.left_out += 1

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        for watch, add in waiting:
            add(watch.seconds())

    def call(self, layer: Any, direction: str, method: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """Runs a method of a layer on the clock."""
        stack = self._stack()
        again = stack and stack[-1].layer is layer and stack[-1].direction == direction
        if again or self._paused:  # forward calls _forward, a subclass its base
            return method(layer, *args, **kwargs)
        name = self.name(layer)
        line = self._line_of(id(layer), direction, name, type(layer).__name__)
        container = isinstance(layer, Container)
        stack.append(_Open(layer, line, direction))
        watch = _Watch(bool(args) and is_device(args[0]))
        try:
            out = method(layer, *args, **kwargs)
            line.output = _size(out[1] if type(out) is tuple else out)  # (ReLU, pooled, indices): a fused pooling's
            return out
        finally:
            stack.pop()
            # A container's time is its layers', but for the kernels that it runs itself.
            self._book(watch, f"{name} {direction}", "layer", _nothing if container else line.seconds.append)

    def observed(self, function: Callable[..., None], row: Row, choice: backend.Choice, fallback: str) -> Any:
        """``function`` on the clock: its time goes to the layer that runs, or to its op where none does."""

        def timed(problem: Problem, *args: Any) -> None:
            if self._paused:
                return function(problem, *args)
            stack = self._stack()
            if stack:
                line, alone = stack[-1].line, isinstance(stack[-1].layer, Container)
            else:
                line, alone = self._line_of(problem.op, problem.direction, problem.op, "function"), True

            def add(seconds: float) -> None:
                line.kernel_seconds += seconds
                if alone:
                    line.seconds.append(seconds)

            watch = _Watch(choice.device is not None)
            try:
                function(problem, *args)
            finally:
                line.kernels[Kernel(problem, row, args[-1])] += 1
                self._book(watch, f"{problem.op} {problem.direction}: {row.label}", "kernel", add)
            return None

        return timed


def profile() -> Profile:
    """A context that times layers and kernels: ``with fastdl.profile() as p: ...; print(p)``. See ``Profile``."""
    return Profile()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """What runs in here is on no clock."""
    profile = _active
    if profile is not None:
        profile._paused = True
    try:
        yield
    finally:
        if profile is not None:
            profile._paused = False


def _nothing(seconds: float) -> None:
    pass


def _size(out: Any) -> tuple[tuple[int, ...], int] | None:
    shape = getattr(out, "shape", None)
    return None if shape is None else (shape, out.nbytes)


# ---- layers on the clock --------------------------------------------------------------------------------------------

_changing = threading.Lock()
_active: Profile | None = None
_originals: list[tuple[type, str, Any]] = []


def _classes(kind: type = Layer) -> Iterator[type]:
    cls: type
    for cls in kind.__subclasses__():
        yield cls
        yield from _classes(cls)


def _patch(profile: Profile) -> None:
    """Puts a clock around the passes of every class of layers that there is, and that there will be."""
    for cls in dict.fromkeys(_classes()):
        _patch_class(profile, cls)
    Layer.__init_subclass__ = classmethod(functools.partial(_patch_class, profile))  # type: ignore[method-assign, assignment]
    fusion.recognise()


def _patch_class(profile: Profile, cls: type) -> None:
    for name, direction in _METHODS.items():
        method = cls.__dict__.get(name)
        if callable(method):
            _originals.append((cls, name, method))
            setattr(cls, name, _clocked(profile, direction, method))


def _clocked(profile: Profile, direction: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return profile.call(layer, direction, method, args, kwargs)

    return timed


def _unpatch() -> None:
    del Layer.__init_subclass__
    while _originals:
        cls, name, method = _originals.pop()
        setattr(cls, name, method)
    fusion.recognise()
