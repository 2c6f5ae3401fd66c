"""BinaryConvolution and BinaryAffine: products of signs, trained through their straight-through gradients.

Weights are one bit each and a scale for each output, inputs one bit each (Rastegari et al. 2016, XNOR-Net, section 3,
without scales of the inputs)::

    out = conv(sign(x), sign(W)) * scale + b,    scale[k] = mean(|W[k]|),    sign(0) = +1

The sums are counted in bits, and so exact; padding adds 0 to them. A sign is differentiated as if it were the number
itself, clipped to -1 ... 1 (the straight-through estimator of Hubara et al. 2016, Binarized Neural Networks, section
1.3): weights and inputs beyond get no gradient through it. The derivative of the scale is exact. ``W`` holds the real
numbers that training changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from .. import functional as F
from .._array import Array, arranged, empty, is_device, layout, prepare, reshaped
from ..functional import _call
from .conv import Convolution
from .dense import Affine


class BinaryConvolution(Convolution):
    """A :class:`Convolution` of signs, with its arguments, shapes and dtypes; NumPy's arrays only.

    The sign of NaN is -1. ``scale`` (FN,) is worked out when it is read.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, FN, OH, OW); ``ValueError`` where shapes do not fit."""
        a, w = _operands(self, x)
        if a.ndim != 4 or a.shape[1] != w.shape[1] * self.groups:
            raise ValueError(
                f"BinaryConvolution: W {w.shape} takes (N, {w.shape[1] * self.groups}, H, W), not {x.shape}"
            )
        scale = self.scale
        out = F.conv2d_binary(
            F.pack_bits(a, groups=self.groups),
            F.pack_bits(w),
            w.shape[1],
            _single(scale, w),
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            groups=self.groups,
        )
        out = _finished(self, out, scale, a)
        self.x = None if backend.is_inference() else x
        return out

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """(N, FN, OH, OW) -> the gradient by x, (N, C, H, W); None with ``need_dx=False``, which saves its cost."""
        x = self._kept(self.x)
        a, w = _operands(self, x)
        ones, scale = signs(w), prepare(self.scale, w.dtype)[:, None, None, None]
        dx, dw, db = F.conv2d_backward(
            dout,
            signs(a),
            ones * scale,
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            groups=self.groups,
            need=_needed(self, need_dx),
        )
        self.dW = _weight_gradient(self.W, ones, scale, dw, (1, 2, 3))
        self.db = None if db is None else _own(db, self.b)
        return None if dx is None else _own(_clipped(dx, a), x)

    @property
    def scale(self) -> np.ndarray:
        """The mean of each filter's absolute values."""
        return _scale(self.W, (1, 2, 3))


class BinaryAffine(Affine):
    """An :class:`Affine` of signs, with its arguments, shapes and dtypes; NumPy's arrays only.

    The sign of NaN is -1. ``scale`` (outputs,) is worked out when it is read.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, outputs); ``ValueError`` where the sizes do not fit."""
        a, w = _operands(self, x)
        rows = reshaped(a, (len(a), a[0].size if len(a) else len(w)))
        if rows.shape[1] != len(w):
            raise ValueError(f"BinaryAffine: W {w.shape} takes {len(w)} features, x has {rows.shape[1]}")
        scale = self.scale
        out = F.linear_binary(F.pack_bits(rows), F.pack_bits(w.T), len(w), _single(scale, w))
        out = _finished(self, out, scale, a)
        if backend.is_inference():
            self.x = self.original_x_shape = self._original_layout = None
        else:
            self.x, self.original_x_shape = rows, x.shape
            self._original_layout = layout(x.shape, x.dtype, like=x)
        return out

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """(N, outputs) -> the gradient by x in the shape of x; None with ``need_dx=False``, which saves its cost."""
        rows, wanted = self._kept(self.x), self._kept(self._original_layout)
        a, w = _operands(self, rows)
        ones, scale = signs(w), prepare(self.scale, w.dtype)
        dx, dw, db = F.linear_backward(dout, signs(a), ones * scale, need=_needed(self, need_dx))
        self.dW = _weight_gradient(self.W, ones, scale, dw, (0,))
        self.db = None if db is None else _own(db, self.b)
        return None if dx is None else arranged(_own(_clipped(dx, a), rows), wanted)

    @property
    def scale(self) -> np.ndarray:
        """The mean of the absolute values of each output's weights."""
        return _scale(self.W, (0,))


def binary_weights(net: Any) -> list[str]:
    """The names of the binary weights among the parameters of a model; ``ValueError`` where it has none."""
    from ..network import numbered, sequence

    kinds = BinaryConvolution, BinaryAffine
    found = [f"W{n}" for layer, n in numbered(sequence(net)) if isinstance(layer, kinds)]
    if not found:
        name = type(net).__name__
        raise ValueError(f"this {name} has no binary layers; fastdl.binarize(network) makes a copy with some")
    return found


def signs(a: Array) -> Array:
    """+1 where ``a`` is >= 0, else -1, in its dtype and memory order."""
    out = empty(a.shape, a.dtype, like=a)
    np.greater_equal(a, 0, out=out, casting="unsafe")
    out *= out.dtype.type(2)
    out -= out.dtype.type(1)
    return out


def _operands(layer: Any, x: Any) -> tuple[Array, Array]:
    """Input and weights in the dtype of the result."""
    if is_device(x) or is_device(layer.W):
        raise TypeError(f"{type(layer).__name__} takes NumPy arrays: binary layers have no kernels for a device")
    return _call.two(x, layer.W, type(layer).__name__, "x W")


def _needed(layer: Any, need_dx: bool) -> tuple[str, ...]:
    return (*(("x",) if need_dx else ()), "w", *(() if layer.b is None else ("b",)))


def _single(scale: Array, w: Array) -> Array | None:
    """What the kernel multiplies its float32 sums by; None in a float64 network, which does that itself."""
    return None if w.dtype == np.float64 else prepare(scale, np.dtype(np.float32))


def _finished(layer: Any, out: Array, scale: Array, x: Array) -> Array:
    """The kernel's output with the bias, in the dtype of ``x``."""
    outputs = (slice(None), *(None,) * (out.ndim - 2))
    if x.dtype == np.float64:
        out = prepare(out, x.dtype)
        out *= scale[outputs]
    if layer.b is not None:
        out += _call.vector(layer.b, len(scale), x.dtype, f"{type(layer).__name__}: b", x)[outputs]
    return prepare(out, x.dtype)


def _scale(W: Array, axes: tuple[int, ...]) -> Array:
    return np.abs(W).mean(axis=axes, dtype=np.float64).astype(W.dtype)


def _weight_gradient(W: Array, ones: Array, scale: Array, gradient: Any, axes: tuple[int, ...]) -> Array:
    """The gradient by W, where ``gradient`` is that by ``ones * scale``."""
    through_signs = gradient * scale * (np.abs(W) <= 1)
    through_scale = ones * (gradient * ones).mean(axis=axes, dtype=np.float64, keepdims=True).astype(ones.dtype)
    return _own(through_signs + through_scale, W)


def _clipped(dx: Array, x: Array) -> Array:
    """``dx``, set to 0 where ``x`` lies beyond -1 ... 1."""
    dx *= np.abs(x) <= 1
    return dx


def _own(gradient: Array, tensor: Any) -> Array:
    """``gradient`` in the dtype of its tensor, where that is no integer."""
    return prepare(gradient, _call.gradient_dtype(tensor.dtype, gradient.dtype))
