"""The GPU benchmark without a GPU: dry runs, and its device on stand-ins for CuPy's and PyTorch's CUDA."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdl import backend
from fastdl.bench import record
from fastdl.bench.record import FmaPeak, Machine, Measurement, Peaks, Record, RecordError, Triad

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parent.parent
GPU = {"name": "a GPU", "multiprocessors": 132}
MACHINE = Machine("a CPU", "x86_64", [], 2, 2, None, None, {}, None, [], "Linux", {}, None, None, GPU)
PEAKS = Peaks(
    [FmaPeak("cuda", name, 1, [rate]) for name, rate in (("float32", 5e4), ("float16", 8e5))],
    [Triad(2**21, 1, [2000.0], [2000.0]), Triad(2**31, 1, [3000.0], [3000.0])],
    None,
)


@pytest.fixture
def emulated(bench):
    """The scripts, where kernels can be emulated."""
    if reason := backend.missing("cuda-emulated"):
        pytest.skip(reason)


# ---- dry runs -------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_layers(emulated, tmp_path, capsys):
    import gpu

    names = "deepconvnet/conv2,memory/sgd_deepconvnet,memory/cross_entropy_digits"
    command = [str(tmp_path), "--dry-run", "--only", names, "--precisions", "float32,tf32", "--stages",
               "machine,checks,layers"]  # fmt: skip
    assert gpu.main(command) == 0
    found = record.load(tmp_path / "gpu.json")
    assert found.complete and found.peaks is not None and found.machine.gpu["name"].startswith("no GPU")
    passes = {(m.case, m.direction, m.dtype) for m in found.measurements if m.participant == "fastdl"}
    conv = ("forward", "backward_input", "backward_weight", "forward_relu", "forward_relu_pool")
    assert passes == {
        *(("deepconvnet/conv2", direction, dtype) for direction in conv for dtype in ("float32", "tf32")),
        ("memory/sgd_deepconvnet", "step", "float32"),
        ("memory/cross_entropy_digits", "forward", "float32"),
        ("memory/cross_entropy_digits", "backward", "float32"),
    }
    assert all(m.check.passed and m.isa == "cuda" and m.settings["timed"] == "emulated" for m in found.measurements)
    assert any("implicit_gemm_tf32" in name for m in found.measurements for name in m.kernels)
    text = (tmp_path / "gpu.txt").read_text()
    assert capsys.readouterr().out == text
    assert text.startswith("A dry run") and "ratio" not in text.partition("# Passes")[2].partition("\n")[2]
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.txt"}


def test_a_dry_run_of_training(emulated, tmp_path, capsys):
    import gpu

    command = [str(tmp_path), "--dry-run", "--stages", "training", "--precisions", "float32", "--json"]
    assert gpu.main(command) == 0
    found = record.from_json(json.loads(capsys.readouterr().out))
    steps = {m.participant: m for m in found.measurements if m.op == "training_step"}
    assert set(steps) == {"fastdl", "fastdl/graph", "torch channels_last"}
    assert steps["fastdl"].check.passed and steps["fastdl"].flop > 0 and steps["fastdl"].kernels
    assert not [note for note in (tmp_path / "gpu.txt").read_text().splitlines() if "no graph" in note]


def test_what_there_is_no_time_for_is_named(emulated, tmp_path):
    import gpu

    names = "deepconvnet/pool1,memory/relu_deepconvnet"
    command = [str(tmp_path), "--dry-run", "--minutes", "1e-9", "--only", names, "--precisions", "float32",
               "--stages", "layers"]  # fmt: skip
    assert gpu.main(command) == 0
    text = (tmp_path / "gpu.txt").read_text()
    assert "# Left out for lack of time: 4 passes" in text and "deepconvnet/pool1 forward, backward" in text
    assert not record.load(tmp_path / "gpu.json").complete


def test_rows_that_fail_and_results_that_are_wrong_are_not_timed(emulated, monkeypatch):
    import calls
    import gpu_device
    import gpu_layers
    import suite

    (layer,) = (layer for layer in suite.LAYERS if layer.name == "memory/relu_deepconvnet")
    unit = gpu_layers.Unit(suite.small(layer), "forward", ("float32",))
    place, said = gpu_device.Emulation(), []
    failing = {("relu", "forward", "cuda-emulated/elementwise", "float32")}
    assert not list(gpu_layers.measure(unit, place, failing, said.append, True)) and "fails its checks" in said.pop()

    def broken(o, options):
        out = calls.F.relu(o["x"])
        if backend.get_backend() == "cuda-emulated":
            out[-1, -1, -1, -1] += 1
        return {"out": out}

    monkeypatch.setitem(calls.OURS, ("relu", "forward"), broken)
    assert not list(gpu_layers.measure(unit, place, (), said.append, True)) and "WRONG" in said.pop()


def test_without_a_gpu_there_is_one_sentence(tmp_path):
    program = (
        f"import sys; sys.modules['cupy'] = None; sys.argv = ['gpu.py', {str(tmp_path / 'out')!r}]; import runpy; "
        f"runpy.run_path({str(ROOT / 'bench' / 'gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("There is no GPU to measure here") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkout_that_is_not_installed(tmp_path):
    """Only links to the sources: what ``import checkout`` does on a bare machine."""
    for name in ("fastdl", "kernels", "bench"):
        (tmp_path / name).mkdir()
    for path in (ROOT / "fastdl").iterdir():
        if path.name != "kernels":
            (tmp_path / "fastdl" / path.name).symlink_to(path)
    (tmp_path / "kernels" / "__init__.py").write_text("HERE = True\n")
    (tmp_path / "bench" / "checkout.py").write_text((ROOT / "bench" / "checkout.py").read_text())
    program = "import checkout, fastdl, fastdl.kernels, sys; assert fastdl.kernels.HERE; print(fastdl.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "bench", env=os.environ | {"PYTHONPATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not Path(done.stdout.strip()).exists(), "the folder of links is gone"


# ---- importance -----------------------------------------------------------------------------------------------------


def test_units_are_complete_and_ordered(bench):
    import gpu_layers
    import suite

    precisions = ("float16", "bfloat16", "tf32", "float32")
    units = gpu_layers.units(precisions)
    assert len({unit.name for unit in units}) == len(units)
    for layer in suite.LAYERS:
        found = {(u.direction, p) for u in units if u.layer is layer for p in u.precisions}
        assert {direction for direction, _ in found} == set(gpu_layers.directions(layer)), layer.name
        assert {dtype for _, dtype in found} <= set(precisions)
    half = units[: len(units) // 2]
    assert {unit.layer.group for unit in half} == set(suite.GROUPS)
    later = [unit.precisions for unit in units[len(half) :]]
    assert sum("bfloat16" in p for p in later) > sum("bfloat16" in unit.precisions for unit in half)


def test_small_layers_are_of_their_kind(bench):
    import suite

    for layer in suite.LAYERS:
        found = suite.small(layer)
        assert (found.op, found.group, found.name) == (layer.op, layer.group, layer.name)
        assert 0 < found.macs < 2e6 or not layer.macs
        assert all(n > 0 for n in found.out_shape)


# ---- a device on stand-ins ------------------------------------------------------------------------------------------


class FakeEvent:
    """Of PyTorch."""

    def __init__(self, **options):
        self.recorded = 0

    def record(self, stream=None):
        self.recorded += 1

    def synchronize(self):
        assert self.recorded

    def elapsed_time(self, other):
        return 2.0


class FakeGraph:
    """PyTorch's, which runs nothing."""

    def capture_begin(self):
        pass

    capture_end = replay = capture_begin


@pytest.fixture
def gpu_place(bench, cupy, monkeypatch):
    """``gpu_device.Gpu`` over host memory."""
    import gpu_device

    monkeypatch.setattr(
        cupy.cuda, "UnownedMemory",
        lambda ptr, size, owner, device: types.SimpleNamespace(ptr=ptr, device_id=device, owner=owner), raising=False,
    )  # fmt: skip
    cuda = types.SimpleNamespace(
        Stream=lambda: types.SimpleNamespace(synchronize=lambda: None), Event=FakeEvent, CUDAGraph=FakeGraph,
        stream=lambda stream: contextlib.nullcontext(), synchronize=lambda: None, init=lambda: None,
        mem_get_info=lambda: (2**30, 2**31), get_device_properties=lambda i: types.SimpleNamespace(L2_cache_size=2**12),
    )  # fmt: skip

    class Torch(types.ModuleType):
        def __getattr__(self, name):
            return getattr(torch, name)

    proxy: Any = Torch("torch")
    proxy.cuda = cuda
    monkeypatch.setitem(sys.modules, "torch", proxy)
    place = gpu_device.Gpu()
    monkeypatch.setitem(sys.modules, "torch", torch)
    place.torch_device = "cpu"
    monkeypatch.setattr(gpu_device, "POOL", 2**16)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda x, w, b, s, p, d, g: torch.relu(
        torch.nn.functional.conv2d(x, w, b, s, p, d, g)))  # fmt: skip
    return place


@pytest.mark.parametrize("name", ["deepconvnet/conv2", "memory/relu_deepconvnet", "memory/adam_deepconvnet"])
def test_graphs_are_replayed_on_operands_in_turns(gpu_place, name):
    import gpu_layers
    import suite

    import fake_cupy

    (layer,) = (layer for layer in suite.LAYERS if layer.name == name)
    layer, said = suite.small(layer), []
    for unit in gpu_layers.units(("float32",), [layer]):
        graphs = fake_cupy.state.graphs
        found = list(gpu_layers.measure(unit, gpu_place, (), said.append, False))
        assert not said and len(found) == 2 + (unit.direction in ("forward_relu", "forward_relu_pool"))
        for m in found:
            assert m.check.passed and len(m.seconds) == gpu_layers.REPEATS and m.settings["timed"] == "graph"
            assert m.settings["sets"] >= 2
        times = round(0.002 / (found[0].median * found[0].settings["sets"]))
        assert fake_cupy.state.graphs == graphs + 2 + gpu_layers.REPEATS * times


def test_a_worker_on_a_device(gpu_place, tmp_path, monkeypatch):
    import gpu
    import gpu_device
    import gpu_machine

    monkeypatch.setattr(gpu_device, "Gpu", lambda: gpu_place)
    monkeypatch.setattr(gpu_machine, "describe", lambda place: MACHINE)
    monkeypatch.setattr(gpu_machine, "compile_all", lambda *args: 0.0)
    monkeypatch.setattr(gpu_machine, "COPIES", (2**16,))
    names = "memory/sgd_deepconvnet,memory/cross_entropy_digits"
    options = gpu.arguments([str(tmp_path), "--worker", "--only", names, "--precisions", "float32,float16",
                             "--stages", "layers"])  # fmt: skip
    assert gpu.work(options) == 0
    found = record.load(tmp_path / "gpu.json")
    assert found.complete and len(found.measurements) == 2 + 4 + 4
    text = (tmp_path / "gpu.txt").read_text()
    assert "max-pool, batch norm, softmax, optimizer steps" in text and "Left out" not in text
    assert json.loads((tmp_path / "state.json").read_text())["done"][0] == "compilation"
    options.resume = True
    assert gpu.work(options) == 0 and len(record.load(tmp_path / "gpu.json").measurements) == 10


def test_what_cannot_be_captured_is_launched(gpu_place):
    calls = []

    def call():
        import cupy

        calls.append(1)
        if cupy.cuda.get_current_stream().is_capturing():
            raise RuntimeError("a number of the host is needed\nmore")

    found = gpu_place.record_ours([call] * 3, "float32")
    assert found.reason == "a number of the host is needed"
    before = len(calls)
    assert found.seconds(4) == pytest.approx(0.002 / 12) and len(calls) == before + 12


def test_arrays_over_tensors(gpu_place):
    import fastdl

    for dtype in ("float32", "float16", "bfloat16"):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        tensor = gpu_place.normal((2, 3, 4, 5), dtype).permute(0, 3, 1, 2)
        a = gpu_place.array(tensor)
        host = fastdl.to_device(a, "cpu")
        assert a.data.ptr == tensor.data_ptr() and host.dtype.name == dtype
        assert np.array_equal(host.astype(np.float64), tensor.to(torch.float64).numpy())
        assert gpu_place.tensor(host).stride() == tensor.stride()
        assert np.array_equal(gpu_place.numpy(gpu_place.tensor(host)), host)


# ---- going on -------------------------------------------------------------------------------------------------------

WORKER = """
import json, pathlib, sys, time
state = pathlib.Path(sys.argv[1]) / "state.json"
if "--resume" not in sys.argv:
    state.write_text(json.dumps({"current": "bad kernel", "bad": {}, "notes": [], "wrong": 0}))
    sys.exit(75)
found = json.loads(state.read_text())
(state.parent / "seen.json").write_text(json.dumps(found))
sys.exit(1)
"""


def test_a_lost_device_costs_one_item(bench, tmp_path):
    import gpu_state

    (tmp_path / "worker.py").write_text(WORKER)
    said = []
    assert gpu_state.supervise([str(tmp_path / "worker.py"), str(tmp_path)], tmp_path, said.append) == 1
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["bad"] == {"bad kernel": "the device was lost"} and seen["wrong"] == 1 and seen["current"] == ""
    assert said == ["going on without bad kernel"]


def test_a_process_that_says_nothing_is_ended(bench, tmp_path, monkeypatch):
    import gpu_state

    monkeypatch.setattr(gpu_state, "SILENCE", 0.5)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert gpu_state._watch(process, tmp_path / "state.json") == -9


def test_items_are_done_once_and_errors_are_noted(bench, tmp_path):
    import gpu_state

    state = gpu_state.State(tmp_path, False, lambda text: None)
    with state.item("a", lambda: None) as wanted:
        assert wanted
    with state.item("a", lambda: None) as wanted:
        assert not wanted
    with state.item("b", lambda: None):
        raise ValueError("no\nsuch thing")
    assert state.bad["b"] == "b: ValueError: no such thing" and state.wrong == 1

    def lost():
        raise RuntimeError("illegal address")

    with pytest.raises(gpu_state.DeviceLost), state.item("c", lost):
        pass
    again = gpu_state.State(tmp_path, True, lambda text: None)
    assert again.done == ["a"] and set(again.bad) == {"b", "c"} and again.current == "c"


# ---- tables and records ---------------------------------------------------------------------------------------------


def measurement(case, group, direction, dtype, participant, seconds, op="conv2d", **settings):
    """One of the layers."""
    return Measurement(
        "gpu", case, group, op, direction, dtype, 1, participant, "cuda", [seconds] * 7, flop=4e9, bytes=1e8,
        settings={"timed": "graph", "shape": [16, 256, 28, 28], "weight": [256, 256, 3, 3]} | settings,
    )  # fmt: skip


def test_classes_stand_beside_their_goals(bench):
    import gpu_tables

    found = Record("gpu", [], MACHINE, PEAKS)
    for direction, ratio in (("forward", 0.5), ("backward_input", 0.98), ("backward_weight", 0.3)):
        for who, seconds in (("fastdl", 1e-4), ("torch channels_last", ratio * 1e-4)):
            found.measurements.append(measurement("v/conv", "3x3 s1", direction, "float16", who, seconds))
    for who, seconds in (("fastdl", 1e-4), ("torch three calls", 2e-4), ("torch cudnn fused", 0.9e-4)):
        found.measurements.append(measurement("v/conv", "3x3 s1", "forward_relu", "float16", who, seconds))
    for who, seconds in (("fastdl", 1e-4), ("torch channels_last", 1.5e-4)):
        found.measurements.append(measurement("v/odd", "strided", "forward", "float32", who, seconds, timed="launches"))
    text = gpu_tables.class_table(found)
    wide = next(line for line in text.splitlines() if line.startswith("3x3, 5x5 s1"))
    assert "0.70  " in wide and "0.60" in wide and "met" in wide and "lowest 0.50 v/conv forward" in wide
    weight = next(line for line in text.splitlines() if line.startswith("the same: backward_weight"))
    assert "0.30" in weight and "missed" in weight
    fused = [line for line in text.splitlines() if line.startswith("conv + bias")]
    assert "2.00" in fused[0] and "0.90" in fused[1]
    assert any(line.startswith("convolutions in float32") and "1.50" in line for line in text.splitlines())
    table = gpu_tables.pass_table(found, False)
    assert "100.00*" in table and "40.0" in table and "5% peak" in table
    assert "a GPU" in gpu_tables.text_of(found) and "met" in gpu_tables.text_of(found)


def test_records_of_a_gpu(tmp_path):
    found = Record("gpu", [], MACHINE, PEAKS, [measurement("c", "3x3 s1", "forward", "float16", "fastdl", 1e-4)], True)
    found.save(tmp_path / "gpu.json")
    assert record.load(tmp_path / "gpu.json") == found
    figures = found.measurements[0].figures(PEAKS)
    assert figures["percent_of_peak"] == pytest.approx(5.0), "float16 has a peak of its own on a GPU"
    plain = Record("layers", [], dataclasses.replace(MACHINE, gpu=None))
    assert "gpu" not in plain.to_json()["machine"] and record.from_json(plain.to_json()) == plain
    data = found.to_json()
    data["machine"]["gpus"] = 1
    with pytest.raises(RecordError, match="gpus"):
        record.from_json(data)
