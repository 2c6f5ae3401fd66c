"""im2col and col2im with the book's signatures and its dtype: the matrix is float64 whatever the images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import functional as F


def im2col(input_data: np.ndarray, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """(N, C, H, W) -> (N * OH * OW, C * filter_h * filter_w)."""
    images = np.asarray(input_data).astype(np.float64, copy=False)
    return F.im2col(images, (filter_h, filter_w), stride=stride, pad=pad)


def col2im(
    col: np.ndarray, input_shape: Sequence[int], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> np.ndarray:
    """The sums of overlapping windows, (N, C, H, W)."""
    wide = np.asarray(col).astype(np.float64, copy=False)
    return F.col2im(wide, input_shape, (filter_h, filter_w), stride=stride, pad=pad)
