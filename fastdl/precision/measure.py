"""What is measured of a network: signal and noise of its layers, its scores, bytes, kernels, and its gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend, functional
from .._array import float_dtype
from ..bench.nets import Network
from ..layers import Relu
from ..layers.quantized import (
    PackedAffine,
    PackedConvolution,
    QuantizedAffine,
    QuantizedConvolution,
    QuantizedPooling,
    Steps,
)
from ..models import Model
from ..network import Container
from ..profiling import Profile
from .formats import Format
from .record import Histogram, Kernel, Signal

_PACKED = PackedAffine, PackedConvolution


def named_layers(net: Model) -> dict[str, Any]:
    """``conv1``, ``relu1``, ...: the layers that compute something, in the order of the forward pass."""
    names = Profile()
    layers = Network("", net, net.input_dim, 1).layers()
    return {names.name(layer): layer for layer in layers if layer is not net.last_layer}


@contextmanager
def _instead(layer: Any, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block ``layer`` runs ``function``, alone: nothing is fused with a layer that has a method of its
    own, and the bits are the same."""
    setattr(layer, method, function)
    try:
        yield
    finally:
        delattr(layer, method)


@contextmanager
def _seen(layers: Mapping[str, Any], method: str, see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside the block ``see`` gets the name, first argument and result of each call of ``method``."""

    def watching(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(first: Any, *args: Any, **kwargs: Any) -> Any:
            copied = first.copy() if method == "backward" else first  # a ReLU may work in what it gets
            out = original(first, *args, **kwargs)
            see(name, copied, out)
            return out

        return called

    for name, layer in layers.items():
        setattr(layer, method, watching(name, getattr(layer, method)))
    try:
        yield
    finally:
        for layer in layers.values():
            delattr(layer, method)


# ---- inference ------------------------------------------------------------------------------------------------------


def scores(net: Model, format: Format, x: np.ndarray, batch: int, done: Callable[[int], None]) -> np.ndarray:
    """float64 (N, classes): what ``net`` makes of the images in ``format``; ``done`` gets the images of each batch."""
    found = []
    with backend.inference(), format.context():
        for start in range(0, len(x), batch):
            part = format.images(x[start : start + batch])
            found.append(net.predict(part).astype(np.float64))
            done(len(part))
    return np.concatenate(found)


def classes(scores: np.ndarray) -> np.ndarray:
    """(N,): the place of the largest score; -1 where one is NaN."""
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))


def noise(reference: np.ndarray, found: np.ndarray) -> tuple[float, float | None]:
    """Sums of squares: of ``reference``, and of what ``found`` is off; None where that is no finite number."""
    with np.errstate(invalid="ignore", over="ignore"):
        off = float(np.sum((found.astype(np.float64) - reference) ** 2))
    return float(np.sum(reference.astype(np.float64) ** 2)), off if np.isfinite(off) else None


def comparable(reference: Model, net: Model) -> dict[str, tuple[str, Steps | None]]:
    """For each layer of ``net`` that has a counterpart in ``reference`` the name of the layer there that puts out the
    same, and what the bytes count where it puts out bytes.

    A quantized layer does the ReLU behind it too, and counts for that one.
    """
    theirs, ours = named_layers(reference), named_layers(net)
    found: dict[str, tuple[str, Steps | None]] = {}
    steps: Steps | None = None
    # Layers on bytes do what others did: of the rest not every name has its counterpart's meaning.
    on_bytes = any(isinstance(layer, QuantizedConvolution | QuantizedAffine) for layer in ours.values())
    for name, layer in ours.items():
        if isinstance(layer, QuantizedConvolution | QuantizedAffine):
            steps = layer.out_steps
            found[name] = (_relu_behind(theirs, name) if layer.relu else name), steps
        elif isinstance(layer, QuantizedPooling):
            found[name] = name, steps
        elif not on_bytes and (type(layer) is type(theirs.get(name)) or isinstance(layer, _PACKED)):
            found[name] = name, None
    return found


def _relu_behind(layers: Mapping[str, Any], name: str) -> str:
    names = list(layers)
    behind = names[names.index(name) :]
    return next(other for other in behind if isinstance(layers[other], Relu))


def signals(
    reference: Model, net: Model, formats: tuple[Format, Format], x: np.ndarray, done: Callable[[int], None]
) -> list[Signal]:
    """Each layer's output in ``net`` beside that in ``reference``, over the images ``x``.

    ``formats`` are those of the two networks. The images go through in batches of 32, so that few outputs are kept.
    """
    theirs, same = named_layers(reference), comparable(reference, net)
    ours = {name: layer for name, layer in named_layers(net).items() if name in same}
    sums = {other: [0.0, 0.0] for other, _ in same.values()}
    broken: set[str] = set()
    wanted: dict[str, np.ndarray] = {}

    def compare(name: str, _: Any, out: np.ndarray) -> None:
        other, steps = same[name]
        found = out if steps is None else (out.astype(np.float64) - steps.zero) * steps.step
        signal, off = noise(wanted[other], found)
        sums[other][0] += signal
        sums[other][1] += off or 0.0
        if off is None:
            broken.add(other)

    with backend.inference():
        for start in range(0, len(x), 32):
            part = x[start : start + 32]
            with _seen(theirs, "forward", lambda name, _, out: wanted.__setitem__(name, out)):
                reference.predict(formats[0].images(part))
            with _seen(ours, "forward", compare), formats[1].context():
                net.predict(formats[1].images(part))
            done(len(part))
    return [
        Signal(name, type(theirs[name]).__name__, signal, None if name in broken else off)
        for name, (signal, off) in sums.items()
    ]


def profiled(net: Model, format: Format, x: np.ndarray) -> Profile:
    """Of a prediction, with the names of ``named_layers``."""
    profile = Profile()
    for layer in named_layers(net).values():
        profile.name(layer)
    images = format.images(x)
    with backend.inference(), format.context(), profile:
        net.predict(images)
    return profile


def kernels(profile: Profile) -> list[Kernel]:
    """Those that ran, layer by layer."""
    every = [(line.name, k.problem.op, k.row.label) for line in profile.lines for k in line.kernels]
    return [Kernel(*found) for found in dict.fromkeys(every)]


def activation_bytes(net: Model, format: Format, image: np.ndarray) -> tuple[int, int]:
    """What kernels write for one image, and the largest input of one together with its output."""
    before = format.images(image).nbytes
    total = largest = 0
    for line in profiled(net, format, image).lines:
        if line.output is not None:
            size = line.output[1]
            total, largest, before = total + size, max(largest, before + size), size
    return total, largest


def weight_bytes(net: Model) -> int:
    """Of the parameters and running statistics, as they are stored."""
    found = {id(a): a.nbytes for a in net.params.values()}
    for layer in named_layers(net).values():
        if not isinstance(layer, Container):
            found |= {id(a): a.nbytes for name in layer.buffers if (a := getattr(layer, name)) is not None}
    return sum(found.values())


@contextmanager
def on_bytes(layer: Any, quantized: Any) -> Iterator[None]:
    """Inside the block this layer of a float32 network computes as ``quantized``, its counterpart in a quantized one,
    does: from bytes, with float32 for an output and without a ReLU."""
    own = copy.copy(quantized)
    own.relu, own.out_steps = False, None
    if quantized.out_steps is not None:
        own.scale = quantized.scale * np.float32(quantized.out_steps.step)
    with _instead(layer, "forward", own.forward):
        yield


@contextmanager
def reduced(layer: Any, format: Format) -> Iterator[None]:
    """Inside the block this layer of a float32 network computes in ``format``: its input and parameters are rounded,
    and its output is float32 again."""
    dtype = float_dtype(format.storage, "storage")
    before, forward = layer.params, layer.forward

    def lower(x: np.ndarray, *args: Any) -> np.ndarray:
        with format.context():
            out = forward(functional.cast(x, dtype), *args)
        return functional.cast(out, x.dtype)

    for name, value in before.items():
        setattr(layer, name, functional.cast(value, dtype))
    try:
        with _instead(layer, "forward", lower):
            yield
    finally:
        for name, value in before.items():
            setattr(layer, name, value)


# ---- training -------------------------------------------------------------------------------------------------------


def histogram(layer: str, kind: str, a: np.ndarray) -> Histogram:
    """How many of the values have which power of two."""
    magnitude = np.abs(a.astype(np.float64, copy=False)).ravel()
    finite = np.isfinite(magnitude)
    exponents = np.frexp(magnitude[finite & (magnitude > 0)])[1] - 1
    first = int(exponents.min()) if exponents.size else 0
    counts = [int(n) for n in np.bincount(exponents - first)] if exponents.size else []
    zeros = int(np.count_nonzero(magnitude == 0))
    return Histogram(layer, kind, first, counts, zeros, int(np.count_nonzero(~finite)))


def gradients(net: Model, x: np.ndarray, t: np.ndarray) -> list[Histogram]:
    """Of one training pass of a copy of ``net`` in float32: by each layer's output and parameters."""
    own = net.astype("float32")
    layers = named_layers(own)
    seen: dict[str, Histogram] = {}

    def look(name: str, dout: np.ndarray, _: Any) -> None:
        seen[name] = histogram(name, "activation", dout)

    with _seen(layers, "backward", look):
        own.loss_and_gradient(x.astype(np.float32, copy=False), t)
    found = []
    for name, layer in layers.items():
        found += [seen[name]] if name in seen else []
        if not isinstance(layer, Container):
            found += [histogram(name, key, grad) for key, grad in layer.grads.items() if grad is not None]
    return found
