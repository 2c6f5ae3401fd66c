"""The precision laboratory: formats, what is measured, and the files of its reports."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import fastdl
from fastdl.data import load_digits
from fastdl.layers import Affine, Convolution, Dropout, Pooling, Relu
from fastdl.models import MLP, DeepConvNet, Model
from fastdl.network import Residual, Sequential
from fastdl.precision import formats, measure, record
from fastdl.precision.formats import FORMATS
from precision_report import report

DOUBLE, SINGLE, HALF = (FORMATS[name] for name in ("float64", "float32", "float16"))


class Small(Model):
    """Two convolutions, one of them beside a shortcut, and a dense layer, on 1x6x6 images."""

    def __init__(self, dtype="float64"):
        super().__init__(dtype)
        rng = np.random.default_rng(1)
        weights = [rng.normal(size=shape).astype(dtype) for shape in ((4, 1, 3, 3), (4, 4, 3, 3), (36, 3))]
        self._assemble(
            (1, 6, 6),
            [
                Sequential([Convolution(weights[0], np.zeros(4, dtype), 1, 1), Relu()]),
                Residual([Convolution(weights[1], np.zeros(4, dtype), 1, 1)]),
                Relu(),
                Pooling(2, 2, 2),
                Affine(weights[2], np.zeros(3, dtype)),
                Dropout(0.5, seed=3),
            ],
        )


@pytest.fixture
def x(rng):
    """Eight images."""
    return rng.random((8, 1, 6, 6), np.float32)


# ---- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if f.kind == formats.STORAGE])
def test_ranges_and_bits_are_those_of_the_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    info, dtype = ml_dtypes.finfo(name), np.dtype(name)
    found = FORMATS[name]
    assert found.bits == 8 * dtype.itemsize and found.significand == info.nmant + 1
    assert math.frexp(float(info.smallest_subnormal))[1] - 1 == found.range.subnormal or name == "float64"
    assert math.frexp(float(info.smallest_normal))[1] - 1 == found.range.normal
    assert math.frexp(float(info.max))[1] == found.range.top


def test_names():
    assert [f.name for f in formats.chosen(["float16", "float64"])] == ["float64", "float16"]
    assert (
        [f.name for f in formats.chosen(["all"])] == list(formats.ALL) == [n for n in FORMATS if n != "float16_rounded"]
    )
    with pytest.raises(ValueError, match="no format 'half'; there are float64, float32"):
        formats.chosen(["half"])
    with pytest.raises(ValueError, match="no format to look at"):
        formats.chosen([])


def test_a_network_in_a_format_is_a_copy(x):
    net = Small()
    before = {name: value.copy() for name, value in net.params.items()}
    rounded = FORMATS["float16_rounded"]
    for format, dtype in ((HALF, "float16"), (SINGLE, "float32"), (rounded, "float64")):
        found = format.network(net, x)
        assert format.images(x).dtype == found.predict(format.images(x)).dtype == dtype
        for name, value in found.params.items():
            assert value.dtype == dtype
            single = before[name].astype(np.float16) if "16" in format.name else before[name].astype(dtype)
            assert np.array_equal(value, single)
    assert np.array_equal(rounded.images(x), x.astype(np.float16))
    assert all(np.array_equal(net.params[name], value) for name, value in before.items())


def test_what_cannot_run_says_why():
    def never(format):
        raise AssertionError(format)

    def refuse(format):
        raise fastdl.backend.KernelError("no kernel\n for it")

    assert "not trained in it" in formats.missing(FORMATS["int8"], formats.TRAIN, never)
    assert formats.missing(HALF, formats.INFER, refuse) == "no kernel for it"
    assert formats.missing(HALF, formats.INFER, lambda format: None) == ""


# ---- measures -------------------------------------------------------------------------------------------------------


def test_classes_of_scores_that_are_no_numbers():
    scores = np.array([[0.0, 2.0, 1.0], [np.nan, 1.0, 0.0], [np.inf, 0.0, 0.0], [3.0, 3.0, 1.0]])
    assert measure.classes(scores).tolist() == [1, -1, 0, 0]


def test_noise_in_decibels():
    reference = np.array([3.0, 4.0])
    assert measure.noise(reference, np.array([3.0, 4.5], np.float32)) == (25.0, 0.25)
    assert record.decibels(25.0, 0.25) == pytest.approx(20.0)
    assert record.decibels(25.0, 0.0) == math.inf
    assert measure.noise(reference, np.array([np.inf, 4.0])) == (25.0, None)
    assert math.isnan(record.decibels(25.0, None)) and math.isnan(record.decibels(0.0, 1.0))


def test_layers_of_a_network_in_order():
    net = Small()
    names = ["conv1", "relu1", "conv2", "add1", "relu2", "pool1", "affine1", "dropout1"]
    assert list(measure.named_layers(net)) == names


def test_signals_are_those_of_layers_called_one_by_one(x):
    net, done = Small(), []
    half = net.astype("float16")
    found = {s.layer: s for s in measure.signals(net, half, (DOUBLE, HALF), x, done.append)}
    assert done == [8] and list(found) == list(measure.named_layers(net))

    def outputs(some, a):
        with fastdl.inference():
            first = Relu().forward(some.layers[0].layers[0].forward(a))
            second = Relu().forward(fastdl.functional.add(some.layers[1].main[0].forward(first), first))
            return {"relu1": first, "relu2": second, "dropout1": some.predict(a)}

    wanted, ours = outputs(net, x.astype(np.float64)), outputs(half, x.astype(np.float16))
    for name, a in wanted.items():
        off = np.sum((ours[name].astype(np.float64) - a) ** 2)
        assert (found[name].signal, found[name].noise) == (np.sum(a**2), off)
    assert 55 < found["conv1"].ratio < 80  # 11 bits
    for layer in measure.named_layers(net).values():
        assert not {"forward", "backward"} & set(vars(layer))


def test_a_layer_that_overflows_has_no_ratio(x):
    net = Small()
    net.params["W1"][...] = 3e4
    half = net.astype("float16")
    found = {s.layer: s for s in measure.signals(net, half, (DOUBLE, HALF), np.ones_like(x), lambda n: None)}
    assert found["conv1"].noise is None and math.isnan(found["conv1"].ratio)


def test_bytes_and_kernels():
    net = MLP(12, (5, 4), 3, dtype="float32", seed=0)
    x = np.zeros((7, 12), np.float32)
    assert measure.weight_bytes(net) == 4 * (12 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3)
    # The ReLU is the dense layer's kernel: 12 -> 5 -> 4 -> 3 numbers.
    assert measure.activation_bytes(net, SINGLE, x[:1]) == (4 * (5 + 4 + 3), 4 * (12 + 5))
    assert measure.activation_bytes(net.astype("float16"), HALF, x[:1]) == (2 * (5 + 4 + 3), 2 * (12 + 5))
    found = measure.kernels(measure.profiled(net, SINGLE, x))
    with fastdl.inference(), fastdl.explain() as log:
        net.predict(x)
    assert [k.label for k in found] == [label for _, label, count in log.kernels() for _ in range(count)]
    assert [k.layer for k in found] == ["affine1", "affine2", "affine3"]


def test_one_layer_reduced(x):
    net = Small("float32")
    before = {name: value.copy() for name, value in net.params.items()}
    layers = measure.named_layers(net)
    with fastdl.inference():
        plain = net.predict(x)
        with measure.reduced(layers["affine1"], HALF):
            assert net.layers[4].W.dtype == np.float16
            found = net.predict(x)
        x4 = net.layers[3].forward(net.layers[2].forward(net.layers[1].forward(net.layers[0].forward(x, False), False)))
        half = Affine(before["W3"].astype(np.float16), before["b3"].astype(np.float16))
        wanted = net.layers[5].forward(half.forward(x4.astype(np.float16)).astype(np.float32), False)
        assert np.array_equal(found, wanted) and not np.array_equal(found, plain)
        assert np.array_equal(net.predict(x), plain)
    assert all(net.params[name] is getattr(net.layers[4], name[0]) for name in ("W3", "b3"))
    assert all(np.array_equal(net.params[name], value) for name, value in before.items())


def test_a_histogram_counts_powers_of_two():
    values = np.array([0.0, 1.0, -1.9, 2.0, 0.25, np.inf, np.nan, -0.0, 1e-3])
    found = measure.histogram("conv1", "W", values)
    assert (found.zeros, found.not_finite, found.nonzero) == (2, 2, 5)
    magnitudes = np.abs([1.0, 1.9, 2.0, 0.25, 1e-3])
    for exponent in range(-15, 6):
        assert found.below(exponent) == np.mean(magnitudes < 2.0**exponent)
        assert found.beyond(exponent) == np.mean(magnitudes >= 2.0**exponent)
    empty = measure.histogram("conv1", "W", np.zeros(3))
    assert (empty.counts, empty.zeros, empty.below(0), empty.beyond(0)) == ([], 3, 0.0, 0.0)


def test_gradients_are_those_of_a_training_pass(x):
    net, t = Small(), np.arange(8) % 3
    found = {(h.layer, h.kind): h for h in measure.gradients(net, x, t)}
    own = net.astype("float32")
    own.loss(x, t)
    dout = own.last_layer.backward(1)
    grads = net.astype("float32").gradient(x, t)  # the same masks: a copy has the counters of the original
    assert found["dropout1", "activation"] == measure.histogram("dropout1", "activation", dout)
    for key, layer, name in (("W1", "conv1", "W"), ("b2", "conv2", "b"), ("W3", "affine1", "W")):
        assert found[layer, name] == measure.histogram(layer, name, grads[key])
    assert {layer for layer, kind in found if kind == "activation"} == set(measure.named_layers(net))


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_report_is_read_as_it_was_written(mode, tmp_path):
    found = report(mode)
    found.save(tmp_path / "a.json")
    assert record.load(tmp_path / "a.json") == found
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    summary = json.loads((tmp_path / "a.json").read_text())["summary"]
    assert [entry["format"] for entry in summary] == ["float64", "float32", "float16", "float16_sums"]
    assert [entry["emulated"] for entry in summary] == [False, False, False, True]


def test_figures_of_a_report():
    found = report()
    half = found.result("float16")
    assert half.inference.accuracy == 188 / 200 and half.inference.agreement == 198 / 200
    assert half.inference.deviation == pytest.approx(math.sqrt(0.94 * 0.06 / 200))
    assert found.seconds(half) == pytest.approx(3.3e-5)
    assert found.fastest_float32() == pytest.approx(2.2e-5)  # what runs by default; the direct one takes 3.1e-5
    assert found.result("int8") is None and len(found.ran) == 4
    trained = report("train").result("float16").training
    assert trained.accuracy == pytest.approx(0.89) and trained.deviation == pytest.approx(math.sqrt(2) / 100)


def broken(change):
    data = report().to_json()
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("schema"), "no report of fastdl precision"),
        (lambda d: d.update(version=2), "version 2; version 1 can be read"),
        (lambda d: d.update(more=1), "more is no field of Report"),
        (lambda d: d["formats"][0]["inference"].pop("right"), r"formats\[0\].inference.right is missing"),
        (lambda d: d["formats"][0]["inference"].update(right="all"), "must be of type int"),
        (lambda d: d["formats"][0]["inference"].update(right=201), "201 images right of 200"),
        (lambda d: d["formats"][1]["inference"].update(right=100), "summary"),
    ],
)
def test_what_is_no_report(change, message):
    with pytest.raises(record.RecordError, match=message):
        record.from_json(broken(change))


def test_lists_of_a_training_have_one_length():
    found = report("train")
    found.formats[0].training = dataclasses.replace(found.formats[0].training, seconds=[1.0])
    with pytest.raises(record.RecordError, match="lists of different lengths"):
        record.from_json(found.to_json())


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A network of the book with trained weights, images to calibrate with, and others."""
    (x, t), (x_test, _) = load_digits(flatten=False, dtype=np.float32)
    net = DeepConvNet(dtype="float32", seed=0)
    fastdl.train.Trainer(
        net, x, t, x[:10], t[:10], epochs=2, mini_batch_size=50, optimizer="Adam", optimizer_param={"lr": 0.001},
        verbose=False, seed=0,
    ).train()  # fmt: skip
    return net, x[:200], x_test[:100]


def test_the_layers_of_a_quantized_network_are_compared_with_their_counterparts(digits):
    net, calibration, x = digits
    double, own = net.astype("float64"), FORMATS["int8"].network(net, calibration)
    found = {s.layer: s.ratio for s in measure.signals(double, own, (DOUBLE, FORMATS["int8"]), x, lambda n: None)}
    # A ReLU is its convolution's work; the dropout behind the last dense layer stays.
    relus, pools = [f"relu{n}" for n in range(1, 8)], [f"pool{n}" for n in range(1, 4)]
    assert set(found) == {*relus, *pools, "affine2"}
    # Eight bits are 50 dB where all steps are used; noise adds up over eight layers.
    assert all(20 < ratio < 60 for ratio in found.values()), found


def test_one_layer_on_bytes(digits):
    net, calibration, x = digits
    own, layers = FORMATS["int8"].network(net, calibration), measure.named_layers(net)
    quantized = measure.named_layers(own)
    with fastdl.inference():
        wanted = net.predict(x)
        for name in ("conv1", "conv4", "affine1", "affine2"):
            with measure.on_bytes(layers[name], quantized[name]):
                found = net.predict(x)
            signal, off = measure.noise(wanted, found)
            assert 25 < record.decibels(signal, off) < 80, name
        assert np.array_equal(net.predict(x), wanted)
