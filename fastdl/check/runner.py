"""Runs rows of the registry on their cases and compares them with the reference in float64.

Each row is called directly, by the function that its line of the table names, with 1 and with 2 threads. So each row
and storage dtype has a cell for each memory order and thread count, and what no case reaches is missing, as is a
backend without a kernel of an op that another one has, unless the registry says that it is left out. Besides the values
it is checked that both calls gave the same bits, that every element of the outputs and nothing around them was written,
that the inputs are unchanged, and that no more scratch memory was taken than the row declares.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import registry
from ..kernels.problem import Problem
from ..kernels.registry import Row
from . import fuzz as random_cases
from .arrays import SIGNIFICAND, Allocate, aligned, dtype_missing, heap, is_float, round_to
from .cases import Built, Case, Operand, build, cases, parse, seed_of, spec_of
from .number import precision_of
from .staging import Staged
from .tolerances import Arrays, Habits, bounds, habits_of

#: Bytes that outputs hold before a call: NaN (or -1), and an ordinary number. An element that is not written either
#: differs from the expectation or between the two calls.
POISON = {1: 0xFF, 2: 0x5A}
#: Memory orders of a Problem. Where no array has four dimensions there is no "nhwc".
MEMORY_ORDERS = ("nchw", "nhwc", "strided")
#: Padded multiply-adds of a case, at most, in a light selection: 93 % of the convolutions, and a quarter of their time
#: where CUDA's tiles are emulated.
LIGHT = 10**8
#: (op, direction) whose arrays are C-contiguous by contract.
CONTIGUOUS = {("dropout", "mask")}
#: (op, direction) whose values depend on what the storage dtype can hold: their reference computes them in that.
OWN_STORAGE = {("cast", "stochastic")}
#: Multiply-adds of a case, at most, where each is rounded: NumPy takes 10 ns for one.
MOST_ROUNDED = 10**7


class Deviation(NamedTuple):
    """The worst element of a comparison, relative to what it may be wrong by."""

    ratio: float = 0.0
    error: float = 0.0
    tolerance: float = 0.0


class Failure(Exception):
    """What a row did wrong in one case."""

    def __init__(self, message: str, deviation: Deviation | None = None) -> None:
        super().__init__(message)
        self.deviation = deviation


class Cell(NamedTuple):
    """The runs of a row in one memory order (of its first array), with one thread count."""

    order: str
    threads: int
    cases: int  # 0 where the row is for none in this order, as its predicate says
    failed: int


class Result(NamedTuple):
    """One row of the registry with one storage dtype."""

    op: str
    direction: str
    backend: str
    algorithm: str
    dtype: str
    isa: str
    cases: int
    max_error: float | None  # of the worst element relative to its tolerance; None where nothing can be said
    tolerance: float | None  # of that element: the whole distance that it may have from the float64 result
    #: "passed", "failed", "missing" (no kernel, or no case of a cell), "left out" (no kernel, as the registry says),
    #: "not drawn" (fuzz), "unavailable" (here)
    status: str
    reason: str = ""
    failed: tuple[str, ...] = ()  # ids of the cases
    cells: tuple[Cell, ...] = ()

    def runs(self, order: str) -> int:
        """Cases in this memory order, with each thread count."""
        return max((cell.cases for cell in self.cells if cell.order == order), default=0)


# ---- one case -------------------------------------------------------------------------------------------------------


class Expectation:
    """The arrays of a case, what must come out, and how far from it each element may be."""

    def __init__(self, case: Case, allocate: Allocate = heap) -> None:
        self.case = case
        self.built: Built = build(case, allocate)
        self.problem = self.built.problem
        self.outputs = [operand for operand in case.operands if operand.role != "in"]
        self._before = {o.name: self.built.placed[o.name].memory.copy() for o in case.operands if o.role == "in"}
        self._inputs = {name: _wide(values) for name, values in self.built.initial.items()}
        self._bounds: dict[Habits, Arrays] = {}
        self._expected: dict[str, Arrays] = {"": self._reference(self._inputs)}

    @property
    def expected(self) -> Arrays:
        """What must come out of every row but those that emulate."""
        return self._expected[""]

    def of(self, row: Row) -> Arrays:
        """What must come out of ``row``."""
        arithmetic = row.arithmetic if row.is_emulated else ""
        if arithmetic not in self._expected:
            self._expected[arithmetic] = self._reference(self._inputs, arithmetic)
        return self._expected[arithmetic]

    def _reference(self, inputs: Arrays, emulated: str = "") -> Arrays:
        """The NumPy reference in float64 on contiguous arrays; or that of an emulated arithmetic."""
        arrays: Arrays = {}
        own = self.problem[:2] in OWN_STORAGE or emulated == "float16_sums"
        storage = self.problem.storage if own else "float64"
        for operand in self.case.operands:
            if operand.role == "in":
                arrays[operand.name] = inputs[operand.name]
            elif operand.role == "state":
                arrays[operand.name] = inputs[operand.name].copy()
            else:
                dtype = "float64" if operand.dtype in SIGNIFICAND else operand.dtype
                arrays[operand.name] = np.zeros(operand.shape, dtype)
        key = (self.problem.op, self.problem.direction, "numpy")
        row = next(r for r in registry.TABLE if r[:3] == key and r.arithmetic == emulated)
        arguments = [
            None
            if argument is None
            else arrays[argument.name]
            if isinstance(argument, Operand)
            else [arrays[operand.name] for operand in argument]
            for argument in self.case.arguments
        ]
        with np.errstate(all="ignore"):
            _reference_function(row)(self.problem._replace(storage=storage), *arguments, 1)
        return {operand.name: arrays[operand.name] for operand in self.outputs}

    def bounds(self, row: Row) -> Arrays:
        """The bound of each output's error before its final rounding; zeros demand the exact result."""
        habits = habits_of(row)
        if habits not in self._bounds:
            self._bounds[habits] = bounds(self.case, self._inputs, self.of(row), self._reference, habits)
        return self._bounds[habits]

    def run(self, row: Row, function: Callable[..., Any], threads: int) -> Arrays:
        """Calls ``function`` and returns copies of the outputs; raises Failure for what it did beside them."""
        poison = POISON[threads]
        for operand in self.outputs:
            to = self.built.placed[operand.name]
            to.memory.fill(poison)
            if operand.role == "state":
                to.array[...] = self.built.initial[operand.name]
        runtime = _runtime() if row.backend == "cython" else None
        if runtime is not None:
            runtime.arena_peak(reset=True)
        # The first run of emulated CUDA kernels is aligned; the second is in the case's own buffers.
        staged = None
        if row.backend == "cuda" or (row.backend == "cuda-emulated" and threads == 1):
            staged = Staged(self.built, self.case, row.backend, 0 if threads == 1 else 8)
        arguments = self.built.arguments(self.case) if staged is None else staged.arguments()
        with np.errstate(all="ignore"):
            function(self.problem, *arguments, threads)
        if staged is not None and (beside := staged.copy_back()):
            raise Failure(f"wrote beside the memory of {beside}")
        if runtime is not None:
            peak, declared = runtime.arena_peak(), row.workspace(self.problem, row.isa, threads)
            if peak > declared:
                raise Failure(f"took {peak} bytes of scratch memory with {threads} threads and declares {declared}")
        results = {}
        for operand in self.outputs:
            to = self.built.placed[operand.name]
            results[operand.name] = to.array.copy()
            if to.memory.size != to.array.nbytes:
                size = to.array.itemsize
                to.array.view(f"u{size}")[...] = int.from_bytes(bytes([poison]) * size, "little")
                if (to.memory != poison).any():
                    raise Failure(f"wrote beside the elements of {operand.name}")
        return results

    def check(self, row: Row, function: Callable[..., Any]) -> Deviation:
        """Runs ``function`` as the implementation of ``row``; the worst deviation, or Failure."""
        results = self.run(row, function, 1)
        allowed = self.bounds(row)
        worst = Deviation()
        for operand in self.outputs:
            name = operand.name
            signed = spec_of(self.problem.op).signed and self.problem.direction in ("forward", "stochastic")
            loose = row.is_winograd
            worst = max(worst, compare(results[name], self.of(row)[name], allowed[name], name, signed, loose))
        again = self.run(row, function, 2)
        for name, values in results.items():
            if not np.array_equal(_bits(values), _bits(again[name])):
                raise Failure(f"1 and 2 threads gave different bits in {name}, or an element was not written")
        for name, memory in self._before.items():
            if not np.array_equal(memory, self.built.placed[name].memory):
                raise Failure(f"wrote into its input {name}")
        return worst


def _reference_function(row: Row) -> Callable[..., Any]:
    return registry.load(row)


def _wide(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return values.astype(np.float64) if is_float(values.dtype) else values


def _bits(values: np.ndarray) -> np.ndarray:
    return np.atleast_1d(values).view(f"u{values.itemsize}")


def _runtime() -> Any:
    from ..kernels._common import _runtime as runtime

    return runtime


def compare(
    actual: np.ndarray, expected: np.ndarray, bound: np.ndarray, name: str, signed: bool = False, loose: bool = False
) -> Deviation:
    """The worst deviation of ``actual`` from ``expected``; Failure where it is more than it may be.

    ``bound`` is the error that may lie in an element before it is rounded to the dtype of ``actual``; where it is 0
    everywhere the expectation is ``expected`` rounded once. NaN must meet NaN, an infinity the same one. With
    ``signed`` the zeros of exact results must have the expected sign. With ``loose``, where the bound is not finite,
    NaN may stand for anything, and what is not finite must not become finite.
    """
    if actual.size == 0:
        return Deviation()
    real = is_float(actual.dtype)
    values = _wide(actual)
    rounded = round_to(expected, actual.dtype.name) if real else expected
    with np.errstate(all="ignore"):
        same = (values == rounded) | ((values != values) & (rounded != rounded))
        if not bound.any():
            if signed and real:
                same &= (np.signbit(values) == np.signbit(rounded)) | np.isnan(values)
            ratio = np.where(same, 0.0, np.inf)
            error, tolerance = np.where(same, 0.0, np.abs(values - rounded)), np.zeros(())
        else:
            u, eta = precision_of(actual.dtype.name) if real else (0.0, 0.0)
            finite = np.isfinite(expected) & np.isfinite(values)
            tolerance = np.where(finite, bound * (1 + u) + u * np.abs(expected) + eta, 0.0)
            error = np.where(finite, np.abs(values - expected), 0.0)
            if loose:
                same |= ~np.isfinite(bound) & (np.isfinite(expected) | ~np.isfinite(values))
                finite &= np.isfinite(bound)
            ratio = np.where(finite & (error > 0), error / tolerance, np.where(finite | same, 0.0, np.inf))
    at = np.unravel_index(np.argmax(ratio), ratio.shape)
    tolerance = np.broadcast_to(tolerance, ratio.shape)
    worst = Deviation(float(ratio[at]), float(error[at]), float(tolerance[at]))
    if not worst.ratio <= 1:
        wrong = int((~(ratio <= 1)).sum())
        place = ", ".join(str(int(i)) for i in at)
        raise Failure(
            f"{name}[{place}] is {values[at]!s} and should be {rounded[at]!s} "
            f"(tolerance {worst.tolerance:.3g}; {wrong} of {actual.size} elements are wrong)",
            worst,
        )
    return worst


# ---- many -----------------------------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """Which rows to run; empty fields select all."""

    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()  # empty: all but "cuda-emulated", which proves CUDA kernels and runs nothing else
    isas: tuple[str, ...] = ()
    full: bool = False
    case: str = ""
    every: int = 1  # of the cases of each op, direction and dtype, take the first of every so many
    fuzz: int = 0  # so many random cases (in all ops together) in the place of the grid's
    seed: int = 0  # of these
    light: bool = False  # of the grid's cases leave out the few that take an emulation most of its time

    def rows(self, table: Iterable[Row] | None = None) -> Iterator[tuple[Row, str]]:
        """(row, storage dtype) of everything selected."""
        wanted = parse(self.case) if self.case else None
        for row in registry.TABLE if table is None else table:
            for dtype in row.storage:
                if (
                    (not self.ops or row.op in self.ops)
                    and (not self.dtypes or dtype in self.dtypes)
                    and (row.backend in self.backends if self.backends else row.backend != "cuda-emulated")
                    and (not self.isas or row.isa in self.isas or row.isa == "any")
                    and (wanted is None or (*wanted.problem[:2], wanted.problem.storage) == (*row[:2], dtype))
                ):
                    yield row, dtype

    def cases(self, keys: Sequence[random_cases.Key]) -> Iterator[tuple[random_cases.Key, int, Iterable[Case]]]:
        """Of each op, direction and dtype: how many cases there are, and the cases."""
        shares = random_cases.shares(self.fuzz, keys) if self.fuzz else {}
        for key in keys:
            if self.case:
                yield key, 1, (parse(self.case),)
            elif self.fuzz:
                yield key, shares[key], random_cases.cases(key, shares[key], self.seed)
            else:
                grid = list(itertools.islice(cases(*key, self.full), 0, None, self.every))
                if self.light:
                    grid = [case for case in grid if _products(case.problem) <= LIGHT]
                yield key, len(grid), grid


def _products(problem: Problem) -> int:
    """Multiply-adds of a matrix product, or of a convolution whose channels and filters are padded to tiles of 32; else
    0."""
    if problem.op == "gemm":
        return math.prod(problem.shapes[0]) * problem.shapes[1][1]
    if problem.op != "conv2d" or problem.direction == "backward_bias":
        return 0
    (n, *_), (k, c, kh, kw) = problem.shapes
    return (
        n * math.prod(problem.grid()) * kh * kw * problem.groups * (c + -c % 32) * (k // problem.groups + 31) // 32 * 32
    )


class _Running:
    """What is known so far about one row and dtype."""

    def __init__(self, row: Row, dtype: str, drawn: bool, every: bool) -> None:
        self.row, self.dtype, self.drawn, self.every = row, dtype, drawn, every
        self.cases = 0
        self.runs: Counter[str] = Counter()  # by memory order
        self.failures: Counter[str] = Counter()
        self.refused: set[str] = set()  # memory orders of cases that the row is not for
        self.flat = True  # no array has four dimensions
        self.worst = Deviation()
        self.failed: list[str] = []
        self.first_failure = ""
        self.reason = registry.row_missing(row) or dtype_missing(dtype)
        self.status = "unavailable" if self.reason else ""
        self.function: Callable[..., Any] | None = None
        if not self.status:
            try:
                self.function = registry.load(row)
            except (ImportError, AttributeError) as error:
                self.status, self.reason = "failed", f"cannot be loaded: {error}"

    def run(self, expectation: Expectation) -> None:
        """One more case."""
        if self.function is None:
            return
        problem = expectation.problem
        order = problem.orders[0] if problem.orders else MEMORY_ORDERS[0]  # an optimizer without parameters
        self.flat &= all(len(shape) != 4 for shape in problem.shapes)
        if self.row.arithmetic == "float16_sums" and _products(problem) > MOST_ROUNDED:
            return
        if self.row.eligible(problem) is not True:
            self.refused.add(order)
            return
        self.cases += 1
        self.runs[order] += 1
        try:
            self.worst = max(self.worst, expectation.check(self.row, self.function))
        except Exception as error:
            if isinstance(error, Failure) and error.deviation is not None:
                self.worst = max(self.worst, error.deviation)
            self.fail(
                expectation.case, str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            )
            self.failures[order] += 1

    def unreached(self) -> list[str]:
        """Memory orders in which the grid has no case for this row."""
        if (self.row.op, self.row.direction) in CONTIGUOUS:
            return []
        orders = [order for order in MEMORY_ORDERS if not (self.flat and order == "nhwc")]
        return [order for order in orders if order not in self.runs and order not in self.refused]

    def fail(self, case: Case, message: str) -> None:
        """Notes what went wrong in ``case``."""
        self.failed.append(case.id)
        self.first_failure = self.first_failure or f"{message}; fastdl check --case '{case.id}'"

    def result(self) -> Result:
        """The verdict."""
        row, status, reason = self.row, self.status, self.reason
        if not status:
            if self.failed:
                status, reason = "failed", f"{len(self.failed)} of {self.cases} cases, first: {self.first_failure}"
            elif not self.cases and self.drawn:
                status, reason = "not drawn", "no case that was drawn runs this row: draw more"
            elif not self.cases:
                status, reason = "missing", "no case of the grid runs this row"
            elif self.every and (orders := self.unreached()):
                status, reason = "missing", f"no case of the grid is in memory order {orders[0]}"
            else:
                status = "passed"
        ran = self.cases > 0 and bool(np.isfinite(self.worst[1:]).all())
        return Result(
            row.op,
            row.direction,
            row.backend,
            row.algorithm,
            self.dtype,
            row.isa,
            self.cases,
            self.worst.error if ran else None,
            self.worst.tolerance if ran else None,
            status,
            reason,
            tuple(self.failed),
            tuple(
                Cell(order, threads, self.runs[order], self.failures[order])
                for order in MEMORY_ORDERS
                if order in self.runs or order in self.refused
                for threads in POISON
            ),
        )


#: (cases done, cases in all, id of the case that is next)
Progress = Callable[[int, int, str], None]


def check(
    selection: Selection | None = None,
    *,
    table: Iterable[Row] | None = None,
    progress: Progress | None = None,
    allocate: Callable[[], Allocate] = lambda: heap,
) -> list[Result]:
    """Runs the selected rows (of the registry, or of ``table``) over their cases; one result for each row and dtype.

    ``allocate`` makes the allocator of each case's buffers. A row that no case reaches is "missing" (or "not drawn"),
    never "passed".
    """
    selection = selection or Selection()
    groups: dict[tuple[str, str, str], list[_Running]] = {}
    order: list[_Running] = []
    rows = list(selection.rows(table))
    for row, dtype in rows:
        every = not (selection.fuzz or selection.case) and selection.every == 1
        running = _Running(row, dtype, bool(selection.fuzz), every)
        groups.setdefault((row.op, row.direction, dtype), []).append(running)
        order.append(running)
    # The grid's cases are made here and not one by one, so that the progress bar knows how many there are.
    work = list(selection.cases([key for key, group in groups.items() if any(running.function for running in group)]))
    total, done = sum(number for _, number, _ in work), 0
    for key, _, some in work:
        for case in some:
            if progress is not None:
                progress(done, total, case.id)
            _run_case(case, groups[key], allocate())
            done += 1
    if progress is not None:
        progress(total, total, "")
    return [running.result() for running in order] + list(_absent(selection, rows))


def _absent(selection: Selection, rows: Sequence[tuple[Row, str]]) -> Iterator[Result]:
    """A result for each backend of the selected rows that has no kernel for what the reference specifies: it is left
    out where the registry says so, and missing elsewhere."""
    backends = dict.fromkeys(row.backend for row, _ in rows)
    there = {(row.op, row.direction, dtype, row.backend) for row, dtype in rows}
    for op, direction, dtype in dict.fromkeys((row.op, row.direction, dtype) for row, dtype in rows):
        for backend in backends:
            if (op, direction, dtype, backend) not in there:
                declared = registry.left_out(op, direction, dtype, backend)
                status = "left out" if declared else "missing"
                reason = declared or f"the {backend} backend has no kernel for this"
                yield Result(op, direction, backend, "-", dtype, "-", 0, None, None, status, reason)


def _run_case(case: Case, group: list[_Running], allocate: Allocate) -> None:
    host = [running for running in group if not running.row.backend.startswith("cuda")]
    device = [running for running in group if running.row.backend.startswith("cuda")]
    # Arrays on a device are aligned, but for some views: three cases in four.
    on_device = aligned if allocate is heap and seed_of(case.id) % 4 else allocate
    for rows, memory in ((host, allocate), (device, on_device)):
        if rows:
            _run_rows(case, rows, memory)


def _run_rows(case: Case, group: list[_Running], allocate: Allocate) -> None:
    try:
        expectation = Expectation(case, allocate)
    except Exception as error:
        # The reference itself cannot run the case: every row of the group has failed it.
        for running in group:
            running.cases += 1
            running.fail(case, f"the reference: {type(error).__name__}: {error}")
        return
    for running in group:
        running.run(expectation)


def problem_of(case: Case) -> Problem:
    """The problem of ``case`` with its orders, as a call of the op would make it."""
    return build(case).problem


def to_json(results: Iterable[Result]) -> str:
    """A list of objects, one for each result; ``reason`` and ``failed`` only where there is something."""
    rows = [result._asdict() | {"cells": [cell._asdict() for cell in result.cells]} for result in results]
    kept = [{k: v for k, v in row.items() if k not in ("reason", "failed") or v} for row in rows]
    return json.dumps(kept, indent=1, allow_nan=False)


def succeeded(results: Iterable[Result]) -> bool:
    """Whether nothing failed, nothing is missing, and something ran."""
    statuses = [result.status for result in results]
    return "passed" in statuses and not {"failed", "missing"} & set(statuses)
