"""Random cases: a short run of every row, and that the cases are what they promise to be."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from fastdl import check as checker
from fastdl.check import Selection, fuzz
from fastdl.check.arrays import ORDERS, place, repeated
from fastdl.check.cases import build, parse, spec_of
from fastdl.kernels import registry

KEYS = list(dict.fromkeys((row.op, row.direction, dtype) for row in registry.TABLE for dtype in row.storage))
FLOAT32 = [key for key in KEYS if key[2] == "float32"]


# ---- every row ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", list(dict.fromkeys(row.op for row in registry.TABLE)))
def test_rows_pass(op):
    number = 240 if op in ("conv2d", "gemm") else 60
    results = checker.check(Selection(ops=(op,), fuzz=number, seed=20160924))
    assert results
    assert not [result.reason for result in results if result.status in ("failed", "missing")]
    assert "passed" in {result.status for result in results}


GUARDED = """
import sys
from fastdl.check import Selection, check
from fastdl.check.arrays import GuardedMemory
def announce(done, total, case):
    print(case, flush=True)
before = sys.argv[1] == "before"
results = check(Selection(fuzz=500, seed=7), progress=announce, allocate=lambda: GuardedMemory(before))
failed = [result for result in results if result.status in ("failed", "missing")]
sys.exit(f"{len(failed)} rows failed, first: {failed[0]}" if failed else 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages need a POSIX system")
@pytest.mark.parametrize("where", ["behind", "before"])
def test_no_kernel_touches_what_lies_beside_a_view(where):
    """Strides, steps and margins of any kind, between pages that may not be touched."""
    done = subprocess.run([sys.executable, "-c", GUARDED, where], capture_output=True, text=True, check=False)
    last = done.stdout.split()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"exit code {done.returncode} after {last}\n{done.stderr[-2000:]}"


# ---- the fuzz itself ------------------------------------------------------------------------------------------------


def test_a_rare_mistake_is_found_and_can_be_repeated(monkeypatch):
    """A kernel that is wrong in one geometry only, which no list of the grid has."""
    row = next(row for row in registry.TABLE if row[:3] == ("max_pool2d", "forward", "numpy"))
    reference, load = registry.load(row), registry.load

    def broken(problem, x, out, indices, threads):
        reference(problem, x, out, indices, threads)
        if problem.attr("kernel")[1] == 11 and out.size:
            out[(-1,) * 4] = 1234

    monkeypatch.setattr(registry, "load", lambda r: broken if r.backend == "broken" else load(r))
    table = [row._replace(backend="broken")]
    (grid,) = checker.check(Selection(dtypes=("float32",)), table=table)
    assert grid.status == "passed"
    (result,) = checker.check(Selection(dtypes=("float32",), fuzz=300), table=table)
    assert result.status == "failed"
    assert 1 <= len(result.failed) < 150
    for identity in result.failed:
        assert parse(identity).problem.attr("kernel")[1] == 11
    (again,) = checker.check(Selection(case=result.failed[0]), table=table)
    assert (again.status, again.cases, again.failed) == ("failed", 1, result.failed[:1])


def test_a_row_that_no_case_reaches_has_not_passed():
    row = next(row for row in registry.TABLE if row[:3] == ("gemm", "forward", "numpy"))
    row = row._replace(eligible=lambda problem: "never")
    (result,) = checker.check(Selection(dtypes=("float32",), fuzz=5), table=[row])
    assert (result.status, result.cases) == ("not drawn", 0)
    assert not checker.succeeded([result])


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_cases_follow_from_seed_and_number_and_from_their_ids(key):
    first = list(fuzz.cases(key, 6, seed=3))
    assert first == list(fuzz.cases(key, 9, seed=3))[:6]
    assert first != list(fuzz.cases(key, 6, seed=4))
    for case in first:
        assert parse(case.id) == case
        assert (case.problem.op, case.problem.direction, case.problem.storage) == key
        assert fuzz.work(case) <= fuzz.MOST_WORK


@pytest.mark.parametrize("key", FLOAT32, ids=lambda key: "-".join(key[:2]))
def test_numbers_go_beyond_the_lists_of_the_grid(key):
    """Each axis with numbers takes values that its list lacks, and the others take all of theirs."""
    op, direction, _ = key
    drawn = [dict(p.split("=") for p in case.id.split("/")[3].split(",")) for case in fuzz.cases(key, 300, seed=0)]
    for name, values in spec_of(op).axes(direction).items():
        seen = {axes[name] for axes in drawn}
        categories = {v for v in values if v and not v[0].isdigit()} - {"scalar", "none"}
        if categories and name != "groups":
            assert seen >= categories - {"zero"}, name
        elif name != "axis" and (direction, name) != ("forward_pooled", "kernel"):
            assert len(seen - set(values)) >= 3, (name, "has no draw of its own")


def test_cases_are_of_many_sizes():
    cases = list(fuzz.cases(("conv2d", "forward", "float32"), 300, seed=0))
    work = sorted(map(fuzz.work, cases))
    assert work[30] < 1000
    assert work[-30] > 100_000
    problems = [case.problem for case in cases]
    assert 1 <= sum(0 in p.shapes[0] for p in problems) < 30
    plain = [p for p in problems if p.stride == p.dilation == (1, 1) and p.groups == 1]
    assert len(plain) > 30
    assert len({p.shapes[1][2:] for p in problems}) > 40
    assert any(len(set(p.pads)) == 4 for p in problems)
    assert any(1 < p.groups < p.shapes[0][1] for p in problems)
    assert any(p.groups == p.shapes[0][1] > 1 for p in problems)
    assert {build(case).problem.orders[0] for case in cases[:60]} == {"nchw", "nhwc", "strided"}


def test_shares():
    for number in (1, 50, 1000):
        shares = fuzz.shares(number, KEYS)
        assert list(shares) == KEYS
        assert min(shares.values()) >= 1
        assert number <= sum(shares.values()) <= number + len(KEYS)
    assert shares["conv2d", "forward", "float32"] > shares["relu", "forward", "float32"]


def test_count_is_often_beside_a_vector():
    rng = random.Random(0)
    numbers = [fuzz.count(rng, 200) for _ in range(3000)]
    assert min(numbers) == 0
    assert max(numbers) > 150
    for lanes in (4, 8, 16, 32):
        for n in (lanes - 1, lanes, lanes + 1):
            assert numbers.count(n) > 20, n


@pytest.mark.parametrize("kind", ["mixed", "broadcast"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4), (7,), (), (0, 3, 2, 2), (3, 0), (1, 1, 9, 1)])
def test_random_views(kind, shape):
    strides = set()
    for number in range(60):
        order = f"{kind}:{number}"
        memory, view = place(shape, np.dtype(np.float32), order)
        assert view.shape == shape
        strides.add(view.strides)
        if not view.size:
            assert not memory.size
            continue
        assert byte_bounds(view) == byte_bounds(memory), "a step too far must leave the buffer"
        if kind == "mixed":
            assert not repeated(view)
            view[...] = np.arange(view.size).reshape(shape)
            np.testing.assert_array_equal(view, np.arange(view.size).reshape(shape), "no element lies on another")
        assert place(shape, np.dtype(np.float32), order).array.strides == view.strides
    if math.prod(shape) > 9:
        assert len(strides) > 20
        assert any(s < 0 for some in strides for s in some)
        assert any(sorted(some, key=abs, reverse=True) != list(some) for some in strides)
        assert any(0 in some for some in strides) == (kind == "broadcast")


def test_a_broadcast_input_shows_one_entry_again_and_again():
    for number in range(20):
        built = build(parse(f"relu/forward/float32/shape=4x5x6,order=broadcast:{number},out_order=nchw"))
        x = built.placed["x"].array
        axes = repeated(x)
        if axes:
            break
    assert axes
    np.testing.assert_array_equal(x, built.initial["x"])
    for axis in axes:
        assert (x == x.take([0], axis)).all()
    assert not x.flags.writeable


@pytest.mark.parametrize("order", ["nhcw", "mixed", "mixed:", "broadcast:1", "zero"])
def test_orders_that_an_output_cannot_have(order):
    with pytest.raises(ValueError, match="memory order"):
        parse(f"relu/forward/float32/shape=4x5x6,out_order={order}")
    assert order not in ORDERS[:-1]
