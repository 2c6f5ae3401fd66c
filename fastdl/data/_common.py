"""What the data sets share: uint8 images and labels brought to the form a net wants."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

Split = tuple[np.ndarray, np.ndarray]


def prepare_images(images: np.ndarray, normalize: bool, flatten: bool, dtype: DTypeLike) -> np.ndarray:
    """uint8 (N, H, W) -> (N, 1, H, W), or (N, H*W) if `flatten`; `dtype` in 0..1 if `normalize`."""
    dtype = np.dtype(dtype)
    if dtype.kind in "biu":
        raise TypeError(f"expected a floating-point dtype for images in 0..1, found {dtype}")
    n, h, w = images.shape
    if normalize:
        # A table of the 256 levels: each is divided in float64 and rounded once, whatever the dtype.
        images = (np.arange(256) / 255).astype(dtype)[images]
    return images.reshape(n, h * w) if flatten else images.reshape(n, 1, h, w)


def prepare_labels(labels: np.ndarray, one_hot: bool) -> np.ndarray:
    """uint8 (N,), or float64 (N, 10) if `one_hot`."""
    return np.eye(10)[labels] if one_hot else labels
