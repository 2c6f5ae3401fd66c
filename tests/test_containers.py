"""Residual and Concat: the bits of their parts, what is shared and stays as it is, names, memory, files, devices."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fake_cupy
import fastdl
import fastdl.functional as F
from fastdl import backend, network
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Layer, Pooling, Relu, Sigmoid, Tanh
from fastdl.network import Concat, Residual, Sequential
from numerical import check_gradients


def normal(*shape: int, seed: int = 0, dtype="float64") -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)


def conv(k: int, c: int, side: int, dtype="float64", **options) -> Convolution:
    return Convolution(normal(k, c, side, side, dtype=dtype), normal(k, 1, dtype=dtype)[:, 0], pad=side // 2, **options)


def norm(c: int, dtype="float64") -> BatchNormalization:
    return BatchNormalization(1 + normal(c, 1, dtype=dtype)[:, 0], normal(c, 1, dtype=dtype)[:, 0], per_channel=True)


def inception(dtype="float64") -> list[list]:
    """Branches of 6 channels: three that end in a ReLU, and the input."""
    return [
        [conv(4, 6, 1, dtype), Relu()],
        [conv(3, 6, 1, dtype), Relu(), conv(5, 3, 3, dtype), Relu()],
        [Pooling(3, 3, 1, 1), conv(2, 6, 1, dtype), Relu()],
        [],
    ]


def bottleneck(dtype="float64") -> tuple[list, list]:
    """Main path and projection from 17 to 8 channels."""
    main = [conv(4, 17, 1, dtype), norm(4, dtype), Relu(), conv(8, 4, 3, dtype, stride=2), norm(8, dtype)]
    return main, [conv(8, 17, 1, dtype, stride=2), norm(8, dtype)]


def by_hand(layers, x, train_flg=True):
    for layer in layers:
        x = layer.forward(x, train_flg) if getattr(layer, "takes_train_flg", False) else layer.forward(x)
    return x


def back_by_hand(layers, dout):
    """``dout`` stays as it is: a last ReLU works in what it gets unless that is read-only; others get a copy."""
    if layers and isinstance(layers[-1], Layer):
        dout = dout.view()
        dout.flags.writeable = False
    else:
        dout = dout.copy()
    for layer in reversed(layers):
        dout = layer.backward(dout)
    return dout


def assert_same(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(a, b)


# ---- the bits of their parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_concat_gives_the_bits_of_its_branches(dtype, size):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    branches = inception(dtype)
    own = copy.deepcopy(branches)
    x, dout = normal(size, 6, 5, 7, dtype=dtype), normal(size, 17, 5, 7, seed=1, dtype=dtype)
    layer = Concat(branches)
    with fastdl.explain() as log:
        out, dx = layer.forward(x), layer.backward(dout)
    assert_same(out, F.concat([by_hand(branch, x) for branch in own]))
    parts = [back_by_hand(*pair) for pair in zip(own, F.concat_backward(dout, (4, 5, 2, 6)), strict=True)]
    assert_same(dx, F.add(F.add(F.add(parts[0], parts[1]), parts[2]), parts[3]))
    for name, grad in network.named_grads([layer for branch in own for layer in branch]).items():
        assert_same(layer.grads[name], grad)
    ran = [(p.op, p.direction, p.epilogue) for p in log.problems]
    assert ran.count(("conv2d", "forward", "bias_relu")) == 4, "fusion inside"
    assert ran.count(("conv2d", "backward_input", "relu_mask")) == 1
    assert ran.count(("relu", "backward", "none")) == 3
    assert ran.count(("add", "forward", "none")) == 3
    assert ran.count(("concat", "forward", "none")) == 1


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residual_gives_the_bits_of_its_branches(dtype, projection):
    main, shortcut = bottleneck(dtype) if projection else ([conv(17, 17, 3, dtype), Relu()], [])
    own_main, own_shortcut = copy.deepcopy((main, shortcut))
    x = normal(3, 17, 6, 7, dtype=dtype)
    layer = Residual(main, shortcut) if projection else Residual(main)
    assert (layer.main, layer.shortcut) == (main, shortcut)
    out = layer.forward(x)
    assert_same(out, F.add(by_hand(own_main, x), by_hand(own_shortcut, x)))
    dout = normal(*out.shape, seed=1, dtype=dtype)
    dx = layer.backward(dout)
    assert_same(dx, F.add(back_by_hand(own_main, dout), back_by_hand(own_shortcut, dout)))
    for name, grad in network.named_grads([*own_main, *own_shortcut]).items():
        assert_same(layer.grads[name], grad)


def nested() -> Sequential:
    return Sequential(
        [
            conv(6, 2, 3),
            Residual(Sequential([norm(6), Tanh(), conv(6, 6, 3)])),
            Concat(inception()),
            Residual(*bottleneck()),
            Residual([Concat([conv(3, 8, 1), [Residual(conv(8, 8, 1)), conv(5, 8, 1)]]), Dropout(0.2, seed=4)], Tanh()),
            Sequential([Affine(normal(8 * 2 * 3, 4), normal(4, 1)[:, 0])]),
            Concat([Sigmoid(), []], axis=-1),
        ]
    )


def test_gradients_through_nested_containers():
    net, x, weights = nested(), normal(4, 2, 4, 5), normal(4, 8, seed=5)
    dropout = net.layers[4].main[1]
    for name, p in net.params.items():
        if name.startswith("b"):
            p += 0.05  # away from the corner of the ReLU

    def f():
        dropout.step = 0
        return float((net.forward(x) * weights).sum())

    f()
    dx = net.backward(weights)
    assert np.abs(dx).max() > 1e-3, "a dead network proves nothing"
    chosen = {name: net.params[name] for name in ("W1", "gamma1", "W3", "W5", "W6", "b8", "beta4", "W9", "W11", "W12")}
    check_gradients(f, {"x": x, **chosen}, {"x": dx, **net.grads}, tolerance=1e-6)


def test_concat_along_other_axes():
    x, dout = normal(2, 3, 4, 5), normal(2, 3, 8, 5)
    layer = Concat([Tanh(), []], axis=-2)
    assert_same(layer.forward(x), np.concatenate([F.tanh(x), x], axis=2))
    dx = layer.backward(dout)
    np.testing.assert_allclose(dx, dout[:, :, :4] * (1 - np.tanh(x) ** 2) + dout[:, :, 4:], atol=1e-15)


def test_a_gradient_has_the_dtype_of_its_tensor():
    x = normal(2, 6, 5, 7, dtype="float32")
    for layer in (Residual(conv(6, 6, 3)), Concat([[], conv(2, 6, 3), []])):
        out = layer.forward(x)
        assert out.dtype == np.float64
        assert layer.backward(np.ones_like(out)).dtype == np.float32
        bytes_ = (x * 100).astype(np.int8)
        out = layer.forward(bytes_)
        assert layer.backward(np.ones_like(out)).dtype == np.float64


def test_without_the_gradient_of_the_input():
    x, dout = normal(2, 6, 5, 7), normal(2, 17, 5, 7, seed=1)
    layer, twin = Concat(inception()), Concat(inception())
    layer.forward(x)
    twin.forward(x)
    with fastdl.explain() as log:
        assert layer.backward(dout, need_dx=False) is None
    assert not [p for p in log.problems if p.op == "add"]
    assert sum(p.direction == "backward_input" for p in log.problems) == 2, "of convolutions behind others"
    twin.backward(dout)
    for name, grad in twin.grads.items():
        assert_same(layer.grads[name], grad)


def test_branches_that_do_not_fit():
    x = normal(2, 6, 5, 7)
    with pytest.raises(ValueError, match=r"main gives \(2, 4, 5, 7\) and shortcut \(2, 6, 5, 7\)"):
        Residual(conv(4, 6, 1)).forward(x)
    with pytest.raises(ValueError, match=r"\(2, 4, 3, 4\) must agree with arrays\[0\] \(2, 6, 5, 7\)"):
        Concat([[], conv(4, 6, 1, stride=2)]).forward(x)
    with pytest.raises(ValueError, match="at least one branch"):
        Concat([])
    layer = Concat([[], []])
    layer.forward(x)
    with pytest.raises(ValueError, match=r"\(6, 6\) must add up to dout's 6"):
        layer.backward(x)


# ---- what is shared -------------------------------------------------------------------------------------------------


class Own:
    """A layer of somebody's that writes into the gradient, as the book's ReLU does."""

    def forward(self, x):
        self.mask = x <= 0
        return np.where(self.mask, 0, x)

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class HandsOn:
    """One that returns the gradient itself."""

    def forward(self, x):
        return x + 0.0

    def backward(self, dout):
        return dout


ENDS = {
    "relu": lambda: [Relu()],
    "own": lambda: [Own()],
    "hands on": lambda: [Relu(), HandsOn()],
    "dropout": lambda: [Relu(), Dropout(0.5, inverted=True, seed=1)],
    "nothing": list,
    "container": lambda: [Relu(), Sequential([]), Sequential([HandsOn()])],
    "residual": lambda: [Relu(), Residual([Relu()])],
    "concat": lambda: [Relu(), Concat([[]])],
    "norm": lambda: [Relu(), norm(17)],
}


@pytest.mark.parametrize(("end", "train_flg"), [*((end, True) for end in ENDS), ("relu", False), ("dropout", False)])
def test_input_and_gradient_stay_as_they_are(end, train_flg):
    for make in (
        lambda: Residual([conv(17, 17, 3), *ENDS[end]()]),
        lambda: Residual(ENDS[end](), [conv(17, 17, 3), *ENDS[end]()]),
        lambda: Concat([ENDS[end](), [conv(17, 17, 3), *ENDS[end]()]]),
    ):
        layer, x = make(), normal(2, 17, 5, 6)
        branches = copy.deepcopy(layer.branches)
        kept = x.copy()
        out = layer.forward(x, train_flg)
        dout = normal(*out.shape, seed=1)
        kept_dout = dout.copy()
        outputs = [by_hand(branch, x, train_flg) for branch in branches]
        parts = F.concat_backward(dout, (17, 17)) if isinstance(layer, Concat) else (dout, dout)
        expected = F.add(*(back_by_hand(*pair) for pair in zip(branches, parts, strict=True)))
        dx = layer.backward(dout)
        assert_same(dx, expected)
        assert_same(out, F.concat(outputs) if isinstance(layer, Concat) else F.add(*outputs))
        for array in (out, dx):
            array[...] = 7.0  # they are the caller's
        assert_same(x, kept)
        assert_same(dout, kept_dout)
        for branch, output in zip(layer.branches, outputs, strict=True):
            if branch and isinstance(branch[-1], Relu):
                assert_same(branch[-1].out, output)


def test_a_relu_that_reads_a_shared_array_leaves_it_alone():
    """The activation in front of a block is also its shortcut; its gradient is complete before it is masked."""
    layers = [conv(17, 17, 3), Relu(), Residual([conv(17, 17, 3), Relu()]), Relu(), Residual([Relu()], [Relu()])]
    x = normal(2, 17, 5, 6)

    def f():
        return float((network.forward(layers, x, True) * weights).sum())

    weights = normal(2, 17, 5, 6, seed=3)
    f()
    dx = network.backward(layers, weights, keep_dout=True)
    check_gradients(f, {"x": x}, {"x": dx}, tolerance=1e-6)


# ---- names, memory, files -------------------------------------------------------------------------------------------

NAMES = "W1 b1 gamma1 beta1 W2 b2 W3 b3 W4 b4 W5 b5 W6 b6 W7 b7 gamma2 beta2 W8 b8 gamma3 beta3 W9 b9 gamma4 beta4"
NAMES += " W10 b10 W11 b11 W12 b12 W13 b13"


def test_parameters_are_numbered_branch_by_branch():
    net = nested()
    assert list(net.params) == NAMES.split()
    assert net.params["W5"] is net.layers[2].branches[1][2].W
    assert net.params["gamma4"] is net.layers[3].shortcut[1].gamma
    assert list(Residual(conv(3, 3, 1), conv(3, 3, 1)).params) == ["W1", "b1", "W2", "b2"]
    assert len(list(network.leaves([net]))) == 27
    with pytest.raises(RuntimeError, match="W1"):
        _ = net.layers[2].grads


def test_counters():
    net = nested()
    net.forward(normal(4, 2, 4, 5))
    assert network.counters([net]) == [4, 1]
    network.set_counters([net], [8, 5])
    assert net.layers[4].main[1].step == 5


def test_save_and_load(tmp_path):
    net, other, x = nested(), nested(), normal(4, 2, 4, 5)
    net.forward(x)
    for p in net.params.values():
        p *= 0.9
    net.save(tmp_path / "net.npz")
    other.load(tmp_path / "net.npz")
    assert_same(other.forward(x, False), net.forward(x, False))
    block, twin = net.layers[3], Residual(*bottleneck())
    block.save(tmp_path / "block.npz")
    twin.load(tmp_path / "block.npz")
    assert_same(twin.shortcut[1].running_var, block.shortcut[1].running_var)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent_and_keep_no_activations(duplicate):
    net, x = nested(), normal(4, 2, 4, 5)
    expected = net.forward(x, False)
    net.forward(x)
    twin = duplicate(net)
    for layer in (*network.leaves([twin]), twin.layers[1], twin.layers[2]):
        assert all(getattr(layer, name) is None for name in layer.activations)
    twin.forward(x)
    for p in net.params.values():
        p += 1
    net.forward(x)
    assert np.abs(twin.forward(x, False) - net.forward(x, False)).max() > 0.01
    twin = duplicate(nested())
    assert_same(twin.forward(x, False), expected)


def test_inference_keeps_nothing():
    net, x = nested(), normal(4, 2, 4, 5)
    expected = net.forward(x, False)
    net.forward(x)
    with fastdl.inference():
        net = nested()
        assert_same(net.forward(x, False), expected)
    for layer in network.leaves([net]):
        assert all(getattr(layer, name) is None for name in layer.activations)
    for block in net.layers[1:4]:
        with pytest.raises(RuntimeError, match="call forward first"):
            block.backward(expected)


def test_layers_inside_give_up_what_nothing_needs_any_more():
    net, twin, x = nested(), nested(), normal(4, 2, 4, 5)
    dout = normal(4, 8, seed=5)
    for one, release in ((net, True), (twin, False)):
        one.forward(x)
        first = network.backward([one], dout, release=release)
        assert first is not None
    for layer, other in zip(network.leaves([net]), network.leaves([twin]), strict=True):
        assert all(getattr(layer, name) is None for name in layer.activations)
        assert any(getattr(other, name) is not None for name in other.activations)
    for name, grad in twin.grads.items():
        assert_same(net.grads[name], grad)
    with pytest.raises(RuntimeError, match="call forward first"):
        net.backward(dout)
    twin.backward(dout)  # what another pass released is none of this one's business


def test_a_layer_that_stands_in_two_branches_keeps_what_its_other_turn_needs():
    found = []
    for release in (True, False):
        shared = conv(6, 6, 3)
        layers, x = [shared, Residual([shared, Relu()], Concat([shared])), shared], normal(2, 6, 5, 7)
        network.forward(layers, x, True)
        found.append(network.backward(layers, np.ones_like(x), release=release))
        assert (shared.x is None) is release
    assert_same(*found)


def test_a_subclass_with_passes_of_its_own_is_called():
    class Scaled(Residual):
        def forward(self, x, train_flg=True):
            return 0.5 * super().forward(x, train_flg)

        def backward(self, dout, *, need_dx=True):
            return super().backward(0.5 * dout, need_dx=need_dx)

    layers, x = [conv(6, 6, 3), Scaled(conv(6, 6, 3)), Tanh()], normal(2, 6, 4, 3)
    network.forward(layers, x, True)
    dx = network.backward(layers, np.ones_like(x), release=True)
    assert all(layer.x is None for layer in network.leaves(layers) if isinstance(layer, Convolution))
    check_gradients(lambda: float(network.forward(layers, x, True).sum()), {"x": x}, {"x": dx}, tolerance=1e-6)


# ---- on a device ----------------------------------------------------------------------------------------------------


def test_on_a_device(cupy):
    """The numbers of the host, the gradient as it was, nothing read; and back."""
    net, x, dout = nested(), normal(4, 2, 4, 5), normal(4, 8, seed=5)
    with backend.use_backend("numpy"):
        twin = copy.deepcopy(net)
        expected, dx = twin.forward(x), twin.backward(dout)
    assert net.to("cuda") is net
    there, dout_there = fastdl.to_device(x, "cuda"), fastdl.to_device(dout, "cuda")
    reads = fake_cupy.state.reads
    out = net.forward(there)
    found = net.backward(dout_there)
    assert fake_cupy.state.reads == reads
    np.testing.assert_allclose(out.host, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.host, dx, rtol=1e-11, atol=1e-13)
    for name, grad in twin.grads.items():
        np.testing.assert_allclose(net.grads[name].host, grad, rtol=1e-11, atol=1e-12, err_msg=name)
    assert_same(dout_there.host, dout)
    assert all(type(p) is np.ndarray for p in net.to("cpu").params.values())


@pytest.mark.parametrize("end", ["relu", "dropout", "nothing"])
def test_the_gradient_stays_as_it_is_on_a_device(cupy, end):
    layer = Residual([conv(17, 17, 3), *ENDS[end]()], [conv(17, 17, 1), *ENDS[end]()])
    twin, x, dout = copy.deepcopy(layer), normal(2, 17, 3, 4), normal(2, 17, 3, 4, seed=1)
    with backend.use_backend("numpy"):
        twin.forward(x, False)
        expected = twin.backward(dout)
    layer.to("cuda")
    x_there, dout_there = fastdl.to_device(x, "cuda"), fastdl.to_device(dout, "cuda")
    layer.forward(x_there, False)
    found = layer.backward(dout_there)
    np.testing.assert_allclose(found.host, expected, rtol=1e-12, atol=1e-14)
    assert_same(dout_there.host, dout)
    assert_same(x_there.host, x)
