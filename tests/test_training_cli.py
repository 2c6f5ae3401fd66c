"""``fastdl train --precision``, and what the command says of a training that fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastdl
import fastdl.data
from fastdl import mixed, train
from fastdl.data import Dataset

SHORT = ("train", "--model", "simpleconvnet", "--batch-size", 20, "--lr", 0.01, "--epochs", 1)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """A hundred images, in five batches, and twenty to test."""

    def load(name, dtype="float32", data_dir=None):
        (x, t), (x_test, t_test) = fastdl.data.load_digits(dtype=dtype)
        return Dataset(x[:100], t[:100], x_test[:20], t_test[:20], name)

    monkeypatch.setattr(fastdl.data, "load_dataset", load)
    return load("digits")


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "binary"])
def test_a_precision_is_trained_in_and_recorded(run, tmp_path, few_digits, precision):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    code, out, err = run(*SHORT, "--precision", precision, "--output", tmp_path)
    assert code == 0, err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["precision"] == precision and metrics["settings"]["dtype"] == "float32"
    assert metrics["skipped_steps"] == 0
    assert metrics["loss_scale"] == (mixed.FIRST_SCALE if precision == "float16" else None)
    dtypes = {(k["op"], k["direction"]): k["dtype"] for k in metrics["kernels"] if k["op"] in ("conv2d", "adam")}
    assert dtypes["conv2d", "forward"] == ("float32" if precision == "binary" else precision)
    assert dtypes["adam", "step"] == "float32"
    kind = "float32, 432,000 binary" if precision == "binary" else f"float32, computed in {precision}"
    assert kind in out
    assert ("0 steps skipped, loss scale 65536" in out) == (precision == "float16")
    network = fastdl.models.SimpleConvNet(dtype="float32")
    network = fastdl.binarize(network) if precision == "binary" else network
    network.load_params(tmp_path / "params.npz")
    computing = network if precision == "binary" else network.astype(precision)
    assert computing.accuracy(few_digits.x_test, few_digits.t_test) == metrics["test_accuracy"]
    assert {p.dtype.name for p in network.params.values()} == {"float32"}


def test_skipped_steps_are_shown(run, monkeypatch, tmp_path):
    monkeypatch.setattr(mixed, "FIRST_SCALE", 2.0**30)
    code, out, _ = run(*SHORT, "--precision", "float16", "--epochs", 3, "--json")
    metrics = json.loads(out)
    assert code == 0
    assert metrics["skipped_steps"] == sum(epoch["skipped_steps"] for epoch in metrics["epochs"]) > 5
    assert metrics["loss_scale"] == 2.0 ** (30 - metrics["skipped_steps"])
    text = run(*SHORT, "--precision", "float16", "--epochs", 3, "--quiet")[1]
    assert f"; {metrics['skipped_steps']} steps skipped, loss scale {metrics['loss_scale']:g}" in text


def test_the_scale_is_a_choice(run):
    settings = ("--precision", "float16", "--stochastic-rounding", "--loss-scale")
    metrics = json.loads(run(*SHORT, *settings, "none", "--json")[1])
    assert metrics["loss_scale"] is None and metrics["settings"]["stochastic_rounding"] is True
    assert json.loads(run(*SHORT, *settings, "128", "--json")[1])["loss_scale"] == 128.0


def test_the_rate_may_fall(run, monkeypatch, tmp_path):
    rates = []
    step = train.Trainer.train_step

    def noted(self):
        step(self)
        rates.append(self.optimizer.lr)

    monkeypatch.setattr(train.Trainer, "train_step", noted)
    options = (*SHORT, "--schedule", "cosine", "--output", tmp_path, "--epochs")
    assert run(*options, 2)[0] == 0
    np.testing.assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(10) / 10)), rtol=1e-12)
    assert json.loads((tmp_path / "metrics.json").read_text())["settings"]["schedule"] == "cosine"
    code, _, err = run(*options, 3, "--resume")
    assert code == 2
    assert "schedule is 'cosine from 0.01 over 3' here and 'cosine from 0.01 over 2' in the checkpoint" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "float16", "--loss-scale", "much"), "--loss-scale is dynamic, a number or none, not 'much'"),
        (("--precision", "float16", "--loss-scale", "-2"), "loss_scale is 'dynamic', a positive number or None"),
        (("--precision", "binary", "--stochastic-rounding"), "go with a precision of float16 or bfloat16"),
        (("--precision", "float8"), "float8"),
    ],
)
def test_mistakes_are_one_line(run, options, message):
    code, out, err = run(*SHORT, *options)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_on_a_gpu(run, cupy):
    code, out, err = run(*SHORT, "--precision", "float16", "--device", "cuda")
    assert (code, out) == (2, "") and "with a loss scale is for training on the CPU" in err and err.count("\n") == 1
    code, _, err = run(*SHORT, "--precision", "binary", "--device", "cuda")
    assert code == 2 and "precision='binary' is for training on the CPU, not on 'cuda'" in err


@pytest.mark.parametrize("precision", [(), ("--precision", "float16")])
def test_a_training_that_fails_says_where_and_ends_with_1(run, tmp_path, monkeypatch, precision):
    code, _, err = run(*SHORT, *precision, "--output", tmp_path)
    assert code == 0, err
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    step = train.Trainer.train_step

    def spoilt(self):
        self.network.params["W2"][0, 0] = np.nan
        step(self)

    monkeypatch.setattr(train.Trainer, "train_step", spoilt)
    code, _, err = run(*SHORT, *precision, "--epochs", 3, "--output", tmp_path, "--resume")
    assert code == 1
    assert err == (
        "fastdl: error: the loss is nan at step 6 of 15: the parameter W of Affine 1 (W2) is the first that is not "
        f"finite; the last good checkpoint is {tmp_path / 'checkpoint.npz'}, of step 5\n"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    monkeypatch.setattr(train.Trainer, "train_step", step)
    assert run(*SHORT, *precision, "--epochs", 2, "--output", tmp_path, "--resume")[0] == 0
