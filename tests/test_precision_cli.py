"""``fastdl precision``: what it prints, writes and refuses."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl.data import load_digits
from fastdl.models import MLP, SimpleConvNet
from fastdl.models.catalog import NETWORKS
from fastdl.precision import inference, measure, plan, record, training
from fastdl.precision.formats import FORMATS

FOLDER = Path(os.environ.get("FASTDL_DATA_DIR", ""))
SHORT = ("--images", 60, "--epochs", 1, "--batch", 30, "--rounds", 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a SimpleConvNet."""
    path = tmp_path_factory.mktemp("weights") / "simple.npz"
    SimpleConvNet(dtype="float64", seed=5).save_params(path)
    return path


def test_a_trained_network_in_each_format(run, weights, tmp_path):
    path = tmp_path / "a.json"
    names = "float64,float32,float16"
    code, out, err = run("precision", "simpleconvnet", "--formats", names, "--weights", weights, "--json", path, *SHORT)
    assert code == 0, err
    report = record.load(path)
    assert report.complete and [r.name for r in report.formats] == names.split(",")
    _, (x, t) = load_digits(flatten=False, dtype=np.float32)
    x, t = x[:60], t[:60]
    net = SimpleConvNet(dtype="float64", seed=5)
    with fastdl.inference():
        wanted = net.predict(x)
        for result in report.formats:
            own = net.astype(result.name)
            scores = own.predict(x.astype(result.name)).astype(np.float64)
            found = result.inference
            assert found.right == np.count_nonzero(scores.argmax(axis=1) == t)
            assert found.same == np.count_nonzero(scores.argmax(axis=1) == wanted.argmax(axis=1))
            off = np.abs(scores - wanted)
            # Batches of 30 and of 60 may run on different kernels.
            assert found.largest_difference == pytest.approx(off.max(), rel=0.2, abs=1e-12)
            assert found.weight_bytes == sum(p.nbytes for p in own.params.values())
            assert len(found.seconds) >= 2 and min(found.seconds) > 0
            layers = [] if result.name == "float64" else list(measure.named_layers(net))
            assert [s.layer for s in found.layers] == layers
            assert f"{100 * found.right / 60:.2f} %" in out
    half = report.result("float16").inference
    assert [r.layer for r in half.sensitivity] == ["conv1", "affine1", "affine2"]
    assert all(r.ratio > half.layers[-1].ratio - 3 for r in half.sensitivity)  # one layer is no worse than all
    assert report.result("float32").inference.sensitivity == []
    assert report.direct_seconds and "with direct convolutions" in out
    assert "One layer reduced" in out and "Signal to noise of each layer" in out


def test_without_weights_it_trains_first(run, tmp_path):
    path = tmp_path / "a.json"
    code, out, err = run("precision", "mlp", "--formats", "float32", "--json", path, "--no-sensitivity", *SHORT)
    assert code == 0, err
    assert "training in float32" in err and "trained here in float32, 1 epoch of Adam" in out
    assert record.load(path).result("float32").inference.images == 60


def test_training_in_each_format(run, tmp_path):
    path = tmp_path / "a.json"
    arguments = ("--train", "--seeds", 2, "--formats", "float64,float32", "--json", path)
    code, out, err = run("precision", "mlp", *arguments, *SHORT)
    assert code == 0, err
    report = record.load(path)
    for result in report.formats:
        found = result.training
        assert found.seeds == [0, 1] and found.images == 60 and found.steps == [2, 2] and found.skipped == [0, 0]
        accuracies, histograms = [], []
        for seed in (0, 1):
            net = NETWORKS["mlp"].build(dtype=result.name, seed=seed)
            (x, t), (x_test, t_test) = load_digits(flatten=True, dtype=np.float32)
            trainer = fastdl.train.Trainer(
                net, x[:60], t[:60], x_test, t_test, epochs=1, mini_batch_size=30, optimizer="Adam",
                optimizer_param={"lr": 0.001}, verbose=False, seed=seed, schedule=fastdl.optim.cosine(0.001, 1),
            )  # fmt: skip
            histograms.append(measure.gradients(net, x[:60], t[:60]))
            trainer.train()
            histograms.append(measure.gradients(net, x[:60], t[:60]))
            accuracies.append(trainer.final_test_acc)
        assert found.accuracies == accuracies
        assert [found.gradients_first, found.gradients_last] == histograms[:2]
        assert {kernel.layer for kernel in found.kernels} >= {"gemm", "softmax_cross_entropy", "adam"}
    assert ("Gradients other than 0" in out and "± " in out) or "±" in out


def test_training_with_fewer_bits(run, tmp_path):
    path = tmp_path / "a.json"
    arguments = ("--train", "--seeds", 1, "--formats", "float16,bfloat16,binary,int8", "--json", path)
    code, out, err = run("precision", "simpleconvnet", *arguments, *SHORT)
    assert code == 0 and "int8: networks are not trained in it, only run" in err
    report = record.load(path)
    half, brain, binary = (report.result(name).training for name in ("float16", "bfloat16", "binary"))
    _, (x_test, t_test) = load_digits(flatten=False, dtype=np.float32)
    (x, t), _ = load_digits(flatten=False, dtype=np.float32)
    trainer = fastdl.train.Trainer(
        SimpleConvNet(dtype="float32", seed=0), x[:60], t[:60], x_test, t_test, epochs=1, mini_batch_size=30,
        optimizer="Adam", optimizer_param={"lr": 0.001}, verbose=False, seed=0, precision="float16",
    )  # fmt: skip
    trainer.train()
    assert half.accuracies == [trainer.final_test_acc]
    assert (half.skipped, half.loss_scale) == ([trainer.skipped_steps], trainer.loss_scale)
    assert brain.loss_scale is None and binary.loss_scale is None and binary.steps == [2]
    assert {"bn1"} == {h.layer for h in binary.gradients_last if h.kind == "gamma"}
    assert "not run: networks are not trained in it" in out


@pytest.mark.parametrize("name", ["tf32", "float16_sums", "float8_e4m3fn", "float8_e5m2"])
def test_emulations_and_float8(run, weights, tmp_path, name):
    pytest.importorskip("ml_dtypes")
    code, out, err = run(
        "precision", "simpleconvnet", "--formats", name, "--weights", weights, "--json", tmp_path / "a.json", *SHORT
    )
    assert code == 0, err
    found = record.load(tmp_path / "a.json").result(name)
    _, (x, t) = load_digits(flatten=False, dtype=np.float32)
    own = SimpleConvNet(dtype="float64", seed=5).astype(FORMATS[name].storage)
    emulated = found.kind == "emulated"
    with fastdl.backend.emulate(name) if emulated else contextlib.nullcontext():
        assert found.inference.right == round(60 * own.accuracy(x[:60], t[:60], batch_size=30))
    products = {k.label for k in found.inference.kernels if k.op in ("conv2d", "gemm")}
    assert products and all("emulated" in label or "numpy" in label for label in products) is emulated
    assert len(found.inference.sensitivity) == 3 and all(s.noise for s in found.inference.layers)
    assert (f"~{name}" in out) is emulated


def test_weights_of_a_binary_network(run, tmp_path):
    path = tmp_path / "binary.npz"
    net = fastdl.binarize(SimpleConvNet(dtype="float32", seed=3))
    net.save_params(path)
    arguments = ("--weights", path, "--formats", "float64,float32,binary", "--json", tmp_path / "a.json")
    code, _, err = run("precision", "simpleconvnet", *arguments, *SHORT)
    assert code == 0, err
    assert "float32: these weights are those of a binary network" in err
    report = record.load(tmp_path / "a.json")
    assert [r.name for r in report.ran] == ["float64", "binary"]
    found = report.result("binary").inference
    _, (x, t) = load_digits(flatten=False, dtype=np.float32)
    assert found.right == round(60 * net.accuracy(x[:60], t[:60], batch_size=30))
    assert "conv2d_binary" in {kernel.op for kernel in found.kernels}
    assert [s.layer for s in found.layers] == list(measure.named_layers(net))
    assert found.sensitivity == []
    assert found.weight_bytes < report.result("float64").inference.weight_bytes / 8


def test_bytes_are_calibrated_on_training_images(run, weights, tmp_path):
    arguments = ("--weights", weights, "--formats", "int8", "--json", tmp_path / "a.json")
    code, _, err = run("precision", "simpleconvnet", *arguments, *SHORT)
    assert code == 0, err
    found = record.load(tmp_path / "a.json").result("int8").inference
    (x, _), (x_test, t_test) = load_digits(flatten=False, dtype=np.float32)
    own = fastdl.quantize(SimpleConvNet(dtype="float32", seed=5), x[: inference.CALIBRATION])
    assert found.right == round(60 * own.accuracy(x_test[:60], t_test[:60], batch_size=30))
    assert found.weight_bytes == sum(value.nbytes for value in own.params.values())
    assert [s.layer for s in found.layers] == ["relu1", "pool1", "relu2", "affine2"]
    assert [r.layer for r in found.sensitivity] == ["conv1", "affine1", "affine2"]


def test_what_cannot_run_is_said_before_any_work(run, monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(inference, "run", lambda bench: begun.append([f.name for f in bench.formats]))

    def astype(self, dtype, original=MLP.astype):
        if dtype == "float16":
            raise fastdl.backend.KernelError("this CPU has no half")
        return original(self, dtype)

    monkeypatch.setattr(MLP, "astype", astype)
    code, _, err = run("precision", "mlp", "--formats", "float32,float16", *SHORT)
    assert "float16: this CPU has no half" in err and begun == [["float32"]]
    code, _, err = run("precision", "mlp", "--formats", "float16", *SHORT)
    assert code == 2 and "none of the formats can be run: this CPU has no half" in err and len(begun) == 1


def test_a_format_that_fails_does_not_take_the_others_with_it(run, monkeypatch, tmp_path, weights):
    original, path = measure.scores, tmp_path / "a.json"

    def scores(net, format, *more):
        if format.name == "float16":
            raise ValueError("no such luck")
        return original(net, format, *more)

    monkeypatch.setattr(measure, "scores", scores)
    arguments = ("--weights", weights, "--formats", "float64,float16,float32", "--json", path)
    code, out, err = run("precision", "simpleconvnet", *arguments, *SHORT)
    assert code == 0 and "float16: ValueError: no such luck" in err and "not run: ValueError: no such luck" in out
    report = record.load(path)
    assert report.complete and [r.name for r in report.ran] == ["float64", "float32"]
    assert report.formats[2].reason == "ValueError: no such luck"


@pytest.mark.parametrize(("mode", "at"), [("--infer", "float16: accuracy"), ("--train", "float16: training 2 of 2")])
def test_an_interrupt_keeps_what_was_measured(run, monkeypatch, tmp_path, mode, at):
    from fastdl.cli.precision import _Bar

    def begin(self, text, *more, original=_Bar.begin):
        if text == at:
            raise KeyboardInterrupt
        original(self, text, *more)

    monkeypatch.setattr(_Bar, "begin", begin)
    monkeypatch.setattr(training.Bench, "trainer", _full_precision)
    path = tmp_path / "a.json"
    arguments = (mode, "--seeds", 2, "--formats", "float32,float16", "--json", path)
    code, out, err = run("precision", "mlp", *arguments, *SHORT)
    assert code == 130 and "interrupted: what was measured is kept" in err
    report = record.load(path)
    assert not report.complete and "Interrupted: what is missing was not measured" in out
    if mode == "--infer":
        assert [r.name for r in report.ran] == ["float32"]
    else:
        assert [(r.name, r.training.seeds) for r in report.ran] == [("float32", [0, 1]), ("float16", [0])]


def _full_precision(self, net, format, *more, original=plan.Bench.trainer, **keywords):
    """Trains in float32 whatever the format is."""
    return original(self, net, format._replace(precision=""), *more, **keywords)


def test_nothing_is_an_exit_code_of_its_own(run, monkeypatch):
    monkeypatch.setattr(measure, "profiled", lambda *_: 1 / 0)
    code, _, err = run("precision", "mlp", "--formats", "float32", *SHORT)
    assert code == 1 and "nothing was measured" in err and "float32: ZeroDivisionError" in err


def other(path):
    MLP(784, (3,), 10, dtype="float32", seed=0).save_params(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["precision", "vgg16"], "takes images of (3, 224, 224), and the data sets have (1, 28, 28)"),
        (["precision", "nonet"], "the network 'nonet' is not known: take one of mlp, lenet"),
        (["precision", "--formats", "float16,half"], "--formats: 'half' is none of float64, float32"),
        (["precision", "--formats", ","], "there is no format to look at"),
        (["precision", "mlp", "--weights", "nowhere.npz"], "nowhere.npz: No such file or directory"),
        (["precision", "--train", "--weights", "a.npz"], "--weights are for --infer"),
        (["precision", "--lr", "inf"], "--lr must be a finite number"),
        (["precision", "--data-dir", "."], "--data-dir is for --dataset mnist"),
        (["precision", "--html", "nowhere/a.html"], "there is no folder nowhere"),
        (["precision", "--preset", "book-half", "--train"], "leave NET and --train out"),
        (["precision", "lenet", "--preset", "book-half"], "leave NET and --train out"),
        (["precision", "--preset", "book-half", "--data-dir", "."], "there is no book/deep_convnet_params_2022.pkl"),
        (["precision", "--preset", "book-half", "--weights", "a", "--images", "99"], "batches of 100 images"),
    ],
)
def test_mistakes_are_said_in_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1


def test_weights_that_do_not_fit(run, tmp_path):
    path = other(tmp_path / "a.npz")
    code, _, err = run("precision", "mlp", "--weights", path, *SHORT)
    assert code == 2 and "W1 is (784, 3) and not (784, 512)" in err


# ---- the book's experiment ------------------------------------------------------------------------------------------


def _why_not() -> str:
    if not os.environ.get("FASTDL_DATA_DIR"):
        return "FASTDL_DATA_DIR is not set: it names the folder with mnist/ and book/"
    names = ("mnist", "book/deep_convnet_params_2016.pkl", "book/deep_convnet_params_2022.pkl")
    absent = [name for name in names if not (FOLDER / name).exists()]
    return f"{FOLDER} (FASTDL_DATA_DIR) lacks {', '.join(absent)}" if absent else ""


@pytest.mark.skipif(bool(_why_not()), reason=_why_not())
@pytest.mark.parametrize(("year", "wanted"), [(2022, (0.9797, 0.9798)), (2016, (0.9935, 0.9935))])
def test_the_book_rounds_to_float16(run, tmp_path, year, wanted):
    path = tmp_path / "a.json"
    given = ("--weights", FOLDER / f"book/deep_convnet_params_{year}.pkl") if year == 2016 else ()
    code, _, err = run("precision", "--preset", "book-half", "--rounds", 2, "--json", path, *given)
    assert code == 0, err
    report = record.load(path)
    assert report.dataset == "mnist" and report.settings["preset"] == "book-half"
    assert [r.name for r in report.ran] == ["float64", "float32", "float16", "float16_rounded"]
    assert report.result("float64").inference.images == 10_000
    assert (report.result("float64").inference.accuracy, report.result("float16_rounded").inference.accuracy) == wanted
    assert abs(report.result("float16").inference.accuracy - wanted[0]) <= 0.0003 + 1e-12
