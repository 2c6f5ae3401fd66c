"""BinaryConvolution and BinaryAffine: products of signs, trained through their straight-through gradients.

Weights are one bit each and a scale for each output, inputs one bit each (Rastegari et al. 2016, XNOR-Net, section 3,
without scales of the inputs)::

    out = conv(sign(x), sign(W)) * scale + b,    scale[k] = mean(|W[k]|),    sign(0) = +1

The sums are integers, and padding adds 0 to them. A sign is differentiated as if it were the number itself, clipped to
-1 ... 1 (the straight-through estimator of Hubara et al. 2016, Binarized Neural Networks, section 1.3): weights and
inputs beyond get no gradient through it. The derivative of the scale is exact. ``W`` holds the real numbers that
training changes.
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
        out = F.conv2d(signs(a), signs(w), stride=self.stride, pad=self.pad, dilation=self.dilation, groups=self.groups)
        np.rint(out, out=out)  # Winograd's sums of integers are integers but for a rounding error
        out *= prepare(self.scale, out.dtype)[:, None, None]
        if self.b is not None:
            out += _call.vector(self.b, len(w), out.dtype, "BinaryConvolution: b", a)[:, None, None]
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
        out = F.linear(signs(rows), signs(w))
        out *= prepare(self.scale, out.dtype)
        if self.b is not None:
            out += _call.vector(self.b, w.shape[1], out.dtype, "BinaryAffine: b", a)
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
