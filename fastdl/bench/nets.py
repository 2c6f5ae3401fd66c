"""Networks to measure: those of ``fastdl.models.catalog`` by name, and any function of the user's that makes one."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .. import network
from .._array import float_dtype
from ..layers import Layer
from ..models import Model
from ..network import Container, Sequential

#: Images in a batch where nobody says how many.
BATCH = 16


class Network(NamedTuple):
    """What is measured."""

    name: str
    net: Any  # a Model or a Sequential
    image: tuple[int, ...]
    batch: int

    @property
    def steps(self) -> list[Any]:
        """Its layers, not yet unpacked."""
        return self.net._sequence() if isinstance(self.net, Model) else [self.net]

    @property
    def loss(self) -> Layer | None:
        """Its last layer, which gives the loss."""
        return getattr(self.net, "last_layer", None)

    def layers(self) -> list[Layer]:
        """Every layer in the order of the forward pass, a join behind its branches, the loss last."""
        return [*_unpacked(self.steps), *([] if self.loss is None else [self.loss])]

    def weighted(self) -> list[Layer]:
        """The layers with parameters of their own, in the order of ``params``."""
        return [layer for layer in network.leaves(self.steps) if layer.params]

    @contextmanager
    def kept_statistics(self) -> Iterator[None]:
        """Training passes in the block leave the running statistics as they were."""
        places = [(layer, name) for layer in network.leaves(self.steps) for name in layer.buffers]
        before = [copy.copy(getattr(layer, name)) for layer, name in places]  # None before the first pass
        try:
            yield
        finally:
            for (layer, name), value in zip(places, before, strict=True):
                setattr(layer, name, value)

    def data(self, batch: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Random images in the range 0 to 1, and labels."""
        rng = np.random.default_rng(0)
        x = rng.random((batch, *self.image), dtype=np.float32).astype(float_dtype(dtype, "dtype"))
        return x, rng.integers(0, self.classes(), batch)

    def classes(self) -> int:
        """Numbers that it puts out for an image."""
        last: Any = self.weighted()[-1]
        return int(np.prod(last.b.shape if getattr(last, "b", None) is not None else last.W.shape[1:]))


def _unpacked(layers: Sequence[Any]) -> Iterator[Layer]:
    for layer in layers:
        if isinstance(layer, Container):
            yield from _unpacked(layer.inside)
            if not isinstance(layer, Sequential):
                yield layer
        elif isinstance(layer, Layer):
            yield layer


def make(name: str, dtype: str) -> Network:
    """``"alexnet"``, or ``"module:function"`` in the current folder or on the path, with parameters of ``dtype``.

    The function takes ``dtype`` (a NumPy dtype) and returns a network of ``fastdl.models`` or a ``Sequential``, and
    with it the shape of an image where the network has no ``input_dim``. ``ValueError`` for a name that is not known,
    for a function that cannot be had and for what it returns.
    """
    from ..models.catalog import NETWORKS

    if name in NETWORKS:
        known = NETWORKS[name]
        return Network(name, known.build(dtype=float_dtype(dtype, "dtype"), seed=0), tuple(known.image), known.batch)
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"there is no network {name!r}; there are {', '.join(NETWORKS)}, and your own: MODULE:FUNCTION"
        )
    made = _function(module, function)(float_dtype(dtype, "dtype"))
    net, image = made if isinstance(made, tuple) and len(made) == 2 else (made, getattr(made, "input_dim", None))
    if not isinstance(net, (Model, Sequential)):
        raise ValueError(f"{name} must return a network of fastdl.models or a Sequential, not {type(net).__name__}")
    if image is None:
        raise ValueError(
            f"{name} returned a {type(net).__name__} without input_dim: return (network, (C, H, W)), the shape of an "
            f"image with it"
        )
    found = Network(function, net, tuple(image), BATCH)
    if not found.weighted():
        raise ValueError(f"{name} returned a network without parameters")
    return found


def _function(module: str, function: str) -> Callable[..., Any]:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module.removesuffix(".py")), function, None)
    except ImportError as error:
        raise ValueError(f"the module {module} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"the module {module} has no function {function}")
    return found  # type: ignore[no-any-return]
