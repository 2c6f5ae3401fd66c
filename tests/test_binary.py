"""Binary layers against loops over single signs, binarize, and training of binary networks."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest

import fastdl
from fastdl import backend, network
from fastdl.data import load_digits
from fastdl.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    BinaryAffine,
    BinaryConvolution,
    Convolution,
    Layer,
    Pooling,
    Relu,
)
from fastdl.models import DeepConvNet, LeNet, Model, ResNet, SimpleConvNet
from fastdl.network import Concat, Residual, Sequential
from fastdl.train import Trainer


def sign(v) -> int:
    return 1 if v >= 0 else -1


def windows(x, shape, stride, pad, dilation, groups):
    """For each output (n, k, i, j) and weight (c, r, s): the element of x there, or None for padding."""
    filters, depth, height, width = shape
    top, left = pad
    oh = (x.shape[2] + 2 * top - dilation[0] * (height - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] + 2 * left - dilation[1] * (width - 1) - 1) // stride[1] + 1
    for n, k, i, j in product(range(len(x)), range(filters), range(oh), range(ow)):
        for c, r, s in product(range(depth), range(height), range(width)):
            row, column = i * stride[0] + r * dilation[0] - top, j * stride[1] + s * dilation[1] - left
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                yield (n, k, i, j), (k, c, r, s), (n, k // (filters // groups) * depth + c, row, column)


def values(rng, shape, dtype="float64"):
    """Numbers around the border of the clip, zeros of both signs among them."""
    a = rng.uniform(-1.6, 1.6, shape)
    a.flat[::7], a.flat[1::11], a.flat[2::9], a.flat[3::13] = 0.0, -0.0, 1.0, -1.0
    return a.astype(dtype)


CASES = {
    "plain": ((2, 3, 5, 4), (4, 3, 3, 3), {"pad": 1}),
    "no padding": ((1, 2, 4, 5), (3, 2, 2, 3), {}),
    "strides": ((2, 2, 7, 6), (3, 2, 3, 2), {"stride": (2, 3), "pad": (2, 1)}),
    "dilation": ((1, 2, 7, 8), (2, 2, 3, 2), {"dilation": (2, 3), "pad": (1, 2)}),
    "groups": ((2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "pad": 1}),
    "depthwise": ((1, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "pad": 1}),
}


def two(value):
    return value if isinstance(value, tuple) else (value, value)


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_convolution_is_sums_of_signs(case, rng):
    xs, ws, options = CASES[case]
    x, W, b = values(rng, xs), values(rng, ws), values(rng, ws[:1])
    layer = BinaryConvolution(W, b, **options)
    out = layer.forward(x)
    parts = list(
        windows(
            x,
            ws,
            two(options.get("stride", 1)),
            two(options.get("pad", 0)),
            two(options.get("dilation", 1)),
            options.get("groups", 1),
        )
    )
    sums = np.zeros(out.shape)
    for o, w, i in parts:
        sums[o] += sign(W[w]) * sign(x[i])
    scale = np.abs(W).mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(layer.scale, scale)
    np.testing.assert_array_equal(out, sums * scale[:, None, None] + b[:, None, None])
    assert layer.x is x

    dout = rng.standard_normal(out.shape)
    dx = layer.backward(dout)
    want_dx, by_product = np.zeros(xs), np.zeros(ws)  # by_product: by sign(W) * scale
    for o, w, i in parts:
        want_dx[i] += dout[o] * sign(W[w]) * scale[w[0]] * (abs(x[i]) <= 1)
        by_product[w] += dout[o] * sign(x[i])
    want_dw = np.zeros(ws)
    for w in np.ndindex(ws):
        through_scale = sum(by_product[w[0]][v] * sign(W[w[0]][v]) for v in np.ndindex(ws[1:])) / W[0].size
        want_dw[w] = by_product[w] * scale[w[0]] * (abs(W[w]) <= 1) + through_scale * sign(W[w])
    np.testing.assert_allclose(dx, want_dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.dW, want_dw, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.db, dout.sum(axis=(0, 2, 3)), rtol=1e-12)
    assert (dx[np.abs(x) > 1] == 0).all() and (dx != 0).any()
    dw = layer.dW
    assert layer.backward(dout, need_dx=False) is None
    np.testing.assert_array_equal(layer.dW, dw)


@pytest.mark.parametrize("shape", [(3, 10), (3, 2, 5), (3, 5, 2, 1)])
def test_affine_is_sums_of_signs(shape, rng):
    x, W, b = values(rng, shape), values(rng, (10, 4)), values(rng, 4)
    layer = BinaryAffine(W, b)
    out = layer.forward(x)
    rows, scale = x.reshape(3, 10), np.abs(W).mean(axis=0)
    sums = np.array([[sum(sign(r[i]) * sign(W[i, k]) for i in range(10)) for k in range(4)] for r in rows])
    np.testing.assert_array_equal(out, sums * scale + b)

    dout = rng.standard_normal((3, 4))
    dx = layer.backward(dout)
    by_product = np.array(
        [[sum(sign(r[i]) * d[k] for r, d in zip(rows, dout, strict=True)) for k in range(4)] for i in range(10)]
    )
    signs = np.where(W >= 0, 1, -1)
    want_dw = by_product * scale * (np.abs(W) <= 1) + signs * (by_product * signs).mean(axis=0)
    want_dx = ((dout * scale) @ signs.T * (np.abs(rows) <= 1)).reshape(shape)
    np.testing.assert_allclose(dx, want_dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.dW, want_dw, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.db, dout.sum(axis=0), rtol=1e-12)
    assert layer.original_x_shape == shape


def test_the_gradient_of_the_scale_is_exact(rng):
    """Weights beyond the clip have no other: central differences agree."""
    W = rng.uniform(1.1, 2.0, (2, 3, 3, 3)) * rng.choice([-1, 1], (2, 3, 3, 3))
    x, layer = rng.standard_normal((2, 3, 4, 4)), BinaryConvolution(W, None, pad=1)
    dout = rng.standard_normal(layer.forward(x).shape)
    layer.backward(dout)
    for at in ((0, 0, 0, 0), (1, 2, 1, 0)):
        before, sides = W[at], []
        for h in (1e-5, -1e-5):
            W[at] = before + h
            sides.append((layer.forward(x) * dout).sum())
        W[at] = before
        np.testing.assert_allclose(layer.dW[at], (sides[0] - sides[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("order", ["nchw", "nhwc"])
def test_many_signs_add_up_exactly(order, rng):
    """Up to 576 of them, in the memory orders of images and of layers; counted in bits."""
    x = rng.standard_normal((4, 64, 14, 14)).astype(np.float32)
    x = x if order == "nchw" else np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    W = rng.choice([-1, 1], (32, 64, 3, 3)).astype(np.float32)
    with backend.explain() as log:
        out = BinaryConvolution(W, None, pad=1).forward(x)
    assert {problem.op for problem, _, _ in log.kernels()} == {"pack_bits", "conv2d_binary"}
    exact = fastdl.functional.conv2d(np.where(x >= 0, 1.0, -1.0), W.astype(np.float64), pad=1).round()
    np.testing.assert_array_equal(out, exact.astype(np.float32))
    assert np.abs(out).max() > 60


def test_dtypes(dtype, rng):
    layer = BinaryConvolution(values(rng, (3, 2, 3, 3), dtype), values(rng, 3, dtype), pad=1)
    x = values(rng, (2, 2, 4, 4), dtype)
    out = layer.forward(x)
    dx = layer.backward(out)
    assert {a.dtype for a in (out, dx, layer.dW, layer.db, layer.scale)} == {dtype}
    flat = BinaryAffine(values(rng, (32, 3), dtype), values(rng, 3, dtype))
    out = flat.forward(x)
    dx = flat.backward(out)
    assert {a.dtype for a in (out, dx, flat.dW, flat.db, flat.scale)} == {dtype} and dx.shape == x.shape


def test_mixed_dtypes_follow_numpy(rng):
    layer = BinaryConvolution(values(rng, (3, 2, 3, 3), "float32"), values(rng, 3, "float64"), pad=1)
    x = values(rng, (2, 2, 4, 4), "float64")
    out = layer.forward(x)
    dx = layer.backward(out)
    assert (out.dtype, dx.dtype, layer.dW.dtype, layer.db.dtype) == ("float64", "float64", "float32", "float64")
    out = layer.forward(x > 0)
    assert out.dtype == np.float32
    assert layer.backward(out).dtype == np.float32


@pytest.mark.parametrize(
    "layer", [BinaryConvolution(np.ones((2, 3, 3, 3)), None), BinaryAffine(np.ones((27, 2)), None)]
)
def test_a_layer_is_one_like_any_other(layer, rng):
    x = rng.standard_normal((2, 3, 3, 3))
    with backend.inference():
        expected = layer.forward(x)
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(expected)
    np.testing.assert_array_equal(layer.forward(x), expected)
    layer.backward(expected)
    twin = copy.deepcopy(layer)
    assert twin.x is None and twin.dW is None and layer.dW is not None and layer.db is None
    np.testing.assert_array_equal(twin.forward(x), expected)
    with pytest.raises(ValueError, match="takes"):
        layer.forward(rng.standard_normal((2, 4, 3, 3)))  # as many words as for three channels
    layer.b = np.zeros(1)
    with pytest.raises(ValueError, match=r"b must have shape \(2,\)"):
        layer.forward(x)
    layer.b = None
    assert layer.forward(np.zeros((0, 3, 3, 3))).shape == (0, *expected.shape[1:])


def test_neighbours_are_not_fused_into_something_else(rng):
    """A ReLU behind, or in front: the convolution of the base class would take it."""
    parts = [Relu(), BinaryConvolution(values(rng, (3, 2, 3, 3)), values(rng, 3), pad=1), Relu(), Pooling(2, 2)]
    x = rng.standard_normal((2, 2, 4, 4))
    alone = copy.deepcopy(parts)
    out = x
    for layer in alone:
        out = layer.forward(out)
    np.testing.assert_array_equal(network.forward(parts, x, True), out)
    dout = rng.standard_normal(out.shape)
    dx = dout.copy()
    for layer in reversed(alone):
        dx = layer.backward(dx)
    np.testing.assert_array_equal(network.backward(parts, dout), dx)
    np.testing.assert_array_equal(parts[1].dW, alone[1].dW)


def test_devices_are_refused(cupy):
    layer = BinaryAffine(np.ones((3, 2)), None)
    with pytest.raises(TypeError, match="BinaryAffine takes NumPy arrays"):
        layer.forward(fastdl.to_device(np.ones((2, 3)), "cuda"))
    with pytest.raises(TypeError, match="in host memory"):
        fastdl.binarize(SimpleConvNet(dtype="float32", seed=0).to("cuda"))


# ---- binarize -------------------------------------------------------------------------------------------------------


def kinds(layers) -> list[str]:
    return [type(layer).__name__ for layer in network.leaves(layers)]


def test_deep_convnet_keeps_its_first_and_last_layer():
    net = DeepConvNet(dtype="float32", seed=0)
    before = {name: p.copy() for name, p in net.params.items()}
    found = fastdl.binarize(net)
    assert type(found) is DeepConvNet and found.dtype == np.float32
    short = {"Convolution": "C", "BinaryConvolution": "c", "Affine": "A", "BinaryAffine": "a", "Relu": "r"}
    short |= {"Pooling": "p", "BatchNormalization": "n", "Dropout": "d"}
    assert "".join(short[kind] for kind in kinds(found.layers)) == "CrncrpncrncrpncrncrpnardAd"
    assert set(found.params) == set(net.params) | {f"{name}{n}" for name in ("gamma", "beta") for n in range(1, 7)}
    for name, p in net.params.items():
        np.testing.assert_array_equal(p, before[name])
        np.testing.assert_array_equal(found.params[name], p)
        assert not np.may_share_memory(found.params[name], p)
    assert kinds(net.layers).count("BinaryConvolution") == 0
    norms = [layer for layer in found.layers if isinstance(layer, BatchNormalization)]
    assert [n.gamma.shape for n in norms] == [(16,), (16,), (32,), (32,), (64,), (64,)], "the Affine's is per channel"
    assert all(n.per_channel and n.gamma.dtype == np.float32 for n in norms)
    x = np.random.default_rng(0).random((3, 1, 28, 28)).astype(np.float32)
    assert np.isfinite(found.predict(x)).all()
    loss, grads = found.loss_and_gradient(x, np.array([1, 2, 3]))
    assert np.isfinite(loss) and grads.keys() == found.params.keys()


def test_which_layers_stay_is_a_choice():
    net = LeNet(dtype="float32", seed=0)
    for first, last, wanted in (
        (True, True, "Cccaa"),
        (False, True, "ccca"),
        (True, False, "Ccaa"),
        (False, False, "ccaa"),
    ):
        found = kinds(fastdl.binarize(net, keep_first=first, keep_last=last).layers)
        weighted = [kind for kind in found if "Conv" in kind or "Affine" in kind]
        assert ("Binary" not in weighted[0], "Binary" not in weighted[-1]) == (first, last)
        assert all("Binary" in kind for kind in weighted[1:-1]) and len(weighted) == 5, wanted


def test_layers_in_a_dict_keep_their_names():
    net = SimpleConvNet(dtype="float32", seed=0)
    found = fastdl.binarize(net)
    assert list(found.layers) == ["Conv1", "Relu1", "Pool1", "Affine1_norm", "Affine1", "Relu2", "Affine2"]
    assert type(found.layers["Affine1"]) is BinaryAffine and found.layers["Affine1_norm"].gamma.shape == (30,)
    assert found.params["W2"] is found.layers["Affine1"].W


def test_containers(rng):
    net = Sequential(
        [
            Convolution(rng.random((4, 1, 3, 3)), None, pad=1),
            Residual([Convolution(rng.random((4, 4, 3, 3)), None, pad=1), Relu()], Sequential([Relu()])),
            Concat([[], Convolution(rng.random((2, 4, 1, 1)), None)]),
            BatchNormalization(np.ones(6), np.zeros(6), per_channel=True),
            Convolution(rng.random((4, 3, 3, 3)), None, groups=2),
            AveragePooling(2, 2),
            Affine(rng.random((4, 2)), None),
            Affine(rng.random((2, 2)), None),
        ]
    )
    found = fastdl.binarize(net)
    assert type(found) is Sequential
    short = [kind.replace("BatchNormalization", "n").replace("BinaryConvolution", "c") for kind in kinds([found])]
    assert short == ["Convolution", *"nc", "Relu", "Relu", *"ncnc", "AveragePooling", "n", "BinaryAffine", "Affine"]
    assert [found.params[f"gamma{i}"].shape for i in range(1, 5)] == [(4,), (4,), (6,), (4,)]
    x = rng.standard_normal((5, 1, 4, 4))
    out = found.forward(x)
    assert found.backward(out).shape == x.shape
    inner = fastdl.binarize(net.layers[1], keep_first=False, keep_last=False)
    assert type(inner) is Residual
    assert kinds([inner]) == ["BatchNormalization", "BinaryConvolution", "Relu", "Relu"]


def test_an_affine_behind_unknown_layers_is_normalised_per_element(rng):
    class Mine(Layer):
        """Half of the channels."""

        def forward(self, x):
            return x[:, ::2]

    first, last = Convolution(rng.random((4, 1, 1, 1)), None), Affine(rng.random((2, 2)), None)
    net = Sequential([first, Mine(), Affine(rng.random((8, 2)), None), last])
    norm = fastdl.binarize(net).layers[2]
    assert norm.gamma.shape == (8,) and not norm.per_channel
    assert np.isfinite(fastdl.binarize(net).forward(rng.random((3, 1, 2, 2)))).all()


def test_residual_networks():
    net = ResNet(18, (3, 32, 32), output_size=4, dtype="float32", seed=0)
    found = fastdl.binarize(net)
    assert kinds(found.layers).count("BinaryConvolution") == kinds(net.layers).count("Convolution") - 1
    x = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    assert np.isfinite(found.loss_and_gradient(x, np.array([1, 2]))[0])


def test_what_cannot_be_binarized(rng):
    class Mine(Convolution):
        """Has a pass of its own."""

        def forward(self, x):
            return super().forward(x)

    affine = Affine(rng.random((2, 2)), None)
    with pytest.raises(TypeError, match="takes a Model, Sequential, Residual or Concat, not Affine"):
        fastdl.binarize(affine)
    with pytest.raises(ValueError, match=r"between the first and the last, .* Sequential has 2 in all"):
        fastdl.binarize(Sequential([affine, Relu(), affine]))
    with pytest.raises(ValueError, match="cannot replace a Mine, which has passes of its own"):
        fastdl.binarize(Sequential([affine, Mine(rng.random((2, 2, 1, 1)), None), affine]))
    with pytest.raises(ValueError, match="DeepConvNet is binary already: it has a BinaryConvolution"):
        fastdl.binarize(fastdl.binarize(DeepConvNet(seed=0)))

    class Box(network.Container):
        inside = [affine]  # noqa: RUF012

    with pytest.raises(ValueError, match="cannot look into a Box"):
        fastdl.binarize(Sequential([affine, Box(), affine]))


def test_parameters_are_saved_and_loaded(tmp_path):
    net = fastdl.binarize(SimpleConvNet(dtype="float32", seed=0))
    x = np.random.default_rng(0).random((3, 1, 28, 28)).astype(np.float32)
    net.loss(x, np.array([1, 2, 3]))
    net.save_params(tmp_path / "params.npz")
    other = fastdl.binarize(SimpleConvNet(dtype="float32", seed=1))
    other.load_params(tmp_path / "params.npz")
    np.testing.assert_array_equal(other.predict(x), net.predict(x))
    half = net.astype("float16")
    assert type(half.layers["Affine1"]) is BinaryAffine and half.predict(x).dtype == np.float16


# ---- training -------------------------------------------------------------------------------------------------------


def small() -> Model:
    conv = {"filter_num": 8, "filter_size": 3, "pad": 1, "stride": 1}
    return DeepConvNet((1, 28, 28), *[conv] * 6, hidden_size=20, dtype="float32", seed=0)


def test_training_clips_the_binary_weights_and_learns():
    (x, t), (x_test, t_test) = load_digits(dtype="float32")
    net = fastdl.binarize(SimpleConvNet(dtype="float32", seed=0))
    net.params["W2"][0, :3] = -3.0, 5.0, 1.5
    run = Trainer(net, x, t, x_test, t_test, 2, 50, "Adam", {"lr": 0.003}, verbose=False, seed=0, precision="binary")
    assert run.binary_weights == ["W2"]
    run.train_step()
    assert list(net.params["W2"][0, :3]) == [-1, 1, 1] and np.abs(net.params["W2"]).max() == 1
    run.train()
    assert run.final_test_acc > 0.85
    assert run.loss_scale is None and "skipped_steps" not in run.history[0]


def test_resumed_training_gives_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    x, t = rng.random((20, 1, 28, 28)).astype(np.float32), rng.integers(10, size=20)

    def make(epochs):
        options = {"verbose": False, "seed": 0, "precision": "binary", "output": tmp_path / str(epochs)}
        return Trainer(fastdl.binarize(small()), x, t, x[:5], t[:5], epochs, 8, "Adam", {"lr": 0.01}, **options)

    straight, first, second = make(3), make(1), make(3)
    straight.train()
    first.train()
    second.resume(first.checkpoint_path)
    second.train()
    for name, p in straight.network.params.items():
        np.testing.assert_array_equal(second.network.params[name], p)


def test_a_network_without_binary_layers_is_refused():
    with pytest.raises(ValueError, match=r"this DeepConvNet has no binary layers; fastdl\.binarize\(network\)"):
        Trainer(small(), np.zeros((2, 1, 28, 28)), np.zeros(2, int), [], [], precision="binary")
