"""Small arrays, and questions about memory, for the tests of fastdl.functional."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def integers(rng, shape, dtype=np.float64, low=-4, high=5):
    """Random integers from ``low`` to ``high - 1``."""
    return rng.integers(low, high, shape).astype(dtype)


def is_channels_last(a):
    """Whether (N, C, H, W) is stored as (N, H, W, C)."""
    return a.transpose(0, 2, 3, 1).flags.c_contiguous


def channels_last(a):
    """The same array in channels-last memory."""
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def conv2d_in_numpy(x, w, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """Convolution as a sum over sliding windows, in float64."""
    top, bottom, left, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    (dh, dw), (kh, kw) = dilation, w.shape[2:]
    windows = sliding_window_view(x, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], ::dh, ::dw]
    parts = zip(np.split(windows, groups, 1), np.split(w.astype(np.float64), groups, 0), strict=True)
    return np.concatenate([np.einsum("ncijrs,kcrs->nkij", part, filters) for part, filters in parts], 1)
