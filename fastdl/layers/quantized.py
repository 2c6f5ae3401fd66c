"""Layers on bytes and on bits, for inference: what ``fastdl.quantize`` makes of convolutions, affine layers,
pooling."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import functional as F
from .base import Layer
from .conv import Size
from .pool import Pooling


class Steps(NamedTuple):
    """What bytes stand for: ``(byte - zero) * step``."""

    step: float
    zero: int


class _ForInference(Layer):
    """A layer whose weights are no numbers."""

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Always ``TypeError``: there are no gradients."""
        raise TypeError(
            "a quantized network is for inference: train the network that it was made of, and quantize it again"
        )


class _Quantized(_ForInference):
    """What both layers of bytes with weights share.

    ``W`` int8, ``b`` int32 or None, ``scale`` float32, one for each output: a float32 result is ``scale`` times a sum
    of 32 bits, one in bytes that divided by the step of ``out``. ``x`` says what the bytes of the input stand for; a
    floating-point input is quantized first.
    """

    parameters: ClassVar[tuple[str, ...]] = ("W", "b", "scale")
    W: np.ndarray
    b: np.ndarray | None

    def __init__(self, scale: np.ndarray, x: Steps, out: Steps | None, relu: bool) -> None:
        self.scale = scale
        self.x_steps = x
        self.out_steps = out
        self.relu = relu
        self.dW = self.db = self.dscale = None

    def _bytes(self, x: np.ndarray) -> np.ndarray:
        return x if x.dtype == np.uint8 else F.quantize(x, *self.x_steps)

    def _epilogue(self) -> dict[str, Any]:
        out = self.out_steps
        return {
            "x_zero": self.x_steps.zero,
            "out_zero": out.zero if out else 0,
            "relu": self.relu,
            "dtype": "uint8" if out else "float32",
        }


class QuantizedConvolution(_Quantized):
    """A convolution, with the ReLU after it where there is one, by :func:`fastdl.functional.conv2d_int8`.

    ``W`` (FN, C / groups, FH, FW). Bytes or numbers in; bytes out where the next layer takes them, else float32.
    """

    def __init__(
        self,
        W: np.ndarray,
        b: np.ndarray | None,
        scale: np.ndarray,
        x: Steps,
        out: Steps | None,
        relu: bool,
        stride: Size = 1,
        pad: Size = 0,
        *,
        dilation: Size = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(scale, x, out, relu)
        self.W, self.b = W, b
        self.stride, self.pad, self.dilation, self.groups = stride, pad, dilation, groups

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, FN, OH, OW)."""
        return F.conv2d_int8(
            self._bytes(x), self.W, self.b, self.scale, stride=self.stride, pad=self.pad, dilation=self.dilation,
            groups=self.groups, **self._epilogue(),
        )  # fmt: skip


class QuantizedAffine(_Quantized):
    """An affine layer, with the ReLU after it where there is one, by :func:`fastdl.functional.linear_int8`.

    ``W`` (inputs, outputs). Images are flattened in the order of channels-last memory, in which ``W`` has its rows
    then.
    """

    def __init__(
        self, W: np.ndarray, b: np.ndarray | None, scale: np.ndarray, x: Steps, out: Steps | None, relu: bool
    ) -> None:
        super().__init__(scale, x, out, relu)
        self.W, self.b = W, b

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, outputs)."""
        x = self._bytes(x)
        if x.ndim == 4:
            x = x.transpose(0, 2, 3, 1)
        x = x.reshape(len(x), prod(x.shape[1:]))
        return F.linear_int8(x, self.W, self.b, self.scale, **self._epilogue())


class QuantizedPooling(Pooling):
    """Max pooling of the bytes between two layers that compute with them."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) uint8 -> (N, C, OH, OW)."""
        return F.max_pool2d_int8(
            x, (self.pool_h, self.pool_w), stride=self.stride, pad=self.pad, dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )  # fmt: skip


class _Packed(_ForInference):
    """What both layers of signs share: ``W`` uint32, words of 32 signs; ``scale`` and ``b`` of each output, or None."""

    parameters: ClassVar[tuple[str, ...]] = ("W", "b", "scale")

    def __init__(self, W: np.ndarray, b: np.ndarray | None, scale: np.ndarray, channels: int) -> None:
        self.W, self.b, self.scale, self.channels = W, b, scale, channels
        self.dW = self.db = self.dscale = None


class PackedConvolution(_Packed):
    """A trained :class:`~fastdl.layers.BinaryConvolution`, a bit for each weight: ``W`` (FN, words, FH, FW) holds those
    of ``channels`` = C / groups channels. The same results, in float32."""

    def __init__(
        self,
        W: np.ndarray,
        b: np.ndarray | None,
        scale: np.ndarray,
        channels: int,
        stride: Size = 1,
        pad: Size = 0,
        *,
        dilation: Size = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(W, b, scale, channels)
        self.stride, self.pad, self.dilation, self.groups = stride, pad, dilation, groups

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, FN, OH, OW)."""
        out = F.conv2d_binary(
            F.pack_bits(x, groups=self.groups), self.W, self.channels, self.scale, stride=self.stride, pad=self.pad,
            dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        if self.b is not None:
            out += self.b[:, None, None]
        return out


class PackedAffine(_Packed):
    """A trained :class:`~fastdl.layers.BinaryAffine`, a bit for each weight: ``W`` (outputs, words) holds those of
    ``channels`` inputs. The same results, in float32."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, outputs)."""
        rows = x.reshape(len(x), prod(x.shape[1:]))
        out = F.linear_binary(F.pack_bits(rows), self.W, self.channels, self.scale)
        if self.b is not None:
            out += self.b
        return out
