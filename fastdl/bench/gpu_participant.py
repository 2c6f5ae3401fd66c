"""fastdl on a GPU, for ``fastdl bench``: passes and layers as CUDA graphs, timed by events.

A layer's graph holds one call of it with the arrays that it got in the network's own pass; it is replayed alone. Events
around the layers of a pass would time the gaps between launches as well, which a graph of the whole pass does not have.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .. import backend, network
from ..kernels.registry import Row
from ..models import Model
from ..network import Container
from ..profiling import Profile
from .nets import Network
from .participants import Ours, Sample, Setting
from .replay import Replay

#: Seconds that the replays of one sample take, at least: a thousand times the resolution of events.
LEAST = 0.5e-3


class _Recorder(Profile):
    """Keeps the calls of layers, and those of kernels between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple[int, str], list[Callable[[], Any]]] = {}

    def call(self, layer: Any, direction: str, method: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """See ``Profile.call``."""
        inside = any(not isinstance(call.layer, Container) for call in self._stack())
        if not inside and not isinstance(layer, Container):
            self._keep(layer, direction, functools.partial(method, layer, *args, **kwargs))
        return super().call(layer, direction, method, args, kwargs)

    def observed(self, function: Callable[..., None], row: Row, choice: backend.Choice, fallback: str) -> Any:
        """See ``Profile.observed``."""
        timed = super().observed(function, row, choice, fallback)

        def kept(problem: Any, *args: Any) -> None:
            stack = self._stack()
            if stack and isinstance(stack[-1].layer, Container):
                self._keep(stack[-1].layer, stack[-1].direction, functools.partial(function, problem, *args))
            timed(problem, *args)

        return kept

    def _keep(self, layer: Any, direction: str, call: Callable[[], Any]) -> None:
        self.calls.setdefault((id(layer), direction), []).append(call)


class OursOnDevice(Ours):
    """fastdl's CUDA kernels on the first device."""

    def __init__(self, network: Network, setting: Setting) -> None:
        net = copy.deepcopy(network.net)  # the host's stays where it is
        net.to("cuda")
        super().__init__("cuda", network._replace(net=net), setting)
        self._layers = self.network.layers()  # kept: their ids stay theirs
        # The rows are named after the host's layers.
        pairs = zip(self._layers, network.layers(), strict=True)
        self._host = {id(own): id(layer) for own, layer in pairs}
        self._wholes: dict[str, tuple[Replay, int]] = {}
        self._parts: dict[tuple[int, str], tuple[Replay, int]] = {}
        self._out: Any = None

    def _predict_only(self) -> Any:
        with self.inference():
            return self.predict()

    def _backward_only(self) -> Any:
        """Keeps the activations: it is run again and again."""
        net = self.network.net
        if isinstance(net, Model):
            network.backward(net._sequence(), net.last_layer.backward(1), need_dx=False)
        else:
            self.backward(self._out)

    def _passes(self) -> dict[str, Callable[[], Any]]:
        """In the order in which they have to run."""
        found: dict[str, Callable[[], Any]] = {}
        if "inference" in self.setting.passes:
            found["inference"] = self._predict_only
        if self.setting.trains:
            found["forward"] = self.forward
            if "backward" in self.setting.passes:
                found["backward"] = self._backward_only
        return found

    def _warm(self) -> None:
        """What no graph may do for the first time."""
        if self._out is None and self.setting.trains:
            with self.context():
                self._out = self.forward()
                self._backward_only()
                self._out = self.forward()

    # ---- times ----

    def whole(self) -> Sample:
        """Seconds of each pass, a graph of all its kernels."""
        if not self._wholes:
            self._warm()
            self._wholes = {name: _replay([call], self.context) for name, call in self._passes().items()}
        return {(None, name): _seconds(*found) for name, found in self._wholes.items()}

    def parts(self) -> Sample:
        """Seconds of each layer in each pass, a graph of its kernels."""
        if not self._parts:
            self._warm()
            for name, call in self._passes().items():
                self._record(name, call)
        return {key: _seconds(*found) for key, found in self._parts.items()}

    def _record(self, name: str, call: Callable[[], Any]) -> None:
        direction = "backward" if name == "backward" else "forward"
        recorder = _Recorder()
        with self.context(), recorder:
            call()
        found = {}
        for layer in self._layers:
            line, calls = recorder.line(layer, direction), recorder.calls.get((id(layer), direction))
            if line is not None:
                found[self._host[id(layer)]] = line
            if calls:
                inference = backend.inference if name == "inference" else None
                self._parts[self._host[id(layer)], name] = _replay(calls, inference or self.context)
        self.lines[name] = found


def _replay(calls: list[Callable[[], Any]], context: Callable[[], AbstractContextManager[Any]]) -> tuple[Replay, int]:
    """The graph, and how often it is replayed for a sample."""
    replay = Replay(calls, context)
    replay.seconds(1)
    return replay, max(1, math.ceil(LEAST / max(replay.seconds(1), 1e-7)))


def _seconds(replay: Replay, times: int) -> float:
    return replay.seconds(times) / times
