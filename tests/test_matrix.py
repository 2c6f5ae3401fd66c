"""The matrix: every row of the registry, in every storage dtype, on the case grid of fastdl.check.

The sampled grid (every pair of axis values) runs by default, the full one (every triple) with ``-m slow``.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from fastdl.check import Result, Selection, check
from fastdl.check.arrays import dtype_missing
from fastdl.check.cases import build, cases
from fastdl.kernels import registry
from fastdl.kernels.registry import Row

ROWS = [(row, dtype) for row in registry.TABLE for dtype in row.storage]
EMULATED = "cuda-emulated"
OPS = list(dict.fromkeys(row.op for row in registry.TABLE))
assert ROWS, "the registry is empty"


def over(rows):
    """The rows of a direction go to one process where several share the work (pytest -n 2 --dist loadgroup)."""
    return pytest.mark.parametrize(
        ("row", "dtype"),
        [
            pytest.param(
                *(row, dtype),
                id=f"{row.op}-{row.direction}-{row.label}-{dtype}",
                marks=pytest.mark.xdist_group(f"{row.op}-{row.direction}-{dtype}-{row.backend == EMULATED}"),
            )
            for row, dtype in rows
        ],
    )


every_row = over(ROWS)


@functools.cache
def results(op: str, direction: str, dtype: str, full: bool, emulated: bool) -> dict[tuple[str, str, str], Result]:
    """(backend, algorithm, ISA) -> result: the rows of a direction share the expectation of each case.

    Emulated kernels leave the largest convolutions out, which .ci/full runs (fastdl check --backend cuda-emulated).
    """
    table = [
        row for row in registry.TABLE if (row.op, row.direction, row.backend == EMULATED) == (op, direction, emulated)
    ]
    backends = (EMULATED,) if emulated else ()
    found = check(Selection(dtypes=(dtype,), backends=backends, full=full, light=emulated), table=table)
    return {(result.backend, result.algorithm, result.isa): result for result in found}


def assert_passed(row: Row, dtype: str, full: bool) -> None:
    if reason := registry.row_missing(row) or dtype_missing(dtype):
        pytest.skip(reason)
    found = results(row.op, row.direction, dtype, full, row.backend == EMULATED)
    result = found[row.backend, row.algorithm, row.isa]
    assert (result.op, result.direction, result.dtype) == (row.op, row.direction, dtype)
    assert result.status == "passed", result.reason
    assert result.cases > 0
    if full:
        assert result.cases >= 90


@every_row
def test_row(row, dtype):
    assert_passed(row, dtype, full=False)


@pytest.mark.slow
@over([(row, dtype) for row, dtype in ROWS if row.backend != EMULATED])
def test_row_on_the_full_grid(row, dtype):
    assert_passed(row, dtype, full=True)


@over(ROWS)
def test_dispatch_reaches_the_row(row, dtype):
    """With its backend and its level as the cap, dispatch runs this row for some case, and no other in its place."""
    if reason := registry.row_missing(row) or dtype_missing(dtype):
        pytest.skip(reason)
    cap = registry.LEVELS[-1] if row.isa == "any" else row.level
    for case in cases(row.op, row.direction, dtype):
        problem = build(case).problem
        if row.eligible(problem) is not True:
            continue
        chosen, function = registry.choose(problem, row.backend, cap, arithmetic=row.setting)
        if chosen is row:
            module, name = row.target.split(":")
            assert function is getattr(sys.modules[module], name)
            assert (function.__module__, function.__name__) == (module, name)
            return
    pytest.fail(f"no case of the grid is given to {row.label}")


GUARDED = """
import sys
from fastdl.check import Selection, check
from fastdl.check.arrays import GuardedMemory
def announce(done, total, case):
    print(case, flush=True)
dtypes = ("float32", "float16", "uint8", "uint32")
if sys.argv[1] in ("conv2d", "gemm"):  # whose kernels of bfloat16 are others
    dtypes += ("bfloat16",)
selection = Selection(ops=(sys.argv[1],), dtypes=dtypes, backends=tuple(sys.argv[3:]), every=3)
results = check(selection, progress=announce, allocate=lambda: GuardedMemory(sys.argv[2] == "before"))
assert results
failed = [result for result in results if result.status in ("failed", "missing")]
sys.exit(f"{len(failed)} rows failed, first: {failed[0]}" if failed else 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages need a POSIX system")
@pytest.mark.parametrize("backends", ["", pytest.param(EMULATED, marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["behind", "before"])
@pytest.mark.parametrize("op", OPS)
def test_no_kernel_touches_what_lies_beside_its_buffers(op, where, backends):
    """Every buffer ends (or begins) at a page that may not be touched: a crash, hence in a process of its own."""
    if backends and (reason := registry.cuda_missing(backends)):
        pytest.skip(reason)
    arguments = [sys.executable, "-c", GUARDED, op, where, *backends.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    last = done.stdout.split()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"exit code {done.returncode} after {last}\n{done.stderr[-2000:]}"
