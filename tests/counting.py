"""Numbers that count what is done with them, and arrays that remember which of their elements were read and written."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from fastdl.bench import work
from fastdl.kernels import registry

DTYPES = ("float32", "float64", "float16")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Tally:
    """Operations and bytes of a computation with the numbers and arrays that it hands out."""

    def __init__(self):
        self.flop = 0
        self._touched = {}

    @property
    def bytes(self):
        """Each element that was read counts once, and once more where it was written too."""
        return sum(self._touched.values())

    def number(self, value):
        return Number(value, self)

    def array(self, a):
        return Cells(a, self)

    def touch(self, cells, index, how):
        self._touched[id(cells), tuple(map(int, index)), how] = cells.values.dtype.itemsize


def _counted(operation):
    def method(self, *others):
        self.tally.flop += 1
        found = operation(self.value, *(getattr(other, "value", other) for other in others))
        return found if isinstance(found, bool) else Number(found, self.tally)

    return method


class Number:
    """A float whose operations count 1 each; compared ones give plain bools."""

    def __init__(self, value, tally):
        self.value, self.tally = float(value), tally

    __add__, __sub__, __mul__, __truediv__ = map(_counted, (operator.add, operator.sub, operator.mul, operator.truediv))
    __rsub__ = _counted(lambda a, b: b - a)
    __radd__ = __add__
    __rmul__ = __mul__
    __rtruediv__ = _counted(lambda a, b: b / a)
    __pow__, __neg__ = _counted(operator.pow), _counted(operator.neg)
    __lt__, __le__, __gt__, __ge__ = map(_counted, (operator.lt, operator.le, operator.gt, operator.ge))
    sqrt, exp, log, tanh, is_finite = map(_counted, (math.sqrt, math.exp, math.log, math.tanh, math.isfinite))


class Cells:
    """A NumPy array, element by element: floats are Numbers, integers plain ones."""

    def __init__(self, values, tally):
        self.values, self.tally, self.shape = values, tally, values.shape

    def __getitem__(self, index):
        self.tally.touch(self, index, "read")
        value = self.values[index]
        return int(value) if value.dtype.kind in "iub" else Number(value, self.tally)

    def __setitem__(self, index, value):
        self.tally.touch(self, index, "written")
        self.values[index] = getattr(value, "value", value)

    def indices(self):
        return list(np.ndindex(self.shape))


# ---- tests -----------------------------------------------------------------------------------------------------------


def check(problem, loop, *arrays):
    """Runs ``loop(problem, tally, *arrays)`` and the reference; ``arrays`` as the kernel takes them, lists too."""
    tally, row = Tally(), registry.choose(problem, "numpy", "v4")[1]
    expected = [[b.copy() for b in a] if isinstance(a, list) else None if a is None else a.copy() for a in arrays]
    row(problem, *expected, 1)
    wrapped = [
        [tally.array(b) for b in a] if isinstance(a, list) else None if a is None else tally.array(a) for a in arrays
    ]
    loop(problem, tally, *wrapped)
    if problem.storage == "float64":
        for mine, theirs in zip(arrays, expected, strict=True):
            for a, b in zip(mine, theirs, strict=True) if isinstance(mine, list) else [(mine, theirs)]:
                assert a is None or np.allclose(a, b, rtol=1e-12, atol=1e-12), "the loop computes something else"
    found = work.of(problem)
    assert (found.flop, found.bytes) == (tally.flop, tally.bytes), problem


def normal(shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def scalar(value, dtype=np.float64):
    """An array of one number, which the loops read past the tally: such are not counted."""
    return np.array([value], dtype)
