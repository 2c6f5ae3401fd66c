"""binarize: networks with binary weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import network
from .._array import is_device
from ..fusion import runs
from ..layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    BinaryAffine,
    BinaryConvolution,
    Convolution,
    Dropout,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Relu6,
    Sigmoid,
    Tanh,
)
from ..models.base import Model
from ..network import Concat, Container, Residual, Sequential

#: Layers that have as many channels as their input.
_CHANNELWISE = (
    AveragePooling, BatchNormalization, Dropout, LocalResponseNormalization, Pooling, Relu, Relu6, Sigmoid, Tanh
)  # fmt: skip
_BINARY = BinaryAffine, BinaryConvolution


def binarize(net: Any, *, keep_first: bool = True, keep_last: bool = True) -> Any:
    """A copy of ``net`` whose convolutions and affine layers are binary, to be trained: the weights are those of
    ``net``, whose accuracy is lost until then.

    ``net`` is a Model, or a Sequential, Residual or Concat; the copy has its class, and its parameters their dtypes and
    names. The first and the last layer with weights stay as they are, which costs little and saves much of the accuracy
    (``keep_first``, ``keep_last``). A binary layer gets a ``BatchNormalization`` in front of it, whose output the signs
    are of, unless there is one: per channel, and per element for an Affine behind what is not known to be channels. The
    activations and poolings between a layer and the next stay, and stay behind their layer: normalisation, signs,
    convolution, pooling, the order of XNOR-Net (Rastegari et al. 2016, section 3.3), with the activation that its
    authors allow before the next normalisation. (DeepConvNet on MNIST, 10 epochs: 98.9% with its ReLUs, 98.4% without.)

    Train it with ``Trainer(binarize(net), ..., precision="binary")``.

    Raises ``TypeError`` for another kind of network, and ``ValueError`` where no layer can become binary, where one is
    binary already, or where the layers to become binary are subclasses with passes of their own.
    """
    if not isinstance(net, Model | Sequential | Residual | Concat):
        raise TypeError(f"binarize takes a Model, Sequential, Residual or Concat, not {type(net).__name__}")
    found = copy.deepcopy(net)
    layers = network.sequence(found) if isinstance(found, Model) else [found]
    chosen = _chosen(type(net).__name__, list(_weighted(layers)), keep_first, keep_last)
    binary = {id(layer): _twin(layer) for layer in chosen}
    row = _row(layers, binary, None)[0]
    if not isinstance(found, Model):
        return row[0]
    if isinstance(found.layers, Mapping):
        names = {id(binary.get(id(layer), layer)): name for name, layer in found.layers.items()}
        found.layers = {
            names.get(id(layer)) or f"{names[id(after)]}_norm": layer
            for layer, after in zip(row, [*row[1:], None], strict=True)
        }
    else:
        found.layers = row
    found.params.clear()
    found.params.update(network.named_params(row))
    return found


def _weighted(layers: Iterable[Any]) -> Iterator[Any]:
    """The convolutions and affine layers, in the order of their numbers."""
    for layer in layers:
        if isinstance(layer, Sequential | Residual | Concat):
            yield from _weighted(layer.inside)
        elif isinstance(layer, Container):
            raise ValueError(f"binarize cannot look into a {type(layer).__name__}")
        elif isinstance(layer, Convolution | Affine):
            yield layer


def _chosen(name: str, layers: list[Any], keep_first: bool, keep_last: bool) -> list[Any]:
    """Those of ``layers`` that become binary."""
    chosen = layers[1 if keep_first else 0 : len(layers) - (1 if keep_last else 0)]
    if not chosen:
        raise ValueError(
            f"binarize needs a layer with weights between the first and the last, which stay as they are (keep_first, "
            f"keep_last); {name} has {len(layers)} in all"
        )
    for layer in chosen:
        own = type(layer).__name__
        if isinstance(layer, _BINARY):
            raise ValueError(f"{name} is binary already: it has a {own}")
        if not runs(layer, Convolution) and not runs(layer, Affine):
            raise ValueError(f"binarize cannot replace a {own}, which has passes of its own")
        if is_device(layer.W):
            raise TypeError("binarize takes networks in host memory: move this one with .to('cpu')")
    return chosen


def _twin(layer: Any) -> Any:
    """A binary layer with the parameters and the geometry of ``layer``."""
    if isinstance(layer, Affine):
        return BinaryAffine(layer.W, layer.b)
    return BinaryConvolution(layer.W, layer.b, layer.stride, layer.pad, dilation=layer.dilation, groups=layer.groups)


def _row(layers: Iterable[Any], binary: Mapping[int, Any], channels: int | None) -> tuple[list[Any], int | None]:
    """``layers`` with those of ``binary`` (by id) replaced, and the channels of the last one's output.

    ``channels`` are those of the input; None where they are not known.
    """
    found: list[Any] = []
    for layer in layers:
        if isinstance(layer, Sequential):
            layer.layers, channels = _row(layer.layers, binary, channels)
        elif isinstance(layer, Residual | Concat):
            branches = [_row(branch, binary, channels) for branch in layer.branches]
            layer.branches = [branch for branch, _ in branches]
            channels = _joined(layer, [last for _, last in branches])
        elif isinstance(layer, Convolution | Affine):
            if id(layer) in binary and not (found and isinstance(found[-1], BatchNormalization)):
                found.append(_norm(layer, channels))
            layer = binary.get(id(layer), layer)
            channels = layer.W.shape[1 if isinstance(layer, Affine) else 0]
        elif not isinstance(layer, _CHANNELWISE):
            channels = None
        found.append(layer)
    return found, channels


def _joined(layer: Residual | Concat, channels: list[int | None]) -> int | None:
    if isinstance(layer, Residual):
        return channels[0]
    known = [n for n in channels if n is not None]
    return sum(known) if layer.axis == 1 and len(known) == len(channels) else None


def _norm(layer: Any, channels: int | None) -> BatchNormalization:
    """The normalisation of the input of ``layer``."""
    dtype = layer.W.dtype
    if isinstance(layer, Convolution):
        size, per_channel = layer.W.shape[1] * layer.groups, True
    else:
        inputs = layer.W.shape[0]
        per_channel = bool(channels) and inputs % (channels or 1) == 0
        size = channels if per_channel and channels else inputs
    return BatchNormalization(
        np.ones(size, dtype),
        np.zeros(size, dtype),
        0.9,
        np.zeros(size),
        np.ones(size),
        eps=1e-5,
        per_channel=per_channel,
    )
