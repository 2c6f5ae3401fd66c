"""quantize: a trained network as one that computes with bytes, or a binary one as one that is stored in bits.

Bytes: weights count steps of their own for each output channel, symmetric about 0; the inputs of a layer count one
step from one zero, both found by calibration: the network sees some images, and the range that their values have, or
the most useful part of it, is divided into 255 steps. Sums have 32 bits, and the bias is a number of their steps.
(Jacob et al., 2018, arXiv:1712.05877; for each channel: Krishnamoorthi, 2018, arXiv:1806.08342.)

Between two such layers there are only bytes: a ReLU is part of the layer before it, max pooling works on bytes, and
what the book's dropout multiplies a prediction by is part of the steps. Batch normalisation behind a layer is folded
into its weights. Everything else is computed in float32, from dequantized values.

Bits: the binary layers of a network that was trained with them (``fastdl.binarize``) keep the signs of their weights
and a scale for each output, which is all that they compute with; the rest stays float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import backend, fusion, network
from ..functional import pack_bits
from ..functional._bytes import MOST_TERMS
from ..layers import (
    Affine,
    BatchNormalization,
    BinaryAffine,
    BinaryConvolution,
    Convolution,
    Dropout,
    Layer,
    Pooling,
    Relu,
)
from ..layers.quantized import (
    PackedAffine,
    PackedConvolution,
    QuantizedAffine,
    QuantizedConvolution,
    QuantizedPooling,
    Steps,
)
from ..models.base import Model

#: How the range of a layer's inputs is found.
METHODS = ("minmax", "percentile", "mse")
#: Bins of the histograms behind "percentile" and "mse".
BINS = 4096
#: Shares of the whole range that "mse" tries.
SHARES = np.linspace(0.2, 1.0, 81)

_WEIGHTED = (Convolution, Affine)


class QuantizedModel(Model):
    """What :func:`quantize` returns: a network for inference, with ``predict``, ``accuracy`` and ``params``.

    ``params`` holds int8 weights, int32 biases and float32 scales, or words of bits, biases and scales.
    """

    def __init__(self, layers: list[Any], input_dim: tuple[int, ...]) -> None:
        super().__init__(np.float32)
        self._assemble(input_dim, layers)

    def loss(self, x: np.ndarray, t: np.ndarray) -> Any:
        """The loss of the prediction; there is no training."""
        return self.last_layer.forward(self.predict(x), t)

    def cast(self, dtype: Any) -> None:
        """Always ``TypeError``: bytes or bits are what this network is made of."""
        raise TypeError("a quantized network has no other dtype: cast the network that it was made of")

    def load_params(self, file_name: Any = "params.npz") -> None:
        """Always ``TypeError``: steps and zeros are found by calibration and are in no file."""
        raise TypeError(
            "a quantized network loads no parameters: load them into the network it was made of and quantize that"
        )


def quantize(
    net: Model,
    calibration: np.ndarray | None,
    format: str = "int8",
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    first: str = "int8",
    last: str = "int8",
    batch_size: int = 100,
) -> QuantizedModel:
    """A copy of ``net`` that computes with bytes or is stored in bits, for inference.

    Parameters
    ----------
    net
        A trained network of fastdl's layers.
    calibration
        Images as ``net.predict`` takes them, some hundred of the training set: (N, ...). ``"binary"`` needs none.
    format
        ``"int8"``; or ``"binary"`` for a network that was trained binary, to which what follows does not apply.
    method
        How the range of a layer's inputs is found: ``"minmax"`` from the smallest to the largest value;
        ``"percentile"`` without the outermost ``100 - percentile`` per cent of the values on each side (on one side
        where none is negative); ``"mse"`` the part of it with the least mean squared error, of values clipped and of
        values rounded.
    first, last
        ``"int8"``, or ``"float32"`` to leave the first or the last layer with weights as it is.
    batch_size
        Images of a pass of calibration.

    Raises ``ValueError`` for another format or method, for no images, for a layer without statistics or whose sums
    could exceed 32 bits, and where nothing would be quantized. ``net`` stays as it is.
    """
    _check(net, calibration, format, method, percentile, first, last)
    layers = network.sequence(net.astype(np.float32))
    if format == "binary":
        if not any(isinstance(layer, BinaryConvolution | BinaryAffine) for layer in network.leaves(layers)):
            raise ValueError(
                "there is no binary layer to pack: fastdl.binarize(net) makes a network with some, to train"
            )
        _everywhere(layers, lambda row: [_packed(layer) for layer in row])
        return QuantizedModel(layers, net.input_dim)
    _everywhere(layers, _folded)
    chosen = [layer for layer in network.leaves(layers) if _computes(layer)]
    for keep, at in ((first, 0), (last, -1)):
        if keep == "float32" and chosen:
            chosen.pop(at)
    if not chosen:
        raise ValueError("there is no convolution and no affine layer left to quantize")
    for layer in chosen:
        _check_terms(layer)
    observed = {id(layer): _Observed(layer) for layer in chosen}
    _observe(layers, observed, np.asarray(calibration, np.float32), method, batch_size)
    steps = {key: seen.steps(method, percentile) for key, seen in observed.items()}
    shapes = {key: seen.shape for key, seen in observed.items()}
    _everywhere(layers, lambda row: _converted(row, steps, shapes))
    return QuantizedModel(layers, net.input_dim)


def _check(net: Any, x: Any, format: str, method: str, percentile: float, first: str, last: str) -> None:
    if not isinstance(net, Model):
        raise TypeError(f"quantize takes a network of fastdl.models, not a {type(net).__name__}")
    if isinstance(net, QuantizedModel):
        raise TypeError("this network is quantized already")
    for name, value, allowed in (
        ("format", format, ("int8", "binary")),
        ("method", method, METHODS),
        ("first", first, ("int8", "float32")),
        ("last", last, ("int8", "float32")),
    ):
        if value not in allowed:
            raise ValueError(f"quantize: {name} must be {' or '.join(map(repr, allowed))}, not {value!r}")
    if not 50 < percentile <= 100:
        raise ValueError(f"quantize: percentile must be more than 50 and at most 100, not {percentile!r}")
    if net.device != "cpu":
        raise ValueError(f"quantize takes a network on the CPU, where bytes are computed; this one is on {net.device}")
    if format == "int8" and (x is None or not len(x)):
        raise ValueError("quantize needs images to calibrate with, and got none")


def _packed(layer: Any) -> Any:
    """A binary layer with its weights in bits; another one as it is."""
    if fusion.runs(layer, BinaryAffine):
        return PackedAffine(pack_bits(layer.W.T), layer.b, layer.scale, len(layer.W))
    if fusion.runs(layer, BinaryConvolution):
        return PackedConvolution(
            pack_bits(layer.W), layer.b, layer.scale, layer.W.shape[1], layer.stride, layer.pad,
            dilation=layer.dilation, groups=layer.groups,
        )  # fmt: skip
    return layer


def _computes(layer: Any) -> bool:
    """Whether this is a convolution or an affine layer that nobody has changed."""
    return any(fusion.runs(layer, kind) for kind in _WEIGHTED)


def _check_terms(layer: Any) -> None:
    terms = math.prod(layer.W.shape[1:]) if isinstance(layer, Convolution) else len(layer.W)
    if terms > MOST_TERMS:
        raise ValueError(
            f"a {type(layer).__name__} with W {layer.W.shape} sums {terms} products, and 32 bits hold {MOST_TERMS}"
        )


def _everywhere(layers: list[Any], change: Callable[[list[Any]], list[Any]]) -> None:
    """Replaces each row of layers, also those inside containers, by ``change`` of it, in place."""
    for layer in layers:
        if isinstance(layer, network.Container):
            rows = getattr(layer, "branches", None) or [layer.layers]  # type: ignore[attr-defined]
            for row in rows:
                _everywhere(row, change)
    layers[:] = change(layers)


# ---- batch normalisation --------------------------------------------------------------------------------------------


def _folded(row: list[Any]) -> list[Any]:
    """The layers without those batch normalisations that the layer before them can do."""
    found: list[Any] = []
    for layer in row:
        before = found[-1] if found else None
        if fusion.runs(layer, BatchNormalization) and _computes(before) and _fits(layer, before):
            _fold(layer, before)
        else:
            found.append(layer)
    return found


def _fits(norm: BatchNormalization, layer: Any) -> bool:
    return norm.per_channel or isinstance(layer, Affine)


def _fold(norm: BatchNormalization, layer: Any) -> None:
    """gamma (W x + b - mean) / std + beta as another W and b."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch normalisation has no running statistics yet: train the network first")
    factor = np.asarray(norm.gamma, np.float64) / np.sqrt(norm.running_var + norm.eps)
    bias = 0.0 if layer.b is None else layer.b.astype(np.float64)
    axes = (slice(None), None, None, None) if isinstance(layer, Convolution) else (slice(None),)
    layer.W = (layer.W * np.broadcast_to(factor, norm.running_var.shape)[axes]).astype(np.float32)
    layer.b = ((bias - norm.running_mean) * factor + np.asarray(norm.beta, np.float64)).astype(np.float32)


# ---- calibration ----------------------------------------------------------------------------------------------------


class _Observed(Layer):
    """A layer, and what its inputs are like."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.low = self.high = 0.0  # 0 is always among what bytes stand for: it pads
        self.counts: np.ndarray | None = None
        self.shape: tuple[int, ...] = ()

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not np.isfinite(x).all():
            raise ValueError(f"an input of a {type(self.layer).__name__} is not finite during calibration")
        self.shape = x.shape[1:]
        if self.counts is None:
            self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        else:
            self.counts += np.histogram(x, BINS, (self.low, self.high))[0]
        return self.layer.forward(x)  # type: ignore[no-any-return]

    def steps(self, method: str, percentile: float) -> Steps:
        """The step and the zero of the inputs."""
        low, high = self.low, self.high
        if self.counts is not None and high > low:
            edges = np.linspace(low, high, BINS + 1)
            low, high = (_percentile if method == "percentile" else _least_error)(self.counts, edges, percentile)
        return _steps(low, high)


def _steps(low: float, high: float) -> Steps:
    step = (high - low) / 255 if high > low else 1.0
    zero = round(-low / step)
    return Steps(float(np.float32(step)), min(max(zero, 0), 255))


def _percentile(counts: np.ndarray, edges: np.ndarray, percentile: float) -> tuple[float, float]:
    """The range without the outermost values."""
    below = np.cumsum(counts) / counts.sum()
    share = percentile / 100
    high = edges[np.searchsorted(below, share) + 1]
    low = edges[0] if edges[0] == 0 else edges[np.searchsorted(below, 1 - share)]
    return min(float(low), 0.0), max(float(high), 0.0)


def _least_error(counts: np.ndarray, edges: np.ndarray, percentile: float) -> tuple[float, float]:
    """The share of the range with the least sum of squared errors, the values taken as the middles of their bins."""
    middle = (edges[1:] + edges[:-1]) / 2

    def error(share: float) -> float:
        step, zero = _steps(edges[0] * share, edges[-1] * share)
        back = (np.clip(np.rint(middle / step) + zero, 0, 255) - zero) * step
        return float((counts * (middle - back) ** 2).sum())

    best = min(SHARES[::-1], key=error)
    return float(edges[0] * best), float(edges[-1] * best)


def _observe(layers: list[Any], observed: dict[int, _Observed], x: np.ndarray, method: str, batch_size: int) -> None:
    """Shows the images to the network: once for the ranges, and once more where histograms are wanted."""
    _everywhere(layers, lambda row: [observed.get(id(layer), layer) for layer in row])
    with backend.inference():
        for histograms in (False, True) if method != "minmax" else (False,):
            for seen in observed.values():
                seen.counts = np.zeros(BINS) if histograms else None
            for start in range(0, len(x), batch_size):
                network.forward(layers, x[start : start + batch_size], False)
    _everywhere(layers, lambda row: [layer.layer if isinstance(layer, _Observed) else layer for layer in row])


# ---- bytes ----------------------------------------------------------------------------------------------------------


def _converted(row: list[Any], steps: dict[int, Steps], shapes: dict[int, tuple[int, ...]]) -> list[Any]:
    """A row of layers with those that have steps on bytes."""
    found: list[Any] = []
    at = 0
    while at < len(row):
        layer = row[at]
        at += 1
        if id(layer) not in steps:
            found.append(layer)
            continue
        relu = at < len(row) and fusion.runs(row[at], Relu)
        at += relu
        between, factor, behind = _bytes_until(row, at)
        out = steps.get(id(row[behind])) if behind < len(row) else None
        if out is not None:  # what comes out is multiplied on the way to the layer that counts in these steps
            out = out._replace(step=out.step / factor)
        found.append(_quantized(layer, steps[id(layer)], out, relu, shapes[id(layer)]))
        if out is not None:
            found += between
            at = behind
    return found


def _bytes_until(row: Sequence[Any], at: int) -> tuple[list[Any], float, int]:
    """The poolings of bytes from ``at`` on up to a layer that is none and no dropout, by what the dropouts among them
    multiply a prediction, and where that layer is."""
    poolings: list[Any] = []
    factor = 1.0
    for layer in row[at:]:
        if fusion.runs(layer, Dropout):
            factor *= 1.0 if layer.inverted else 1.0 - layer.dropout_ratio
        elif fusion.runs(layer, Pooling):
            poolings.append(
                QuantizedPooling(
                    layer.pool_h, layer.pool_w, layer.stride, layer.pad, dilation=layer.dilation,
                    ceil_mode=layer.ceil_mode,
                )
            )  # fmt: skip
        else:
            break
        at += 1
    return poolings, factor, at


def _quantized(layer: Any, x: Steps, out: Steps | None, relu: bool, shape: tuple[int, ...]) -> Any:
    """The layer on bytes."""
    w = np.asarray(layer.W, np.float64)
    if isinstance(layer, Affine):
        if len(shape) == 3:  # rows in the order of channels-last memory
            w = w.reshape(*shape, -1).transpose(1, 2, 0, 3).reshape(w.shape)
        w = w.T
    most = np.abs(w).reshape(len(w), -1).max(axis=1, initial=0.0)
    step = np.where(most > 0, most / 127, 1.0)
    weights = np.rint(w / step.reshape(-1, *(1,) * (w.ndim - 1))).astype(np.int8)
    sums = x.step * step
    limit = 2**31 - 1 - 255 * np.abs(weights.astype(np.int64)).reshape(len(w), -1).sum(axis=1)  # the rest of the sum
    bias = None if layer.b is None else np.clip(np.rint(layer.b / sums), -limit, limit).astype(np.int32)
    if bias is None and relu:
        bias = np.zeros(len(w), np.int32)
    scale = (sums if out is None else sums / out.step).astype(np.float32)
    if isinstance(layer, Affine):
        return QuantizedAffine(weights.T, bias, scale, x, out, relu)
    # The channels side by side: four of them are a word.
    memory = np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return QuantizedConvolution(
        memory, bias, scale, x, out, relu, layer.stride, layer.pad, dilation=layer.dilation, groups=layer.groups
    )
