"""``pytest bench/``: what it runs and records, and calls on a device, which end when the device is done."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastdl import backend, to_device
from fastdl.bench import breakdown, nets, timing
from fastdl.bench.participants import Agreement, Ours, Setting
from fastdl.models import DeepConvNet
from fastdl.models.catalog import NETWORKS

ROOT = Path(__file__).parent.parent
HERE = next(name for name in ("cython", "numba", "numpy") if not backend.missing(name))
HAS_TORCH = importlib.util.find_spec("torch") is not None

# ---- on a device ----------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(cupy, monkeypatch):
    """How many kernels had been launched each time that somebody waited for the device."""
    import fake_cupy

    found = []
    monkeypatch.setattr(cupy.cuda.Device, "synchronize", lambda self: found.append(len(fake_cupy.state.launches)))
    return found


def test_a_call_waits_for_its_device_at_its_end(waits):
    log = []

    def call(*args):
        log.append((args, len(waits)))
        return "out"

    assert timing.synchronised(call)(1, 2) == "out"
    assert log == [((1, 2), 0)] and len(waits) == 1


@pytest.mark.parametrize("name", ["deepconvnet/pool1", "memory/dropout_deepconvnet", "memory/adam_deepconvnet"])
def test_layers_on_a_device(bench, waits, name):
    import calls
    import suite

    import fake_cupy

    (layer,) = (layer for layer in suite.LAYERS if layer.name == name)
    for direction in layer.directions:
        waits.clear()
        ran = calls.Prepared(suite.small(layer), direction, "float32").ours(calls.Settings(1, backend="cuda"))
        assert ran.check.passed and all("cuda" in kernel for kernel in ran.kernels)
        assert waits == [len(fake_cupy.state.launches)], "it has waited for all of its kernels, once"
        with calls.Settings(1, backend="cuda").context():
            ran.call()
        assert len(waits) == 2 and waits[1] == len(fake_cupy.state.launches) > waits[0]


def test_a_network_on_a_device_agrees_with_the_host(cupy):
    param = {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}

    def network():
        net = DeepConvNet((1, 8, 8), *[param] * 6, hidden_size=6, output_size=5, dtype="float32", seed=1)
        return nets.Network("deep", net, (1, 8, 8), 2)

    there = network()
    there.net.to("cuda")
    setting = Setting(2, "float32", 1, breakdown.DIRECTIONS)
    host, device = Ours("numpy", network(), setting), Ours("cuda", there, setting)
    agreement = Agreement(2)
    assert agreement.check(host)[0] is None
    check, seconds = agreement.check(device)
    assert check.passed and check.difference > 0 and check.against == "fastdl numpy" and seconds > 0
    assert device.device == "cuda" and isinstance(device.x, cupy.ndarray)
    with device.context():
        with device.inference():
            scores = device.predict()
        grads = device.backward(device.forward())
    assert to_device(scores, "cpu").shape == (2, 5)
    assert grads.keys() == there.net.params.keys() and all(isinstance(g, cupy.ndarray) for g in grads.values())


# ---- pytest bench/ --------------------------------------------------------------------------------------------------


@pytest.fixture
def run_pytest(bench, tmp_path):
    """Runs ``pytest bench/`` with fastdl on one backend: exit status and output."""
    pytest.importorskip("pytest_benchmark")

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "bench", "-p", "no:cacheprovider", "-q", "--bench-backends", HERE]
        # In a worker of pytest-xdist pytest-benchmark would measure nothing.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        done = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_everything_once_without_times(run_pytest):
    status, out = run_pytest("--benchmark-disable")
    assert status == 0 and " passed" in out and "failed" not in out and "skipped" not in out, out


def test_what_is_recorded(run_pytest, tmp_path):
    path = tmp_path / "out.json"
    chosen = "(relu_deepconvnet or (test_nets and lenet and not googlenet)) and not backward"
    short = ["--bench-rounds", "2", "--bench-threads", "1"]
    status, out = run_pytest("-k", chosen, *short, "--benchmark-json", str(path))
    assert status == 0, out
    found = json.loads(path.read_text())["benchmarks"]
    groups = {
        "relu forward memory/relu_deepconvnet float32": (HERE, ["torch"]),
        **{f"network lenet batch 100 float32 {p}": (HERE, ["torch cpu"]) for p in ("inference", "forward")},
        "network lenet batch 100 float32 training_step": (HERE, ["torch cpu"]),
    }
    assert {(b["group"], b["name"]) for b in found} == {
        (group, name)
        for group, (ours, theirs) in groups.items()
        for name in (f"fastdl {ours}", *(theirs if HAS_TORCH else ()))
    }
    for group in groups:
        assert f"benchmark '{group}': " in out
    for b in found:
        info = b["extra_info"]
        ours = info["participant"].startswith("fastdl")
        assert info["threads"] == 1 and info["dtype"] == "float32" and info["batch"] == 100
        assert info["flop"] > 0 and info["bytes"] > 0 and bool(info["kernels"]) == ours
        assert b["stats"]["rounds"] == 2 and b["stats"]["median"] > 0
        assert "UNSERIALIZABLE" not in json.dumps(b)
    steps = [b["extra_info"] for b in found if b["group"].endswith("training_step")]
    assert "adam step" in " ".join(steps[0]["kernels"]) and steps[0]["flop"] > 2 * 2 * 100 * 416_000
    assert len({info["flop"] for info in steps}) == 1, "one figure for all participants"


def test_a_backend_that_is_not_here_is_skipped_with_the_reason(run_pytest):
    reason = backend.missing("cuda")
    if not reason:
        pytest.skip("there is a device")
    chosen = "cuda and (relu_deepconvnet or (test_nets and lenet and not googlenet))"
    status, out = run_pytest("--bench-backends", "cuda", "--benchmark-disable", "-k", chosen)
    assert status == 0 and "6 skipped" in out and "passed" not in out and reason[:40] in out.replace("\n", " "), out


@pytest.mark.parametrize(("option", "value"), [("--bench-backends", "gpu"), ("--bench-threads", "0")])
def test_mistakes_are_said_before_any_work(run_pytest, option, value):
    status, out = run_pytest(option, value)
    assert status == 4 and option in out and value in out, out


# ---- what it selects and compares -----------------------------------------------------------------------------------


@pytest.fixture
def modules(bench):
    """``test_ops``, ``test_nets`` and options for tiny sizes."""
    pytest.importorskip("pytest_benchmark")
    import test_nets
    import test_ops
    import timed

    return test_ops, test_nets, timed.Options((HERE,), "float32", 1, 1, every=True, tiny=True)


def test_few_cases_or_all(modules):
    test_ops, test_nets, options = modules
    for dtype in ("float32", "float64", "float16"):
        every = options._replace(dtype=dtype)
        ops, few = (list(test_ops.cases(o)) for o in (every, every._replace(every=False)))
        assert set(few) < set(ops) and {g.split()[0] for g, _, _ in few} == {g.split()[0] for g, _, _ in ops}
        layers = [layer for layer in test_ops.suite.LAYERS if test_ops.applies(layer, dtype)]
        assert {case for _, case, _ in ops} == {(la.name, d) for la in layers for d in la.directions}
        nets, few = (list(test_nets.cases(o)) for o in (every, every._replace(every=False, tiny=False)))
        assert {name for _, (name, _), _ in nets} == set(NETWORKS)
        assert {name for _, (name, _), _ in few} == set(test_nets.FEW)
        assert ("training_step" in {direction for _, (_, direction), _ in nets}) == (dtype != "float16")


def test_a_step_leaves_the_weights_that_were_compared(modules):
    _, test_nets, options = modules
    contest = test_nets.Contest("lenet", options)
    runner, check = contest.runner(f"fastdl {HERE}")
    assert check is None
    params = runner.network.net.params
    before = {name: a.copy() for name, a in params.items()}
    ran = test_nets.kernels(runner, "training_step")
    assert any(problem.op == "adam" for problem, _, _ in ran)
    assert all(np.array_equal(params[name], a) for name, a in before.items())
    if HAS_TORCH:
        assert contest.runner("torch cpu")[1].passed


def test_who_computes_something_else_fails(modules, monkeypatch):
    if HERE == "numpy":
        pytest.skip("there is but one backend")
    _, test_nets, options = modules
    contest, results = test_nets.Contest("lenet", options), Ours.results

    def wrong(self, images, moved=False):
        return {kind: (1.01 if self.backend == "numpy" else 1) * a for kind, a in results(self, images, moved).items()}

    monkeypatch.setattr(Ours, "results", wrong)
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception, match=f"from fastdl {HERE}, and may be"):
            contest.runner("fastdl numpy")


def test_one_result_is_kept_at_a_time(modules):
    import timed

    made = []
    get = timed.latest(lambda *key: made.append(key) or [key])
    assert get("a", 1) is get("a", 1) and get("b", 2) == [("b", 2)] and get("a", 1) == [("a", 1)]
    assert made == [("a", 1), ("b", 2), ("a", 1)]
