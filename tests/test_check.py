"""The checker itself: broken kernels are found, sound ones are not accused, and no row passes without a case."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from fastdl import check as checker
from fastdl.check import Selection, arrays, cases, number, runner
from fastdl.check.arrays import GuardedMemory, dtype_of, fill, guarded, place, round_to
from fastdl.check.runner import Failure, compare
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

FLOATS = ("float64", "float32", "float16", pytest.param("bfloat16", marks=pytest.mark.skipif(
    bool(arrays.dtype_missing("bfloat16")), reason="ml_dtypes is not installed")))  # fmt: skip


def row_of(op: str, direction: str, **changes) -> registry.Row:
    """The NumPy row of an op: it runs everywhere."""
    row = next(row for row in registry.TABLE if row[:3] == (op, direction, "numpy"))
    return row._replace(**changes)


def result_of(monkeypatch, row: registry.Row, broken, dtype: str = "float32", **selection) -> checker.Result:
    """The verdict on ``broken(reference)(problem, ...)`` as the implementation of ``row``."""
    reference = registry.load(row_of(row.op, row.direction))
    # The expectation comes from the true row, the verdict is on one that differs from it in its name.
    row = row._replace(backend="broken")
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda r: broken(reference) if r.backend == "broken" else load(r))
    selection = Selection(dtypes=(dtype,), **selection)
    (result,) = checker.check(selection, table=[row])
    return result


# ---- a check that cannot fail is worthless --------------------------------------------------------------------------


def test_a_sound_kernel_passes(monkeypatch):
    result = result_of(monkeypatch, row_of("gemm", "forward"), lambda reference: reference)
    assert (result.status, result.reason) == ("passed", "")
    assert result.cases > 100
    assert 0 < result.max_error <= result.tolerance


def test_one_product_of_thousands_dropped(monkeypatch):
    """Far below any tolerance for random data, but integers show it."""

    def broken(reference):
        def gemm_forward(problem, a, b, bias, out, threads):
            reference(problem, a, b, bias, out, threads)
            if a.shape[1] > 500 and out.size and a[0, 500] * b[500, 0]:
                exact = a.astype(np.float64) @ b.astype(np.float64)
                out[0, 0] = exact[0, 0] - np.float64(a[0, 500]) * np.float64(b[500, 0])

        return gemm_forward

    result = result_of(monkeypatch, row_of("gemm", "forward"), broken)
    assert result.status == "failed"
    assert "fastdl check --case 'gemm/forward/float32/" in result.reason


def test_a_half_precision_accumulator(monkeypatch):
    """11 significant bits in between: what TF32 or a half would leave of a float32."""

    def broken(reference):
        def gemm_forward(problem, a, b, bias, out, threads):
            short = [(v.view(np.uint32) & 0xFFFFE000).view(np.float32) for v in map(np.ascontiguousarray, (a, b))]
            reference(problem, *short, bias, out, threads)

        return gemm_forward

    assert result_of(monkeypatch, row_of("gemm", "forward"), broken).status == "failed"


def test_one_element_less_written(monkeypatch):
    def broken(reference):
        def relu_forward(problem, x, out, threads):
            if out.size:
                kept = out[(-1,) * out.ndim].copy()
                reference(problem, x, out, threads)
                out[(-1,) * out.ndim] = kept

        return relu_forward

    assert result_of(monkeypatch, row_of("relu", "forward"), broken).status == "failed"


def test_nan_ignored(monkeypatch):
    def broken(reference):
        def relu_forward(problem, x, out, threads):
            reference(problem, np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf), out, threads)

        return relu_forward

    result = result_of(monkeypatch, row_of("relu", "forward"), broken)
    assert result.status == "failed"
    assert "nan" in result.reason


def test_last_tie_instead_of_the_first(monkeypatch):
    def broken(reference):
        def max_pool2d_forward(problem, x, out, indices, threads):
            reference(problem, x, out, indices, threads)
            if indices is None or problem.stride != (1, 1):
                return
            # Turned by 180 degrees, the first of equals is the last.
            kh, kw = problem.attr("kernel")
            top, bottom, left, right = problem.pads
            value, turned = np.empty(out.shape, out.dtype), np.empty(indices.shape, indices.dtype)
            reference(problem._replace(pads=(bottom, top, right, left)), x[:, :, ::-1, ::-1], value, turned, threads)
            turned = turned[:, :, ::-1, ::-1]
            np.copyto(indices, kh * kw - 1 - turned.astype(np.int64), where=turned < kh * kw, casting="unsafe")

        return max_pool2d_forward

    assert result_of(monkeypatch, row_of("max_pool2d", "forward"), broken).status == "failed"


def test_subnormals_flushed(monkeypatch):
    def broken(reference):
        def gemm_forward(problem, a, b, bias, out, threads):
            reference(problem, a, b, bias, out, threads)
            out[np.abs(out) < np.finfo(np.float32).tiny] = 0

        return gemm_forward

    assert result_of(monkeypatch, row_of("gemm", "forward"), broken).status == "failed"


def test_rounding_towards_zero(monkeypatch):
    def broken(reference):
        def cast_forward(problem, x, out, threads):
            reference(problem, x, out, threads)
            over = np.isfinite(out) & (np.abs(out.astype(np.float64)) > np.abs(x.astype(np.float64)))
            out[over] = np.nextafter(out[over], np.float32(0))

        return cast_forward

    assert result_of(monkeypatch, row_of("cast", "forward"), broken).status == "failed"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x, out, threads: out.__setitem__(..., out + np.float32(threads == 2)), "different bits"),
        (lambda x, out, threads: threads == 2 and overwrite(x), "wrote into its input"),
        (lambda x, out, threads: beside(out).__setitem__(..., 0), "wrote beside"),
        (lambda x, out, threads: 1 // 0, "ZeroDivisionError"),
    ],
    ids=["threads", "input", "gaps", "exception"],
)
def test_other_sins(monkeypatch, damage, message):
    def beside_the_result(reference):
        def tanh_forward(problem, x, out, threads):
            reference(problem, x, out, threads)
            if out.size > 4:
                damage(x, out, threads)

        return tanh_forward

    case = "tanh/forward/float32/values=normal,shape=3x33,alias=none,order=nchw,out_order=gaps"
    result = result_of(monkeypatch, row_of("tanh", "forward"), beside_the_result, case=case)
    assert result.status == "failed"
    assert message in result.reason


def overwrite(x: np.ndarray) -> None:
    """Writes into an array that was handed out read-only, as C code can."""
    x.setflags(write=True)
    x[...] = 0


def beside(out: np.ndarray) -> np.ndarray:
    """What lies between the first two elements of an array of order "gaps"."""
    return np.lib.stride_tricks.as_strided(out[0, :1], (2,), (out.itemsize,))[1:]


def test_more_scratch_than_declared(monkeypatch):
    if registry.level_missing("baseline"):
        pytest.skip("the compiled kernels are not built")
    row = next(row for row in registry.TABLE if row.op == "gemm" and row.isa == "baseline")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row._replace(workspace=lambda p, i, t: 100)])
    assert result.status == "failed"
    assert "scratch memory" in result.reason


# ---- rows that do not run -------------------------------------------------------------------------------------------


def test_a_row_without_a_case_is_missing():
    row = row_of("gemm", "forward", eligible=lambda problem: "never")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row])
    assert (result.status, result.cases, result.max_error) == ("missing", 0, None)
    assert not checker.succeeded([result])


def test_an_op_without_a_grid_is_missing():
    row = row_of("gemm", "forward")._replace(op="unheard_of")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row])
    assert (result.status, result.cases) == ("missing", 0)


def test_each_memory_order_and_thread_count_has_a_cell():
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row_of("relu", "forward")])
    assert {(cell.order, cell.threads) for cell in result.cells} == {
        (order, threads) for order in ("nchw", "nhwc", "strided") for threads in (1, 2)
    }
    assert all(cell.cases > 0 == cell.failed for cell in result.cells)
    assert sum(result.runs(order) for order in ("nchw", "nhwc", "strided")) == result.cases


def test_a_memory_order_without_a_case_is_missing(monkeypatch):
    everything = runner.cases

    def dense(*key):
        return [case for case in everything(*key) if runner.problem_of(case).orders[0] != "strided"]

    monkeypatch.setattr(runner, "cases", dense)
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row_of("relu", "forward")])
    assert (result.status, result.reason) == ("missing", "no case of the grid is in memory order strided")
    assert result.cases > 0


def test_a_memory_order_that_a_row_refuses_is_not_missing():
    row = row_of("relu", "forward", eligible=lambda problem: problem.orders[0] == "nhwc" or "channels-last only")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row])
    assert result.status == "passed"
    assert [(cell.order, cell.cases > 0) for cell in result.cells if cell.threads == 1] == [
        ("nchw", False), ("nhwc", True), ("strided", False),
    ]  # fmt: skip


def test_a_failure_is_in_its_cell(monkeypatch):
    def wrong_in_gaps(reference):
        def relu_forward(problem, x, out, threads):
            reference(problem, x, out, threads)
            if problem.orders[0] == "strided" and out.size:
                out[...] = 7

        return relu_forward

    result = result_of(monkeypatch, row_of("relu", "forward"), wrong_in_gaps)
    assert result.status == "failed"
    assert {(cell.order, cell.threads) for cell in result.cells if cell.failed} == {("strided", 1), ("strided", 2)}


def test_a_backend_without_a_kernel_is_missing():
    table = [row for row in registry.TABLE if row.op == "relu" and row.backend == "numpy"]
    table += [row_of("sigmoid", "forward")._replace(backend="numba")]
    found = checker.check(Selection(dtypes=("float32",), every=40), table=table)
    absent = [result for result in found if result.algorithm == "-"]
    assert {(r.op, r.direction, r.backend, r.status) for r in absent} == {
        ("relu", "forward", "numba", "missing"),
        ("relu", "backward", "numba", "missing"),
        ("sigmoid", "forward", "numpy", "missing"),
    }
    assert "numba backend has no kernel" in absent[0].reason
    assert not checker.succeeded(found)


def test_what_the_registry_leaves_out_is_no_failure(monkeypatch):
    gap = registry.Gap("it has no use there", ("numba",), ("relu",), ("forward",), ("float32",))
    monkeypatch.setattr(registry, "LEFT_OUT", (gap,))
    table = [row for row in registry.TABLE if row.op == "relu" and row.backend == "numpy"]
    table += [row_of("sigmoid", "forward")._replace(backend="numba")]
    found = checker.check(Selection(dtypes=("float32", "float64"), every=40), table=table)
    numba = {(r.direction, r.dtype): (r.status, r.reason) for r in found if (r.op, r.backend) == ("relu", "numba")}
    missing = ("missing", "the numba backend has no kernel for this")
    assert numba == {
        ("forward", "float32"): ("left out", "it has no use there"),
        ("forward", "float64"): missing,
        ("backward", "float32"): missing,
        ("backward", "float64"): missing,
    }
    assert checker.succeeded([r for r in found if r.status != "missing"])
    assert not checker.succeeded([r for r in found if r.status == "left out"]), "nothing ran"


def test_no_backend_lacks_a_kernel_but_those_that_are_left_out():
    kernels = {(row.op, row.direction, dtype, row.backend) for row in registry.TABLE for dtype in row.storage}
    wanted = {(*key[:3], backend) for key in kernels for backend in registry.BACKENDS}
    left_out = {key for key in wanted if registry.left_out(*key)}
    assert wanted - left_out == kernels
    for gap in registry.LEFT_OUT:
        assert any(gap.covers(*key) for key in left_out), f"{gap} leaves nothing out"
        assert gap.reason and "numpy" not in gap.backends


def test_a_function_that_is_not_there_is_a_failure():
    row = row_of("gemm", "forward", target="fastdl.kernels.gemm.reference:no_such_function")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row])
    assert result.status == "failed"
    assert "cannot be loaded" in result.reason


def test_a_level_that_is_not_here_is_unavailable(monkeypatch):
    row = next(row for row in registry.TABLE if row.op == "gemm" and row.isa == "v4")
    monkeypatch.setattr(registry, "level_missing", lambda isa: "this CPU stops at level v3")
    (result,) = checker.check(Selection(dtypes=("float32",)), table=[row])
    assert (result.status, result.reason) == ("unavailable", "this CPU stops at level v3")
    assert not checker.succeeded([result]), "nothing ran"


def test_json_has_the_promised_keys(monkeypatch):
    results = checker.check(Selection(ops=("gemm",), dtypes=("float32",), every=20))
    rows = json.loads(checker.to_json(results))
    keys = {"op", "direction", "backend", "algorithm", "dtype", "isa", "cases", "max_error", "tolerance", "status"}
    keys |= {"cells"}
    assert [set(row) - {"reason"} for row in rows] == [keys] * len(results)
    assert all(("reason" in row) == (row["status"] != "passed") for row in rows)


# ---- comparing ------------------------------------------------------------------------------------------------------


def test_compare_wants_exactly_the_rounded_value_without_a_bound():
    expected = np.array([1.0, 1 + 2.0**-30, np.nan, -np.inf])
    actual = expected.astype(np.float32)
    assert compare(actual, expected, np.zeros(4), "out").ratio == 0
    actual[1] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(Failure, match=r"out\[1\]"):
        compare(actual, expected, np.zeros(4), "out")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1.1])
def test_compare_with_a_bound(wrong):
    expected, bound = np.ones(5), np.full(5, 1e-3)
    actual = np.ones(5, np.float32)
    actual[2] = 1.0005
    deviation = compare(actual, expected, bound, "out")
    assert deviation.ratio == pytest.approx(0.5, rel=1e-3)
    actual[3] = wrong
    with pytest.raises(Failure, match=r"out\[3\].*1 of 5"):
        compare(actual, expected, bound, "out")


@pytest.mark.parametrize("expected", [np.nan, np.inf])
def test_compare_wants_what_is_not_finite(expected):
    bound = np.full(1, 1e300)
    assert compare(np.array([expected]), np.array([expected]), bound, "out").ratio == 0
    with pytest.raises(Failure):
        compare(np.array([1.0]), np.array([expected]), bound, "out")


def test_compare_sees_the_sign_of_zero_where_asked():
    zero, bound = np.array([-0.0]), np.zeros(1)
    assert compare(np.array([0.0]), zero, bound, "out").ratio == 0
    with pytest.raises(Failure):
        compare(np.array([0.0]), zero, bound, "out", signed=True)


# ---- values and memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_round_to_agrees_with_numpy(name, rng):
    """NumPy converts float64 to these two with one rounding."""
    patterns = rng.integers(0, 2**64, 200_000, np.uint64).view(np.float64)
    with np.errstate(all="ignore"):
        doubles = np.dtype(np.float64)
        values = np.concatenate(
            [
                patterns,
                np.ldexp(rng.standard_normal(5000), rng.integers(-160, 140, 5000)),
                fill("ties:float16", (5000,), doubles, rng),
                fill("ties:float32", (5000,), doubles, rng),
                [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.999, 65520.0],
            ]
        )
        wanted = values.astype(name).astype(np.float64)
        found = round_to(values, name)
    assert np.array_equal(found, wanted, equal_nan=True)
    zeros = wanted == 0
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(wanted[zeros]))


@pytest.mark.parametrize("name", FLOATS)
def test_round_to_leaves_what_the_dtype_holds(name, rng):
    held = fill("bits", (65536,), dtype_of(name), rng)
    with np.errstate(invalid="ignore"):
        values = held.astype(np.float64)
    assert np.array_equal(round_to(values, name), values, equal_nan=True)


@pytest.mark.parametrize("order", arrays.ORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4), (7,), (), (0, 3, 2, 2), (3, 0)])
def test_place(order, shape):
    memory, view = place(shape, np.dtype(np.float32), order)
    assert view.shape == shape
    assert np.shares_memory(memory, view) or not view.size
    if view.size > 1 and order == "nhwc" and len(shape) == 4:
        assert view.transpose(0, 2, 3, 1).flags.c_contiguous
    if view.size > 1 and order in ("gaps", "sliced", "reversed") and len(shape) > 1:
        assert not view.flags.c_contiguous
    if order == "zero" and len(shape) and view.size:
        assert view.strides[0] == 0
    elif view.size:
        # The last byte of the buffer belongs to the last element: a guard page behind it leaves no slack.
        assert byte_bounds(view)[1] == byte_bounds(memory)[1]


TRESPASS = """
import sys
import numpy as np
from fastdl.check.arrays import guarded
before = sys.argv[1] == "before"
a = guarded(np.arange(1000, dtype=np.float32), before)
assert a.sum() == 499500
a[...] = 1
print("sound", flush=True)
edge, step = (a[:1], -4) if before else (a[-1:], 4)
print(np.lib.stride_tricks.as_strided(edge, (2,), (step,)).sum())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages need a POSIX system")
@pytest.mark.parametrize("where", ["before", "behind"])
def test_guard_pages_catch_one_step_too_far(where):
    done = subprocess.run([sys.executable, "-c", TRESPASS, where], capture_output=True, text=True, check=False)
    assert done.stdout == "sound\n"
    assert done.returncode < 0, "the process must have been killed by a signal"


def test_guarded_memory_is_writable_up_to_its_ends():
    for before in (False, True):
        memory = GuardedMemory(before)(5000)
        memory[...] = 3
        assert memory.sum() == 15000
    assert guarded(np.zeros((0, 3))).shape == (0, 3)


# ---- cases ----------------------------------------------------------------------------------------------------------


def test_cover_contains_every_pair_that_is_possible():
    axes = {"a": ("1", "2", "3"), "b": ("x", "y"), "c": ("p", "q", "r", "s")}
    chosen = list(cases.cover(axes, 2, lambda c: not (c["a"] == "1" and c["b"] == "y"), "seed"))
    pairs = {((m, c[m]), (n, c[n])) for c in chosen for m in axes for n in axes if m < n}
    wanted = {((m, u), (n, v)) for m in axes for n in axes if m < n for u in axes[m] for v in axes[n]}
    assert pairs == wanted - {(("a", "1"), ("b", "y"))}
    assert len(chosen) < 24, "it must not be the whole product"


@pytest.mark.parametrize("op", list(dict.fromkeys(row.op for row in registry.TABLE)))
def test_ids_name_their_cases_and_arrays_follow_from_them(op):
    directions = dict.fromkeys(row.direction for row in registry.TABLE if row.op == op)
    for direction in directions:
        some = list(cases.cases(op, direction, "float32"))[::9]
        assert some
        for case in some:
            again = cases.parse(case.id)
            assert again == case
            first, second = cases.build(case), cases.build(again)
            assert first.problem == second.problem
            for name, values in first.initial.items():
                assert values.tobytes() == second.initial[name].tobytes()


def test_the_grid_is_the_same_in_every_process():
    program = (
        "from fastdl.check.cases import cases, seed_of\n"
        "print(sum(seed_of(c.id) for c in cases('conv2d', 'forward', 'float32')))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("gemm", "op/direction/dtype"),
        ("gemmm/forward/float32/m=1", "no op 'gemmm'"),
        ("gemm/forward/float32/q=1", "has the axes"),
        ("gemm/forward/float31/m=1", "no case"),
        ("conv2d/forward/float32/size=1x1x1,kernel=3x3,pads=0x0x0x0", "contradict"),
        ("gemm/forward/float32/m=one", "no case|contradict"),
    ],
)
def test_wrong_ids(identity, message):
    with pytest.raises(ValueError, match=message):
        cases.parse(identity)


def test_conv_grid_has_what_it_promises():
    """The list of house rules, asked of the sampled grid of conv2d forward."""
    grid = [case.problem for case in cases.cases("conv2d", "forward", "float32")]
    assert any(p.shapes[0][0] == 0 for p in grid), "empty batch"
    assert any(p.shapes[0][0] == 1 for p in grid), "batch 1"
    assert any(p.shapes[0][1] == 1 for p in grid), "one channel"
    assert any(p.shapes[0][2] != p.shapes[0][3] for p in grid), "inputs that are not square"
    assert any(p.shapes[1][2] != p.shapes[1][3] for p in grid), "filters that are not square"
    assert any(p.stride[0] != p.stride[1] for p in grid)
    assert any(p.pads[0] > p.shapes[1][2] // 2 for p in grid), "pad larger than the filter's half"
    assert any(len(set(p.pads)) == 4 for p in grid), "four different sides"
    assert any(p.dilation != (1, 1) for p in grid)
    assert any(1 < p.groups < p.shapes[0][1] for p in grid)
    assert any(p.groups == p.shapes[0][1] > 1 for p in grid), "depthwise"
    assert any(np.prod(p.shapes[1][1:]) > 512 for p in grid), "inner length beyond the blocks"
    assert {p.epilogue for p in grid} == {"none", "bias", "bias_relu"}
    channels = {p.shapes[1][0] // p.groups for p in grid}
    assert channels >= {1, 3, 8, 15, 16, 17, 31, 32, 33, 64, 65} - {3, 31, 64}
    orders = {operand.order for case in cases.cases("conv2d", "forward", "float32") for operand in case.operands}
    assert orders == set(arrays.ORDERS)


# ---- tolerances -----------------------------------------------------------------------------------------------------


def test_roundings_grow_like_the_root_of_long_sums_and_never_beyond_the_worst_case():
    assert number.roundings(1, 10) == 0
    assert number.roundings(2, 10) == 1
    for n in (3, 10, 100, 1000, 10**6):
        assert 0 < number.roundings(n, 10) <= n - 1
    assert number.roundings(4 * 10**6, 1) < 2.1 * number.roundings(10**6, 1)


@pytest.mark.parametrize("operation", ["+", "-", "*", "/"])
def test_number_bounds_what_float32_loses(operation, rng):
    """Four operations in a row on float32, against the bound that the same expression in Numbers gives."""
    x, y = (rng.uniform(0.5, 2, 2000).astype(np.float32) for _ in range(2))

    def expression(a, b):
        c = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation]
        return (c * a + b) / (a + b) * c

    p = number.computing_in("float32")
    bound = expression(number.Number.exact(x.astype(np.float64), p), number.Number.exact(y.astype(np.float64), p)).error
    error = np.abs(expression(x, y) - expression(x.astype(np.float64), y.astype(np.float64)))
    assert (error <= bound).all()
    assert error.max() > bound.max() / 50, "the bound must mean something"


def test_bounds_are_not_generous():
    """Some element of random data comes close to what it may be wrong by: within a factor of 30."""
    results = checker.check(
        Selection(ops=("gemm", "sigmoid", "softmax", "adam"), dtypes=("float32",), backends=("numpy",))
    )
    assert results
    for result in results:
        assert result.status == "passed", result.reason
        assert result.max_error * 30 > result.tolerance, result


def test_reference_rows_are_checked_too():
    assert importlib.util.find_spec("fastdl.kernels.gemm.reference") is not None
    (result,) = checker.check(Selection(ops=("gemm",), dtypes=("float64",), backends=("numpy",), every=10))
    assert (result.backend, result.status) == ("numpy", "passed")


def test_problem_is_what_dispatch_sees():
    case = cases.parse("conv2d/forward/float32/order=nhwc,w_order=gaps")
    problem = cases.build(case).problem
    assert isinstance(problem, Problem)
    assert problem.orders == ("nhwc", "strided")
