"""The book's trained weights on MNIST's 10,000 test images: accuracies measured with the book's own NumPy code.

``FASTDL_DATA_DIR`` names a folder with ``mnist/`` (the four idx files) and ``book/`` (the pickles).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl.data import load_arrays, load_mnist
from fastdl.layers import Affine, Sigmoid
from fastdl.models import DeepConvNet
from fastdl.network import Sequential

FOLDER = Path(os.environ.get("FASTDL_DATA_DIR", ""))
PICKLES = ("deep_convnet_params_2016.pkl", "deep_convnet_params_2022.pkl", "sample_weight.pkl")


def _why_not() -> str:
    if not os.environ.get("FASTDL_DATA_DIR"):
        return "FASTDL_DATA_DIR is not set: it names the folder with mnist/ and book/"
    absent = [name for name in ("mnist", *(f"book/{pickle}" for pickle in PICKLES)) if not (FOLDER / name).exists()]
    return f"{FOLDER} (FASTDL_DATA_DIR) lacks {', '.join(absent)}" if absent else ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    _, (x, t) = load_mnist(flatten=False, data_dir=FOLDER)
    assert x.shape == (10000, 1, 28, 28)
    return x, t


DEEP = [(2016, 0.9935), (2022, 0.9797)]


@pytest.mark.parametrize(("year", "expected"), DEEP)
def test_deep_convnet_in_float64_is_exact(year, expected):
    net = DeepConvNet()
    net.load_params(FOLDER / f"book/deep_convnet_params_{year}.pkl")
    assert all(p.dtype == np.float64 for p in net.params.values())
    assert net.predict(mnist()[0][:1]).dtype == np.float64
    assert net.accuracy(*mnist(), batch_size=500) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("year", "expected"), DEEP)
def test_deep_convnet_with_less_precision(year, expected, dtype):
    net = DeepConvNet(dtype=dtype)
    net.load_params(FOLDER / f"book/deep_convnet_params_{year}.pkl")
    x, t = mnist()
    assert {p.dtype for p in net.params.values()} == {np.dtype(dtype)}
    assert net.predict(x[:1]).dtype == dtype
    accuracy = net.accuracy(x.astype(dtype), t, batch_size=500)
    assert abs(accuracy - expected) <= 0.0003 + 1e-12


def test_sigmoid_network_of_chapter_3():
    p = load_arrays(FOLDER / "book/sample_weight.pkl")
    net = Sequential(
        [Affine(p["W1"], p["b1"]), Sigmoid(), Affine(p["W2"], p["b2"]), Sigmoid(), Affine(p["W3"], p["b3"])]
    )
    x, t = mnist()
    with fastdl.inference():
        scores = net.forward(x.reshape(10000, 784), train_flg=False)
    assert scores.dtype == np.float32
    assert (scores.argmax(axis=1) == t).mean() == 0.9352
