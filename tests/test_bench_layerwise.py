"""fastdl bench: rows, times, checks and absentees of a network that is measured layer by layer."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fake_cupy
import fastdl
from fastdl import backend
from fastdl.bench import layerwise, nets, participants, peak
from fastdl.bench.layerwise import Plan, Reporter
from fastdl.bench.participants import Ours, Setting
from fastdl.bench.record import FmaPeak, Peaks, Triad, load
from fastdl.kernels import registry
from fastdl.layers import Affine, AveragePooling, BatchNormalization, Convolution, Layer, Pooling, Relu
from fastdl.models import DeepConvNet
from fastdl.network import Concat, Residual, Sequential

HERE = next(name for name in ("cython", "numba", "numpy") if not backend.missing(name))


def small_deep_convnet():
    param = {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}
    return DeepConvNet((1, 16, 16), *[param] * 6, hidden_size=6, output_size=5, dtype="float32", seed=1)


def weights(*shape):
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype("float32") / 3


def branched():
    """Every kind of layer that PyTorch has as well, and every container."""
    main = [Convolution(weights(4, 4, 3, 3), weights(4), pad=(1, 1, 0, 2)), Relu()]
    norm = BatchNormalization(np.ones(4, "float32"), np.zeros(4, "float32"), per_channel=True)
    shortcut = [Convolution(weights(4, 4, 1, 1), None), norm]
    pool = Sequential([Pooling(3, 3, stride=1, pad=1), Convolution(weights(2, 4, 1, 1), weights(2))])
    average = [AveragePooling(3, 3, stride=1, pad=1)]
    return Sequential(
        [
            Residual(main, shortcut),
            Concat([[pool], average, []]),
            Residual([Relu()]),
            Affine(weights(10 * 6 * 6, 3), weights(3)),
        ]
    )


@pytest.fixture
def made(monkeypatch):
    """Small networks under the names "deep" and "branched"."""

    def make(name, dtype):
        net, image = {"deep": (small_deep_convnet(), (1, 16, 16)), "branched": (branched(), (4, 6, 6))}[name]
        return nets.Network(name, net, image, 4)

    monkeypatch.setattr(layerwise, "make", make)


def run(plan, reporter=None):
    return layerwise.run(plan, layerwise.first_network(plan), reporter or Reporter(), ["fastdl", "bench"])


def rows(record, participant, direction):
    return [m for m in record.measurements if (m.participant, m.direction) == (participant, direction)]


QUICK = {"backends": (HERE,), "rounds": 2, "seconds": 0.0, "threads": (1,)}
ME = f"fastdl {HERE}"


# ---- the record -----------------------------------------------------------------------------------------------------


def test_every_layer_has_a_row_or_is_part_of_one(made, tmp_path):
    record = run(Plan("deep", passes=("inference", "forward", "backward"), **QUICK))
    assert record.complete and not record.absent
    *parts, whole = rows(record, ME, "forward")
    names = [name for m in parts for name in m.settings["layers"]]
    assert names == [
        *["conv1", "relu1", "conv2", "relu2", "pool1", "conv3", "relu3", "conv4", "relu4", "pool2"],
        *["conv5", "relu5", "conv6", "relu6", "pool3", "affine1", "relu7", "dropout1", "affine2", "dropout2", "loss1"],
    ]
    assert [m.settings["index"] for m in parts] == list(range(len(parts)))
    assert whole.case == "deep" and whole.group == "total" and whole.settings["first_call"] > 0
    assert whole.flop == sum(m.flop for m in parts)
    assert {m.group for m in parts} >= {"convolution", "dense", "dropout", "loss"}
    (conv1,) = (m for m in parts if m.case == "deep/conv1")
    assert conv1.op == "conv2d" and conv1.kernels and conv1.kernels[0].startswith("conv2d forward")
    assert conv1.settings["parameter_bytes"] == 4 * (4 * 9 + 4)
    assert conv1.settings["output_shape"] == [4, 4, 16, 16] and conv1.settings["output_bytes"] == 4 * 4 * 4 * 256
    for direction in ("inference", "backward"):
        *parts, whole = rows(record, ME, direction)
        assert len(parts) >= 8 and whole.case == "deep"
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json").measurements == record.measurements


def test_layers_that_share_a_kernel_are_one_row(made):
    record = run(Plan("deep", passes=("forward",), **QUICK))
    found = {m.case: m.settings["layers"] for m in rows(record, ME, "forward") if "layers" in m.settings}
    assert found["deep/conv1"] == ["conv1", "relu1"]
    assert found["deep/affine1"] == ["affine1", "relu7"]
    assert "deep/relu1" not in found


def test_every_combination_is_measured(made):
    plan = Plan(
        "deep", batches=(1, 3), dtypes=("float32", "float64"), passes=("forward",), **QUICK | {"threads": (1, 2)}
    )
    record = run(plan)
    wholes = [m for m in record.measurements if m.group == "total"]
    found = {(m.settings["batch"], m.dtype, m.threads) for m in wholes}
    assert found == {(b, d, n) for b in (1, 3) for d in ("float32", "float64") for n in (1, 2)}
    assert len(wholes) == 8


def test_backends_are_compared_and_side_by_side(made):
    if HERE == "numpy":
        pytest.skip("there is but one backend")
    record = run(Plan("branched", **QUICK | {"backends": (HERE, "numpy")}))
    for direction in ("forward", "backward"):
        ours, reference = rows(record, ME, direction), rows(record, "fastdl numpy", direction)
        assert {m.case for m in ours} == {m.case for m in reference}
        assert all(m.check is None for m in ours)
        assert all(m.check.passed and m.check.against == ME for m in reference)
    cases = {m.case for m in record.measurements}
    assert {"branched/add1", "branched/concat1", "branched/add2", "branched/bn1", "branched/avgpool1"} <= cases


def test_who_computes_something_else_is_not_timed(made, monkeypatch):
    if HERE == "numpy":
        pytest.skip("there is but one backend")
    results = Ours.results

    def wrong(self, images, moved=False):
        found = results(self, images, moved)
        if self.backend == "numpy":
            found["scores"] = found["scores"] * 1.001
        return found

    monkeypatch.setattr(Ours, "results", wrong)
    record = run(Plan("deep", **QUICK | {"backends": (HERE, "numpy")}))
    assert {m.participant for m in record.measurements} == {ME}
    assert "may be" in record.absent["fastdl numpy"]


def test_who_is_not_here_is_absent(made):
    record = run(Plan("deep", devices=("cpu", "cuda"), passes=("forward",), **QUICK))
    if reason := backend.missing("cuda"):
        assert record.absent == {"fastdl cuda": reason}
    assert rows(record, ME, "forward")


def test_nobody_here_is_an_empty_record(made, monkeypatch):
    monkeypatch.setattr(participants.backend, "missing", lambda name: "gone")
    record = run(Plan("deep", **QUICK))
    assert not record.measurements and record.absent == {ME: "gone"}


def test_an_interrupt_keeps_what_was_measured(made):
    class Impatient(Reporter):
        turns = 0

        def advance(self, seconds):
            self.turns += 1
            if self.turns == 3:
                raise KeyboardInterrupt

    plan = Plan("deep", batches=(1, 2, 3), passes=("forward",), **QUICK)
    record = run(plan, Impatient())
    assert not record.complete
    assert {m.settings["batch"] for m in record.measurements} == {1, 2}


def test_each_setting_is_reported_when_it_is_done(made):
    class Keeping(Reporter):
        def __init__(self):
            self.counts = []

        def measured(self, record):
            self.counts.append(len({m.settings["batch"] for m in record.measurements}))

    keeping = Keeping()
    run(Plan("deep", batches=(1, 2), passes=("forward",), **QUICK), keeping)
    assert keeping.counts == [1, 2]


def test_statistics_stay_as_they_are_for_the_comparison():
    net = nets.Network("branched", branched(), (4, 6, 6), 4)
    norm, (x, _) = net.net.layers[0].shortcut[1], net.data(4, "float32")
    with net.kept_statistics():
        net.net.forward(x, True)
        assert norm.running_mean is not None
    assert norm.running_mean is None
    net.net.forward(x, True)
    before = norm.running_mean.copy()
    with net.kept_statistics():
        net.net.forward(x, True)
        assert not np.array_equal(norm.running_mean, before)
    assert np.array_equal(norm.running_mean, before)


def test_the_better_of_two_measurements_of_the_peak():
    def peaks(gflops, gbps, way):
        return Peaks([FmaPeak("v4", "float32", 2, [gflops, 1.0])], [Triad(24, 2, [gbps], [gbps / 2])], way)

    best = peak.best(peaks(400.0, 10.0, 3e-8), peaks(200.0, 30.0, None))
    assert best.gflops("v4", "float32", 2) == 400.0
    assert best.gbps(24, 2) == 30.0
    assert best.core_to_core == 3e-8
    assert peak.best(None, best) is best and peak.best(best, None) is best and peak.best(None, None) is None


def test_no_dropout_only_inside_the_block():
    net = nets.Network("deep", small_deep_convnet(), (1, 16, 16), 4)
    with participants.without_dropout(net):
        ratios = [layer.dropout_ratio for layer in net.layers() if hasattr(layer, "dropout_ratio")]
    assert ratios == [0.0, 0.0]
    assert [layer.dropout_ratio for layer in net.layers() if hasattr(layer, "dropout_ratio")] == [0.5, 0.5]


# ---- a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deep", "branched"])
def test_layers_and_passes_are_graphs_on_a_device(made, cupy, name):
    plan = Plan(
        name, devices=("cpu", "cuda"), passes=("inference", "forward", "backward"), **QUICK | {"threads": (1, 2)}
    )
    record = run(plan)
    assert not record.absent, record.absent
    assert record.machine.gpu["name"] == "Stand-in"
    found = [m for m in record.measurements if m.participant == "fastdl cuda"]
    assert {(m.isa, m.threads, m.settings["device"]) for m in found} == {("cuda", 1, "cuda")}
    assert all(m.check.passed for m in found)
    for direction in ("inference", "forward", "backward"):
        theirs = {m.case: m for m in found if m.direction == direction}
        cases = {m.case for m in rows(record, ME, direction)}
        assert set(theirs) == cases
        assert theirs[name].median == pytest.approx(0.002)
        assert all(m.kernels and "cuda/" in m.kernels[0] for case, m in theirs.items() if "conv" in case)
    assert fake_cupy.state.graphs > 20


# ---- PyTorch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deep", "branched"])
def test_torch_computes_the_same_in_as_many_rows(made, name):
    pytest.importorskip("torch")
    record = run(Plan(name, peers=("torch",), passes=("inference", "forward", "backward"), **QUICK))
    assert not record.absent, record.absent
    for direction in ("inference", "forward"):
        ours, theirs = rows(record, ME, direction), rows(record, "torch cpu", direction)
        assert [m.case for m in ours] == [m.case for m in theirs]
        assert all(m.check.passed for m in theirs)
    assert {m.case for m in rows(record, "torch cpu", "backward")} >= {f"{name}/conv1", f"{name}/affine1", name}


def test_torch_gradients_are_fastdls():
    pytest.importorskip("torch")
    from fastdl.bench.participants import Torch

    net = nets.Network("deep", small_deep_convnet(), (1, 16, 16), 4)
    setting = Setting(4, "float32", 1, ("forward", "backward"))
    ours, theirs = Ours(HERE, net, setting), Torch(net, setting)
    found, expected = theirs.results(4), ours.results(4)
    size = sum(a.size for a in net.net.params.values())
    assert found["gradients"].shape == expected["gradients"].shape == (size,)
    assert participants.compare(found, expected, ours.results(4, moved=True), "").passed
    found["gradients"][0] += 1e-2
    assert not participants.compare(found, expected, ours.results(4, moved=True), "").passed


def test_a_layer_that_torch_lacks_is_a_reason(made, monkeypatch):
    pytest.importorskip("torch")

    class Mine(Layer):
        def forward(self, x):
            return x

        def backward(self, dout):
            return dout

    net = Sequential([Mine(), Affine(weights(12, 3), weights(3))])
    monkeypatch.setattr(layerwise, "make", lambda name, dtype: nets.Network("mine", net, (12,), 2))
    record = run(Plan("mine", peers=("torch",), **QUICK))
    assert "no counterpart of the layer Mine" in record.absent["torch cpu"]
    assert {m.group for m in rows(record, ME, "forward")} == {"other", "dense", "total"}


# ---- networks of one's own, the command -----------------------------------------------------------------------------

MODULE = """
import numpy as np
from fastdl.layers import Affine, Relu
from fastdl.network import Sequential

def build(dtype):
    return Sequential([Affine(np.ones((12, 4), dtype), np.zeros(4, dtype)), Relu()]), (12,)

def shapeless(dtype):
    return build(dtype)[0]

def empty(dtype):
    return Sequential([Relu()]), (12,)

def number(dtype):
    return 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mymodule.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mymodule", None)


def test_a_network_of_ones_own(folder):
    net = nets.make("mymodule:build", "float64")
    assert net.image == (12,) and net.name == "build" and net.batch == nets.BATCH
    assert net.classes() == 4
    record = run(Plan("mymodule:build", batches=(2,), **QUICK))
    assert {m.case for m in record.measurements} >= {"build", "build/affine1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnot", "there is no network 'alexnot'; there are mlp, lenet"),
        ("nowhere:build", "the module nowhere cannot be imported"),
        ("mymodule:nothing", "the module mymodule has no function nothing"),
        ("mymodule:number", "not int"),
        ("mymodule:shapeless", r"return \(network, \(C, H, W\)\)"),
        ("mymodule:empty", "without parameters"),
    ],
)
def test_networks_that_cannot_be_made(folder, name, message):
    with pytest.raises(ValueError, match=message):
        nets.make(name, "float32")


def bench(folder, *arguments):
    command = [sys.executable, "-m", "fastdl", "bench", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command(folder):
    done = bench(
        folder, "mymodule:build", "--backends", HERE, "--devices", "cpu,cuda", "--seconds", "0", "--rounds", "2",
        "--json", "out.json", "--html", "out.html", "--pictures", "pictures",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "affine1" in done.stdout and "whole pass" in done.stdout
    record = load(folder / "out.json")
    assert record.complete and record.command[:2] == ["fastdl", "bench"]
    assert record.measurements[0].isa in (*registry.LEVELS, "any")
    assert "<h1" in (folder / "out.html").read_text()
    assert {path.suffix for path in (folder / "pictures").iterdir()} == {".png", ".svg"}
    assert json.loads((folder / "out.json").read_text())["machine"]["versions"]["fastdl"] == fastdl.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alexnet", "--dtypes", "int8"], "--dtypes: 'int8' is none of"),
        (["alexnet", "--batch", "many"], "--batch takes whole numbers"),
        (["alexnet", "--threads", "0"], "--threads takes numbers from 1"),
        (["alexnet", "--passes", ","], "--passes must name at least one"),
        (["alexnet", "--json", "nowhere/out.json"], "there is no folder nowhere"),
        (["alexnot"], "there is no network 'alexnot'"),
    ],
)
def test_mistakes_are_said_before_any_work(folder, arguments, message):
    done = bench(folder, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
