"""Those who run a network for ``fastdl bench``: fastdl on a backend, and PyTorch."""

from __future__ import annotations

import functools
import importlib.util
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
from .record import CUDA, Check

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


def blas_missing() -> str:
    """Why the threads of NumPy's matrix products cannot be set; empty where they can."""
    found = importlib.util.find_spec("threadpoolctl") is not None
    return "" if found else "NumPy's matrix products use as many threads as they like: pip install threadpoolctl"


def level() -> str:
    """The ISA level that peaks of the CPU are of."""
    return next(reversed(registry.available_levels()), "any")


class Runner:
    """What every participant can do. All of it runs inside ``context()``, ``predict`` also inside ``inference()``."""

    name: str
    device: str
    isa: str  # whose peaks its rates are parts of
    network: Network
    setting: Setting

    def context(self) -> AbstractContextManager[Any]:
        """Its backend and threads."""
        raise NotImplementedError

    def inference(self) -> AbstractContextManager[Any]:
        """In which nothing is kept for a backward pass."""
        raise NotImplementedError

    def clear(self) -> None:
        """Gives up what an earlier training pass has left: not to be timed."""

    def predict(self) -> Any:
        """Scores."""
        raise NotImplementedError

    def forward(self) -> Any:
        """A forward pass of training: the loss, or the scores where the network has none."""
        raise NotImplementedError

    def backward(self, out: Any) -> Any:
        """The backward pass of the last ``forward``, which has returned ``out``."""
        raise NotImplementedError

    def whole(self) -> Sample:
        """Seconds of each pass as a whole."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                with self.inference():
                    found[None, "inference"], _ = _timed(self.predict)
            if self.setting.trains:
                self.clear()
                found[None, "forward"], out = _timed(self.forward)
                if "backward" in self.setting.passes:
                    found[None, "backward"], _ = _timed(self.backward, out)
        return found

    def results(self, images: int) -> Results:
        """Scores of the first images, and with training passes their gradients without dropout, in float64."""
        raise NotImplementedError


class Ours(Runner):
    """fastdl on one backend; the network is on its device, the GPU for ``"cuda"``."""

    def __init__(self, name: str, network: Network, setting: Setting, conv: str = "auto") -> None:
        self.name = f"fastdl {name}" if conv == "auto" else f"fastdl {name} {conv}"
        self.device, self.isa = ("cuda", CUDA) if name == "cuda" else ("cpu", level())
        self.backend, self.network, self.setting, self.conv = name, network, setting, conv
        self._data = network.data(setting.batch, setting.dtype)
        self.x, self.t = (to_device(a, self.device) for a in self._data)
        self.profile = Profile()
        for layer in network.layers():
            self.profile.name(layer)
        self.lines: dict[str, dict[int, Line]] = {}  # pass -> id of a layer -> its last line
        self._dout: Any = None

    def context(self) -> AbstractContextManager[Any]:
        """See ``Runner``."""
        stack = ExitStack()
        stack.enter_context(backend.use_backend(self.backend))
        stack.enter_context(backend.threads(self.setting.threads))
        if self.backend == "numpy" and not blas_missing():
            import threadpoolctl  # NumPy's own products have threads of their own

            stack.enter_context(threadpoolctl.threadpool_limits(self.setting.threads, "blas"))
        stack.enter_context(backend.conv_algorithm(self.conv))
        return stack

    def inference(self) -> AbstractContextManager[Any]:
        """See ``Runner``."""
        return backend.inference()

    def predict(self) -> Any:
        """See ``Runner``."""
        net = self.network.net
        return net.predict(self.x) if isinstance(net, Model) else net.forward(self.x, False)

    def forward(self) -> Any:
        """See ``Runner``."""
        net = self.network.net
        return net.loss(self.x, self.t) if isinstance(net, Model) else net.forward(self.x, True)

    def backward(self, out: Any) -> Any:
        """See ``Runner``; of a Model the gradients by name."""
        net = self.network.net
        if isinstance(net, Model):
            return net.backward()
        if self._dout is None:
            dout = np.random.default_rng(1).random(out.shape).astype(out.dtype)
            self._dout = to_device(dout, self.device)
        return net.backward(self._dout, need_dx=False)

    def parts(self) -> Sample:
        """Seconds of each layer in each pass."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                with backend.inference(), self._on_the_clock("inference", "forward", found):
                    self.predict()
            if self.setting.trains:
                with self._on_the_clock("forward", "forward", found):
                    out = self.forward()
                if "backward" in self.setting.passes:
                    with self._on_the_clock("backward", "backward", found):
                        self.backward(out)
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

    def results(self, images: int, moved: bool = False) -> Results:
        """See ``Runner``. With ``moved`` every pixel is ``MOVED`` units in the last place larger or smaller."""
        net, (x, t) = self.network.net, (a[:images] for a in self._data)
        if moved:
            signs = np.random.default_rng(2).choice([-MOVED, MOVED], x.shape).astype(x.dtype)
            x = x + signs * np.spacing(np.abs(x), dtype=x.dtype)
        x, t = (to_device(a, self.device) for a in (x, t))
        with self.context():
            with backend.inference():
                scores = net.predict(x) if isinstance(net, Model) else net.forward(x, False)
            found = {"scores": _wide(scores)}
            if isinstance(net, Model) and self.setting.trains:
                with without_dropout(self.network):
                    grads = net.gradient(x, t)
                found["gradients"] = np.concatenate([_wide(g).ravel() for g in grads.values()])
        return found


class Torch(Runner):
    """PyTorch on the CPU, with channels-last memory."""

    name, device = "torch cpu", "cpu"

    def __init__(self, network: Network, setting: Setting) -> None:
        import torch

        self._torch: Any = torch
        self.isa = level()
        self.network, self.setting = network, setting
        self.peer = torch_peer.Network(network.steps, network.loss, self.device)
        self.steps = torch_peer.LayerByLayer(self.peer)
        x, t = network.data(setting.batch, setting.dtype)
        self.x, self.t = torch_peer.tensor(x, self.device), torch_peer.tensor(t, self.device)
        self.dout: Any = None

    def context(self) -> AbstractContextManager[Any]:
        """See ``Runner``."""
        return torch_peer.threads(self.setting.threads)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """See ``Runner``."""
        self.peer.training = False
        try:
            with self._torch.inference_mode():
                yield
        finally:
            self.peer.training = True

    def clear(self) -> None:
        """See ``Runner``: the gradients."""
        self.peer.forget_gradients()

    def predict(self) -> Any:
        """See ``Runner``."""
        return self.peer.forward(self.x)

    def forward(self) -> Any:
        """See ``Runner``: one graph for all layers."""
        return self.peer.loss(self.x, self.t)

    def backward(self, out: Any) -> None:
        """See ``Runner``; the gradients are those of the parameters."""
        out.backward(*self._douts(out))

    def parts(self) -> Sample:
        """Seconds of each layer in each pass: each layer a graph of its own."""
        found: Sample = {}
        with self.context():
            if "inference" in self.setting.passes:
                with self.inference():
                    self.steps.predict(self.x)
                self._keep("inference", found)
            if self.setting.trains:
                self.clear()
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
        """See ``Runner``."""
        peer, x, t = self.peer, self.x[:images], self.t[:images]
        with self.context():
            with self.inference():
                found = {"scores": torch_peer.array(peer.forward(x))}
            if isinstance(self.network.net, Model) and self.setting.trains:
                self.clear()
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


def _wide(a: Any) -> np.ndarray:
    return to_device(a, "cpu").astype(np.float64)  # type: ignore[no-any-return]


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


class Agreement:
    """Whether participants compute what the first of them does, on the first images of the batch."""

    def __init__(self, images: int) -> None:
        self.images = images
        self._first: Any = None
        self._expected: Results = {}

    def check(self, participant: Any) -> tuple[Check | None, float]:
        """How far it is from the first one, None for that one itself; and the seconds of this, its first call."""
        with participant.network.kept_statistics():
            begin = time.perf_counter()
            found = participant.results(self.images)
            seconds = time.perf_counter() - begin
        if self._first is None:
            self._first, self._expected = participant, found
            return None, seconds
        return compare(found, self._expected, self._moved, self._first.name), seconds

    @functools.cached_property
    def _moved(self) -> Results:
        with self._first.network.kept_statistics():
            return self._first.results(self.images, moved=True)  # type: ignore[no-any-return]


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
