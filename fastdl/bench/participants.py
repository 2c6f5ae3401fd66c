"""Those who run a network for ``fastdl bench``: fastdl on a backend, and PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from .._device import to_device
from ..kernels import registry
from ..layers import Dropout
from ..models import Model
from ..profiling import Line, Profile
from . import torch_peer
from .nets import Network
from .record import Check

PASSES = ("inference", "forward", "backward")
#: (id of a layer, pass) -> seconds; the layer None is the whole pass.
Sample = dict[tuple[int | None, str], float]
#: "scores", "gradients" -> numbers.
Results = dict[str, np.ndarray]


class Setting(NamedTuple):
    """What all participants of one comparison have in common."""

    batch: int
    dtype: str
    threads: int
    passes: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether a pass is that of training."""
        return "forward" in self.passes or "backward" in self.passes


def level() -> str:
    """The ISA level that peaks of the CPU are of."""
    return next(reversed(registry.available_levels()), "any")


class Ours:
    """fastdl on one backend, on the CPU."""

    device = "cpu"
    isa = level()

    def __init__(self, name: str, network: Network, setting: Setting, conv: str = "auto") -> None:
        self.name = f"fastdl {name}" if conv == "auto" else f"fastdl {name} {conv}"
        self.backend, self.network, self.setting, self.conv = name, network, setting, conv
        self.x, self.t = network.data(setting.batch, setting.dtype)
        self.profile = Profile()
        for layer in network.layers():
            self.profile.name(layer)
        self.lines: dict[str, dict[int, Line]] = {}  # pass -> id of a layer -> its last line
        self._dout: np.ndarray | None = None

    def context(self) -> AbstractContextManager[Any]:
        """In which it runs."""
        stack = ExitStack()
        stack.enter_context(backend.use_backend(self.backend))
        stack.enter_context(backend.threads(self.setting.threads))
        stack.enter_context(backend.conv_algorithm(self.conv))
        return stack

    def whole(self) -> Sample:
        """Seconds of each pass as a whole."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                with backend.inference():
                    found[None, "inference"], _ = _timed(self._predict)
            if self.setting.trains:
                found[None, "forward"], out = _timed(self._forward)
                if "backward" in self.setting.passes:
                    found[None, "backward"], _ = _timed(self._backward, out)
        return found

    def parts(self) -> Sample:
        """Seconds of each layer in each pass."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                with backend.inference(), self._on_the_clock("inference", "forward", found):
                    self._predict()
            if self.setting.trains:
                with self._on_the_clock("forward", "forward", found):
                    out = self._forward()
                if "backward" in self.setting.passes:
                    with self._on_the_clock("backward", "backward", found):
                        self._backward(out)
        return found

    def _on_the_clock(self, name: str, direction: str, found: Sample) -> AbstractContextManager[Any]:
        stack = ExitStack()

        def keep() -> None:
            of = {id(layer): self.profile.line(layer, direction) for layer in self.network.layers()}
            self.lines[name] = {key: line for key, line in of.items() if line is not None}
            found.update({(key, name): line.total for key, line in self.lines[name].items()})

        self.profile.clear()
        stack.callback(keep)
        stack.enter_context(self.profile)
        return stack

    def _predict(self) -> Any:
        net = self.network.net
        return net.predict(self.x) if isinstance(net, Model) else net.forward(self.x, False)

    def _forward(self) -> Any:
        net = self.network.net
        return net.loss(self.x, self.t) if isinstance(net, Model) else net.forward(self.x, True)

    def _backward(self, out: Any) -> None:
        net = self.network.net
        if isinstance(net, Model):
            net.backward()
        else:
            if self._dout is None:
                self._dout = np.random.default_rng(1).random(out.shape).astype(out.dtype)
            net.backward(self._dout, need_dx=False)

    def results(self, images: int, moved: bool = False) -> Results:
        """Scores of the first images, and with training passes their gradients without dropout, in float64.

        With ``moved`` every pixel is ``MOVED`` units in the last place larger or smaller.
        """
        x = self.x[:images]
        if moved:
            signs = np.random.default_rng(2).choice([-MOVED, MOVED], x.shape).astype(x.dtype)
            x = x + signs * np.spacing(np.abs(x), dtype=x.dtype)
        with self.context():
            return results_of(self.network, x, self.t[:images], self.setting.trains)


def results_of(network: Network, x: Any, t: Any, trains: bool) -> Results:
    """See ``Ours.results``; the running statistics stay as they are."""
    net = network.net
    with backend.inference():
        found = {"scores": _float64(net.predict(x) if isinstance(net, Model) else net.forward(x, False))}
    if isinstance(net, Model) and trains:
        with without_dropout(network), network.kept_statistics():
            grads = net.gradient(x, t)
        found["gradients"] = np.concatenate([_float64(g).ravel() for g in grads.values()])
    return found


def _float64(a: Any) -> np.ndarray:
    return np.asarray(to_device(a, "cpu")).astype(np.float64)


class Torch:
    """PyTorch on the CPU, in the memory format that is faster for this network."""

    name, device, isa = "torch cpu", "cpu", level()

    def __init__(self, network: Network, setting: Setting) -> None:
        import torch

        self._torch: Any = torch
        self.network, self.setting = network, setting
        self.peer = torch_peer.Network(network.steps, network.loss, self.device)
        self.steps = torch_peer.LayerByLayer(self.peer)
        x, t = network.data(setting.batch, setting.dtype)
        self.x, self.t = torch_peer.tensor(x, self.device), torch_peer.tensor(t, self.device)
        self.dout: Any = None

    def context(self) -> AbstractContextManager[Any]:
        """In which it runs."""
        return torch_peer.threads(self.setting.threads)

    def whole(self) -> Sample:
        """Seconds of each pass as a whole: one graph for all layers."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                self.peer.training = False
                with self._torch.inference_mode():
                    found[None, "inference"], _ = _timed(self.peer.forward, self.x)
                self.peer.training = True
            if self.setting.trains:
                self.peer.forget_gradients()
                found[None, "forward"], out = _timed(self.peer.loss, self.x, self.t)
                if "backward" in self.setting.passes:
                    found[None, "backward"], _ = _timed(out.backward, *self._douts(out))
        return found

    def parts(self) -> Sample:
        """Seconds of each layer in each pass: each layer a graph of its own."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                self.peer.training = False
                self.steps.predict(self.x)
                self._keep("inference", found)
                self.peer.training = True
            if self.setting.trains:
                self.peer.forget_gradients()
                self.steps.forward(self.x, self.t)
                self._keep("forward", found)
                if "backward" in self.setting.passes:
                    self.steps.backward(self.dout)
                    self._keep("backward", found)
        return found

    def _keep(self, name: str, found: Sample) -> None:
        found.update({(key, name): seconds for key, seconds in self.steps.seconds.items()})

    def _douts(self, out: Any) -> tuple[Any, ...]:
        if self.network.loss is not None:
            return ()
        if self.dout is None:
            self.dout = self._torch.rand_like(out)
        return (self.dout,)

    def results(self, images: int) -> Results:
        """As those of ``Ours``."""
        peer, x, t = self.peer, self.x[:images], self.t[:images]
        with self.context():
            peer.training = False
            with self._torch.no_grad():
                found = {"scores": torch_peer.array(peer.forward(x))}
            peer.training = True
            if isinstance(self.network.net, Model) and self.setting.trains:
                peer.forget_gradients()
                with without_dropout(self.network):
                    peer.loss(x, t).backward()
                grads = peer.gradients()
                found["gradients"] = np.concatenate(
                    [grads[id(layer), i].ravel() for layer in self.network.weighted() for i in range(len(layer.params))]
                )
        return found


@contextmanager
def without_dropout(network: Network) -> Iterator[None]:
    """In the block every dropout keeps everything: two participants draw different masks."""
    layers = [layer for layer in network.layers() if isinstance(layer, Dropout)]
    ratios = [layer.dropout_ratio for layer in layers]
    for layer in layers:
        layer.dropout_ratio = 0.0
    try:
        yield
    finally:
        for layer, ratio in zip(layers, ratios, strict=True):
            layer.dropout_ratio = ratio


def _timed(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    out = call(*args)
    return time.perf_counter() - begin, out


#: Units in the last place by which images are moved, and how much further apart than by that two participants may be.
#: One unit makes all roundings new: it moves results 0.5 to 2 times as far as PyTorch's and the NumPy reference's are
#: away in six of seven networks (float32). In GoogLeNet one ReLU or pooling that changes its mind moves the gradients a
#: hundred times as far: many units let some do so.
MOVED, ROOM = 64, 8


def compare(found: Results, expected: Results, moved: Results, against: str) -> Check:
    """``found`` beside ``expected``, relative, as vectors: the kind of result that is worse.

    ``moved`` is what the same participant computes from images that differ in their last bits: how far that moves a
    result tells how far roundings on the way may move it.
    """
    checks = [
        Check(_distance(found[kind], values), ROOM * _distance(moved[kind], values), against)
        for kind, values in expected.items()
    ]
    return max(checks, key=lambda check: check.difference / max(check.tolerance, 1e-300))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-300))


def available(
    devices: Sequence[str], backends: Sequence[str], peers: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(kind, name) of those that can run here, and why the others cannot: by their columns' names."""
    found: list[tuple[str, str]] = []
    absent: dict[str, str] = {}
    for device in devices:
        for name in backends if device == "cpu" else ("cuda",):
            reason = backend.missing(name)
            if reason:
                absent[f"fastdl {name}"] = reason
            else:
                found.append(("fastdl", name))
        for peer in peers:
            reason = torch_peer.missing(device)
            if reason:
                absent[f"{peer} {device}"] = reason
            else:
                found.append((peer, device))
    return found, absent
