"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl import backend as settings
from fastdl.cli.options import AnyBackend, Backend, Dtype, Isa, Method, Net
from fastdl.kernels import registry
from fastdl.kernels.problem import COMPUTE
from fastdl.models.catalog import NETWORKS
from fastdl.optim import BY_NAME

COMPILED = "cython" in settings.available_backends()
COMMAND = [sys.executable, "-c", "from fastdl.cli import main; main()"]
ROW_KEYS = {"op", "direction", "backend", "algorithm", "dtype", "isa", "cases", "max_error", "tolerance", "status"}
ROW_KEYS |= {"cells"}
EPOCH_KEYS = {"epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds", "images_per_second"}

#: A training of a second or two.
SHORT = ["train", "--model", "simpleconvnet", "--batch-size", "300", "--lr", "0.01"]


def assert_one_line(found: tuple[int, str, str], text: str) -> None:
    """A mistake of the user: one line on stderr, exit code 2."""
    code, out, err = found
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("fastdl: error: ")
    assert err.count("\n") == 1, err
    assert text in err


# ---- the command itself ---------------------------------------------------------------------------------------------


def test_version(run):
    assert run("--version") == (0, f"fastdl {fastdl.__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_without_arguments(run, arguments):
    code, out, _ = run(*arguments)
    assert code == 0
    for word in ("info", "check", "train", "Usage"):
        assert word in out


@pytest.mark.parametrize("command", ["info", "check", "train", "compare"])
def test_help_of_commands(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out


def test_mistakes_on_the_command_line(run):
    assert_one_line(run("trian"), "trian")
    assert_one_line(run("train", "--epochs", "many"), "--epochs")
    assert_one_line(run("train", "--epochs", "-1"), "--epochs")
    assert_one_line(run("train", "--batch-size", "0"), "--batch-size")
    assert_one_line(run("train", "--model", "resnet"), "deepconvnet")
    assert_one_line(run("check", "--isa", "v9"), "baseline")


def test_choices_are_those_of_the_package():
    assert {b.value for b in Backend} == set(registry.BACKENDS)
    assert {b.value for b in AnyBackend} == {"auto", *registry.HOST_BACKENDS}
    assert {i.value for i in Isa} == set(registry.LEVELS)
    assert {d.value for d in Dtype} == set(COMPUTE)
    assert {m.value for m in Method} == set(BY_NAME)
    assert {n.value for n in Net} == {name for name, entry in NETWORKS.items() if entry.classes == 10}


def test_starting_loads_little():
    program = (
        "import sys; from fastdl.cli import app\n"
        "heavy = {'numpy', 'matplotlib', 'scipy', 'torch', 'fastdl.backend'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen([*COMMAND, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


# ---- info -----------------------------------------------------------------------------------------------------------


def test_info(run):
    code, out, _ = run("info")
    assert code == 0
    for word in (fastdl.__version__, np.__version__, "baseline", "v4", "threads", "backend", "MNIST"):
        assert word in out


def test_info_json(run):
    code, out, err = run("info", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["versions"]["fastdl"] == fastdl.__version__
    assert set(found["isa"]["levels"]) == set(registry.LEVELS)
    available = {level for level, state in found["isa"]["levels"].items() if state["available"]}
    assert available == set(registry.available_levels())
    assert found["isa"]["in_use"] == (registry.available_levels()[-1] if COMPILED else None)
    assert found["threads"]["count"] == settings.get_num_threads()
    assert found["backends"]["numpy"]["available"] is True
    assert found["backends"]["cython"]["available"] is COMPILED
    assert bool(found["build"]) is COMPILED
    assert bool(found["numba_threading"]) is found["backends"]["numba"]["available"]


def test_info_tells_why_so_many_threads():
    environment = os.environ | {"FASTDL_NUM_THREADS": "3", "FASTDL_ISA": "baseline"}
    done = subprocess.run([*COMMAND, "info", "--json"], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert (found["threads"]["count"], found["threads"]["reason"]) == (3, "FASTDL_NUM_THREADS")
    assert found["isa"]["in_use"] == ("baseline" if COMPILED else None)


def test_info_is_loud_without_extensions(run, monkeypatch):
    from fastdl.bench import machine

    monkeypatch.setattr(machine, "build", lambda: None)
    assert "NO COMPILED KERNELS" in run("info")[1]
    monkeypatch.setattr(machine, "build", lambda: {"compiler": "cc", "threading": "none"})
    assert "BUILT WITHOUT THREADS" in run("info")[1]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("FASTDL_ISA", "v9", "FASTDL_ISA"),
        ("FASTDL_NUM_THREADS", "all", "FASTDL_NUM_THREADS"),
        ("FASTDL_BACKEND", "gpu", "FASTDL_BACKEND"),
    ],
)
@pytest.mark.parametrize("command", ["info", "train"])  # check runs every row, whatever dispatch would choose
def test_wrong_environment(command, name, value, text):
    environment = os.environ | {name: value}
    done = subprocess.run([*COMMAND, command], capture_output=True, text=True, check=False, env=environment)
    assert_one_line((done.returncode, done.stdout, done.stderr), text)


# ---- check ----------------------------------------------------------------------------------------------------------


def test_check_prints_a_table(run):
    code, out, err = run("check", "--op", "relu", "--dtype", "float32")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == [
        "op",
        "direction",
        "backend",
        "algorithm",
        "dtype",
        "ISA",
        "nchw",
        "nhwc",
        "strided",
        "error",
        "tolerance",
        "status",
    ]
    rows = [line.split() for line in lines if line.startswith("relu")]
    assert len(rows) == 12
    assert [row for row in rows if row[2] == "numpy" and row[-1] == "passed"]
    assert "12 rows: " in lines[-1]


def test_check_json_is_a_list_of_rows_and_nothing_else(run):
    code, out, err = run("check", "--op", "relu", "--op", "add", "--dtype", "float32", "--backend", "numpy", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["op"] for row in rows] == ["relu", "relu", "add"]
    for row in rows:
        assert set(row) == ROW_KEYS
        assert row["status"] == "passed"
        assert row["cases"] > 50


def test_check_of_one_case(run):
    code, out, _ = run("check", "--case", "gemm/forward/float32/values=integers,m=5,k=600,n=33", "--json")
    rows = json.loads(out)
    assert code == 0
    assert {row["cases"] for row in rows if row["status"] == "passed"} == {1}
    assert {(row["op"], row["dtype"]) for row in rows} == {("gemm", "float32")}


def test_check_selects_the_level(run):
    rows = json.loads(run("check", "--op", "relu", "--dtype", "float64", "--isa", "baseline", "--json")[1])
    assert {row["isa"] for row in rows} == {"any", "baseline"}


def test_check_with_random_cases(run):
    options = ("check", "--op", "relu", "--dtype", "float32", "--fuzz", "30", "--seed", "7")
    code, out, err = run(*options, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert sum(row["cases"] for row in rows if row["backend"] == "numpy") == 30
    code, out, _ = run(*options)
    assert code == 0
    assert "the same cases again: --fuzz 30 --seed 7" in out


def test_check_prints_a_line_for_each_mismatch(run, monkeypatch):
    load = registry.load

    def broken(row):
        return (lambda *a: None) if row.backend != "numpy" or row[:2] != ("relu", "forward") else load(row)

    monkeypatch.setattr(registry, "load", broken)
    code, out, _ = run("check", "--op", "relu", "--dtype", "float32", "--fuzz", "24")
    lines = [line for line in out.splitlines() if line.startswith("fastdl check --case ")]
    assert code == 1
    assert len(lines) == len(set(lines)) > 3
    assert run("check", "--case", lines[0].split("'")[1])[0] == 1
    monkeypatch.undo()
    assert run("check", "--case", lines[0].split("'")[1])[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_check_that_dies_says_where():
    program = (
        "import os, signal\n"
        "from fastdl.kernels import registry\n"
        "registry.load = lambda row: lambda *a: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "from fastdl.cli import main; main(['check', '--case', 'relu/forward/float32/shape=3x7'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    line = done.stderr.strip()
    assert line.startswith("fastdl: the process died in: fastdl check --case 'relu/forward/float32/")
    assert "shape=3x7" in line


def test_check_fails_loudly(run, monkeypatch):
    """A broken kernel: exit code 1, and a line that reproduces it."""
    load = registry.load

    def broken(row):
        function = load(row)
        if row[:2] != ("relu", "forward"):
            return function

        def relu_forward(problem, x, out, threads):
            function(problem, x, out, threads)
            if problem.storage == "float32" and out.size > 5:
                out[(0,) * out.ndim] += 1

        return relu_forward

    monkeypatch.setattr(registry, "load", broken)
    code, out, _ = run("check", "--op", "relu", "--dtype", "float32", "--backend", "numpy")
    assert code == 1
    assert "failed" in out
    assert "1 passed" in out
    # (The expectation comes from the broken reference as well; that it ran in float64 is what shows the difference.)
    assert "fastdl check --case 'relu/forward/float32/" in out


def test_check_refuses_what_is_not_there(run):
    assert_one_line(run("check", "--op", "convolution"), "there is no op 'convolution'; there are im2col")
    assert_one_line(run("check", "--case", "nonsense"), "op/direction/dtype")
    assert_one_line(run("check", "--op", "sgd", "--dtype", "float16"), "no kernel matches")
    assert_one_line(run("check", "--fuzz", "3", "--full"), "exclude each other")


# ---- train ----------------------------------------------------------------------------------------------------------


def test_train_writes_its_files(run, tmp_path):
    output = tmp_path / "deep" / "run"
    code, out, err = run(*SHORT, "--epochs", 2, "--output", output)
    assert code == 0, err
    assert "test accuracy" in out
    assert "kernels of one step" in out
    assert "conv2d" in out
    assert {path.name for path in output.iterdir()} == {"metrics.json", "params.npz", "curve.png", "checkpoint.npz"}
    metrics = json.loads((output / "metrics.json").read_text())
    assert [set(epoch) for epoch in metrics["epochs"]] == [EPOCH_KEYS] * 2
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]
    assert metrics["finished"] is True
    assert metrics["test_accuracy"] == metrics["epochs"][-1]["test_accuracy"]
    wanted = {
        "dataset": "digits",
        "model": "simpleconvnet",
        "epochs": 2,
        "batch_size": 300,
        "optimizer": "adam",
        "lr": 0.01,
    }
    assert wanted.items() <= metrics["settings"].items()
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    network = fastdl.models.SimpleConvNet(dtype="float32")
    network.load_params(output / "params.npz")
    _, (x_test, t_test) = fastdl.data.load_digits()
    assert network.accuracy(x_test, t_test) == pytest.approx(metrics["test_accuracy"], abs=1e-12)


def test_train_names_the_kernels_that_ran(run):
    code, out, _ = run(*SHORT, "--epochs", 1, "--backend", "numpy", "--json")
    assert code == 0
    kernels = json.loads(out)["kernels"]
    assert {kernel["kernel"] for kernel in kernels} == {"numpy/reference"}
    calls = {(kernel["op"], kernel["direction"]): kernel["calls_per_step"] for kernel in kernels}
    assert calls["conv2d", "forward"] == 1
    assert calls["adam", "step"] == 1


@pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not built")
def test_train_uses_the_compiled_kernels(run):
    kernels = json.loads(run(*SHORT, "--epochs", 1, "--backend", "cython", "--json")[1])["kernels"]
    assert kernels
    assert all(kernel["kernel"].startswith("cython/") for kernel in kernels)


def test_train_output_levels(run):
    code, out, err = run(*SHORT, "--epochs", 1, "--quiet")
    assert code == 0
    assert out.count("\n") == 1
    assert out.startswith("test accuracy ")
    assert err == ""
    code, out, err = run(*SHORT, "--epochs", 1, "--json")
    assert json.loads(out)["epochs"][0]["epoch"] == 1
    assert err == ""


def test_train_prints_a_line_per_epoch(run):
    lines = run(*SHORT, "--epochs", 2)[1].splitlines()
    assert lines[0].startswith("SimpleConvNet (")
    assert lines[1].split() == ["epoch", "loss", "training", "test", "seconds", "images/s"]
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]


def test_the_same_seed_gives_the_same_numbers_with_any_number_of_threads(run):
    def numbers(*more):
        epochs = json.loads(run(*SHORT, "--epochs", 1, "--json", *more)[1])["epochs"]
        return [(epoch["train_loss"], epoch["test_accuracy"]) for epoch in epochs]

    first = numbers("--threads", 1)
    assert numbers("--threads", 2) == first
    assert numbers("--seed", 1) != first


def test_networks_of_the_catalog_train(run):
    code, out, err = run("train", "--model", "mlp", "--epochs", 3, "--json")
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["settings"]["model"] == "mlp"
    assert metrics["test_accuracy"] > 0.9


@pytest.mark.parametrize("optimizer", [method.value for method in Method])
def test_every_optimizer_trains(run, optimizer):
    code, out, err = run(
        *SHORT, "--epochs", 1, "--optimizer", optimizer, "--weight-decay", "1e-4", "--dtype", "float64", "--json"
    )
    assert code == 0, err
    assert np.isfinite(json.loads(out)["epochs"][0]["train_loss"])


def test_train_without_an_epoch(run, tmp_path):
    code, out, _ = run(*SHORT, "--epochs", 0, "--output", tmp_path)
    assert code == 0
    assert "test accuracy" in out
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == []


def test_train_mistakes(run, tmp_path, monkeypatch):
    assert_one_line(run("train", "--dataset", "mnist", "--data-dir", tmp_path), str(tmp_path))
    assert_one_line(run("train", "--data-dir", tmp_path), "--dataset mnist")
    assert_one_line(run("train", "--resume"), "--output")
    assert_one_line(run("train", "--resume", "--output", tmp_path), "checkpoint.npz does not exist")
    assert_one_line(run("train", "--lr", "inf"), "finite")
    (tmp_path / "file").write_text("")
    assert_one_line(run(*SHORT, "--output", tmp_path / "file"), "file")
    (tmp_path / "checkpoint.npz").write_text("no archive")
    assert_one_line(run(*SHORT, "--resume", "--output", tmp_path), "checkpoint")
    monkeypatch.setattr(
        settings, "missing", lambda name: "the compiled kernels were not built" if name == "cython" else ""
    )
    assert_one_line(run("train", "--backend", "cython"), "were not built")


def test_resume_refuses_other_settings(run, tmp_path):
    assert run(*SHORT, "--epochs", 1, "--output", tmp_path)[0] == 0
    assert_one_line(run(*SHORT, "--epochs", 2, "--seed", 5, "--output", tmp_path, "--resume"), "seed")


def without_times(path: Path) -> list[dict]:
    epochs = json.loads((path / "metrics.json").read_text())["epochs"]
    return [
        {key: value for key, value in epoch.items() if key not in ("seconds", "images_per_second")} for epoch in epochs
    ]


def test_more_epochs_go_on_where_the_training_ended(run, tmp_path):
    """Three epochs, and two followed by a third: the same numbers and the same bits."""
    assert run(*SHORT, "--epochs", 3, "--output", tmp_path / "whole")[0] == 0
    assert run(*SHORT, "--epochs", 2, "--output", tmp_path / "parts")[0] == 0
    code, out, err = run(*SHORT, "--epochs", 3, "--output", tmp_path / "parts", "--resume")
    assert code == 0, err
    assert "going on after step 10 of 15" in out
    assert without_times(tmp_path / "parts") == without_times(tmp_path / "whole")
    with np.load(tmp_path / "parts" / "params.npz") as parts, np.load(tmp_path / "whole" / "params.npz") as whole:
        for name in whole:
            assert np.array_equal(parts[name], whole[name]), name


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(run, tmp_path):
    output = tmp_path / "out put"
    command = [*SHORT, "--epochs", "200", "--output", str(output)]
    with subprocess.Popen([*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (output / "checkpoint.npz").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    if not COMPILED:  # a warning comes first
        err = err[err.index("fastdl: interrupted") :]
    assert err.startswith("fastdl: interrupted after ")
    assert err.count("\n") == 1
    assert f"go on with: fastdl {' '.join(SHORT)} --epochs 200 --output '{output}' --resume" in err
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["finished"] is False
    done = len(metrics["epochs"])
    assert done >= 1
    # A shorter training to the next epoch's end: what was interrupted goes on to the numbers of one that was not.
    assert run(*SHORT, "--epochs", done + 1, "--output", output, "--resume")[0] == 0
    assert run(*SHORT, "--epochs", done + 1, "--output", tmp_path / "whole")[0] == 0
    assert without_times(output) == without_times(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_a_check():
    program = (
        "import os, signal, fastdl.check\n"
        "fastdl.check.check = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "from fastdl.cli import main; main(['check', '--op', 'relu'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "fastdl: interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_without_output():
    with subprocess.Popen(
        [*COMMAND, *SHORT, "--epochs", "500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.split()[:1] == ["1"]:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "nothing was saved (--output DIR keeps checkpoints)" in err


@pytest.mark.skipif(not COMPILED, reason="the NumPy reference takes minutes")
def test_train_without_options_reaches_98_percent(run, tmp_path):
    """The main job: DeepConvNet on the digits inside the package, with the defaults."""
    code, out, err = run("train", "--output", tmp_path)
    assert code == 0, err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["model"] == "deepconvnet"
    assert metrics["settings"]["dtype"] == "float32"
    assert metrics["test_accuracy"] >= 0.98
    assert "images/s" in out
    assert "cython/" in out
