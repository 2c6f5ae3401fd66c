"""``fastdl train --device`` and what ``fastdl info`` says of GPUs, on the stand-in for CuPy."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import fake_cupy
import fastdl.cli
import fastdl.data
from fastdl import backend
from fastdl.data import Dataset


def fastdl_command(capsys, *arguments):
    """Exit code, stdout and stderr of the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        fastdl.cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return stop.value.code, output.out, output.err


@pytest.fixture
def few_digits(monkeypatch, rng):
    """A data set that is learnt in no time."""

    def load(name, dtype, data_dir):
        x, t = rng.random((24, 1, 28, 28)).astype(dtype), rng.integers(10, size=24)
        return Dataset(x[:16], t[:16], x[16:], t[16:], name)

    monkeypatch.setattr(fastdl.data, "load_dataset", load)


TRAIN = ("train", "--model", "simpleconvnet", "--epochs", 2, "--batch-size", 3, "--dtype", "float64")


@pytest.mark.parametrize("graph", ["--graph", "--no-graph"])
def test_training_on_the_device(cupy, few_digits, capsys, tmp_path, graph):
    code, out, err = fastdl_command(capsys, *TRAIN, "--device", "cuda", graph, "--output", tmp_path)
    assert code == 0 and "on cuda:0" in out, err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["device"] == "cuda" and len(metrics["epochs"]) == 2
    assert metrics["graph"] == ("used" if graph == "--graph" else "graphs were not asked for")
    assert (fake_cupy.state.graphs > 0) == (graph == "--graph")
    assert {kernel["kernel"].split("/")[0] for kernel in metrics["kernels"]} == {"cuda"}
    with np.load(tmp_path / "params.npz") as params:
        assert params["W1"].dtype == np.float64


def test_wrong_devices_are_one_line(cupy, few_digits, capsys):
    for device, message in (("cuda:7", "there is no device 'cuda:7'"), ("gpu", "a device is 'cpu', 'cuda'")):
        code, _, err = fastdl_command(capsys, *TRAIN, "--device", device)
        assert code == 2 and err.startswith("fastdl: error: ") and message in err and err.count("\n") == 1


def test_a_backend_of_numpy_arrays_is_one_line(cupy, few_digits, capsys):
    code, _, err = fastdl_command(capsys, *TRAIN, "--device", "cuda", "--backend", "numpy")
    assert code == 2 and "the backend in use is 'numpy'" in err and err.count("\n") == 1


def test_no_memory_is_one_line(cupy, few_digits, capsys):
    fake_cupy.state.total = 1 << 16
    code, _, err = fastdl_command(capsys, *TRAIN, "--device", "cuda")
    assert code == 2 and "the GPU has no memory for another" in err and err.count("\n") == 1


def test_no_gpu_is_one_line(few_digits, capsys):
    if not (reason := backend.missing("cuda")):
        pytest.skip("there is a GPU here")
    code, _, err = fastdl_command(capsys, *TRAIN, "--device", "cuda")
    assert code == 2 and err.count("\n") == 1
    assert " ".join(f"the device 'cuda' cannot be used: {reason}".split()) in err


def test_info_knows_the_devices(cupy, capsys):
    fake_cupy.state.devices = 2
    code, out, _ = fastdl_command(capsys, "info", "--json")
    gpu = json.loads(out)["gpu"]
    assert code == 0 and gpu["reason"] == "" and gpu["driver"] == "CUDA 13.0"
    assert [device["device"] for device in gpu["devices"]] == ["cuda:0", "cuda:1"]
    assert gpu["devices"][0]["name"] == "Stand-in" and gpu["devices"][0]["compute_capability"] == "9.0"
    code, out, _ = fastdl_command(capsys, "info")
    assert "Stand-in, compute capability 9.0, 8.0 GiB" in " ".join(out.split())


def test_info_says_why_there_is_none(cupy, capsys):
    fake_cupy.state.devices = 0
    fake_cupy.forget()
    code, out, _ = fastdl_command(capsys, "info", "--json")
    assert code == 0 and json.loads(out)["gpu"]["reason"] == "there is no CUDA device"
    assert "none that can be used" in fastdl_command(capsys, "info")[1]
    assert "cupy" in sys.modules


def test_tf32_is_for_gpus(few_digits, capsys):
    code, _, err = fastdl_command(capsys, "train", "--tf32")
    assert code == 2 and "--tf32 goes with --device cuda" in err


def test_training_with_tf32(cupy, few_digits, capsys, tmp_path):
    options = ("train", "--model", "simpleconvnet", "--epochs", 1, "--batch-size", 3, "--dtype", "float32", "--tf32")
    code, _, err = fastdl_command(capsys, *options, "--device", "cuda", "--output", tmp_path)
    assert code == 0, err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    kernels = {kernel["kernel"] for kernel in metrics["kernels"]}
    assert metrics["settings"]["tf32"] and {"cuda/blocked_tf32", "cuda/implicit_gemm_tf32"} <= kernels
