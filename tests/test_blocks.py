"""Inference in blocks of images: the bits of the whole batch, and where there are no blocks."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastdl
from fastdl import backend, blocks, fusion, network
from fastdl.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Sigmoid,
    Tanh,
)
from fastdl.models import DeepConvNet

pytestmark = pytest.mark.skipif("cython" not in backend.available_backends(), reason="needs the compiled kernels")


def make(dtype=np.float32):
    """Every kind of layer that goes into a block, and one behind them."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    statistics = rng.standard_normal(24), rng.uniform(0.5, 2, 24)
    return [
        Convolution(normal(16, 3, 3, 3), normal(16, 1)[:, 0], pad=1),
        Relu(),
        Convolution(normal(24, 16, 3, 3), normal(24, 1)[:, 0], pad=1),
        BatchNormalization(np.ones(24), np.zeros(24), 0.9, *statistics, per_channel=True),
        Tanh(),
        Pooling(2, 2),
        Convolution(normal(32, 24, 1, 1), None),
        Relu(),
        LocalResponseNormalization(5),
        AveragePooling(3, 3, 2, count_include_pad=False),
        Convolution(normal(16, 32, 3, 3), None, stride=2),
        Sigmoid(),
        Affine(normal(16 * 2 * 2, 10), None),
    ]


def images(n, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((n, 3, 28, 28)).astype(dtype)


def chain(layers, x):
    return blocks.chain(layers, [fusion._kind(layer) for layer in layers], x)


def ran(layers, x):
    """The output under inference, and how many images each convolution saw."""
    with fastdl.inference(), fastdl.explain() as log:
        out = network.forward(layers, x, False)
    return out, [p.shapes[0][0] for p in log.problems if p.op == "conv2d"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_bits_of_the_whole_batch(dtype, threads):
    layers, x = make(dtype), images(500, dtype)
    with fastdl.threads(threads):
        whole = network.forward(copy.deepcopy(layers), x, False)
        found = chain(layers, x)
        assert found.layers == 12
        assert 500 > found.images >= blocks.FEWEST_IMAGES
        out, batches = ran(layers, x)
    assert max(batches) == found.images
    assert sum(batches) == 4 * 500
    assert (out.dtype, out.strides) == (whole.dtype, whole.strides)
    assert out.tobytes() == whole.tobytes()
    assert all(getattr(layer, name) is None for layer in layers for name in layer.activations)


def test_a_chain_may_be_all_of_a_network():
    layers, x = make()[:6], images(300)
    whole = network.forward(copy.deepcopy(layers), x, False)
    out, batches = ran(layers, x)
    assert max(batches) < 300
    assert (out.dtype, out.strides) == (whole.dtype, whole.strides)
    assert out.tobytes() == whole.tobytes()


def test_the_memory_order_of_the_images_does_not_matter():
    layers, x = make(), images(300)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    (first, _), (second, batches) = ran(layers, x), ran(layers, last)
    assert max(batches) < 300
    assert first.tobytes() == second.tobytes()


def test_training_and_passes_that_keep_something_see_the_whole_batch():
    layers, x = make(), images(300)
    for train_flg in (False, True):
        with fastdl.explain() as log:
            network.forward(layers, x, train_flg)
        assert {p.shapes[0][0] for p in log.problems if p.op == "conv2d"} == {300}
    with fastdl.inference(), fastdl.explain() as log:
        network.forward(layers, x, True)
    assert {p.shapes[0][0] for p in log.problems if p.op == "conv2d"} == {300}


class Own:
    """A user's layer, which may do anything."""

    def forward(self, x):
        return x - x.mean()


def test_where_there_are_no_blocks():
    layers, x = make(), images(300)
    assert chain(layers, x[:2]) is None, "a batch that is small already"
    assert chain(layers, images(0)) is None
    assert chain(layers[1:], x) is None, "it starts with no convolution"
    assert chain([*layers[:2], Own(), *layers[2:]], x) is None, "one convolution gains nothing"
    assert chain(layers, x[0]) is None
    assert chain(layers, x.tolist()) is None
    assert chain([], x) is None
    large = [*layers[:2], Convolution(np.ones((64, 16, 17, 17), np.float32), None), Relu()]
    assert chain(large, x) is None, "large weights"
    wide = np.zeros((8, 3, 500, 500), np.float32)
    assert chain(layers[:4], wide) is None, "large images"
    with fastdl.use_backend("numpy"):
        assert chain(layers, x) is None, "NumPy's product may round otherwise for fewer rows"


def test_a_users_layer_ends_the_chain():
    layers, x = make(), images(300)
    mixed = [*layers[:6], Own(), *layers[6:]]
    assert chain(mixed, x).layers == 6
    whole = network.forward(copy.deepcopy(mixed), x, False)
    assert ran(mixed, x)[0].tobytes() == whole.tobytes()


def test_settings_and_parameters_are_not_mixed_up():
    """What a plan depends on is in its key."""
    layers, x = make(), images(300)
    one = chain(layers, x)
    assert chain(layers, x[:200]).images != one.images
    layers[0].stride = 2
    layers[0].pad = 14, 15, 14, 15
    assert chain(layers, x).layers == 12
    whole = network.forward(copy.deepcopy(layers), x, False)
    assert ran(layers, x)[0].tobytes() == whole.tobytes()


def test_a_layer_that_does_not_fit_says_so_itself():
    layers, x = make(), images(300)
    layers[2] = Convolution(np.ones((4, 5, 3, 3), np.float32), None)
    with fastdl.inference(), pytest.raises(ValueError, match=r"w \(4, 5, 3, 3\) takes 5 channels per group, x has 16"):
        network.forward(layers, x, False)


def test_deep_convnet():
    net = DeepConvNet(dtype=np.float32, seed=0)
    x = np.random.default_rng(2).standard_normal((250, 1, 28, 28)).astype(np.float32)
    whole = net.predict(x)
    with fastdl.inference(), fastdl.explain() as log:
        assert net.predict(x).tobytes() == whole.tobytes()
    assert {p.shapes[0][0] for p in log.problems if p.op == "conv2d"} == {84, 82}
