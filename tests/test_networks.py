"""LeNet, MLP, GoogLeNet, ResNet, and the catalog: published sizes, gradients, a step that helps, files, copies."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fake_cupy
import fastdl
from fastdl import backend, network
from fastdl.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Tanh,
)
from fastdl.models import MLP, VGG, AlexNet, GoogLeNet, LeNet, ResNet, resnet
from fastdl.models.catalog import NETWORKS
from fastdl.models.googlenet import MODULES
from fastdl.network import Concat, Residual
from fastdl.optim import Momentum
from fastdl.train import Trainer
from numerical import central_differences


def small_googlenet(**changes) -> GoogLeNet:
    """The smallest image that the classifiers on the way take, and few channels."""
    modules = {name: (3, 2, 2 + i % 2, 2, 3, 2) for i, name in enumerate(MODULES)}
    return GoogLeNet((2, 79, 79), (3, 2, 4), modules, (3, 6), **{"output_size": 3, "seed": 2, **changes})


def small_resnet(depth: int = 18, **changes) -> ResNet:
    return ResNet(depth, (2, 40, 33), (3, 4, 4, 5), **{"output_size": 3, "seed": 2, **changes})


SMALL_NETS = {
    "mlp": lambda **changes: MLP((2, 3, 4), (9, 8), **{"output_size": 3, "seed": 2, **changes}),
    "lenet": lambda **changes: LeNet((2, 12, 14), (4, 5), (9, 8), **{"output_size": 3, "seed": 2, **changes}),
    "googlenet": small_googlenet,
    "googlenet without aux": lambda **changes: small_googlenet(aux=False, **changes),
    "resnet18": small_resnet,
    "resnet50": lambda **changes: small_resnet(50, **changes),
}
small_net = pytest.mark.parametrize("make", SMALL_NETS.values(), ids=SMALL_NETS)


def data(net, n: int = 4, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Images for a small network, and labels."""
    rng = np.random.default_rng(7)
    return rng.standard_normal((n, *net.input_dim)).astype(dtype), rng.integers(0, 3, n)


def alive(net) -> None:
    """Biases and betas of several sizes: neither dead units, nor sums at the corner of the ReLU."""
    rng = np.random.default_rng(0)
    for name, p in net.params.items():
        if name.startswith("b"):
            p += rng.uniform(0.1, 0.3, p.shape)


def heads(net) -> list:
    """The classifiers on the way."""
    return [layer for layer in net.layers if type(layer).__name__ == "_Auxiliary"]


# ---- what is published ----------------------------------------------------------------------------------------------

#: Of the models' docstrings; AlexNet's and VGG's are PyTorch's as well, ResNet's those of its documentation.
PARAMETERS = {
    "mlp": 669_706,
    "lenet": 61_706,
    "simpleconvnet": 433_890,
    "deepconvnet": 123_552,
    "alexnet": 61_100_840,
    "alexnet-grouped": 60_965_224,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11-bn": 132_868_840,
    "vgg13-bn": 133_053_736,
    "vgg16-bn": 138_365_992,
    "vgg19-bn": 143_678_248,
    "googlenet": 6_998_552,
    "googlenet-aux": 13_378_280,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def test_the_catalog_has_every_network():
    assert list(NETWORKS) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_of_the_catalog(name):
    entry = NETWORKS[name]
    zeros = {} if name == "deepconvnet" else {"weight_init_std": 0}  # untouched: no memory is taken
    net = entry.build(dtype="float32", seed=0, **zeros)
    assert sum(p.size for p in net.params.values()) == PARAMETERS[name]
    assert {p.dtype for p in net.params.values()} == {np.dtype(np.float32)}
    assert net.input_dim == entry.image
    assert net.params[list(net.params)[-1]].shape == (entry.classes,)
    assert entry.batch >= 1
    other = entry.build(dtype="float64", seed=0, output_size=7, **zeros)
    assert other.params[list(other.params)[-1]].shape == (7,)


def test_the_catalog_imports_nothing_heavy():
    code = "import sys, fastdl.models.catalog; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"cupy", "numba", "torch", "matplotlib", "rich", "typer"} & set(done.stdout.split())


def test_googlenet_without_the_classifiers_on_the_way():
    net = GoogLeNet(aux=False, weight_init_std=0)
    assert sum(p.size for p in net.params.values()) == 6_998_552
    full = GoogLeNet(weight_init_std=0)
    sizes = [sum(p.size for p in head.params.values()) for head in heads(full)]
    # 1x1 convolution of 512 or 528 channels, 128 * 4 * 4 inputs, 1024 hidden, 1000 classes
    assert sizes == [c * 128 + 128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000 for c in (512, 528)]


def test_other_depths_and_modules():
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152, not 20"):
        ResNet(20)
    with pytest.raises(ValueError, match=r"the modules are 3a, 3b, .*, not 3a"):
        GoogLeNet(modules={"3a": MODULES["3a"]})
    with pytest.raises(ValueError, match="window"):
        GoogLeNet((2, 64, 64), weight_init_std=0)
    GoogLeNet((2, 64, 64), weight_init_std=0, aux=False)


def test_layers_of_lenet():
    net = LeNet(weight_init_std=0)
    assert [type(layer) for layer in net.layers] == [Convolution, Tanh, AveragePooling] * 2 + [Affine, Tanh] * 2 + [
        Affine
    ]
    assert [p.shape for name, p in net.params.items() if name.startswith("W")] == [
        *[(6, 1, 5, 5), (16, 6, 5, 5)],
        *[(400, 120), (120, 84), (84, 10)],
    ]


def test_layers_of_an_mlp():
    net = MLP(12, [7, 6, 5], 4, seed=0)
    assert net.input_dim == (12,)
    assert [type(layer) for layer in net.layers] == [Affine, Relu] * 3 + [Affine]
    assert net.predict(np.ones((2, 12))).shape == (2, 4)
    assert MLP((3, 2, 2), [5], seed=0).predict(np.ones((2, 3, 2, 2))).shape == (2, 10)


@pytest.mark.parametrize("depth", resnet.BLOCKS)
def test_layers_of_resnet(depth):
    net = small_resnet(depth)
    blocks = [layer for layer in net.layers if isinstance(layer, Residual)]
    counts, deep = resnet.BLOCKS[depth], depth >= 50
    assert len(blocks) == sum(counts)
    start = [Convolution, BatchNormalization, Relu, Pooling]
    assert [type(layer) for layer in net.layers] == start + [Residual, Relu] * len(blocks) + [AveragePooling, Affine]
    pool = net.layers[3]
    assert (pool.pool_h, pool.stride, pool.pad, net.layers[0].stride, net.layers[0].pad) == (3, 2, 1, 2, 3)
    firsts = [sum(counts[:stage]) for stage in range(4)]
    unit = [Convolution, BatchNormalization, Relu]
    for number, block in enumerate(blocks):
        assert [type(layer) for layer in block.main] == (unit * (3 if deep else 2))[:-1]
        convolutions = [layer for layer in block.main if isinstance(layer, Convolution)]
        stride = 2 if number in firsts[1:] else 1
        assert [c.W.shape[2] for c in convolutions] == ([1, 3, 1] if deep else [3, 3])
        assert [c.stride for c in convolutions] == ([1, stride, 1] if deep else [stride, 1])
        projected = number in (firsts if deep else firsts[1:])
        assert [type(layer) for layer in block.shortcut] == (unit[:2] if projected else [])
        assert not projected or (block.shortcut[0].W.shape[2:], block.shortcut[0].stride) == ((1, 1), stride)
    every = list(network.leaves(net.layers))
    assert all(layer.b is None for layer in every if isinstance(layer, Convolution))
    norms = [layer for layer in every if isinstance(layer, BatchNormalization)]
    assert all(layer.per_channel and layer.eps == 1e-5 and layer.gamma.min() == 1 for layer in norms)
    shortcuts = sum(bool(block.shortcut) for block in blocks)
    assert sum(isinstance(layer, (Convolution, Affine)) for layer in every) == depth + shortcuts


def test_layers_of_googlenet():
    net = GoogLeNet(weight_init_std=0)
    stem = [Convolution, Relu, Pooling, LocalResponseNormalization, Convolution, Relu, Convolution, Relu]
    stem += [LocalResponseNormalization, Pooling]
    aux = type(heads(net)[0])
    modules = [Concat] * 2 + [Pooling, Concat, aux] + [Concat] * 3 + [aux, Concat, Pooling] + [Concat] * 2
    assert [type(layer) for layer in net.layers] == stem + modules + [AveragePooling, Dropout, Affine]
    assert all(layer.ceil_mode for layer in net.layers if isinstance(layer, Pooling))
    x = np.zeros((1, 3, 224, 224), np.float32)
    net.cast("float32")
    sizes = {}
    for layer in net.layers:  # as in table 1 of the paper
        x = layer.forward(x, False) if layer.takes_train_flg else layer.forward(x)
        sizes.setdefault(x.shape[1:], None)
    assert list(sizes) == [
        *[(64, 112, 112), (64, 56, 56), (192, 56, 56), (192, 28, 28), (256, 28, 28), (480, 28, 28), (480, 14, 14)],
        *[(512, 14, 14), (528, 14, 14), (832, 14, 14), (832, 7, 7), (1024, 7, 7), (1024, 1, 1), (1000,)],
    ]
    assert [layer.dropout_ratio for layer in network.leaves(net.layers) if isinstance(layer, Dropout)] == [
        0.7,
        0.7,
        0.4,
    ]
    one, three, five, pooled = net.layers[10].branches
    assert [c.W.shape for branch in (one, three, five, pooled) for c in branch if isinstance(c, Convolution)] == [
        *[(64, 192, 1, 1), (96, 192, 1, 1), (128, 96, 3, 3)],
        *[(16, 192, 1, 1), (32, 16, 5, 5), (32, 192, 1, 1)],
    ]
    assert (pooled[0].pool_h, pooled[0].stride, pooled[0].pad) == (3, 1, 1)


# ---- shapes, dtypes, seeds ------------------------------------------------------------------------------------------


@small_net
def test_scores(make):
    net = make(dtype="float32")
    x, t = data(net)
    scores = net.predict(x)
    assert (scores.shape, scores.dtype) == ((4, 3), np.float32)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() > 1e-3, "a dead network proves nothing"
    grads = net.gradient(x, t)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    assert list(grads) == list(net.params)


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
    seeds = [layer.seed for layer in network.leaves(net.layers) if isinstance(layer, Dropout)]
    assert len(set(seeds)) == len(seeds)
    assert np.abs(make(seed=3).params["W1"] - net.params["W1"]).max() > 0


def test_input_dim_of_the_others():
    assert AlexNet([3, 67, 69], (4,) * 5, 5, 3).input_dim == (3, 67, 69)
    assert VGG(11, (1, 32, 33), (2,) * 5, 5, 3).input_dim == (1, 32, 33)


@small_net
def test_inference_predicts_the_same_and_keeps_nothing(make):
    net = make()
    x, t = data(net)
    net.gradient(x, t)
    expected = net.predict(x)
    with fastdl.inference():
        np.testing.assert_array_equal(net.predict(x), expected)
    for layer in network.leaves(net.layers):
        if not (heads(net) and any(layer in head.inside for head in heads(net))):  # which no prediction runs
            assert all(getattr(layer, name) is None for name in layer.activations)


# ---- learning -------------------------------------------------------------------------------------------------------


def exact_loss(scores, t) -> float:
    """Without the 1e-7 that the book's loss has and its gradient has not."""
    return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(t)), t]).mean())


@small_net
def test_gradients_agree_with_central_differences(make):
    """On a selection of each parameter's elements, with dropout's masks held; through the classifiers on the way."""
    net = make()
    alive(net)
    x, t = data(net, 5)
    rng = np.random.default_rng(1)
    counters = network.counters(net.layers)

    def loss():
        network.set_counters(net.layers, counters)
        total = exact_loss(net.predict(x, train_flg=True), t)
        return total + sum(0.3 * exact_loss(head._scores, t) for head in heads(net))

    assert net.loss(x, t) == pytest.approx(loss(), abs=1e-5)
    network.set_counters(net.layers, counters)
    grads = net.gradient(x, t)
    for name, p in net.params.items():
        flat = p.reshape(p.size)
        for i in rng.choice(p.size, min(p.size, 1 + 200 // len(net.params)), replace=False):
            expected = central_differences(loss, flat[i : i + 1], h=1e-6)[0]
            assert grads[name].reshape(p.size)[i] == pytest.approx(expected, abs=2e-7, rel=2e-5), (name, i)
    assert np.abs(grads["W1"]).max() > 1e-4, "a dead network proves nothing"


@small_net
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_lowers_the_loss(make, dtype):
    net = make(dtype=dtype)
    alive(net)
    for layer in network.leaves(net.layers):
        if isinstance(layer, Dropout):
            layer.dropout_ratio = 0.0
    x, t = data(net, 8)
    before, grads = net.loss_and_gradient(x, t)
    assert before == pytest.approx(net.loss(x, t), rel=1e-6)
    Momentum(lr=1e-3).update(net.params, grads)
    assert net.loss(x, t) < before


def test_the_loss_of_googlenet_counts_the_classifiers_on_the_way():
    net = small_googlenet()
    x, t = data(net)
    loss = net.loss(x, t)
    parts = [head.last_layer.loss for head in heads(net)]
    assert len(parts) == 2 and min(parts) > 0.1
    assert loss == pytest.approx(net.last_layer.loss + 0.3 * sum(parts), rel=1e-15)
    with fastdl.explain() as log:
        net.predict(x)
    assert not [p for p in log.problems if p.op == "avg_pool2d" and p.attr("kernel") == (5, 5)], (
        "no prediction runs them"
    )
    scores = net.predict(x)
    for head in heads(net):
        for p in head.params.values():
            p[...] = np.nan
    np.testing.assert_array_equal(net.predict(x), scores)


def test_predictions_of_googlenet_have_gradients_without_those_classifiers():
    net = small_googlenet()
    alive(net)
    x, t = data(net)
    net.gradient(x, t)
    dx = network.backward(net.layers, np.ones_like(net.predict(x)))
    i = int(np.abs(dx).argmax())
    expected = central_differences(lambda: float(net.predict(x).sum()), x.reshape(-1)[i : i + 1], h=1e-6)[0]
    assert abs(expected) > 1e-4
    assert dx.flat[i] == pytest.approx(expected, rel=1e-5)


@small_net
def test_a_pass_gives_its_activations_up(make):
    net = make()
    x, t = data(net)
    net.gradient(x, t)
    kept = [layer for layer in network.leaves(net.layers) if type(layer).__name__ != "SoftmaxWithLoss"]
    assert all(getattr(layer, name) is None for layer in kept for name in layer.activations)
    assert not any(np.shares_memory(g, p) for g in net.gradient(x, t).values() for p in net.params.values())


# ---- files, copies, training ----------------------------------------------------------------------------------------


@small_net
def test_save_and_load(make, tmp_path):
    net = make()
    x, t = data(net)
    net.gradient(x, t)  # running statistics
    net.save_params(tmp_path / "params.npz")
    empty = make(weight_init_std=0, seed=9)
    empty.load_params(tmp_path / "params.npz")
    np.testing.assert_array_equal(empty.predict(x), net.predict(x))
    net.cast("float16")
    assert {p.dtype for p in net.params.values()} == {np.dtype(np.float16)}
    assert net.predict(x).dtype == np.float16


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@small_net
def test_copies_are_whole_and_independent(make, duplicate):
    net = make()
    x, t = data(net)
    net.loss(x, t)
    twin = duplicate(net)
    assert network.counters(twin.layers) == network.counters(net.layers)
    expected = net.loss_and_gradient(x, t)[0]
    for p in net.params.values():
        p *= 2
    assert twin.loss_and_gradient(x, t)[0] == expected
    assert all(twin.params[name] is p for name, p in network.named_params(twin.layers).items())


def test_checkpoints_go_on_to_the_same_numbers(tmp_path):
    """Seeds and steps of every dropout are part of one, those inside containers too."""

    def trainer():
        net = small_googlenet(dtype="float32")
        x, t = data(net, 12, "float32")
        return Trainer(net, x, t, x, t, epochs=2, mini_batch_size=4, optimizer="Momentum", verbose=False, seed=3)

    whole, first, second = trainer(), trainer(), trainer()
    whole.train()
    for _ in range(3):
        first.train_step()
    first.save_checkpoint(tmp_path / "c.npz")
    second.resume(tmp_path / "c.npz")
    second.train()
    assert second.train_loss_list == whole.train_loss_list
    assert network.counters(second.network.layers)[1::2] == [6, 6, 6]


@pytest.mark.parametrize("name", ["lenet", "googlenet", "resnet18"])
def test_a_step_on_a_device(cupy, name):
    net = SMALL_NETS[name]()
    alive(net)
    x, t = data(net, 2)
    twin = copy.deepcopy(net)
    with backend.use_backend("numpy"):
        loss, wanted = twin.loss_and_gradient(x, t)
    net.to("cuda")
    x, t = fastdl.to_device(x, "cuda"), fastdl.to_device(t, "cuda")
    reads = fake_cupy.state.reads
    found, grads = net.unread_loss_and_gradient(x, t)
    assert fake_cupy.state.reads == reads, "a step has read from the device"
    assert float(found) == pytest.approx(loss, rel=1e-12)
    for key, grad in grads.items():
        scale = np.abs(wanted[key]).max()
        np.testing.assert_allclose(grad.host, wanted[key], rtol=0, atol=1e-9 * scale + 1e-13, err_msg=key)
    assert all(type(p) is np.ndarray for p in net.to("cpu").params.values())
