"""The benchmark harness: statistics, records, counts, turns, the suite, and a run of a tiny layer from end to end."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastdl.bench import machine, peak, record, stats, timing, work
from fastdl.bench.record import Check, FmaPeak, Machine, Measurement, Memory, Peaks, Record, RecordError, Triad
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

BENCH = Path(__file__).parent.parent / "bench"
HAS_TORCH = importlib.util.find_spec("torch") is not None
COMPILED = not registry.level_missing("baseline")


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [5.0, 1.0, 4.0], [0.1 * i * i for i in range(12)]])
def test_quartiles_are_those_of_numpy(values):
    found = stats.summary(values)
    np.testing.assert_allclose(found, np.percentile(values, [50, 25, 75]))
    assert found.spread == pytest.approx((found.upper - found.lower) / found.median)


def test_no_times_have_no_summary():
    with pytest.raises(ValueError, match="nothing"):
        stats.summary([])


def test_geometric_mean():
    assert stats.geometric_mean(iter([2.0, 8.0])) == pytest.approx(4.0)
    assert math.isnan(stats.geometric_mean([]))


# ---- records --------------------------------------------------------------------------------------------------------

MACHINE = Machine("a CPU", "x86_64", ["avx2"], 2, 2, 1.5, None, {"L1d": 2**15}, None, [0.5], "Linux", {}, None, "abc+")
PEAKS = Peaks(
    [FmaPeak("v3", "float32", 2, [90.0, 100.0]), FmaPeak("v3", "float64", 2, [50.0])],
    [Triad(1000, 2, [10.0], [20.0, 22.0, 24.0]), Triad(100_000, 2, [40.0], [6.0])],
    3e-8,
)


def measurement(**changes):
    fields = {
        "suite": "layers",
        "case": "net/conv",
        "group": "3x3 s1",
        "op": "conv2d",
        "direction": "forward",
        "dtype": "float32",
        "threads": 2,
        "participant": "fastdl",
        "isa": "v3",
        "seconds": [0.1, 0.3, 0.2],
    }
    return Measurement(**(fields | changes))


def a_record():
    return Record(
        "layers",
        ["layers.py", "--quick"],
        MACHINE,
        PEAKS,
        [
            measurement(flop=1e10, bytes=10_000.0, problem={"op": "conv2d"}, check=Check(1e-7, 2e-7, "float64")),
            measurement(participant="torch nchw", seconds=[0.5], memory=Memory(10, 30), settings={"batch": 3}),
        ],
        True,
    )


def test_a_record_comes_back_as_it_was(tmp_path):
    a_record().save(tmp_path / "a.json")
    found = record.load(tmp_path / "a.json")
    assert found.measurements == a_record().measurements
    assert (found.machine, found.peaks) == (MACHINE, PEAKS)
    assert found.measurements[1].memory.over_idle == 20
    assert found.measurements[0].check.passed
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_who_was_absent_comes_back_and_need_not_be_there():
    assert "absent" not in a_record().to_json()
    assert record.from_json(a_record().to_json()).absent == {}
    found = a_record()
    found.absent["fastdl cuda"] = "there is no CUDA device"
    assert record.from_json(json.loads(json.dumps(found.to_json()))).absent == found.absent


def test_derived_figures():
    first = a_record().to_json()["measurements"][0]
    assert (first["median"], first["lower_quartile"], first["upper_quartile"]) == pytest.approx((0.2, 0.15, 0.25))
    assert first["gflops"] == pytest.approx(50)
    assert first["percent_of_peak"] == pytest.approx(50)  # of the best repetition
    assert first["gbps"] == pytest.approx(5e-5)
    assert first["percent_of_triad"] == pytest.approx(100 * 5e-5 / 31)
    second = a_record().to_json()["measurements"][1]
    assert second["gflops"] is None and second["percent_of_triad"] is None


def test_the_peak_is_that_of_level_compute_dtype_and_threads():
    assert PEAKS.gflops("v3", "float16", 2) == 100.0
    assert PEAKS.gflops("v3", "float64", 2) == 50.0
    assert PEAKS.gflops("v4", "float32", 2) is None
    assert PEAKS.gflops("v3", "float32", 1) is None


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(1, 22.0), (1000, 22.0), (10_000, 31.0), (100_000, 40.0), (1e9, 40.0), (0, None)]
)
def test_the_triad_is_interpolated_between_sizes(nbytes, expected):
    assert PEAKS.gbps(nbytes, 2) == (None if expected is None else pytest.approx(expected))
    assert PEAKS.gbps(nbytes, 1) is None


def test_the_copies_of_a_gpu_are_apart_from_the_triad_of_a_cpu():
    cpu, old, gpu = (
        Triad(1000, 1, [20.0], [10.0]),
        Triad(1000, 1, [900.0], [900.0]),
        Triad(1000, 1, [800.0], [800.0], "cuda"),
    )
    assert Peaks([], [old], None).gbps(10, 1, "cuda") == 900.0
    both = Peaks([], [cpu, gpu], None)
    assert both.gbps(10, 1, "cuda") == 800.0 and both.gbps(10, 1, "v3") == both.gbps(10, 1) == 20.0
    found = Record("layers", [], MACHINE, both, [measurement(isa="cuda", threads=1, bytes=400e9, seconds=[1.0])])
    data = json.loads(json.dumps(found.to_json()))
    assert [sorted(set(t) & {"isa"}) for t in data["peaks"]["triad"]] == [[], ["isa"]]
    assert data["measurements"][0]["percent_of_triad"] == pytest.approx(50)
    assert record.from_json(data).peaks == both


def _change(path, value):
    def change(data):
        *parents, last = path
        for key in parents:
            data = data[key]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], "other", "no benchmark record"),
        (["version"], 2, "version 2"),
        (["suite"], KeyError, "suite is missing"),
        (["extra"], 1, "extra is no field of Record"),
        (["machine", "cpus"], "two", "machine.cpus must be of type int"),
        (["machine", "cpus"], True, "machine.cpus must be of type int"),
        (["machine", "caches"], [], "machine.caches must be an object"),
        (["machine", "versions", "numpy"], 2, "machine.versions.numpy must be of type str"),
        (["peaks", "fma", 0, "gflops"], 3.0, r"peaks.fma\[0\].gflops must be a list"),
        (["complete"], 1, "complete must be of type bool"),
        (["absent"], ["fastdl cuda"], "absent must be an object"),
        (["absent"], {"fastdl cuda": None}, "absent.fastdl cuda must be of type str"),
        (["absent"], {"fastdl cuda": " "}, "absent.fastdl cuda must say why"),
        (["measurements"], {}, "measurements must be a list"),
        (["measurements", 0], [], r"measurements\[0\] must be an object"),
        (["measurements", 1, "threads"], 0, r"measurements\[1\].threads must be at least 1"),
        (["measurements", 1, "seconds"], [], r"measurements\[1\].seconds must hold times"),
        (["measurements", 1, "seconds"], [0.5, 0], r"measurements\[1\].seconds must hold times"),
        (["measurements", 0, "median"], 0.3, r"measurements\[0\].median is 0.3"),
        (["measurements", 0, "gflops"], None, r"measurements\[0\].gflops is None"),
        (["measurements", 1, "gflops"], 1.0, r"measurements\[1\].gflops is 1.0"),
        (["measurements", 0, "percent_of_peak"], KeyError, "percent_of_peak is missing"),
        (["measurements", 0, "check", "tolerance"], None, "check.tolerance must be of type float"),
    ],
)
def test_what_is_no_record_is_refused(path, value, message):
    data = json.loads(json.dumps(a_record().to_json()))
    record.from_json(copy.deepcopy(data))
    _change(path, value)(data)
    with pytest.raises(RecordError, match=message):
        record.from_json(data)


@pytest.mark.parametrize("text", [b"[]", b"{", b"{}", b"", b"\x89PNG\r\n\xff"])
def test_a_file_that_is_none_is_named(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(RecordError, match=r"x\.json: this is no benchmark record"):
        record.load(tmp_path / "x.json")


def test_a_record_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    broken = a_record()
    broken.measurements.append(measurement(flop=math.nan))
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["step.json"])
def test_the_results_in_the_repository_are_records(bench, name):
    import figure

    found = record.load(BENCH / "results" / name)
    bars = figure.bars(found)
    assert bars[0][0] == "book numpy, float64" and bars[0][2] == 1.0
    assert any(label.startswith("fastdl") for label, _, _ in bars)


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_the_machine_is_described():
    found = machine.describe("a-package-that-is-not-there")
    assert found.cpus >= found.affinity >= 1
    assert {"fastdl", "numpy", "python"} <= set(found.versions)
    assert "a-package-that-is-not-there" not in found.versions
    assert record.decode(Machine, json.loads(json.dumps(found.__dict__)), "machine") == found


@pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not built")
def test_the_peak_is_measured_for_every_level_dtype_and_thread_count():
    found = peak.measure([2, 1, 1], quick=True)
    keys = {(p.isa, p.dtype, p.threads) for p in found.fma}
    assert keys == set(itertools.product(registry.available_levels(), ("float32", "float64"), (1, 2)))
    assert all(rate > 0 for p in found.fma for rate in p.gflops)
    assert all(t.rate > 0 for t in found.triad)
    assert found.core_to_core is None or found.core_to_core > 0


@pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not built")
@pytest.mark.parametrize("isa", registry.available_levels())
def test_the_loops_behind_the_peak(isa):
    module = peak._module(isa)
    lanes = {"baseline": 4, "v3": 8, "v4": 16}[isa]
    assert module.fma("float32", 10, 3, 2) == 2 * module.fma("float64", 10, 3, 2)
    assert module.fma("float32", 10, 3, 2) % (2 * lanes * 30) == 0
    with pytest.raises(ValueError, match="float16"):
        module.fma("float16", 1, 1, 1)
    for n, streaming, offset in itertools.product((0, 1, 7, 20_001), (False, True), (0, 1)):
        memory = np.full((3, n + 2), np.pi)
        a, b, c = (row[offset : offset + n] for row in memory)
        b[:], c[:] = np.arange(n), 1
        module.triad(a, b, c, 2.0, streaming, 2)
        assert np.array_equal(a, np.arange(n) + 2.0)
        assert (memory[0, :offset] == np.pi).all() and (memory[0, offset + n :] == np.pi).all()
    with pytest.raises(ValueError, match="one length"):
        module.triad(np.zeros(3), np.zeros(3), np.zeros(2), 1.0, False, 1)
    for wrong in (np.zeros(6)[::2], np.zeros(3, np.float32), np.zeros((1, 3))):
        with pytest.raises(ValueError, match="contiguous float64"):
            module.triad(wrong, np.zeros(3), np.zeros(3), 1.0, False, 1)


# ---- turns ----------------------------------------------------------------------------------------------------------


def _logging(name, log, stop_at=None):
    def call():
        log.append(name)
        if stop_at is not None and len(log) >= stop_at:
            raise KeyboardInterrupt

    return timing.Participant(name, call)


def test_participants_take_turns(monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    times: dict[str, list[float]] = {}
    turns = timing.Turns(rounds=2, seconds=1e6, most=3, pause=0, warm=0)
    timing.interleave([_logging("a", log), _logging("b", log)], turns, times)
    assert "".join(log) == "aaaabbbbaaaabbbb"  # one more call than are timed
    assert {name: len(found) for name, found in times.items()} == {"a": 6, "b": 6}


def test_an_interrupt_leaves_what_was_measured(monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    times: dict[str, list[float]] = {}
    with pytest.raises(KeyboardInterrupt):
        timing.interleave([_logging("a", log), _logging("b", log, 7)], timing.Turns(2, 1e6, 3, 0), times)
    assert len(times["a"]) == 3 and times["b"] == []


def test_short_calls_are_timed_in_groups(monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(timing, "SHORTEST", 1e3)
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 100.0 * next(ticks))
    assert timing._turn(_logging("a", log).call, timing.Turns(most=2, seconds=1e9, warm=0)) == [10.0, 10.0]
    assert len(log) == 1 + 2 * 10


def test_long_calls_are_made_once_a_turn():
    turns = timing.Turns(rounds=3, seconds=0.1, most=10, pause=1.0, warm=0)
    assert [turns.calls(once) for once in (1.0, 0.05, 1e-6, 0.0)] == [1, 2, 10, 10]
    assert turns.estimate(1.0) == pytest.approx(3 * (1 + 2 * 1.0))


# ---- work -----------------------------------------------------------------------------------------------------------


def test_every_op_of_the_registry_is_counted():
    assert set(work._COUNTS) == {row.op for row in registry.TABLE}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_a_convolution_counts_every_product_of_its_loops(direction, groups):
    n, c, h, w, k, r, s = 2, 4, 5, 6, 6, 3, 2
    problem = Problem(
        "conv2d",
        direction,
        ((n, c, h, w), (k, c // groups, r, s)),
        "float32",
        ("nhwc", "nchw"),
        (1, 1, 0, 0),
        (2, 1),
        groups=groups,
    )
    windows = (len(range(0, h + 2 - r + 1, 2)), len(range(w - s + 1)))
    products = 0
    for _ in itertools.product(*map(range, (n, k, *windows, c // groups, r, s))):
        products += 1
    out = n * k * math.prod(windows)
    assert work.of(problem) == (2 * products, 4 * (n * c * h * w + k * c // groups * r * s + out))


def test_other_counts():
    gemm = Problem("gemm", "forward", ((5, 7), (7, 3)), "float64", epilogue="bias_relu")
    assert work.of(gemm) == (2 * 5 * 7 * 3 + 2 * 15, 8 * (35 + 21 + 15 + 3))
    relu = Problem("relu", "backward", ((5, 7),), "float16")
    assert work.of(relu) == (35, 3 * 2 * 35)
    attrs = (("ceil_mode", False), ("kernel", (2, 2)))
    pool = Problem("max_pool2d", "forward", ((1, 3, 4, 4),), "float32", stride=(2, 2), attrs=attrs)
    assert work.of(pool) == (48, 4 * (48 + 12) + 12)
    adam = Problem("adam", "step", ((2, 3), (4,)), "float32")
    assert work.of(adam).bytes == 7 * 4 * 10  # reads p, g, m, v, writes p, m, v
    assert work.of(gemm) + work.of(relu) == (work.of(gemm)[0] + 35, work.of(gemm)[1] + 210)
    calls = [(gemm, "numpy", 3), (relu, "v3/a", 1), (relu, "v3/b", 1), (gemm, "numpy", 1)]
    assert work.total(calls) == (4 * work.of(gemm)[0] + 70, 4 * work.of(gemm)[1] + 420)
    assert work.names(calls) == ["gemm forward: numpy", "relu backward: v3/a", "relu backward: v3/b"]


# ---- the suite ------------------------------------------------------------------------------------------------------


def test_the_suite_is_complete_and_without_duplicates(bench):
    import calls
    import suite
    from peers import torch_ops

    names = [name for layer in suite.LAYERS for name in (layer.name, *layer.aliases)]
    assert len(set(names)) == len(names)
    assert {layer.group for layer in suite.LAYERS} == set(suite.GROUPS)
    assert {name.partition("/")[0] for name in names} == {*suite.NETWORKS, "memory"}
    assert len({(la.op, la.shape, la.weight, la.settings) for la in suite.LAYERS}) == len(suite.LAYERS)
    for layer in suite.LAYERS:
        assert min(layer.out_shape) >= 1
        assert layer.directions and set(layer.directions) <= set(suite.PASSES)
        if layer.op == "conv2d":
            assert layer.weight[1] * layer.options["groups"] == layer.shape[1]
        for direction in layer.directions:
            if layer.group == "optimizer":
                assert layer.op in calls.KINDS
            else:
                assert (layer.op, direction) in calls.OURS and (layer.op, direction) in torch_ops.CALLS


@pytest.mark.parametrize(
    ("network", "expected"),
    [("alexnet", 1.135), ("vgg16", 15.47), ("googlenet", 1.58), ("resnet50", 4.09)],
)
def test_the_layers_of_a_network_add_up_to_its_published_multiply_adds(bench, network, expected):
    """In 1e9 for one image; torchvision's documentation has 15.47, 1.50 (with 3x3 for 5x5) and 4.09 for the last."""
    import suite

    total = sum(
        layer.macs / layer.shape[0]
        for layer in suite.LAYERS
        for name in (layer.name, *layer.aliases)
        if name.startswith(network + "/")
    )
    assert total / 1e9 == pytest.approx(expected, rel=0.005)


def _tiny(suite):
    """Every op of the suite at a size that takes no time."""
    response = suite._settings(size=5, alpha=5e-4, beta=0.75, k=2.0)
    pooling = suite._settings(size=3, stride=2)
    yield suite.conv("t/conv", (2, 4, 6, 5), 6, 3, pad=1)
    yield suite.conv("t/first", (2, 3, 9, 9), 6, 3, stride=2)
    yield suite.conv("t/depthwise", (2, 4, 6, 6), 4, 3, pad=1, groups=4)
    yield suite.dense("t/dense", 3, 10, 4)
    yield suite.pool("t/pool", (2, 3, 7, 7), 3, 2, ceil_mode=True)
    yield suite.Layer("t/average", "avg_pool2d", "pool", (2, 3, 7, 7), settings=pooling)
    yield suite.Layer("t/global", "global_avg_pool2d", "pool", (2, 3, 7, 7))
    yield suite.Layer("t/norm", "batch_norm", "norm", (3, 4, 5, 5))
    yield suite.Layer("t/response", "local_response_norm", "norm", (2, 8, 3, 3), settings=response)
    yield suite.Layer("t/relu", "relu", "elementwise", (2, 3, 4, 5))
    yield suite.Layer("t/add", "add", "elementwise", (2, 3, 4, 5))
    yield suite.Layer("t/concat", "concat", "elementwise", (2, 5, 4, 4), settings=suite._settings(parts=(2, 3)))
    yield suite.Layer("t/dropout", "dropout", "elementwise", (40, 50), settings=suite._settings(ratio=0.5))
    for source, target in (("float32", "float16"), ("float16", "float32"), ("float64", "float32")):
        settings = suite._settings(source=source, target=target)
        yield suite.Layer(f"t/cast_{source}", "cast", "elementwise", (2, 3, 4, 5), settings=settings)
    yield suite.Layer("t/loss", "softmax_cross_entropy", "loss", (6, 9))
    for op in ("sgd", "momentum", "adam"):
        settings = suite._settings(parameters=((3, 4), (4,)))
        yield suite.Layer(f"t/{op}", op, "optimizer", (1, 16), settings=settings)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_op_of_the_suite_runs_and_agrees_with_its_peers(bench, dtype):
    import calls
    import layers
    import suite

    some = [layer for layer in _tiny(suite) if calls.applies(layer, dtype)]
    assert {la.op for la in some if la.group != "optimizer"} == {
        la.op for la in suite.LAYERS if la.group != "optimizer"
    }
    compared = 0
    for layer in some:
        for direction in layer.directions:
            prepared = calls.Prepared(layer, direction, dtype)
            ran = prepared.ours(calls.Settings(2))
            assert ran.check.passed and ran.kernels and ran.work.bytes > 0, layer.name
            if HAS_TORCH:
                for name, peer in layers.peers_of(prepared, 2, lambda _: None):
                    assert peer.check.passed, (layer.name, direction, name)
                    compared += 1
    assert compared > 30 or not HAS_TORCH


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_a_part_of_a_large_layer_is_compared_first_and_last_included(bench, monkeypatch, direction):
    import calls
    import suite

    from fastdl.check.runner import Failure

    monkeypatch.setattr(calls, "COMPARED", 100)
    layer = suite.conv("t/conv", (9, 4, 6, 6), 9, 3, pad=1)
    prepared = calls.Prepared(layer, direction, "float32")
    right = prepared.ours(calls.Settings(1)).call
    (name,) = right()
    assert prepared._part(name, right()[name]).shape[0] < 9

    def wrong():
        found = right()
        found[name][-1, -1, -1, -1] += 1
        return found

    with pytest.raises(Failure, match="1 of"):
        prepared.peer(wrong, lambda outputs: outputs)


# ---- from end to end ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(bench, monkeypatch):
    """``layers`` with a suite of two layers."""
    import layers
    import suite

    found = tuple(layer for layer in _tiny(suite) if layer.name in ("t/conv", "t/relu"))
    monkeypatch.setattr(suite, "LAYERS", found)
    return layers


def test_a_run_from_end_to_end(tiny, tmp_path, capsys):
    path = tmp_path / "out.json"
    assert tiny.main(["--quick", "--threads", "1,2", "--conv", "auto,direct", "--json", str(path)]) == 0
    found = record.load(path)
    assert found.complete and found.suite == "layers" and found.machine.versions["numpy"] == np.__version__
    participants = {"fastdl", "fastdl/direct"} | ({"torch channels_last", "torch nchw"} if HAS_TORCH else set())
    assert {m.participant for m in found.measurements if m.op == "conv2d"} == participants
    assert {m.direction for m in found.measurements} == {"forward", "backward_input", "backward_weight", "backward"}
    assert {m.threads for m in found.measurements} == {1, 2}
    for m in found.measurements:
        assert m.check.passed
        if m.participant == "fastdl":
            assert m.kernels[0].startswith(f"{m.op} {m.direction}: ")
        assert m.problem["shapes"] == ([[2, 4, 6, 5], [6, 4, 3, 3]] if m.op == "conv2d" else [[2, 3, 4, 5]])
    out = capsys.readouterr().out
    assert "t/conv" in out and ("3x3 s1" in out)


def test_what_is_selected(tiny):
    options = tiny.arguments(["--only", "t/c*", "--passes", "forward,backward", "--dtypes", "float32,float16"])
    assert [(p.layer.name, p.direction, p.dtype) for p in options.passes_selected] == [
        ("t/conv", "forward", "float32"),
        ("t/conv", "forward", "float16"),
    ]
    assert len(tiny.arguments(["--class", "elementwise"]).passes_selected) == 2
    for wrong in (["--only", "x"], ["--threads", "0"], ["--isa", "v9"], ["--dtypes", "int8"], ["--passes", "up"]):
        with pytest.raises(SystemExit):
            tiny.arguments(wrong)


def test_a_wrong_result_is_not_timed(tiny, monkeypatch, tmp_path):
    import calls

    relu = calls.OURS["relu", "forward"]

    def wrong(o, options):
        out = relu(o, options)["out"]
        return {"out": out if out.dtype == np.float64 else out + 1}

    monkeypatch.setitem(calls.OURS, ("relu", "forward"), wrong)
    assert tiny.main(["--quick", "--no-peers", "--json", str(tmp_path / "out.json")]) == 1
    found = record.load(tmp_path / "out.json")
    assert ("relu", "forward") not in {(m.op, m.direction) for m in found.measurements}
    assert ("relu", "backward") in {(m.op, m.direction) for m in found.measurements}


def test_an_interrupted_run_keeps_what_it_has(tiny, monkeypatch, tmp_path):
    passes = itertools.count()
    whole = tiny.interleave

    def interrupted(participants, turns, times):
        whole(participants, turns, times)
        if next(passes) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "interleave", interrupted)
    assert tiny.main(["--quick", "--no-peers", "--json", str(tmp_path / "out.json")]) == 130
    found = record.load(tmp_path / "out.json")
    assert not found.complete
    assert [m.direction for m in found.measurements] == ["forward", "backward_input"]


def test_ratios_are_to_the_better_peer(bench):
    import tables

    def layer(case, group, ours, *theirs, dtype="float32", op="conv2d"):
        common = {"case": case, "group": group, "op": op, "dtype": dtype, "flop": 1e10, "bytes": 1e4}
        yield measurement(**common, seconds=[ours])
        for name, seconds in zip(("torch nchw", "torch channels_last"), theirs, strict=False):
            yield measurement(**common, participant=name, seconds=[seconds])

    found = Record("layers", [], MACHINE, PEAKS)
    found.measurements += layer("a", "3x3 s1", 1.0, 9.0, 4.0)
    found.measurements += layer("b", "5x5 s1", 1.0, 1.0)
    found.measurements += layer("c", "1x1", 2.0, 1.0, 3.0)
    found.measurements += layer("d", "pool", 2.0, op="max_pool2d")
    found.measurements += layer("a", "3x3 s1", 0.5, 8.0, dtype="float16")
    assert [line.ratio for line in tables.lines(found)] == [4.0, 1.0, 0.5, None, 16.0]
    bars = {bar.measure: bar.value for bar in tables.bars(found)}
    assert bars["float32, stride-1 3×3 and 5×5"] == "2.00×"
    assert bars["float32, 1×1"] == "0.50×"
    assert bars["float32, slowest pass"] == "0.50× c forward"
    assert bars["float16 convolution"] == "16.00×"
    assert bars["float16 convolution against own float32"] == "2.00×"
    assert "float64 convolution" not in bars and "pooling" not in bars
    assert bars["float32 v3, large stride-1 layers, of its peak (direct)"] == "10%"


def test_numba_is_compared_with_each_setting(bench):
    import tables

    def one(participant, seconds, **settings):
        m = measurement(participant=participant, seconds=[seconds])
        return dataclasses.replace(m, settings={**m.settings, **settings})

    found = a_record()
    assert tables.numba_tables(found) == []
    found.measurements = [one("fastdl", 1.0), one("fastdl/direct", 3.0), one("fastdl/numba", 2.0, first_call=7.0)]
    first, second = tables.numba_tables(found)
    assert "the time of fastdl by its own" in first.title
    assert "the time of fastdl/direct by its own" in second.title
    assert "0.50" in list(first.columns[-2].cells)
    assert "1.50" in list(second.columns[-2].cells)
    assert "7.0 s" in second.caption
