"""Results of several megabytes, which kernels store around the caches: the bits of small results, and not a byte more.

Batch normalisation has its own test in test_norm_memory.py.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from fastdl import backend
from fastdl import functional as F
from fastdl.kernels import registry

LEVELS = registry.available_levels()
#: More than FD_STREAM_BYTES of kernels/_common/stream.h.
BYTES = 9 << 20
#: Columns of a row: a multiple of a cache line, and not.
COLUMNS = (64, 37)

DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float16", "bfloat16", "float32", "float64")}


def values(columns: int, dtype: np.dtype, seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32).astype(dtype)


def enough(columns: int, dtype: np.dtype) -> int:
    """Rows of a result of BYTES."""
    return -(-BYTES // dtype.itemsize // columns)


def assert_large_as_small(call, inputs, columns, dtype, level):
    """call(*inputs, out=...), for results that begin at a cache line and three elements behind it."""
    rows = len(inputs[0])
    middle = rows // 2
    with backend.isa(level):
        for offset in (0, 3):
            memory = np.full(rows * columns + 3 + 64, 77, dtype)
            first = -memory.ctypes.data % 64 // dtype.itemsize + offset
            out = memory[first : first + rows * columns].reshape(rows, columns)
            with backend.threads(2):
                call(*inputs, out=out)
            assert np.all(memory[:first] == 77) and np.all(memory[first + out.size :] == 77)
            for part in (slice(0, 300), slice(middle, middle + 300), slice(rows - 300, rows)):
                small = np.empty((300, columns), dtype)
                call(*(a[part] for a in inputs), out=small)
                assert out[part].tobytes() == small.tobytes()
    assert out.nbytes >= BYTES


def test_there_is_something_to_test():
    assert LEVELS or backend.missing("cython")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_element_by_element(level, dtype):
    for columns in COLUMNS:
        rows = enough(columns, dtype)
        a, b = values(columns, dtype, 1, rows), values(columns, dtype, 2, rows)
        assert_large_as_small(F.relu, (a,), columns, dtype, level)
        assert_large_as_small(F.relu_backward, (a, b), columns, dtype, level)
        wide = values(2 * columns, dtype, 3, rows)[:, ::2]  # read through a buffer
        assert_large_as_small(F.add, (a, wide), columns, dtype, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("to", DTYPES)
def test_cast(level, to):
    for columns in COLUMNS:
        for source in DTYPES.values():

            def cast(x, *, out):
                F.cast(x, out.dtype, out=out)

            x = values(columns, source, 1, enough(columns, DTYPES[to]))
            assert_large_as_small(cast, (x,), columns, DTYPES[to], level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_concat(level, dtype):
    def join(*arrays, out):
        F.concat(arrays, 1, out=out)

    for columns in COLUMNS:
        parts = [values(columns, dtype, i, enough(2 * columns, dtype)) for i in range(2)]
        assert_large_as_small(join, (parts[0], parts[1]), 2 * columns, dtype, level)


@pytest.mark.parametrize("level", LEVELS)
def test_in_place(level):
    x = values(37, DTYPES["float32"], 1, enough(37, DTYPES["float32"]))
    with backend.isa(level):
        expected = F.relu(x)
        assert np.array_equal(F.relu(x, out=x), expected)
    assert x.min() == 0 < x.max()
