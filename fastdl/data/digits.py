"""The digits inside the package: 1,797 images, so that a first training needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ._common import Split, prepare_images, prepare_labels
from .pickles import load_arrays


def load_digits(
    normalize: bool = True,
    flatten: bool = False,
    one_hot_label: bool = False,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """`(x_train, t_train), (x_test, t_test)` of the UCI optical digits, in the size and look of MNIST.

    x: (N, 1, 28, 28), or (N, 784) if `flatten`; of `dtype`, in 0..1, if `normalize`, else uint8 in 0..255.
    t: (N,) uint8, or (N, 10) float64 if `one_hot_label`.

    `test_fraction` of each digit's images goes to the test set, chosen by `seed`; equal arguments give equal
    arrays. Raises ValueError if that leaves a digit without a training or a test image, TypeError if `dtype`
    is an integer type.
    """
    arrays = load_arrays(Path(__file__).with_name("digits.npz"))
    images, labels = _to_28x28(arrays["images"]), arrays["labels"]
    is_test = np.zeros(len(labels), bool)
    # RandomState and not default_rng: its stream never changes from one NumPy to the next.
    rng = np.random.RandomState(seed)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        count = round(test_fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"expected a test_fraction that gives each digit training and test images, found {test_fraction}"
            )
        is_test[members[:count]] = True
    order = rng.permutation(len(labels))
    train, test = (
        (prepare_images(images[part], normalize, flatten, dtype), prepare_labels(labels[part], one_hot_label))
        for part in (order[~is_test[order]], order[is_test[order]])
    )
    return train, test


def _to_28x28(images: np.ndarray) -> np.ndarray:
    """(N, 8, 8) levels 0..16 -> (N, 28, 28) levels 0..255: bilinear, 20 pixels wide as MNIST's are.

    The centre of new pixel o lies at (o + 1/2 - 4) * 8/20 - 1/2 = (4 o - 19) / 10 old pixels: the weights
    are whole tenths, the sums exact in float64, and the rounded levels the same on every machine.
    """
    distance = abs(4 * np.arange(28)[:, None] - 19 - 10 * np.arange(8))
    tenths = np.maximum(0, 10 - distance).astype(np.float64)
    return np.rint(tenths @ images @ tenths.T * 255 / 1600).astype(np.uint8)
