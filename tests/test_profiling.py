"""fastdl.profile: what it sees, what it calls it, and that it leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import fastdl
from fastdl import functional as F
from fastdl import fusion, profiling
from fastdl.layers import Affine, Convolution, Layer, Pooling, Relu, SoftmaxWithLoss
from fastdl.models import DeepConvNet
from fastdl.network import Concat, Residual, Sequential
from fastdl.optim import SGD


def convolution(rng, filters=4, channels=4):
    w = rng.standard_normal((filters, channels, 3, 3)).astype("float32")
    return Convolution(w, np.zeros(filters, "float32"), pad=1)


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 4, 8, 8)).astype("float32")


def calls(profile):
    return {(line.name, line.direction): len(line.seconds) for line in profile.lines}


def test_layers_that_are_called_by_hand(rng, x):
    first, relu, pool = convolution(rng), Relu(), Pooling(2, 2)
    with fastdl.profile() as p:
        for _ in range(3):
            out = pool.forward(relu.forward(first.forward(x)))
            first.backward(relu.backward(pool.backward(out)))
    assert calls(p) == {(n, d): 3 for d in ("forward", "backward") for n in ("conv1", "relu1", "pool1")}
    line = p.line(first, "forward")
    assert line.kind == "Convolution"
    assert 0 < line.kernel_seconds <= line.total <= p.seconds
    ((kernel, count),) = line.kernels.items()
    assert count == 3
    assert kernel.problem.op == "conv2d"
    assert kernel.row.label in str(p)
    assert {k.problem.direction for k in p.line(first, "backward").kernels} == {
        "backward_bias",
        "backward_input",
        "backward_weight",
    }


def test_work_is_that_of_every_call(rng, x):
    layer = convolution(rng)
    with fastdl.profile() as p:
        layer.forward(x)
        layer.forward(x)
    work = p.line(layer, "forward").work()
    assert work.flop == 2 * (2 * 4 * 64 * 4 * 9 * 2 + 2 * 4 * 64)  # two images, two calls; bias
    assert p.to_json()["lines"][0]["flop"] == work.flop


def test_a_fused_layer_has_no_line_of_its_own(rng, x):
    first, relu = convolution(rng), Relu()
    net = Sequential([first, relu])
    expected = net.forward(x)
    with fastdl.profile() as p:
        found = net.forward(x)
    assert np.array_equal(found, expected)
    assert p.line(relu, "forward") is None
    ((kernel, _),) = p.line(first, "forward").kernels.items()
    assert kernel.problem.epilogue == "bias_relu"


def test_a_join_has_the_time_of_its_kernel(rng, x):
    inner = convolution(rng)
    residual, concat = Residual([inner, Relu()]), Concat([[Relu()], [Relu()]])
    with fastdl.profile() as p:
        concat.forward(residual.forward(x))
    for layer, op in ((residual, "add"), (concat, "concat")):
        line = p.line(layer, "forward")
        assert [kernel.problem.op for kernel in line.kernels] == [op]
        assert line.total == pytest.approx(line.kernel_seconds)
    assert p.line(inner, "forward") is not None


def test_a_training_step(rng):
    net, optimizer = DeepConvNet(dtype="float32", seed=0), SGD(0.01)
    images, labels = rng.random((4, 1, 28, 28), "float32"), rng.integers(0, 10, 4)
    with fastdl.profile() as p:
        for _ in range(2):
            optimizer.update(net.params, net.gradient(images, labels))
    found = calls(p)
    assert found["loss1", "forward"] == found["conv6", "backward"] == found["sgd", "step"] == 2
    assert sum(line.total for line in p.lines) <= p.seconds


def test_functions_without_a_layer_are_named_by_their_op(x):
    with fastdl.profile() as p:
        F.relu(x)
    assert calls(p) == {("relu", "forward"): 1}


def test_layers_of_ones_own_old_and_new(x):
    class Old(Layer):
        def forward(self, x):
            return x

    class Relu2(Relu):
        def forward(self, x):
            return super().forward(x)

    old, relu = Old(), Relu2()
    before = Old.__dict__["forward"]
    with fastdl.profile() as p:

        class New(Layer):
            def forward(self, x):
                return x

        new = New()
        new.forward(relu.forward(old.forward(x)))
    assert calls(p) == {("old1", "forward"): 1, ("relu2_1", "forward"): 1, ("new1", "forward"): 1}
    assert Old.__dict__["forward"] is before
    assert not hasattr(New.__dict__["forward"], "__wrapped__")


def test_nothing_is_left_behind_whatever_happens(rng, x):
    methods = {(c, n): c.__dict__.get(n) for c in (Convolution, Relu, Affine) for n in ("forward", "backward")}
    kinds = dict(fusion._KINDS)
    with pytest.raises(ValueError, match="stop"), fastdl.profile() as p:
        Relu().forward(x)
        raise ValueError("stop")
    assert calls(p) == {("relu1", "forward"): 1}
    assert all(c.__dict__.get(n) is method for (c, n), method in methods.items())
    assert kinds == fusion._KINDS
    assert "__init_subclass__" not in Layer.__dict__
    Relu().forward(x)
    assert calls(p) == {("relu1", "forward"): 1}


def test_a_call_that_fails_is_timed_and_leaves_the_stack_clean(rng, x):
    with fastdl.profile() as p:
        with pytest.raises(ValueError):
            convolution(rng, channels=3).forward(x)
        Relu().forward(x)
    assert calls(p)["relu1", "forward"] == 1


def test_one_profile_at_a_time():
    with fastdl.profile(), pytest.raises(RuntimeError, match="another fastdl"), fastdl.profile():
        pass
    with fastdl.profile():
        pass


def test_a_profile_adds_up_and_can_be_cleared(x):
    relu, p = Relu(), fastdl.profile()
    for _ in range(2):
        with p:
            relu.forward(x)
    assert calls(p) == {("relu1", "forward"): 2}
    p.clear()
    assert not p.lines
    with p:
        relu.forward(x)
    assert calls(p) == {("relu1", "forward"): 1}


def test_settings_still_hold_inside(x):
    with fastdl.profile() as p, fastdl.use_backend("numpy"):
        F.relu(x)
    ((kernel, _),) = p.lines[0].kernels.items()
    assert kernel.row.backend == "numpy"


def test_times_on_a_device_are_those_of_events(monkeypatch, rng, x, cupy):
    monkeypatch.setattr(profiling, "MOST_WAITING", 3)
    net = Sequential([convolution(rng), Relu(), Residual([Relu()])]).to("cuda")
    on_device = fastdl.to_device(x, "cuda")
    with fastdl.profile() as p:
        net.forward(on_device)
        net.forward(on_device)
    assert calls(p) == {("conv1", "forward"): 2, ("relu1", "forward"): 2, ("add1", "forward"): 2}
    assert all(line.total == pytest.approx(0.004) for line in p.lines)  # the stand-in's events are 2 ms apart
    assert all(line.kernel_seconds == pytest.approx(0.004) for line in p.lines)
    assert not p._waiting


def test_what_is_recorded_for_a_graph_has_no_times(cupy, x):
    on_device = fastdl.to_device(x, "cuda")
    stream, relu = cupy.cuda.Stream(), Relu()
    with fastdl.profile() as p, stream:
        relu.forward(on_device)
        stream.begin_capture()
        relu.forward(on_device)
        stream.end_capture()
    assert calls(p) == {("relu1", "forward"): 1}


def test_what_is_paused_is_not_seen(x):
    with fastdl.profile() as p, profiling.paused():
        Relu().forward(x)
    assert not p.lines
    assert "no layer" in str(p)


def test_the_timeline(tmp_path, rng, x):
    net, loss = Sequential([convolution(rng), Relu(), Affine(np.ones((256, 3), "float32"), None)]), SoftmaxWithLoss()
    with fastdl.profile() as p:
        loss.forward(net.forward(x), np.array([0, 1]))
    p.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    by_name = {event["name"]: event for event in events}
    assert all(event["ph"] == "X" and event["dur"] >= 0 and event["ts"] >= 0 for event in events)
    layer = by_name["conv1 forward"]
    (kernel,) = (event for event in events if event["name"].startswith("conv2d forward"))
    assert layer["ts"] <= kernel["ts"]
    assert kernel["ts"] + kernel["dur"] <= layer["ts"] + layer["dur"] + 1e-3
    assert layer["cat"] == "layer" and kernel["cat"] == "kernel"


def test_a_full_timeline_says_so(monkeypatch, x):
    monkeypatch.setattr(profiling, "MOST_EVENTS", 3)
    with fastdl.profile() as p:
        for _ in range(3):
            F.relu(x)
            Relu().forward(x)
    assert p.left_out == 6
    assert len(p.lines) == 4


SCRIPT = """
import numpy as np
from fastdl.layers import Relu
for _ in range(5):
    Relu().forward(np.ones((3, 4), "float32"))
print("done")
raise SystemExit(3)
"""


def test_the_command(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "fastdl", "profile", "--trace", "t.json", "--json", "p.json", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "done\n"
    assert "relu1" in done.stderr and "everything else" in done.stderr
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    lines = json.loads((tmp_path / "p.json").read_text())["lines"]
    assert {line["name"] for line in lines} == {f"relu{i}" for i in range(1, 6)}
