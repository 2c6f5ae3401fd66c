"""Threads: every compiled row from several Python threads and after a fork; no more threads than asked for."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fastdl.check import fuzz
from fastdl.check.cases import Case, build
from fastdl.check.cases import cases as grid_cases
from fastdl.kernels import registry

if not registry.available_levels():
    pytest.skip("the compiled kernels were not built", allow_module_level=True)

#: The rows that programs run here: those of the highest level.
ROWS = [row for row in registry.TABLE if row.isa == registry.available_levels()[-1]]
OPS = list(dict.fromkeys(row.op for row in ROWS))
assert ROWS, "the registry has no compiled row"


# ---- every row ------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A row and a case that it takes."""

    row: registry.Row
    function: Callable[..., Any]
    case: Case

    def outputs(self, threads: int) -> dict[str, bytes]:
        """What the row writes, into arrays of its own."""
        built = build(self.case)
        for operand in self.case.operands:
            if operand.role == "out":
                built.placed[operand.name].memory.fill(0)
        self.function(built.problem, *built.arguments(self.case), threads)
        return {
            operand.name: built.placed[operand.name].array.tobytes()
            for operand in self.case.operands
            if operand.role != "in"
        }


@functools.cache
def calls(op: str) -> tuple[Call, ...]:
    """Two calls of each row of ``op``, with the most work among many cases: enough for several threads."""
    found: list[Call] = []
    for row in (row for row in ROWS if row.op == op):
        key = (row.op, row.direction, row.storage[0])
        some = [*grid_cases(*key), *fuzz.cases(key, 60, seed=5)]
        heavy = sorted((case for case in some if row.eligible(build(case).problem) is True), key=fuzz.work)[-2:]
        assert heavy, f"no case for {row.label}"
        found += [Call(row, registry.load(row), case) for case in heavy]
    return tuple(found)


def different(op: str, threads: int, expected: dict[Call, dict[str, bytes]]) -> list[str]:
    """The cases whose outputs are not those that are expected."""
    return [f"{call.row.label}: {call.case.id}" for call in calls(op) if call.outputs(threads) != expected[call]]


@pytest.mark.parametrize("op", OPS)
def test_rows_from_several_python_threads(op):
    expected = {call: call.outputs(1) for call in calls(op)}
    failures: list[object] = []

    def work(number):
        try:
            for turn in range(3):
                failures.extend(different(op, 1 + (number + turn) % 3, expected))
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("op", OPS)
def test_rows_in_a_child_after_a_fork(op):
    expected = {call: call.outputs(2) for call in calls(op)}  # the pool lives
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(120)
            wrong = different(op, 2, expected)
            print(*wrong, sep="\n", file=sys.stderr)
            status = 2 if wrong else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not different(op, 3, expected), "the parent's pool still works"


# ---- beside other pools ---------------------------------------------------------------------------------------------

BESIDE = """
import os, sys
import numpy as np
def alive():
    return len(os.listdir("/proc/self/task"))
a = np.ones((700, 700), np.float32)
def others():  # NumPy's BLAS, and PyTorch's threads where it is installed
    a @ a
    if "torch" in sys.modules:
        t = torch.ones(700, 700)
        (t @ t).relu()
try:
    import torch
except ImportError:
    pass
others()
import fastdl
from fastdl import network
from fastdl.layers import Affine, Convolution, Relu

rng = np.random.default_rng(0)
def weights(*shape):
    return rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
# conv and Affine in turn: (8, 8, 24, 24) -> 800 -> (8, 8, 10, 10) -> 100
conv1, affine1 = Convolution(weights(8, 8, 3, 3), weights(8), 1, 1), Affine(weights(8 * 24 * 24, 800), weights(800))
conv2, affine2 = Convolution(weights(8, 8, 3, 3), weights(8), 1, 1), Affine(weights(800, 100), weights(100))
x = weights(8, 8, 24, 24)
def step():
    h = affine1.forward(conv1.forward(x))
    others()
    y = affine2.forward(conv2.forward(h.reshape(8, 8, 10, 10)))
    others()
    d = conv2.backward(affine2.backward(np.ones_like(y)))
    others()
    conv1.backward(affine1.backward(d.reshape(8, 800)))
    return [g.tobytes() for layer in (conv1, affine1, conv2, affine2) for g in (layer.dW, layer.db)] + [y.tobytes()]
with fastdl.threads(1):
    before = alive()
    expected = step()
    print("one", alive() - before)
for count in (2, 3, 5, 2, 1):
    with fastdl.threads(count):
        for _ in range(5):
            assert step() == expected, "other bits"
    print(count, alive() - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's list of threads")
def test_no_more_threads_than_asked_for_beside_other_pools():
    """Convolutions and Affine layers in turn, with NumPy's (and PyTorch's) threads alive and at work in between."""
    done = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    # The calling thread works too; threads that were started once stay, asleep.
    assert done.stdout.split("\n")[:-1] == ["one 0", "2 1", "3 2", "5 4", "2 4", "1 4"]


IDLE = """
import time
import numpy as np
import fastdl
from fastdl.layers import Convolution
layer = Convolution(np.ones((32, 32, 3, 3), np.float32), None, 1, 1)
x = np.ones((8, 32, 40, 40), np.float32)
with fastdl.threads(4):
    for _ in range(5):
        layer.forward(x)
time.sleep(0.05)
before = time.process_time()
time.sleep(1)
print(time.process_time() - before)
"""


def test_an_idle_pool_takes_no_processor_time():
    """Workers spin for microseconds after their last job, then sleep: they are not in the way of other pools."""
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 0.3, "three spinning workers would have taken more than a second"
