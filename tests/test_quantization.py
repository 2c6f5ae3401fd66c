"""fastdl.quantize: ranges, folded normalisation, bytes between layers, and what a quantized network computes."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import network
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu
from fastdl.layers.quantized import QuantizedAffine, QuantizedConvolution, QuantizedPooling
from fastdl.models import SimpleConvNet
from fastdl.models.base import Model
from fastdl.network import Concat, Residual, Sequential
from fastdl.precision.quantization import BINS, _least_error, _percentile, _steps


class Net(Model):
    """Of given layers."""

    def __init__(self, layers, input_dim=(3, 8, 8)):
        super().__init__(np.float32)
        self._assemble(input_dim, layers)


def conv(k, c, size=3, seed=0, **geometry):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((k, c, size, size)).astype(np.float32) / np.float32(size * c**0.5)
    return Convolution(w, rng.standard_normal(k).astype(np.float32), **geometry)


def affine(inputs, outputs, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((inputs, outputs)).astype(np.float32) / np.float32(inputs**0.5)
    return Affine(w, rng.standard_normal(outputs).astype(np.float32))


def images(n=20, shape=(3, 8, 8), seed=1):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def half_steps(x, layer, quantized):
    """How far a result may be from that of numbers: each factor is half a step off, the bias half a step of the
    sums."""
    step, _ = quantized.x_steps
    weight_steps = quantized.scale.astype(np.float64) / step
    is_conv = isinstance(layer, Convolution)
    w = np.abs(layer.W.reshape(len(layer.W), -1) if is_conv else layer.W.T).sum(1)
    terms, largest = layer.W[0].size if is_conv else len(layer.W), np.abs(x).max()
    products = w * step / 2 + terms * (largest * weight_steps / 2 + step * weight_steps / 4)
    return products + step * weight_steps / 2


@pytest.mark.parametrize("layer", [conv(5, 3, pad=1), conv(6, 1, groups=3, stride=2), affine(192, 7)])
def test_a_layer_is_as_wrong_as_half_steps_allow(layer):
    net, x = Net([layer]), images()
    q = fastdl.quantize(net, x)
    (quantized,) = q.layers
    assert isinstance(quantized, QuantizedConvolution | QuantizedAffine)
    difference = np.abs(q.predict(x).astype(np.float64) - net.predict(x))
    allowed = half_steps(x, layer, quantized) * (1 + 1e-5)  # float32 results
    over = difference.reshape(len(x), len(allowed), -1).max(axis=(0, 2)) / allowed
    assert over.max() <= 1
    assert over.max() > 0.01  # it did compute with bytes


def test_between_layers_there_are_bytes():
    net = Net([conv(8, 3, pad=1), Relu(), Pooling(2, 2, 2), conv(6, 8, seed=1), Relu(), affine(24, 10), Relu(),
    Dropout(0.5),
               affine(10, 4)])  # fmt: skip
    q = fastdl.quantize(net, images())
    kinds = [type(layer) for layer in q.layers]
    assert kinds == [QuantizedConvolution, QuantizedPooling, QuantizedConvolution, QuantizedAffine, QuantizedAffine]
    x = images(3)
    seen = []
    for layer in q.layers:
        x = layer.forward(x)
        seen.append(x.dtype)
    assert seen == [np.uint8] * 4 + [np.float32]
    assert {a.dtype.name for a in q.params.values()} == {"int8", "int32", "float32"}
    scores, exact = q.predict(images(3)), net.predict(images(3))
    assert np.abs(scores - exact).max() < 0.05 * np.abs(exact).max()
    assert np.array_equal(scores, x)


def test_the_rows_of_an_affine_layer_follow_the_bytes_of_an_image():
    """Every row of W its own size: another order of the flattened image would show."""
    layer = affine(3 * 4 * 5, 2)
    layer.W *= np.float32(1.1) ** np.arange(60, dtype=np.float32)[:, None]
    net, x = Net([Relu(), layer], (3, 4, 5)), images(9, (3, 4, 5))
    q = fastdl.quantize(net, x)
    allowed = half_steps(x, layer, q.layers[1]) * (1 + 1e-5)
    assert (np.abs(q.predict(x) - net.predict(x)) <= allowed).all()


def test_batch_normalisation_is_folded():
    norm = BatchNormalization(
        np.float32([1, 2, 0.5, 3]), np.float32([0, 1, -1, 2]), running_mean=np.arange(4.0), running_var=np.arange(1.0,
        5.0), per_channel=True,
    )  # fmt: skip
    flat = BatchNormalization(np.float32([2, 3]), np.float32([1, 0]), running_mean=np.ones(2), running_var=np.ones(2))
    net = Net([conv(4, 3, pad=1), norm, Relu(), affine(256, 2), flat])
    q = fastdl.quantize(net, images())
    assert [type(layer) for layer in q.layers] == [QuantizedConvolution, QuantizedAffine]
    x = images(4)
    assert np.abs(q.predict(x) - net.predict(x)).max() < 0.05 * np.abs(net.predict(x)).max()
    assert net.layers[1] is norm  # the network itself is as it was


def test_a_normalisation_of_each_pixel_stays():
    norm = BatchNormalization(
        np.ones(256, np.float32), np.zeros(256, np.float32), running_mean=np.zeros(256), running_var=np.ones(256)
    )
    net = Net([conv(4, 3, pad=1), norm, affine(256, 2)])
    assert [type(layer) for layer in fastdl.quantize(net, images()).layers] == [
        QuantizedConvolution, BatchNormalization, QuantizedAffine]  # fmt: skip


def test_containers():
    inner = Residual([conv(4, 4, pad=1), Relu(), conv(4, 4, seed=1, pad=1)], [conv(4, 4, 1, seed=2)])
    net = Net(
        [
            conv(4, 3, pad=1),
            Relu(),
            inner,
            Relu(),
            Concat([[conv(2, 4, 1)], Sequential([Pooling(1, 1, 1)])]),
            affine(384, 3),
        ]
    )
    q, x = fastdl.quantize(net, images(40)), images(5)
    computed = [
        layer for layer in network.leaves(q.layers) if isinstance(layer, QuantizedConvolution | QuantizedAffine)
    ]
    assert len(computed) == 6
    assert not any(isinstance(layer, Convolution | Affine) for layer in network.leaves(q.layers))
    assert np.abs(q.predict(x) - net.predict(x)).max() < 0.05 * np.abs(net.predict(x)).max()


def test_first_and_last_may_stay_numbers():
    net = SimpleConvNet((1, 8, 8), {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}, 12, 10, dtype="float32")
    x = images(10, (1, 8, 8))
    kinds = lambda **which: [type(a) for a in network.leaves(fastdl.quantize(net, x, **which).layers)]  # noqa: E731
    assert Convolution in kinds(first="float32")
    assert Affine not in kinds(first="float32")
    assert kinds(last="float32")[-1] is Affine
    assert kinds(first="float32", last="float32").count(QuantizedAffine) == 1


def test_ranges():
    assert _steps(0.0, 255.0) == (1.0, 0)
    assert _steps(-1.0, 1.0) == (pytest.approx(2 / 255), 128)
    assert _steps(0.0, 0.0) == (1.0, 0)
    edges = np.linspace(0.0, 100.0, BINS + 1)
    counts = np.zeros(BINS)
    counts[: BINS // 10] = 1000.0  # nearly everything below 10
    counts[-1] = 1.0
    low, high = _percentile(counts, edges, 99.0)
    assert low == 0
    assert 9 < high < 10.1
    assert 10 < _least_error(counts, edges, 0.0)[1] < 100  # one clipped value costs less than coarser steps for all
    counts[-1] = 1e6  # as many at the end: nothing is clipped
    assert _least_error(counts, edges, 0.0) == (0.0, 100.0)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_methods(method):
    net, x = Net([conv(4, 3, pad=1), Relu(), affine(256, 3)]), images(30)
    q = fastdl.quantize(net, x, method=method, batch_size=7)
    assert np.abs(q.predict(x) - net.predict(x)).max() < 0.2 * np.abs(net.predict(x)).max()


def test_a_binary_network_is_stored_in_bits():
    net = Net([conv(8, 3, pad=1), Relu(), conv(40, 8, seed=1), Relu(),
               affine(40 * 36, 12), Relu(), affine(12, 4)])  # fmt: skip
    binary = fastdl.binarize(net)
    x = images(6)
    binary.loss(x, np.zeros(6, int))  # running statistics
    packed = fastdl.quantize(binary, None, "binary")
    assert np.array_equal(packed.predict(x), binary.predict(x))
    kinds = [type(layer).__name__ for layer in packed.layers]
    assert kinds.count("PackedConvolution") == kinds.count("PackedAffine") == 1
    words = sum(a.nbytes for a in packed.params.values() if a.dtype == np.uint32)
    assert words == 40 * 9 * 4 + 12 * 45 * 4  # 8 channels are a word, 1,440 inputs are 45
    with pytest.raises(ValueError, match="no binary layer to pack"):
        fastdl.quantize(net, None, "binary")


def test_errors():
    net, x = Net([conv(4, 3), Relu(), affine(144, 3)]), images(5)
    for call, kind, text in [
        (lambda: fastdl.quantize(net, x, "int4"), ValueError, "format must be 'int8' or 'binary', not 'int4'"),
        (lambda: fastdl.quantize(net, x, method="max"), ValueError, "'minmax' or 'percentile' or 'mse'"),
        (lambda: fastdl.quantize(net, x[:0]), ValueError, "needs images"),
        (lambda: fastdl.quantize(net, x * np.nan), ValueError, "not finite"),
        (lambda: fastdl.quantize(net, x, percentile=10), ValueError, "percentile"),
        (lambda: fastdl.quantize(Net([Relu()]), x), ValueError, "no convolution and no affine layer"),
        (lambda: fastdl.quantize(net.layers, x), TypeError, "takes a network of fastdl.models, not a list"),
        (lambda: fastdl.quantize(fastdl.quantize(net, x), x), TypeError, "quantized already"),
        (lambda: fastdl.quantize(net, x).gradient(x, np.zeros(5, int)), TypeError, "for inference"),
        (lambda: fastdl.quantize(net, x).load_params("x.npz"), TypeError, "load them into the network"),
        (lambda: fastdl.quantize(Net([affine(70_000, 2)], (70_000,)), images(2, (70_000,))), ValueError,
        "sums 70000 products"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=text):
            call()
