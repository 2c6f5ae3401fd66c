"""Fused layers: the bits and the attributes of the same layers called one after the other, and who is left alone."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import network
from fastdl.check.cases import build, cases
from fastdl.kernels import registry
from fastdl.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Pooling,
    Relu,
    SoftmaxWithLoss,
)
from fastdl.models import DeepConvNet, SimpleConvNet
from fastdl.network import Sequential

# Converting NaN raises the invalid flag, about which NumPy warns.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

COMPILED = "cython" in fastdl.backend.available_backends()
needs_kernels = pytest.mark.skipif(not COMPILED, reason="needs the compiled kernels")

DTYPES = ["float32", "float64", "float16", "bfloat16"]


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return np.dtype(name)


def by_hand(layers, x, train_flg=True):
    for layer in layers:
        x = layer.forward(x, train_flg) if getattr(layer, "takes_train_flg", False) else layer.forward(x)
    return x


def back_by_hand(layers, dout):
    for layer in reversed(layers):
        dout = layer.backward(dout)
    return dout


def make(dtype, rng, kind="plain"):
    """Layers with every pattern, and some beside them."""

    def normal(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(dtype)

    pools = {
        "plain": (Pooling(2, 2), Pooling(2, 2)),
        "overlapping": (Pooling(3, 3, 1, 1), Pooling(3, 2, (2, 1), (1, 0, 0, 1))),
        "gaps": (Pooling(1, 2, 3), Pooling(2, 2, 3, 2, ceil_mode=True)),
    }[kind]
    layers = [
        Convolution(normal(18, 3, 3, 3), normal(18), pad=1),
        Relu(),
        Convolution(normal(17, 18, 3, 2), None, stride=(1, 2), pad=(1, 0, 2, 1)),
        Relu(),
        pools[0],
        Convolution(normal(16, 17, 3, 3), normal(16).astype(np.float32), pad=2),
        Relu(),
        pools[1],
        BatchNormalization(np.ones(16), np.zeros(16), per_channel=True),
        Relu(),
        AveragePooling(2, 2, 1),
    ]
    features = by_hand(copy.deepcopy(layers), np.zeros((1, 3, 12, 20), dtype)).size
    return [
        *layers,
        Affine(normal(features, 13), normal(13)),
        Relu(),
        Dropout(0.3, seed=5),
        Affine(normal(13, 7), None),
        Relu(),
        Affine(normal(7, 5), normal(5)),
    ]


def inputs(dtype, rng, special=False):
    x = rng.standard_normal((3, 3, 12, 20))
    if special:
        # in one image, so that the others show what an infinity does not reach
        x[1, :, 2:9:3, 3:18:4] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7], (3, 3, 4))
    return x.astype(dtype)


def same(a, b):
    """The same bits but for those of a NaN (which of two a sum passes on is the compiler's choice), or both None."""
    if a is None or b is None:
        return a is b
    assert (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)
    if a.dtype.kind not in "bui":
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return False
        a, b = (np.where(np.isnan(v), v.dtype.type(0), v) for v in (a, b))
    return a.tobytes() == b.tobytes()


ATTRIBUTES = ("x", "out", "mask", "indices", "arg_max", "original_x_shape", *(f"d{p}" for p in "Wb"), "dgamma", "dbeta")


def assert_same_state(layers, others):
    for n, (layer, other) in enumerate(zip(layers, others, strict=True)):
        for name in ATTRIBUTES:
            a, b = getattr(layer, name, None), getattr(other, name, None)
            if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
                assert same(a, b), (n, type(layer).__name__, name)
            else:
                assert a == b, (n, type(layer).__name__, name)


def epilogues(log):
    """(op, direction, epilogue) of everything that ran."""
    return [(p.op, p.direction, p.epilogue) for p in log.problems]


@pytest.mark.parametrize("kind", ["plain", "overlapping", "gaps"])
@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_and_unfused_give_the_same_bits(dtype, special, kind):
    dtype, rng = dtype_of(dtype), np.random.default_rng(3)
    layers, x = make(dtype, rng, kind), inputs(dtype, rng, special)
    others = copy.deepcopy(layers)
    dout = rng.standard_normal((3, 5)).astype(dtype)
    with fastdl.explain() as log:
        out = network.forward(layers, x, True)
        dx = network.backward(layers, dout)
    assert same(out, by_hand(others, x))
    assert same(dx, back_by_hand(others, dout))
    assert_same_state(layers, others)
    ran = epilogues(log)
    # Winograd's rows pool; bfloat16 may be multiplied in hardware instead.
    winograd = any("winograd" in label for p, label, _ in log.kernels() if p.direction.startswith("forward"))
    assert winograd == COMPILED or dtype.name == "bfloat16"
    pooled = kind == "plain" and winograd
    assert ran.count(("conv2d", "forward_pooled", "bias_relu")) == pooled
    assert ran.count(("conv2d", "forward", "bias_relu")) == 3 - pooled
    assert ran.count(("gemm", "forward", "bias_relu")) == 2
    assert ran.count(("conv2d", "backward_input", "relu_mask")) == 1
    assert ran.count(("max_pool2d", "backward", "relu_mask")) == 2
    assert ran.count(("relu", "forward", "none")) == 1  # behind the batch normalisation
    assert ran.count(("relu", "backward", "none")) == 3


def test_dtypes_may_differ():
    rng = np.random.default_rng(4)
    layers = make(np.dtype(np.float64), rng)
    others, x = copy.deepcopy(layers), inputs(np.float32, rng)
    dout = rng.standard_normal((3, 5))
    assert same(network.forward(layers, x, True), by_hand(others, x))
    dx = network.backward(layers, dout)
    assert dx.dtype == np.float32
    assert same(dx, back_by_hand(others, dout))
    assert_same_state(layers, others)


@pytest.mark.parametrize("size", [0, 1])
def test_batches_of_no_and_one_image(size):
    rng = np.random.default_rng(5)
    layers = make(np.dtype(np.float32), rng)[:8]
    others, x = copy.deepcopy(layers), inputs(np.float32, rng)[:size]
    out = network.forward(layers, x, True)
    assert same(out, by_hand(others, x))
    dout = rng.standard_normal(out.shape).astype(np.float32)
    assert same(network.backward(layers, dout), back_by_hand(others, dout))
    assert_same_state(layers, others)


def test_without_the_gradient_of_the_input():
    rng = np.random.default_rng(6)
    layers, x = make(np.dtype(np.float32), rng), inputs(np.float32, rng)
    others, dout = copy.deepcopy(layers), rng.standard_normal((3, 5)).astype(np.float32)
    network.forward(layers, x, True)
    by_hand(others, x)
    assert network.backward(layers, dout, need_dx=False) is None
    back_by_hand(others, dout)
    assert_same_state(layers, others)
    # A ReLU in front cannot leave its gradient out, and is fused with the convolution all the same.
    layers, others = [Relu(), *layers[:1]], [Relu(), *others[:1]]
    dout = network.forward(layers, x, True) - 1
    by_hand(others, x)
    assert same(network.backward(layers, dout, need_dx=False), back_by_hand(others, dout))


def test_prediction_and_inference_mode():
    rng = np.random.default_rng(7)
    layers, x = make(np.dtype(np.float32), rng), inputs(np.float32, rng)
    network.forward(layers, x, True)
    others = copy.deepcopy(layers)
    assert same(network.forward(layers, x, False), by_hand(others, x, False))
    with fastdl.inference():
        assert same(network.forward(layers, x, False), by_hand(others, x, False))
    for layer in layers:
        assert all(getattr(layer, name) is None for name in layer.activations)
        assert getattr(layer, "_out", None) is None
    with pytest.raises(RuntimeError, match="call forward first"):
        network.backward(layers, np.ones((3, 5), np.float32))


def test_containers_are_looked_into():
    rng = np.random.default_rng(8)
    flat = make(np.dtype(np.float32), rng)
    nested = copy.deepcopy(flat)
    net = Sequential([Sequential(nested[:1]), Sequential([Sequential(nested[1:4]), *nested[4:]])])
    x, dout = inputs(np.float32, rng), rng.standard_normal((3, 5)).astype(np.float32)
    with fastdl.explain() as log:
        out = net.forward(x)
        dx = net.backward(dout)
    assert same(out, by_hand(flat, x))
    assert same(dx, back_by_hand(flat, dout))
    assert_same_state(nested, flat)
    assert sum((op, epilogue) == ("conv2d", "bias_relu") for op, _, epilogue in epilogues(log)) == 3

    class Twice(Sequential):
        def forward(self, x, train_flg=True):
            return 2 * super().forward(x, train_flg)

    assert same(Sequential([Twice(flat[:2])]).forward(x), 2 * network.forward(nested[:2], x, True))


# ---- convolution, ReLU and pooling in one pass ----------------------------------------------------------------------


def pooled_net(dtype, kernel=3, pad=1, **pooling):
    rng = np.random.default_rng(20)
    w = (rng.standard_normal((37, 19, kernel, kernel)) / kernel).astype(dtype)
    pool = Pooling(**{"pool_h": 2, "pool_w": 2, **pooling})
    return [
        Convolution(w, w[:, 0, 0, 0], pad=pad),
        Relu(),
        pool,
        BatchNormalization(np.ones(37), np.zeros(37), per_channel=True),
    ]


def run_pooled(layers, x, inference=False):
    """(output, the directions of the convolution and of the pooling that ran)."""
    with fastdl.explain() as log:
        if inference:
            with fastdl.inference():
                out = network.forward(layers, x, False)
        else:
            out = network.forward(layers, x, True)
    return out, [p.direction for p in log.problems if p.op in ("conv2d", "max_pool2d")]


@needs_kernels
@pytest.mark.parametrize("inference", [False, True], ids=["training", "inference"])
@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (2, 3)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pass_gives_the_bits_of_three(dtype, kernel, size, special, inference):
    dtype = dtype_of(dtype)
    rng = np.random.default_rng(21)
    x = rng.standard_normal((3, 19, *size)) * (1e4 if special else 1)  # overflows in float16
    if special:
        x[0, :, 1::3, ::4] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], x[0, :, 1::3, ::4].shape)
    x = x.astype(dtype)
    for isa in registry.available_levels():
        layers, others = (pooled_net(dtype, kernel, kernel // 2) for _ in range(2))
        with fastdl.backend.isa(isa), fastdl.backend.conv_algorithm("winograd"):
            out, ran = run_pooled(layers, x, inference)
            assert ran == ["forward_pooled"]
            if inference:
                with fastdl.inference():
                    assert same(out, by_hand(others, x, False))
            else:
                assert same(out, by_hand(others, x))
                dout = np.random.default_rng(22).standard_normal(out.shape).astype(dtype)
                assert same(network.backward(layers, dout), back_by_hand(others, dout))
        assert_same_state(layers, others)


@needs_kernels
def test_what_is_no_single_pass():
    x = np.random.default_rng(23).standard_normal((2, 19, 9, 8)).astype(np.float32)
    three = ["forward", "forward"]
    assert run_pooled(pooled_net(np.float32), x)[1] == ["forward_pooled"]
    assert run_pooled(pooled_net(np.float32, stride=(2, 2)), x)[1] == ["forward_pooled"]
    for pooling in ({"pool_w": 3}, {"stride": 1}, {"pad": (0, 1)}, {"dilation": (2, 1)}, {"ceil_mode": True}):
        layers = pooled_net(np.float32)
        layers[2] = Pooling(**{"pool_h": 2, "pool_w": 2, **pooling})
        others = copy.deepcopy(layers)
        out, ran = run_pooled(layers, x)
        assert ran == three, pooling
        assert same(out, by_hand(others, x))
    with fastdl.backend.conv_algorithm("direct"):
        assert run_pooled(pooled_net(np.float32), x)[1] == three
    with fastdl.use_backend("numpy"):
        assert run_pooled(pooled_net(np.float32), x)[1] == three
    narrow = pooled_net(np.float32, pad=(1, 1, 0, 0))  # of width 1: the pooling has no window
    with pytest.raises(ValueError, match="max_pool2d: a 2x2 window"):
        network.forward(narrow, x[..., :3], True)


# ---- who is left alone ----------------------------------------------------------------------------------------------


class Loud(Relu):
    """A ReLU that scales: fused away, its factor would be missing."""

    def forward(self, x):
        return 2 * super().forward(x)


class Quiet(Relu):
    """The same in the backward pass."""

    def backward(self, dout):
        return 0.5 * super().backward(dout)


class Named(Convolution):
    """Overrides neither pass."""

    name = "conv"


class Scale:
    """Somebody's own layer, without a base class and with slots."""

    __slots__ = ()

    def forward(self, x):
        return 3 * x

    def backward(self, dout):
        return 3 * dout


class InPlace:
    """Writes into what it gets, as the book's ReLU does in its backward pass."""

    def forward(self, x):
        x -= 0.75
        return x

    def backward(self, dout):
        return dout


def short(dtype=np.float32, first=Convolution, relu=Relu, behind=()):
    rng = np.random.default_rng(9)
    w = [rng.standard_normal(shape).astype(dtype) for shape in ((17, 3, 3, 3), (16, 17, 3, 3))]
    return [first(w[0], w[0][:, 0, 0, 0], pad=1), relu(), Pooling(2, 2), *behind, Convolution(w[1], None), relu()]


def assert_equal_to_by_hand(layers, others):
    rng = np.random.default_rng(10)
    x = inputs(np.float32, rng)
    with fastdl.explain() as log:
        out = network.forward(layers, x, True)
        expected = by_hand(others, x)
        assert same(out, expected)
        dout = rng.standard_normal(out.shape).astype(np.float32)
        assert same(network.backward(layers, dout.copy()), back_by_hand(others, dout.copy()))
    return epilogues(log)


@pytest.mark.parametrize("relu", [Loud, Quiet])
def test_a_subclass_with_passes_of_its_own_is_not_fused(relu):
    ran = assert_equal_to_by_hand(short(relu=relu), short(relu=relu))
    assert not [r for r in ran if "relu" in r[2]]


def test_a_subclass_without_passes_of_its_own_is_fused():
    ran = assert_equal_to_by_hand(short(first=Named), short(first=Named))
    assert ("conv2d", "forward", "bias_relu") in ran


def test_passes_replaced_in_an_instance_are_called():
    layers, others = short(), short()
    for relu in (layers[1], others[1]):
        relu.forward = lambda x, own=relu: 2 * Relu.forward(own, x)
    ran = assert_equal_to_by_hand(layers, others)
    assert ran.count(("conv2d", "forward", "bias_relu")) == 1  # the other ReLU
    layers, others = short(), short()
    seen = []
    for relu in (layers[1], others[1]):
        relu.backward = lambda dout, own=relu: (seen.append(dout.shape), Relu.backward(own, dout))[1]
    assert_equal_to_by_hand(layers, others)
    assert len(seen) == 2


def test_passes_replaced_in_a_class_are_called(monkeypatch):
    own = Relu.forward
    monkeypatch.setattr(Relu, "forward", lambda self, x: own(self, x) + 1)
    ran = assert_equal_to_by_hand(short(), short())
    assert not [r for r in ran if "relu" in r[2]]


@pytest.mark.parametrize("layer", [Scale, InPlace])
def test_a_layer_of_somebody_in_between(layer):
    """Behind the pooling too: it may write into the pooling's output, from which the mask would have been read."""
    ran = assert_equal_to_by_hand(short(behind=[layer()]), short(behind=[layer()]))
    assert ("conv2d", "forward", "bias_relu") in ran
    assert ("max_pool2d", "backward", "relu_mask") not in ran
    layers = short()
    layers.insert(1, layer())
    others = short()
    others.insert(1, layer())
    assert_equal_to_by_hand(layers, others)


def test_the_output_of_a_last_pooling_is_the_users():
    layers, others = short()[:3], short()[:3]
    rng = np.random.default_rng(11)
    x = inputs(np.float32, rng)
    for net, run in ((layers, lambda n: network.forward(n, x, True)), (others, lambda n: by_hand(n, x))):
        out = run(net)
        out -= 1e6
    dout = rng.standard_normal(out.shape).astype(np.float32)
    assert same(network.backward(layers, dout.copy()), back_by_hand(others, dout.copy()))


def test_a_layer_that_stands_twice_in_the_list():
    def twice():
        rng = np.random.default_rng(12)
        conv, relu, pool = Convolution(rng.standard_normal((3, 3, 3, 3)), np.zeros(3), pad=1), Relu(), Pooling(1, 1, 1)
        return [conv, relu, pool, conv, relu, conv, relu, pool, conv]

    layers, others = twice(), twice()
    x = np.random.default_rng(13).standard_normal((2, 3, 5, 6))
    assert same(network.forward(layers, x, True), by_hand(others, x))
    assert_same_state(layers, others)
    assert same(network.backward(layers, np.ones_like(x)), back_by_hand(others, np.ones_like(x)))
    assert_same_state(layers, others)


def test_layers_may_be_called_by_hand_between_the_passes_of_a_network():
    """Each pass by hand or by the network, in any combination; states replaced in between take effect."""
    rng = np.random.default_rng(14)
    x, dout = inputs(np.float32, rng), rng.standard_normal((3, 16, 4, 8)).astype(np.float32)
    layers, others = short(), short()
    by_hand(layers, x)
    by_hand(others, x)
    assert layers[2]._out is None, "nothing more is kept by hand"
    assert same(network.backward(layers, dout.copy()), back_by_hand(others, dout.copy()))
    network.forward(layers, x, True)
    assert same(back_by_hand(layers, dout.copy()), back_by_hand(others, dout.copy()))
    network.forward(layers, x, True)
    layers[1].out = others[1].out = -layers[1].out
    assert same(network.backward(layers, dout.copy()), back_by_hand(others, dout.copy()))


def test_gradients_are_not_written_into_what_the_caller_gave():
    rng = np.random.default_rng(15)
    layers, x = short()[:4], inputs(np.float32, rng)  # the last one is no ReLU, whose backward pass works in place
    dout = rng.standard_normal(network.forward(layers, x, True).shape).astype(np.float32)
    kept = dout.copy()
    network.backward(layers, dout)
    assert same(dout, kept)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
def test_copies_keep_no_activations(duplicate):
    layers, x = short(), inputs(np.float32, np.random.default_rng(16))
    out = network.forward(layers, x, True)
    twins = duplicate(layers)
    assert layers[2]._out is not None
    assert all(
        getattr(twin, name) is None for twin in twins for name in (*twin.activations, "_out") if hasattr(twin, name)
    )
    assert same(network.forward(twins, x, True), out)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_layers_give_up_what_nothing_needs_any_more():
    """The gradients of a pass that keeps everything, and of one that does not; the second one cannot be repeated."""
    rng = np.random.default_rng(18)
    layers, x = make(np.dtype(np.float32), rng), inputs(np.float32, rng)
    others, dout = copy.deepcopy(layers), rng.standard_normal((3, 5)).astype(np.float32)
    for net, release in ((layers, True), (others, False)):
        network.forward(net, x, True)
        dx = network.backward(net, dout.copy(), release=release)
        assert dx.shape == x.shape
    for name, gradient in network.named_grads(others).items():
        assert same(network.named_grads(layers)[name], gradient), name
    for layer, other in zip(layers, others, strict=True):
        assert all(getattr(layer, name) is None for name in layer.activations)
        assert any(getattr(other, name) is not None for name in other.activations)
    with pytest.raises(RuntimeError, match="call forward first"):
        network.backward(layers, dout)


def test_a_layer_that_stands_twice_keeps_what_its_other_turn_needs():
    rng = np.random.default_rng(19)
    conv, relu = Convolution(rng.standard_normal((3, 3, 3, 3)), np.zeros(3), pad=1), Relu()
    layers, x = [conv, relu, conv, relu, conv], rng.standard_normal((2, 3, 5, 6))
    others = copy.deepcopy(layers)
    found = []
    for net, release in ((layers, True), (others, False)):
        network.forward(net, x, True)
        found.append(network.backward(net, np.ones_like(x), release=release))
    assert same(*found)
    assert conv.x is None and relu.out is None


def test_a_users_layers_keep_everything():
    class Own:
        """With the names of ours."""

        activations = ("x",)
        parameters = ("W",)
        dW = 5

        def forward(self, x):
            self.x = x
            return x

        def backward(self, dout):
            return dout

    own = Own()
    layers = [*short()[:3], own]
    out = network.forward(layers, inputs(np.float32, np.random.default_rng(20)), True)
    network.backward(layers, out, release=True)
    assert own.x is not None and own.dW == 5
    assert layers[0].x is None


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", [SimpleConvNet, DeepConvNet])
def test_models_are_fused_and_give_the_bits_of_their_layers(model, dtype):
    net = model(dtype=dtype_of(dtype), seed=1)
    rng = np.random.default_rng(17)
    x, t = rng.standard_normal((7, 1, 28, 28)).astype(net.dtype), rng.integers(0, 10, 7)
    layers, loss = copy.deepcopy(net._sequence()), SoftmaxWithLoss()
    with fastdl.explain() as log:
        value, grads = net.loss_and_gradient(x, t)
    assert value == loss.forward(by_hand(layers, x), t)
    back_by_hand(layers, loss.backward(1))
    for name, expected in network.named_grads(layers).items():
        assert same(grads[name], expected), name
    ran = epilogues(log)
    deep = model is DeepConvNet
    pooled = sum(p[1] == "forward_pooled" for p in ran)
    assert ran.count(("conv2d", "forward", "bias_relu")) == (6 if deep else 1) - pooled
    assert ran.count(("conv2d", "backward_input", "relu_mask")) == (3 if deep else 0)
    assert ran.count(("max_pool2d", "backward", "relu_mask")) == (3 if deep else 1)
    assert ("relu", "forward", "none") not in ran


def test_the_choice_of_a_kernel_does_not_depend_on_the_epilogue():
    """Another algorithm would give other bits."""
    checked = 0
    for direction, other in (("forward", "bias_relu"), ("backward_input", "relu_mask")):
        for case in cases("conv2d", direction, "float32"):
            problem = build(case).problem
            for backend, cap in [("numpy", "v4"), *(("cython", isa) for isa in registry.available_levels())]:
                plain = registry.choose(problem._replace(epilogue="none"), backend, cap)[0]
                assert registry.choose(problem._replace(epilogue=other), backend, cap)[0] == plain
                checked += 1
    assert checked > 100
