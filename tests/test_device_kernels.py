"""The small kernels between the ops (kernels/device), on the emulation."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import backend
from fastdl.kernels.device import _cuda as kernels

pytestmark = pytest.mark.skipif(bool(backend.missing("cuda-emulated")), reason="no C++ compiler")

INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def integers(dtype, shape, rng):
    """Values over the whole range of a dtype."""
    if dtype == "bool":
        return rng.integers(2, size=shape).astype(bool)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "complex64", "int64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 4, 5), (1, 2, 1, 3, 2, 2, 2, 2, 2)])
def test_copy(dtype, shape, rng):
    a = np.asarray(100 * rng.random([2 * n for n in shape])).astype(dtype)[
        (..., *(slice(None, None, 2) for _ in shape))
    ]
    for source in (a, a.T, np.asarray(np.flip(a))):
        out = np.empty_like(source, order="F")
        kernels.copy(source, out)
        assert np.array_equal(out, source)


def test_copy_of_a_size_that_there_is_not():
    with pytest.raises(TypeError, match="complex128 cannot be copied"):
        kernels.copy(np.ones(2, complex), np.ones(2, complex))


@pytest.mark.parametrize("source", INTEGERS)
def test_numbers(source, dtype, rng):
    a = integers(source, (9, 7), rng)[::2]
    out = np.empty(a.shape, dtype, order="F")
    kernels.numbers(a, out)
    with np.errstate(over="ignore"):
        assert np.array_equal(out, a.astype(dtype))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 4, 4), (5, 1, 2, 8)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_take(shape, dtype, rng):
    source = (100 * rng.random(shape)).astype(dtype)
    for n in (0, 1, 9):
        rows = rng.integers(5, size=n)
        out = np.empty((n, *shape[1:]), dtype)
        kernels.take(source, rows, out)
        assert np.array_equal(out, source[rows])


@pytest.mark.parametrize("source", INTEGERS[1:])
def test_labels(source, rng):
    t = integers(source, 300, rng)
    out = np.empty(300, np.int64)
    kernels.labels(t, out)
    assert np.array_equal(out, t.astype(np.int64))


@pytest.mark.parametrize("source", ["bool", "int32", "uint8", "float16", "float32", "float64"])
def test_argmax(source, rng):
    t = rng.integers(4, size=(300, 6)).astype(source)
    if t.dtype.kind == "f":
        t[::3, 2], t[::5, 4], t[7], t[8] = np.nan, np.nan, -np.inf, np.inf
    for each in (t, np.asfortranarray(t), t[::-1, ::2], t[:0]):
        out = np.empty(len(each), np.int64)
        kernels.argmax(each, out)
        assert np.array_equal(out, each.argmax(axis=1))


def test_counts(rng):
    a, b, total = rng.integers(3, size=1000), rng.integers(3, size=1000), np.array([5])
    kernels.count_equal(a, b, total)
    assert total[0] == 5 + np.count_nonzero(a == b)
    kernels.count_equal(a[:0], b[:0], total)
    counter = np.array([2**63 - 1, 7], np.uint64)
    kernels.advance(counter[:1])
    assert counter.tolist() == [2**63, 7]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 255, 1000])
def test_losses(dtype, n, rng):
    y = rng.dirichlet(np.ones(5), size=n).astype(dtype).reshape(n, 5)
    labels = rng.integers(5, size=n)
    out, loss = np.empty((), dtype), np.empty(())
    values = y[:, 0].copy()
    kernels.mean(values, out)
    kernels.book_loss(np.asfortranarray(y), labels, loss)
    with np.errstate(invalid="ignore"):
        assert np.allclose(out, np.float64(values.sum(dtype=np.float64)) / np.float64(n), equal_nan=True)
        wanted = -np.log(y[np.arange(n), labels].astype(np.float64) + 1e-7).sum() / np.float64(n)
    assert np.allclose(loss, wanted, rtol=1e-12, equal_nan=True)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_makes_nan(label):
    loss = np.empty(())
    kernels.book_loss(np.full((3, 5), 0.2), np.array([0, label, 1]), loss)
    assert np.isnan(loss)


def test_the_books_gradient(dtype, rng):
    compute = np.float64 if dtype == np.float64 else np.float32
    y, t = rng.random((6, 5)).astype(compute), np.asfortranarray(rng.random((6, 5)).astype(compute))
    dx = np.empty((6, 5), dtype)
    kernels.book_gradient(y, t, dx)
    assert np.array_equal(dx, ((y - t) / compute(6)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_training_needs(dtype, rng):
    grad, param = (rng.standard_normal((50, 30)).astype(dtype) for _ in range(2))
    out = np.empty_like(grad)
    kernels.decayed(grad, param.T.copy().T, 0.1, out)
    assert np.array_equal(out, grad + grad.dtype.type(0.1) * param)
    mean, batch = rng.standard_normal(300), rng.standard_normal(300).astype(dtype)
    wanted = 0.9 * mean + (1 - 0.9) * batch.astype(np.float64)
    kernels.running(mean, batch, 0.9)
    assert np.array_equal(mean, wanted)
    one = np.empty(1, dtype)
    kernels.scaled(np.full(1, 3, dtype), 1 / 7, one)
    assert one[0] == np.dtype(dtype).type(3 * (1 / 7))
