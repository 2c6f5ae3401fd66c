"""Data sets and files of arrays. Importing this imports nothing but NumPy and the standard library."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .digits import load_digits
from .mnist import load_mnist
from .pickles import ArrayFileError, RefusedPickleError, load_arrays, save_arrays

__all__ = [
    "ArrayFileError",
    "Dataset",
    "RefusedPickleError",
    "load_arrays",
    "load_dataset",
    "load_digits",
    "load_mnist",
    "save_arrays",
]


class Dataset(NamedTuple):
    """Images (N, 1, 28, 28) or (N, 784) and labels (N,) uint8, for training and for testing."""

    x_train: np.ndarray
    t_train: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    name: str


def load_dataset(
    name: str = "digits",
    *,
    flatten: bool = False,
    dtype: DTypeLike = np.float32,
    data_dir: str | os.PathLike | None = None,
) -> Dataset:
    """The data set `name`, "digits" or "mnist", with images of `dtype` in 0..1; `data_dir` is for MNIST.

    Raises ValueError for another name, and what `load_digits` and `load_mnist` raise.
    """
    if name == "digits":
        train, test = load_digits(flatten=flatten, dtype=dtype)
    elif name == "mnist":
        train, test = load_mnist(flatten=flatten, dtype=dtype, data_dir=data_dir)
    else:
        raise ValueError(f"expected the data set 'digits' or 'mnist', found {name!r}")
    return Dataset(*train, *test, name)
