"""AlexNet and VGG: shapes, published sizes, gradients, a step that helps."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    LocalResponseNormalization,
    Pooling,
    Relu,
    SoftmaxWithLoss,
)
from fastdl.models import VGG, AlexNet, GoogLeNet, ResNet
from fastdl.network import leaves
from fastdl.optim import Momentum
from numerical import central_differences

SMALL = {"hidden_size": 5, "output_size": 3, "seed": 2}


def small_alexnet(**changes) -> AlexNet:
    """The smallest image that AlexNet takes, and few channels."""
    return AlexNet((2, 67, 67), (4, 4, 6, 4, 4), **{**SMALL, **changes})


def small_vgg(depth: int = 11, **changes) -> VGG:
    """The smallest image that VGG takes, and few channels."""
    return VGG(depth, (1, 32, 32), (2, 3, 4, 4, 3), **{**SMALL, **changes})


SMALL_NETS = {
    "alexnet": small_alexnet,
    "grouped": lambda **changes: small_alexnet(grouped=True, **changes),
    "vgg": small_vgg,
    "vgg_bn": lambda **changes: small_vgg(batch_norm=True, **changes),
}
small_net = pytest.mark.parametrize("make", SMALL_NETS.values(), ids=SMALL_NETS)


def data(net, n: int = 4, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Images for a small network, and labels."""
    rng = np.random.default_rng(7)
    shape = (2, 67, 67) if isinstance(net, AlexNet) else (1, 32, 32)
    return rng.standard_normal((n, *shape)).astype(dtype), rng.integers(0, 3, n)


# ---- what is published ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 61_100_840),
        ({"grouped": True}, 60_965_224),
        ({"channels": (96, 256, 384, 384, 256)}, 62_378_344),
    ],
    ids=["single tower", "original", "original without groups"],
)
def test_alexnet_has_the_published_number_of_parameters(arguments, count):
    net = AlexNet(weight_init_std=0, **arguments)  # untouched zeros: no memory is taken
    assert sum(p.size for p in net.params.values()) == count
    assert list(net.params) == [name for i in range(1, 9) for name in (f"W{i}", f"b{i}")]
    assert net.params["W6"].shape == (256 * 6 * 6, 4096)
    assert net.params["W8"].shape == (4096, 1000)
    c1, c2 = net.params["W1"].shape[0], net.params["W2"].shape[0]
    assert net.params["W2"].shape == (c2, c1 // (2 if arguments.get("grouped") else 1), 5, 5)


@pytest.mark.parametrize(
    ("depth", "plain", "with_batch_norm"),
    [
        (11, 132_863_336, 132_868_840),
        (13, 133_047_848, 133_053_736),
        (16, 138_357_544, 138_365_992),
        (19, 143_667_240, 143_678_248),
    ],
)
def test_vgg_has_the_published_number_of_parameters(depth, plain, with_batch_norm):
    for batch_norm, count in ((False, plain), (True, with_batch_norm)):
        net = VGG(depth, batch_norm=batch_norm, weight_init_std=0)
        assert sum(p.size for p in net.params.values()) == count
        assert sum(name.startswith("W") for name in net.params) == depth
        assert net.params[f"W{depth - 2}"].shape == (512 * 7 * 7, 4096)


def test_layers_of_alexnet():
    first = [Convolution, Relu, LocalResponseNormalization, Pooling]
    last = [Convolution, Relu] * 3 + [Pooling] + [Affine, Relu, Dropout] * 2 + [Affine]
    for grouped in (False, True):
        net = small_alexnet(grouped=grouped)
        assert [type(layer) for layer in net.layers] == first * 2 + last
        convolutions = [layer for layer in net.layers if isinstance(layer, Convolution)]
        assert [(c.stride, c.pad) for c in convolutions] == [(4, 0), (1, 2), (1, 1), (1, 1), (1, 1)]
        assert [c.groups for c in convolutions] == ([1, 2, 1, 2, 2] if grouped else [1] * 5)
        assert {(p.pool_h, p.pool_w, p.stride) for p in net.layers if isinstance(p, Pooling)} == {(3, 3, 2)}
        assert isinstance(net.last_layer, SoftmaxWithLoss)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers_of_vgg(depth, batch_norm):
    net = small_vgg(depth, batch_norm=batch_norm)
    unit = [Convolution, BatchNormalization, Relu] if batch_norm else [Convolution, Relu]
    blocks = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    expected = [layer for count in blocks for layer in (*unit * count, Pooling)]
    assert [type(layer) for layer in net.layers] == expected + [Affine, Relu, Dropout] * 2 + [Affine]
    assert net.predict(data(net)[0]).shape == (4, 3)


def test_a_depth_that_nobody_published():
    with pytest.raises(ValueError, match="11, 13, 16, 19, not 12"):
        VGG(12)


# ---- shapes, dtypes, seeds ------------------------------------------------------------------------------------------


@small_net
def test_scores(make):
    net = make(dtype="float32")
    x, t = data(net)
    scores = net.predict(x)
    assert (scores.shape, scores.dtype) == ((4, 3), np.float32)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() > 1e-3, "a dead network proves nothing"
    assert {g.dtype for g in net.gradient(x, t).values()} == {np.dtype(np.float32)}


@small_net
def test_other_sizes(make):
    net = make()
    x = data(net, 2)[0]
    bigger = type(net)(
        input_dim=(x.shape[1], x.shape[2] + 40, x.shape[3] + 33), channels=(4, 4, 4, 4, 4), **{**SMALL, "seed": 0}
    )
    assert bigger.predict(np.pad(x, ((0, 0), (0, 0), (40, 0), (0, 33)))).shape == (2, 3)
    with pytest.raises(ValueError, match="window"):
        type(net)(input_dim=(1, 20, 20), channels=(4, 4, 4, 4, 4), **SMALL)


@small_net
def test_weights_and_masks_follow_from_the_seed(make):
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    net, twin = make(), make()
    x, t = data(net)
    assert net.loss(x, t) == twin.loss(x, t)
    assert np.random.rand() == expected, "NumPy's global stream is left alone"
    for name, p in net.params.items():
        np.testing.assert_array_equal(twin.params[name], p)
        np.testing.assert_array_equal(make(dtype="float32").params[name], p.astype(np.float32))
    masks = [layer.seed for layer in net.layers if isinstance(layer, Dropout)]
    assert len(set(masks)) == 2
    assert np.abs(make(seed=3).params["W1"] - net.params["W1"]).max() > 0


def test_without_a_seed_numpys_global_stream_decides():
    nets = []
    for seed in (5, 5, 6):
        np.random.seed(seed)
        nets.append(small_vgg(seed=None).params["W1"])
    np.testing.assert_array_equal(nets[0], nets[1])
    assert np.abs(nets[0] - nets[2]).max() > 0


def test_weight_init_std():
    def deviations(**changes):
        net = AlexNet((2, 67, 67), (40,) * 5, 200, 100, seed=0, **changes)
        return {name: float(p.std()) for name, p in net.params.items() if name.startswith("W")}

    fans = {"W1": 2 * 121, "W2": 40 * 25, "W3": 360, "W4": 360, "W5": 360, "W6": 40, "W7": 200, "W8": 200}
    for rule, numerator in (("he", 2), ("relu", 2), ("xavier", 1), ("Sigmoid", 1)):
        for name, deviation in deviations(weight_init_std=rule).items():
            assert deviation == pytest.approx((numerator / fans[name]) ** 0.5, rel=0.05), (rule, name)
    assert all(d == pytest.approx(0.01, rel=0.05) for d in deviations(weight_init_std=0.01).values())
    assert not any(deviations(weight_init_std=0).values())
    with pytest.raises(ValueError, match="'best'"):
        small_vgg(weight_init_std="best")


@small_net
def test_save_and_load(make, tmp_path):
    net = make()
    x, t = data(net)
    net.gradient(x, t)  # running statistics
    net.save_params(tmp_path / "params.npz")
    empty = make(weight_init_std=0, seed=9)
    empty.load_params(tmp_path / "params.npz")
    np.testing.assert_array_equal(empty.predict(x), net.predict(x))


# ---- learning -------------------------------------------------------------------------------------------------------


@small_net
def test_gradients_agree_with_central_differences(make):
    """On a selection of each parameter's elements, with dropout's masks held."""
    net = make()
    x, t = data(net, 3)
    rng = np.random.default_rng(0)
    for name, p in net.params.items():
        if name.startswith("b"):
            p += rng.uniform(0.1, 0.3, p.shape)  # alive, and away from the corner of the ReLU

    def loss():
        for layer in net.layers:
            if isinstance(layer, Dropout):
                layer.step = 0
        scores = net.predict(x, train_flg=True)
        return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(t)), t]).mean())

    loss()
    for layer in net.layers:
        if isinstance(layer, Dropout):
            layer.step = 0
    grads = net.gradient(x, t)
    assert list(grads) == list(net.params)
    for name, p in net.params.items():
        chosen = rng.choice(p.size, min(p.size, 12), replace=False)
        flat = p.reshape(p.size)
        for i in chosen:
            element = flat[i : i + 1]
            expected = central_differences(loss, element, h=1e-6)[0]
            assert grads[name].reshape(p.size)[i] == pytest.approx(expected, abs=2e-7, rel=1e-5), (name, i)
    assert np.abs(grads["W1"]).max() > 1e-4, "a dead network proves nothing"


@small_net
def test_a_step_lowers_the_loss(make):
    net = make(hidden_size=32, dropout_ratio=0.0, dtype="float32")
    x, t = data(net, 8)
    before, grads = net.loss_and_gradient(x, t)
    Momentum(lr=1e-3).update(net.params, grads)
    assert net.loss(x, t) < before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: AlexNet(dtype="float32", seed=0), 227),
        (lambda: AlexNet(grouped=True, dtype="float32", seed=0), 227),
        (lambda: VGG(16, dtype="float32", seed=0), 224),
        (lambda: VGG(16, batch_norm=True, dtype="float32", seed=0), 224),
        (lambda: GoogLeNet(dtype="float32", seed=0), 224),
        (lambda: ResNet(50, dtype="float32", seed=0), 224),
    ],
    ids=["alexnet", "grouped", "vgg16", "vgg16_bn", "googlenet", "resnet50"],
)
def test_full_size(make, side):
    """Two images of the real size, forward and backward; a small step lowers the loss."""
    net = make()
    x = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with fastdl.inference():
        scores = net.predict(x)
    assert scores.shape == (2, 1000)
    assert np.isfinite(scores).all()
    for layer in leaves(net.layers):
        if isinstance(layer, Dropout):
            layer.dropout_ratio = 0.0
    t = np.array([3, 5])
    before, grads = net.loss_and_gradient(x, t)
    for name, p in net.params.items():
        p -= np.float32(1e-4) * grads[name]
    assert net.loss(x, t) < before
