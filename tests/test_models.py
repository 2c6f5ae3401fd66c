"""DeepConvNet and SimpleConvNet: the book's numbers, dtypes, memory, files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import functional
from fastdl.data import save_arrays
from fastdl.initializers import fan_in, he, normal, xavier
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, SoftmaxWithLoss
from fastdl.models import DeepConvNet, Model, SimpleConvNet
from fastdl.network import named_params
from numerical import central_differences

DEEP_SHAPES = {
    "W1": (16, 1, 3, 3),
    "W2": (16, 16, 3, 3),
    "W3": (32, 16, 3, 3),
    "W4": (32, 32, 3, 3),
    "W5": (64, 32, 3, 3),
    "W6": (64, 64, 3, 3),
    "W7": (1024, 50),
    "W8": (50, 10),
}
SIMPLE_SHAPES = {"W1": (30, 1, 5, 5), "W2": (4320, 100), "W3": (100, 10)}


def images(n: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(n).random((n, 1, 28, 28)).astype(dtype)


def labels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 10, n)


# ---- the book's numbers ---------------------------------------------------------------------------------------------


def test_deep_convnet_draws_the_books_weights():
    np.random.seed(5)
    net = DeepConvNet()
    after = np.random.rand()
    np.random.seed(5)
    fans = [1 * 9, 16 * 9, 16 * 9, 32 * 9, 32 * 9, 64 * 9, 64 * 16, 50]
    expected = {
        name: np.sqrt(2.0 / np.array(fans))[i] * np.random.randn(*shape)
        for i, (name, shape) in enumerate(DEEP_SHAPES.items())
    }
    assert np.random.rand() == after
    assert list(net.params) == [name for i in range(1, 9) for name in (f"W{i}", f"b{i}")]
    for i in range(1, 9):
        np.testing.assert_array_equal(net.params[f"W{i}"], expected[f"W{i}"])
        np.testing.assert_array_equal(net.params[f"b{i}"], np.zeros(DEEP_SHAPES[f"W{i}"][0 if i < 7 else 1]))
    assert all(p.dtype == np.float64 for p in net.params.values())


def test_simple_convnet_draws_the_books_weights():
    np.random.seed(5)
    net = SimpleConvNet()
    np.random.seed(5)
    assert list(net.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    for name, shape in SIMPLE_SHAPES.items():
        np.testing.assert_array_equal(net.params[name], 0.01 * np.random.randn(*shape))
    assert list(net.layers) == ["Conv1", "Relu1", "Pool1", "Affine1", "Relu2", "Affine2"]


def test_deep_convnet_layers_are_the_books():
    net = DeepConvNet()
    block = [Convolution, Relu, Convolution, Relu, Pooling]
    assert [type(layer) for layer in net.layers] == block * 3 + [Affine, Relu, Dropout, Affine, Dropout]
    for number, index in enumerate((0, 2, 5, 7, 10, 12, 15, 18), start=1):
        assert net.layers[index].W is net.params[f"W{number}"]
        assert net.layers[index].b is net.params[f"b{number}"]
    assert isinstance(net.last_layer, SoftmaxWithLoss)
    assert [net.layers[i].pad for i in (0, 2, 5, 7, 10, 12)] == [1, 1, 1, 2, 1, 1]


def plain_scores(params, x, pads, masks=None):
    """The book's network in plain NumPy; ``masks`` of the two dropouts, or their prediction."""

    def conv_relu(x, number):
        pad = pads[number - 1]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0)] * 2 + [(pad, pad)] * 2), (3, 3), (2, 3))
        out = np.einsum("nchwrs,kcrs->nkhw", windows, params[f"W{number}"], optimize=True)
        return np.maximum(out + params[f"b{number}"][:, None, None], 0)

    def dropout(x, i):
        return x * 0.5 if masks is None else x * masks[i]

    for block in range(3):
        x = conv_relu(conv_relu(x, 2 * block + 1), 2 * block + 2)
        n, c, h, w = x.shape
        x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    x = np.maximum(x.reshape(len(x), -1) @ params["W7"] + params["b7"], 0)
    return dropout(dropout(x, 0) @ params["W8"] + params["b8"], 1)


def test_deep_convnet_computes_what_the_book_computes():
    net, x, t = DeepConvNet(), images(3), labels(3)
    pads = (1, 1, 1, 2, 1, 1)
    np.testing.assert_allclose(net.predict(x), plain_scores(net.params, x, pads), atol=1e-10)
    np.random.seed(3)
    masks = np.random.rand(3, 50) > 0.5, np.random.rand(3, 10) > 0.5
    scores = plain_scores(net.params, x, pads, masks)
    y = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.random.seed(3)
    np.testing.assert_allclose(net.loss(x, t), -np.log(y[np.arange(3), t] + 1e-7).mean(), rtol=1e-10)


def test_deep_convnet_of_another_size():
    param = {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}
    net = DeepConvNet((3, 9, 8), param, param, param, param, param, param, hidden_size=7, output_size=5)
    assert net.params["W7"].shape == (4 * 1 * 1, 7)
    assert net.predict(np.zeros((2, 3, 9, 8))).shape == (2, 5)
    np.random.seed(0)
    w = DeepConvNet((3, 28, 28)).params["W1"]
    np.random.seed(0)
    np.testing.assert_array_equal(w, np.sqrt(2 / 27) * np.random.randn(16, 3, 3, 3))


# ---- gradients ------------------------------------------------------------------------------------------------------


def exact_loss(net, x, t):
    """Without the 1e-7 that the book's loss has and its gradient has not."""
    scores = net.predict(x, train_flg=True)
    return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(t)), t]).mean())


def test_gradients_of_deep_convnet_agree_with_central_differences():
    param = {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 1}
    np.random.seed(1)
    net = DeepConvNet((1, 9, 9), param, param, param, {**param, "pad": 2}, param, param, hidden_size=6, output_size=3)
    rng = np.random.default_rng(0)
    for name, p in net.params.items():
        p += 0.2 * rng.random(p.shape) if name.startswith("b") else 0
    x, t = rng.random((5, 1, 9, 9)), rng.integers(0, 3, 5)

    def loss():
        np.random.seed(1)
        return exact_loss(net, x, t)

    np.random.seed(1)
    value, grads = net.loss_and_gradient(x, t)
    np.testing.assert_allclose(value, loss(), atol=1e-5)
    assert list(grads) == list(net.params)
    for name, p in net.params.items():
        expected = central_differences(loss, p)
        np.testing.assert_allclose(grads[name], expected, atol=1e-7, err_msg=name)
    assert np.abs(grads["W1"]).max() > 1e-3, "a dead network proves nothing"


def test_gradients_of_simple_convnet_agree_with_central_differences():
    conv = {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 1}
    net = SimpleConvNet((1, 6, 6), conv, hidden_size=5, output_size=3, weight_init_std=0.5)
    rng = np.random.default_rng(0)
    x, t = rng.random((4, 1, 6, 6)), rng.integers(0, 3, 4)
    grads = net.gradient(x, t)
    for name, p in net.params.items():
        expected = central_differences(lambda: exact_loss(net, x, t), p)
        np.testing.assert_allclose(grads[name], expected, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("make", [DeepConvNet, SimpleConvNet])
def test_gradients_stay_valid_after_the_next_call(make):
    net = make(seed=1)
    first = net.gradient(images(4), labels(4))
    kept = copy.deepcopy(first)
    second = net.gradient(images(5), labels(5))
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])
        assert np.abs(first[name] - second[name]).max() > 0
        assert not any(np.shares_memory(first[name], other) for other in (*second.values(), *net.params.values()))


def test_parameters_updated_in_place_are_the_layers():
    net, x = SimpleConvNet(seed=0), images(2)
    before = net.predict(x)
    for p in net.params.values():
        p += 0.01
    assert np.abs(net.predict(x) - before).max() > 1e-3


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_float64_parameters_give_float64_results():
    net = SimpleConvNet()
    assert net.dtype is None
    assert net.predict(images(2, "float32")).dtype == np.float64
    assert net.gradient(images(2, "float32"), labels(2))["W1"].dtype == np.float64


@pytest.mark.parametrize("make", [DeepConvNet, SimpleConvNet])
def test_float32_is_asked_for_once(make):
    net = make(dtype="float32", seed=0)
    one_hot = np.eye(10)[labels(3)]
    for x in (images(3), images(3, "float32"), (images(3) * 255).astype(np.uint8)):
        assert net.predict(x).dtype == np.float32
        grads = net.gradient(x, one_hot)
        assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    wide = make(seed=0)
    for name, p in wide.params.items():
        np.testing.assert_array_equal(net.params[name], p.astype(np.float32))


def test_default_dtype():
    fastdl.set_default_dtype("float32")
    try:
        net = SimpleConvNet()
    finally:
        fastdl.set_default_dtype(None)
    assert net.dtype == np.float32
    assert net.predict(images(2)).dtype == np.float32
    assert SimpleConvNet().predict(images(2)).dtype == np.float64


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-2), ("bfloat16", 3e-1)])
def test_cast_changes_parameters_and_inputs(dtype, tolerance):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    net = SimpleConvNet(seed=0, weight_init_std=0.05)
    expected = net.predict(images(3))
    net.cast(dtype)
    assert {p.dtype for p in net.params.values()} == {net.dtype} == {np.dtype(dtype)}
    assert net.layers["Conv1"].W is net.params["W1"]
    scores = net.predict(images(3))
    assert scores.dtype == net.dtype
    np.testing.assert_allclose(scores.astype(np.float64), expected, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_astype_gives_a_copy(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    net = WithBatchNorm()
    net.loss(np.random.default_rng(0).random((5, 4)), np.arange(5) % 3)
    before = {name: p.copy() for name, p in net.params.items()}
    other = net.astype(dtype)
    assert type(other) is WithBatchNorm and other.dtype == np.dtype(dtype)
    assert all(other.layers[i].x is None for i in (0, 2)) and net.layers[0].x is not None, "no activations"
    for name, p in other.params.items():
        assert p.dtype == np.dtype(dtype) and not np.may_share_memory(p, net.params[name])
        np.testing.assert_array_equal(p, before[name].astype(dtype))
        p[...] = 0
    assert other.layers[0].W is other.params["W1"]
    assert (other.layers[3].seed, other.layers[3].step) == (7, 1)
    norm, mine = other.layers[1], net.layers[1]
    np.testing.assert_array_equal(norm.running_mean, mine.running_mean)
    assert norm.running_mean.any() and not np.may_share_memory(norm.running_mean, mine.running_mean)
    for name, p in net.params.items():
        np.testing.assert_array_equal(p, before[name])
    with pytest.raises(TypeError, match="int8"):
        net.astype("int8")


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="int32"):
        SimpleConvNet(dtype="int32")


# ---- seeds ----------------------------------------------------------------------------------------------------------


def test_a_seed_leaves_numpys_global_stream_alone():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    net = DeepConvNet(seed=3)
    loss = net.loss(images(4), labels(4))
    assert np.random.rand() == expected
    twin = DeepConvNet(seed=3)
    for name, p in net.params.items():
        np.testing.assert_array_equal(twin.params[name], p)
    assert twin.loss(images(4), labels(4)) == loss
    assert np.abs(DeepConvNet(seed=4).params["W1"] - net.params["W1"]).max() > 0
    assert net.layers[17].seed != net.layers[19].seed


# ---- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 7, 10, 100])
def test_accuracy_counts_every_image(batch_size):
    net, x = SimpleConvNet(seed=0), images(10)
    t = net.predict(x).argmax(axis=1)
    t[[2, 9]] += 1
    assert net.accuracy(x, t, batch_size) == 0.8
    assert net.accuracy(x, t[:, None], batch_size) == 0.8
    assert net.accuracy(x, np.eye(11)[t], batch_size=batch_size) == 0.8
    assert net.layers["Conv1"].x is None, "nothing is kept"


def test_accuracy_of_nothing_and_of_a_mismatch():
    net = SimpleConvNet(seed=0)
    assert np.isnan(net.accuracy(images(0), labels(0)))
    with pytest.raises(ValueError, match="3 images have 2 labels"):
        net.accuracy(images(3), labels(2))


# ---- files and copies -----------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    net, x = DeepConvNet(seed=0), images(2)
    net.save_params(tmp_path / "params.npz")
    other = DeepConvNet(seed=1)
    other.load_params(tmp_path / "params.npz")
    np.testing.assert_array_equal(other.predict(x), net.predict(x))
    assert other.params["W8"] is other.layers[18].W
    assert other.params.keys() == named_params(other.layers).keys()
    narrow = DeepConvNet(dtype="float32")
    narrow.load_params(tmp_path / "params.npz")
    assert {p.dtype for p in narrow.params.values()} == {np.dtype(np.float32)}


def test_book_pickles_are_read(tmp_path):
    net = SimpleConvNet(seed=0)
    with open(tmp_path / "params.pkl", "wb") as file:
        pickle.dump({name: p + 1 for name, p in net.params.items()}, file)
    expected = net.params["W2"] + 1
    net.load_params(tmp_path / "params.pkl")
    np.testing.assert_array_equal(net.layers["Affine1"].W, expected)


def test_a_name_that_ends_in_pkl_gets_an_archive_and_a_warning(tmp_path):
    path = tmp_path / "params.pkl"
    net = SimpleConvNet(seed=0)
    with pytest.warns(UserWarning, match=r"params\.pkl will be an \.npz archive"):
        net.save_params(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["params.pkl"]
    other = SimpleConvNet(seed=1)
    other.load_params(path)
    np.testing.assert_array_equal(other.params["W1"], net.params["W1"])


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "params.npz"
    net = SimpleConvNet(seed=0)
    before = copy.deepcopy(net.params)
    DeepConvNet(seed=0).save_params(path)
    with pytest.raises(ValueError, match=r"params\.npz: .*W4 is not a parameter"):
        net.load_params(path)
    save_arrays(path, {**net.params, "b2": np.zeros(3)})
    with pytest.raises(ValueError, match=r"b2 is \(3,\) and not \(100,\)"):
        net.load_params(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"params\.npz"):
        net.load_params(path)
    with pytest.raises(FileNotFoundError):
        net.load_params(tmp_path / "absent.npz")
    for name, p in before.items():
        np.testing.assert_array_equal(net.params[name], p)


class WithBatchNorm(Model):
    """Two Affine layers with a batch normalisation and a dropout between them."""

    def __init__(self, seed=0):
        super().__init__("float64")
        rng = np.random.default_rng(seed)
        self.layers = [
            Affine(rng.random((4, 3)), np.zeros(3)),
            BatchNormalization(np.ones(3), np.zeros(3)),
            Affine(rng.random((3, 3)), np.zeros(3)),
            Dropout(0.5, seed=7),
        ]
        self.last_layer = SoftmaxWithLoss()
        self.params = named_params(self.layers)


def test_running_statistics_are_saved(tmp_path):
    net, x = WithBatchNorm(0), np.random.default_rng(1).random((5, 4))
    net.gradient(x, np.zeros(5, int))
    net.save_params(tmp_path / "params.npz")
    other = WithBatchNorm(1)
    other.load_params(tmp_path / "params.npz")
    np.testing.assert_array_equal(other.predict(x), net.predict(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_independent(duplicate):
    net, x = DeepConvNet(seed=0), images(2)
    expected = net.predict(x)
    twin = duplicate(net)
    for p in net.params.values():
        p *= 2
    np.testing.assert_array_equal(twin.predict(x), expected)
    assert all(twin.params[name] is p for name, p in named_params(twin.layers).items())


def test_inference_predicts_the_same():
    net, x = DeepConvNet(seed=0), images(2)
    expected = net.predict(x)
    with fastdl.inference():
        np.testing.assert_array_equal(net.predict(x), expected)
    assert net.layers[0].x is None


# ---- initializers ---------------------------------------------------------------------------------------------------


def test_initializers():
    assert fan_in((16, 3, 5, 4)) == 60
    assert fan_in((7, 9)) == 7
    with pytest.raises(ValueError, match="two dimensions"):
        fan_in((3,))
    for draw, scale in ((he, np.sqrt(2 / 50)), (xavier, np.sqrt(1 / 50)), (normal, 0.01)):
        w = draw((50, 400), rng=np.random.default_rng(0))
        assert abs(w.std() / scale - 1) < 0.02
        assert w.dtype == np.float64
        np.testing.assert_array_equal(draw((50, 400), dtype="float32", rng=np.random.default_rng(0)), w.astype("f4"))
        np.random.seed(0)
        first = draw((5, 4))
        np.random.seed(0)
        assert first.shape == (5, 4)
        np.testing.assert_allclose(first, np.random.randn(5, 4) * first[0, 0] / 1.764052345967664, rtol=1e-12)


def test_which_kernels_ran_is_known():
    log = fastdl.explain(SimpleConvNet(seed=0).predict, images(1))
    assert "conv2d forward" in log
    assert functional is not None
