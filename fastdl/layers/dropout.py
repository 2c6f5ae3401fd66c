"""Dropout."""

from __future__ import annotations

import numpy as np

from .. import backend
from .. import functional as F
from .._array import is_device, prepare
from .._device import Mirror, constant, device_of, is_capturing, to_device
from ..functional._pointwise import mask_of_state
from ..kernels.device import _cuda as kernels
from .base import Layer


class Dropout(Layer):
    """Sets elements to 0 with probability ``dropout_ratio`` (0 <= ratio < 1) while training.

    By default as in the book: what is kept stays as it is, and a prediction multiplies by ``1 - dropout_ratio``. With
    ``inverted=True``, as in most other libraries, training divides what is kept by ``1 - dropout_ratio`` and a
    prediction changes nothing. Weights trained with one of the two need the same one for predictions.

    Without ``seed`` the mask is the book's ``np.random.rand(*x.shape) > dropout_ratio``: drawn from NumPy's global
    stream, and slow. With ``seed`` (0 <= seed < 2**64) it is ``functional.dropout_mask(..., seed, step)``, Philox
    numbers that any backend makes alike, where ``step`` counts the training passes from 0.
    On a device masks without ``seed`` are drawn by the host and copied there, in the middle of each step.

    ``mask`` is the last mask: bool without ``seed``, uint8 with it.
    """

    activations = ("mask", "_backward_scale", "_dtype")
    counters = ("seed", "step")
    takes_train_flg = True

    def __init__(self, dropout_ratio: float = 0.5, *, inverted: bool = False, seed: int | None = None) -> None:
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f"dropout_ratio must be at least 0 and less than 1, not {dropout_ratio!r}")
        self.dropout_ratio = dropout_ratio
        self.inverted = inverted
        self.seed = seed
        self.step = 0
        self.mask: np.ndarray | None = None
        self._backward_scale: float | None = None
        self._dtype: np.dtype | None = None
        self._state = Mirror(np.uint64)

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """A new array of the shape and dtype of ``x``; ``x`` itself where a prediction changes nothing."""
        keep = 1.0 - self.dropout_ratio
        mask = None
        if train_flg:
            scale = 1.0 / keep if self.inverted else 1.0
            mask = self._new_mask(x)
            out = F.dropout(x, mask, scale)
        else:
            scale = 1.0 if self.inverted else keep
            out = x if scale == 1.0 else scaled(x, scale)
        if backend.is_inference():
            self.mask = self._backward_scale = self._dtype = None
        else:
            self.mask, self._backward_scale, self._dtype = mask, scale, out.dtype
        return out

    def _new_mask(self, x: np.ndarray) -> np.ndarray:
        if self.seed is None:
            if is_device(x) and is_capturing():
                raise RuntimeError("a Dropout without seed draws its masks on the host: give it a seed")
            mask = np.random.rand(*x.shape) > self.dropout_ratio
            return to_device(mask, device_of(x)) if is_device(x) else mask  # type: ignore[no-any-return]
        self.step += 1
        if not is_device(x):
            return F.dropout_mask(x.shape, self.dropout_ratio, self.seed, self.step - 1)
        state = self._state.array((self.seed, self.step - 1), x)
        new = mask_of_state(x.shape, self.dropout_ratio, state)
        kernels.advance(state[1:])
        self._state.counted((self.seed, self.step))
        return new

    def replayed(self, passes: int) -> None:
        """Counts training passes that ran on a device alone, as parts of a captured step."""
        self.step += passes
        self._state.counted((self.seed, self.step))

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """``dout`` through the last mask; after a prediction, times what the prediction multiplied by."""
        scale, dout = self._kept(self._backward_scale), prepare(dout, self._kept(self._dtype))
        if self.mask is not None:
            return F.dropout(dout, self.mask, scale)
        return dout if scale == 1.0 else scaled(dout, scale)


def scaled(x: np.ndarray, scale: float) -> np.ndarray:
    """x * scale, rounded once: a mask that keeps everything."""
    if not is_device(x):
        return F.dropout(x, np.broadcast_to(np.ones((), np.uint8), x.shape), scale)
    one = constant(1, np.uint8)
    return F.dropout(x, type(one)(x.shape, one.dtype, one.data, (0,) * x.ndim), scale)
