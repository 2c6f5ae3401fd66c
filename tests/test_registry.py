"""The table: rows that can be loaded, one signature for all backends, and a choice that depends on nothing else."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys

import numpy as np
import pytest

from fastdl.check.cases import build, cases
from fastdl.kernels import registry
from fastdl.kernels.problem import COMPUTE, Problem, memory_order
from fastdl.kernels.registry import LEVELS, TABLE, KernelError

PAIRS = list(dict.fromkeys((row.op, row.direction) for row in TABLE))
assert PAIRS, "the registry is empty"
every_pair = pytest.mark.parametrize(("op", "direction"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
COMPILED = not registry.level_missing("baseline")
needs_kernels = pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not built")

GEMM = Problem("gemm", "forward", ((5, 7), (7, 3)), "float32", ("nchw", "nchw"))


def rows_of(op, direction):
    return [row for row in TABLE if (row.op, row.direction) == (op, direction)]


def parameters(function):
    """Names in order; compiled functions tell theirs too."""
    return list(inspect.signature(function).parameters)


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_distinct_and_well_formed():
    keys = [(row.op, row.direction, row.label) for row in TABLE]
    assert len(set(keys)) == len(keys)
    for row in TABLE:
        assert row.backend in registry.BACKENDS
        assert row.isa in (*LEVELS, *registry.FEATURES) if row.backend == "cython" else row.isa == "any"
        assert row.storage
        assert set(row.storage) <= {*COMPUTE, "uint8", "uint32"}
        module, name = row.target.split(":")
        assert name == f"{row.op}_{row.direction}" or name.startswith(f"{row.op}_{row.direction}_")
        assert module.startswith("fastdl.kernels.")
        files = {"numpy": "reference", "numba": "_numba", "cython": f"_cython_{row.isa}"}
        file = files.get(row.backend, "_cuda")
        assert module.rpartition(".")[2] == file


@every_pair
def test_every_op_has_one_reference_and_each_level_of_each_algorithm(op, direction):
    rows = rows_of(op, direction)
    references = [row for row in rows if row.backend == "numpy"]
    assert len(references) == 1
    there = {
        name
        for name in registry.BACKENDS
        if not all(registry.left_out(op, direction, dtype, name) for dtype in references[0].storage)
    }
    assert len([row for row in rows if row.backend == "numba"]) == ("numba" in there)
    for backend in there & set(registry.CUDA_BACKENDS):
        general = [row for row in rows if row.backend == backend and row.eligible is registry._always]
        assert general, f"no {backend} row takes every problem"
    for algorithm in {row.algorithm for row in rows if row.backend == "cython"}:
        found = {row.isa for row in rows if (row.algorithm, row.backend) == (algorithm, "cython")}
        assert found - set(registry.FEATURES) in (set(LEVELS), set())
        assert found <= {*LEVELS, *registry.FEATURES}
    on_a_gpu, emulated = ({row.target for row in rows if row.backend == name} for name in ("cuda", "cuda-emulated"))
    assert on_a_gpu == emulated
    for row in rows:
        assert set(row.storage) <= set(references[0].storage), "a kernel without its specification"


@every_pair
def test_the_reference_loads(op, direction):
    function = registry.load(rows_of(op, direction)[0])
    assert function.__name__ == f"{op}_{direction}"
    assert function.__doc__, "the specification says what it computes"


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.backend != "numpy"], ids=lambda r: f"{r.op}-{r.direction}-{r.label}"
)
def test_compiled_rows_load_and_have_the_signature_of_the_reference(row):
    if reason := registry.row_missing(row):
        pytest.skip(reason)
    function = registry.load(row)
    assert (function.__module__, function.__name__) == tuple(row.target.split(":"))
    wanted = parameters(registry.load(rows_of(row.op, row.direction)[0]))
    assert parameters(function) == wanted
    assert (wanted[0], wanted[-1]) == ("problem", "threads")


def test_the_table_imports_nothing_compiled():
    program = (
        "import sys, fastdl.kernels.registry\n"
        "names = ('_cython', '_runtime', 'reference', '_numba', '_cuda')\n"
        "loaded = [m for m in sys.modules if any(name in m for name in names) or m in ('numba', 'cupy')]\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@every_pair
def test_workspace_is_a_number_that_does_not_grow_with_the_batch(op, direction):
    for row in rows_of(op, direction):
        for case in list(cases(op, direction, row.storage[0]))[::10]:
            problem = build(case).problem
            for threads in (1, 2, 7):
                declared = row.workspace(problem, row.isa, threads)
                assert isinstance(declared, int)
                assert declared >= 0
            assert row.workspace(problem, row.isa, 1) <= row.workspace(problem, row.isa, 2)


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("isa", [*LEVELS, "v4bf16"])
def test_the_workspace_of_a_convolution_is_bounded(direction, isa):
    """Independent of N, H and W, once there is enough work to fill the blocks: no im2col of the input."""
    rows = [row for row in rows_of("conv2d", direction) if row.isa == isa]
    assert rows or (isa, direction) == ("v4bf16", "backward_weight")
    for row in rows:
        tried = 0
        for c, k, groups, r in ((32, 48, 1, 3), (32, 48, 1, 5), (32, 48, 1, 1), (3, 48, 1, 7), (32, 32, 32, 3)):
            sizes = set()
            for n, h, w in ((8, 512, 512), (64, 512, 512), (8, 1024, 1536)):
                orders = ("nhwc", "nhwc" if direction == "backward_weight" else "nchw")
                problem = Problem(
                    "conv2d", direction, ((n, c, h, w), (k, c // groups, r, r)), row.storage[0], orders, (r // 2,) * 4,
                    groups=groups,
                )  # fmt: skip
                if row.eligible(problem) is True:
                    sizes.add(row.workspace(problem, isa, 4))
                    tried += 1
            assert len(sizes) <= 1, row.label
            assert max(sizes, default=0) < 16 * 2**20, row.label
        assert tried, f"{row.label} is eligible for none of these"


# ---- choice ---------------------------------------------------------------------------------------------------------


@every_pair
@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_the_choice_is_a_function_of_problem_backend_and_cap(op, direction, backend, monkeypatch):
    """Not of the thread count, the environment or what ran before; the best level that the cap allows."""
    if backend == "cython" and not COMPILED:
        pytest.skip("the compiled kernels are not built")
    row = next((row for row in rows_of(op, direction) if row.backend == backend), None)
    if row is None:
        pytest.skip(registry.left_out(op, direction, rows_of(op, direction)[0].storage[0], backend))
    if backend != "cython" and (reason := registry.row_missing(row)):
        pytest.skip(reason)
    from fastdl import backend as settings

    dtype = "float32" if "float32" in row.storage else row.storage[0]
    some = [build(case).problem for case in list(cases(op, direction, dtype))[::25]]
    assert some
    for problem in some:
        for cap in LEVELS:
            row = registry.choose(problem, backend, cap)[0]
            registry.choose.cache_clear()
            monkeypatch.setenv("FASTDL_ISA", "baseline")
            monkeypatch.setenv("FASTDL_NUM_THREADS", "7")
            with settings.threads(3):
                assert registry.choose(problem, backend, cap)[0] is row
            usable = [isa for isa in LEVELS[: LEVELS.index(cap) + 1] if not registry.level_missing(isa)]
            assert row.level == (usable[-1] if backend == "cython" else "any")
            assert row.backend == backend


def test_eligibility_and_cost_decide_among_rows(monkeypatch):
    rows = rows_of("gemm", "forward")
    reference = rows[0]
    picky = reference._replace(
        algorithm="picky", eligible=lambda p: "it wants more rows" if p.shapes[0][0] < 10 else True
    )
    cheap = reference._replace(algorithm="cheap", cost=lambda p, isa: -1.0)
    monkeypatch.setattr(registry, "TABLE", (reference, picky, cheap))
    verdicts = {row.algorithm: reason for row, reason in registry.candidates(GEMM, "numpy", "v4")}
    assert verdicts == {
        "reference": "numpy/cheap is preferred",
        "picky": "it wants more rows",
        "cheap": "",
    }


@needs_kernels
def test_levels_that_cannot_run_are_never_chosen(monkeypatch):
    monkeypatch.setattr(registry, "level_missing", lambda isa: "" if isa in ("any", "baseline") else f"no {isa} here")
    registry.choose.cache_clear()
    try:
        assert registry.choose(GEMM, "cython", "v4")[0].isa == "baseline"
    finally:
        registry.choose.cache_clear()


def test_level_missing_says_why(monkeypatch):
    assert registry.level_missing("any") == ""
    if not COMPILED:
        assert "not built" in registry.level_missing("v3")
        return
    from fastdl.kernels._common import _runtime

    assert _runtime.cpu_level() in LEVELS
    registry.level_missing.cache_clear()
    monkeypatch.setattr(_runtime, "cpu_level", lambda: "baseline")
    try:
        assert registry.level_missing("baseline") == ""
        assert registry.level_missing("v4") in (
            "this CPU stops at level baseline",
            "the v4 kernels were not built (this compiler or processor family has no such level)",
        )
    finally:
        registry.level_missing.cache_clear()


@pytest.mark.parametrize(("text", "cap"), [("v3", "v3"), ("BASELINE", "baseline"), (None, "v4")])
def test_the_environment_caps_the_level(monkeypatch, text, cap):
    if text is None:
        monkeypatch.delenv("FASTDL_ISA", raising=False)
    else:
        monkeypatch.setenv("FASTDL_ISA", text)
    assert registry.environment_cap() == cap


def test_a_wrong_cap_is_refused(monkeypatch):
    monkeypatch.setenv("FASTDL_ISA", "v5")
    with pytest.raises(ValueError, match="baseline, v3, v4, not 'v5'"):
        registry.environment_cap()


# ---- words ----------------------------------------------------------------------------------------------------------


def test_explain_names_every_row_and_its_reason():
    text = registry.explain(GEMM, "numpy", "v4")
    lines = text.splitlines()
    assert lines[0] == "gemm forward ((5, 7), (7, 3)) float32"
    assert len(lines) == 1 + len(rows_of("gemm", "forward"))
    assert [line for line in lines if line.startswith("  ->")] == [f"  -> {'numpy/reference':32s} runs"]
    assert all("the backend in use is numpy" in line for line in lines[2:])


@needs_kernels
def test_explain_says_that_a_level_is_capped():
    text = registry.explain(GEMM, "cython", "baseline")
    assert "-> cython/blocked/baseline" in text
    capped = [line.split()[0] for line in text.splitlines() if "the ISA level is capped at baseline" in line]
    assert {"cython/blocked/v3", "cython/blocked/v4"} <= set(capped)
    assert "numpy/reference" in text


def test_explain_says_which_storage_a_row_has():
    problem = Problem("sgd", "step", ((3,),), "float16")
    assert "it stores float32, float64, not float16" in registry.explain(problem, "numpy", "v4")
    with pytest.raises(KernelError, match=r"no kernel runs sgd step on float16:\n.*numpy/reference: it stores"):
        registry.choose(problem, "numpy", "v4")


@pytest.mark.parametrize(("op", "direction"), [("convolve", "forward"), ("gemm", "sideways")])
def test_an_unknown_op_is_an_error(op, direction):
    with pytest.raises(KernelError, match=f"no op '{op}' with a direction '{direction}'"):
        registry.choose(Problem(op, direction, ((1,),), "float32"), "numpy", "v4")


def test_an_unknown_backend_has_no_kernels():
    with pytest.raises(KernelError, match="the backend in use is gpu"):
        registry.choose(GEMM, "gpu", "v4")


def test_a_decision_is_logged(caplog):
    registry.choose.cache_clear()
    with caplog.at_level(logging.INFO, "fastdl.dispatch"):
        registry.choose(GEMM, "numpy", "v4")
    assert "gemm forward ((5, 7), (7, 3)) float32 -> numpy/reference" in caplog.text


# ---- problem --------------------------------------------------------------------------------------------------------


def test_problem_is_a_key():
    same = Problem("gemm", "forward", ((5, 7), (7, 3)), "float32", ("nchw", "nchw"))
    assert same == GEMM
    assert hash(same) == hash(GEMM)
    assert GEMM._replace(epilogue="bias") != GEMM


@pytest.mark.parametrize(
    ("storage", "compute"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_compute_dtype(storage, compute):
    assert GEMM._replace(storage=storage).compute == compute


def test_problem_attributes():
    problem = Problem("batch_norm", "forward", ((2, 3),), "float32", attrs=(("eps", 1e-6),))
    assert problem.attr("eps") == 1e-6
    with pytest.raises(KeyError, match="batch_norm has no attribute 'momentum'"):
        problem.attr("momentum")


def test_memory_order():
    a = np.zeros((2, 3, 4, 5))
    assert memory_order(a) == "nchw"
    assert memory_order(np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2)) == "nhwc"
    assert memory_order(a[:, ::2]) == "strided"
    assert memory_order(a[::-1]) == "strided"
    assert memory_order(np.zeros((3, 4)).T) == "strided"
    # One channel: both orders describe it, and dispatch sees one of them.
    assert memory_order(np.zeros((2, 1, 4, 5))) == "nchw"
