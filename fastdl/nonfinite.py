"""Where a training went wrong whose loss or gradients are infinite or NaN: the first layer that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import _device, network


class NonFiniteError(FloatingPointError):
    """A training has stopped at an infinite or NaN loss, gradient or parameter.

    ``step`` counts from 1, ``layer`` is the first that was not finite (None where it was not found) and ``checkpoint``
    the last good one (None where there is none).
    """

    def __init__(self, message: str, step: int, layer: str | None, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.step, self.layer, self.checkpoint = step, layer, checkpoint


class _Found(Exception):
    """The search is over."""

    def __init__(self, layer: str | None, what: str) -> None:
        super().__init__(what)
        self.layer, self.what = layer, what


def finite(value: Any) -> bool:
    """Whether an array or number holds nothing infinite or NaN; true for None and for integers."""
    if value is None:
        return True
    a = np.asarray(_device.to_device(value, "cpu"))
    return a.dtype.kind in "biu" or bool(np.isfinite(a).all())


def all_finite(net: Any) -> bool:
    """Whether the parameters and running statistics of a network are finite."""
    return all(finite(a) for a in (*net.params.values(), *network.named_buffers(network.sequence(net)).values()))


def names(layers: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Each layer that does not consist of others, and its name: "Convolution 3 (W3)", "Relu 3"."""
    layers = list(layers)
    numbers = {id(layer): f" ({layer.parameters[0]}{n})" for layer, n in network.numbered(layers)}
    counts: Counter[str] = Counter()
    for layer in _flat(layers):
        kind = type(layer).__name__
        counts[kind] += 1
        yield layer, f"{kind} {counts[kind]}{numbers.get(id(layer), '')}"


def _flat(layers: Iterable[Any]) -> Iterator[Any]:
    for layer in layers:
        if isinstance(layer, network.Container):
            yield from _flat(layer.inside)
        else:
            yield layer


def error(
    net: Any, what: str, place: tuple[int, int], good: tuple[Path, int] | None, x: Any = None, t: Any = None
) -> NonFiniteError:
    """What ends a training of ``net`` at ``place``, the step and the number of steps, because of ``what``.

    ``good`` is the last good checkpoint and its step. ``x`` and ``t`` are as for :func:`culprit`.
    """
    layer, found = culprit(net, x, t)
    kept = "there is no checkpoint" if good is None else f"the last good checkpoint is {good[0]}, of step {good[1]}"
    step, steps = place
    return NonFiniteError(
        f"{what} at step {step} of {steps}: {found}; {kept}", step, layer, None if good is None else good[0]
    )


def culprit(net: Any, x: Any = None, t: Any = None) -> tuple[str | None, str]:
    """The layer of ``net`` that was the first to be not finite, and what of it, in words.

    Where the parameters are finite, a training pass of the batch ``x``, ``t`` (if there is one) is repeated with a look
    at each output and gradient. That changes running statistics and what dropout draws next.
    """
    named = list(names(network.sequence(net)))
    try:
        if not finite(x):
            raise _Found(None, "the batch of images")
        # A gradient that is not finite spoils those of all layers before: the last layer was the first.
        for layer, name in reversed(named):
            _look(name, {f"parameter {key}": value for key, value in _parameters(layer).items()})
        if x is not None:
            last = getattr(net, "last_layer", None)
            watched = named if last is None else [*named, (last, type(last).__name__)]
            with _watched(watched), np.errstate(all="ignore"):
                net.gradient(x, t)
        for layer, name in named:  # last: a batch that failed has spoilt them as well
            _look(name, {key: getattr(layer, key, None) for key in getattr(layer, "buffers", ())})
    except _Found as found:
        return found.layer, f"{found.what} is the first that is not finite"
    again = "" if x is None else " when the batch was repeated (where there is dropout, with new masks)"
    return None, f"no layer showed it{again}"


def _parameters(layer: Any) -> Mapping[str, Any]:
    return {name: getattr(layer, name, None) for name in getattr(layer, "parameters", ())}


def _look(layer: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not finite(value):
            raise _Found(layer, f"the {name} of {layer}")


@contextmanager
def _watched(named: Iterable[tuple[Any, str]]) -> Iterator[None]:
    """Inside the block the layers' passes raise ``_Found`` at what is not finite.

    Functions of an instance also keep a layer from being fused with its neighbours.
    """
    changed = []
    try:
        for layer, name in named:
            if hasattr(layer, "__dict__") and not {"forward", "backward"} & set(layer.__dict__):
                changed.append(layer)
                layer.forward = _forward(layer.forward, name)
                layer.backward = _backward(layer, layer.backward, name)
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("forward", None)
            layer.__dict__.pop("backward", None)


def _forward(own: Callable[..., Any], name: str) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        out = own(*args, **kwargs)
        _look(name, {"output": out})
        return out

    return forward


def _backward(layer: Any, own: Callable[..., Any], name: str) -> Callable[..., Any]:
    def backward(*args: Any, **kwargs: Any) -> Any:
        dx = own(*args, **kwargs)
        _look(name, {f"gradient by {key}": getattr(layer, f"d{key}", None) for key in _parameters(layer)})
        _look(name, {"gradient by the input": dx})
        return dx

    return backward
