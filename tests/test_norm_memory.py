"""batch_norm and local_response_norm: layouts, threads, scratch and the ends of arrays, at every compiled level."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest

import layouts
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem
from norm_calls import (
    CHANNELS,
    EPS,
    LEVELS,
    PARAMETERS,
    STORAGE,
    batch_backward,
    batch_forward,
    batch_inference,
    blank,
    problem,
    random,
    response,
    response_gradient,
)

SIX = [f for name, f in layouts.LAYOUTS.items() if name != "contiguous"]


def everything(level, storage, x, dout, gamma, beta, lay_in, lay_out, threads=1):
    """Every result of both ops, inputs and outputs laid out as told; inputs must survive and be read-only."""
    inputs = x, dout = lay_in(x), lay_in(dout)
    outputs = [lay_out(np.full(x.shape, 77, x.dtype)) for _ in range(5)]
    copies = [a.copy() for a in inputs]
    for a in inputs:
        a.flags.writeable = False
    _, mean, var = batch_forward(level, storage, x, gamma, beta, threads=threads, out=outputs[0])
    batch_inference(level, storage, x, gamma, beta, mean, var, threads=threads, out=outputs[1])
    _, dgamma, dbeta = batch_backward(level, storage, dout, x, gamma, mean, var, threads=threads, dx=outputs[2])
    if x.ndim == 4:
        response(level, storage, x, threads=threads, out=outputs[3], **PARAMETERS[0])
        response_gradient(level, storage, dout, x, threads=threads, dx=outputs[4], **PARAMETERS[0])
    for a, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(a, copy)
    for a in outputs:
        around = layouts.surroundings(a)
        assert around is None or np.all(around == 77)
    return [*outputs[: 5 if x.ndim == 4 else 3], mean, var, dgamma, dbeta]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_memory_order_does_not_change_a_bit(level, storage):
    for shape in ((150, 19), (2, 5, 9, 11), (3, 33, 7, 6), (2, 1, 13, 1), (1, 20, 1, 140)):
        x, dout = random(shape, storage, 1, 4), random(shape, storage, 2)
        gamma, beta = random(shape[1], "float32", 3), random(shape[1], "float32", 4)
        plain = everything(level, storage, x, dout, gamma, beta, layouts.contiguous, layouts.contiguous)
        for i, lay in enumerate(SIX):
            for lay_in, lay_out in (
                (lay, lay),
                (lay, SIX[(i + 1) % 6]),
                (layouts.contiguous, lay),
                (lay, layouts.contiguous),
            ):
                for got, want in zip(
                    everything(level, storage, x, dout, gamma, beta, lay_in, lay_out), plain, strict=True
                ):
                    assert got.tobytes() == want.tobytes(), (shape, lay_in.__name__, lay_out.__name__)


@pytest.mark.parametrize("storage", ["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
def test_large_results_are_stored_around_the_caches(level, storage):
    """They have the bits of the same rows in a small result, wherever in a cache line they begin."""
    for channels in (5, 37, 300):
        rows = -(-(9 << 20) // np.dtype(storage).itemsize // channels)
        x, dout = random((rows, channels), storage, 1, 4), random((rows, channels), storage, 2)
        gamma, beta = random(channels, "float32", 3), random(channels, "float32", 4)
        for offset in (0, 3):
            memory = np.full(x.size + 16, 77, storage)
            out = memory[offset : offset + x.size].reshape(x.shape)
            _, mean, var = batch_forward(level, storage, x, gamma, beta, threads=2, out=out)
            assert np.all(memory[:offset] == 77) and np.all(memory[offset + x.size :] == 77)
            for part in (slice(0, 1000), slice(rows - 1000, rows)):
                assert np.array_equal(out[part], batch_inference(level, storage, x[part], gamma, beta, mean, var))
            _, *sums = batch_backward(level, storage, dout, x, gamma, mean, var, threads=2, dx=out)
            slow = np.full((channels, rows), 77, storage).T  # channels are not beside each other: plain stores
            _, *again = batch_backward(level, storage, dout, x, gamma, mean, var, dx=slow)
            assert np.array_equal(out, slow)
            assert all(np.array_equal(a, b) for a, b in zip(sums, again, strict=True))
            assert np.all(memory[:offset] == 77) and np.all(memory[offset + x.size :] == 77)


@pytest.mark.parametrize("level", LEVELS)
def test_zero_strides(level):
    for row in (random((1, 6, 1, 5), "float32", 1), random((3, 1, 4, 1), "float32", 2)):
        x = np.broadcast_to(row, (3, 6, 4, 5))
        dout, one = random(x.shape, "float32", 3), np.ones(6, np.float32)
        plain = everything(level, "float32", x.copy(), dout, one, one, np.asarray, layouts.contiguous)
        _, mean, var = batch_forward(level, "float32", x, one, one)
        np.testing.assert_array_equal(mean, plain[5])
        np.testing.assert_array_equal(var, plain[6])
        np.testing.assert_array_equal(
            response(level, "float32", x, out=np.empty(x.shape, "f"), **PARAMETERS[0]), plain[3]
        )


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_threads_do_not_change_a_bit(level, storage):
    """Several tasks of every kind: 196 blocks of rows in 49 chunks or more, three tiles of channels."""
    for shape, lay in (
        ((32, 24, 28, 28), layouts.channels_last),
        ((8, 24, 33, 28), layouts.contiguous),
        ((700, 600), np.asarray),
    ):
        x, dout = random(shape, storage, 1, 4), random(shape, storage, 2)
        one = np.ones(shape[1], np.float32)
        first = everything(level, storage, x, dout, one, one, lay, lay)
        for threads in (1, 2, 3):
            again = everything(level, storage, x, dout, one, one, lay, lay, threads)
            assert [a.tobytes() for a in first] == [a.tobytes() for a in again], threads


@pytest.mark.parametrize("level", LEVELS)
def test_scratch_stays_within_the_declared_workspace(level):
    from fastdl.kernels._common import _runtime

    for storage in STORAGE:
        for shape in ((300, 20), (200, 700), (4, 3, 40, 40), (4, 40, 30, 30), (2, 600, 9, 9), (1, 1, 1, 1)):
            for lay in (layouts.contiguous, layouts.channels_last, layouts.every_other):
                x, dout = lay(random(shape, storage, 1)), lay(random(shape, storage, 2))
                one = np.ones(shape[1], np.float32)
                for threads in (1, 3):

                    def check(p, *args, threads=threads):
                        row, function = registry.choose(p, "cython", level)
                        assert row.isa == level
                        _runtime.arena_peak(reset=True)
                        function(p, *args, threads)
                        assert 0 < _runtime.arena_peak() <= row.workspace(p, level, threads)

                    p = problem("batch_norm", "forward", x, storage, eps=EPS)
                    mean, var = (np.empty(shape[1], p.compute) for _ in range(2))
                    check(p, x, one, one, blank(x), mean, var)
                    check(p._replace(direction="inference"), x, one, one, mean, var, blank(x))
                    check(p._replace(direction="backward"), dout, x, one, mean, var, blank(x), blank(one), blank(one))
                    if x.ndim == 4:
                        for size in (1, 5, 100000):
                            p = problem("local_response_norm", "forward", x, storage, **PARAMETERS[0] | {"size": size})
                            check(p, x, blank(x))
                            check(p._replace(direction="backward"), dout, x, blank(x))


def test_the_workspace_depends_on_the_channels_alone():
    for op, attrs in (("batch_norm", (("eps", EPS),)), ("local_response_norm", (("size", 5),))):
        for channels in (1, 64, 4000):
            p = Problem(op, "forward", ((10, channels, 300, 300),), "float32", attrs=attrs)
            larger = p._replace(shapes=((10**6, channels, 10**4, 10**4),))
            row = next(r for r in registry.TABLE if (r.op, r.backend) == (op, "cython"))
            assert row.workspace(larger, "v4", 2) <= 1.2 * row.workspace(p, "v4", 2)
            assert row.workspace(larger, "v4", 2) <= 2 * 600_000 + 4000 * channels


def at_page_end(a: np.ndarray) -> np.ndarray:
    """A copy of contiguous ``a`` that ends where memory that may not be touched begins."""
    page = mmap.PAGESIZE
    size = -(-max(a.nbytes, 1) // page) * page
    block = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    view = np.frombuffer(block, np.uint8, a.nbytes, size - a.nbytes).view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_touched_behind_an_array(level):
    def guarded_last(a):
        return np.moveaxis(at_page_end(np.array(np.moveaxis(a, 1, -1), order="C")), -1, 1)

    for storage in STORAGE:
        for channels in CHANNELS:
            for shape, lay in (
                ((3, channels), at_page_end),
                ((2, channels, 3, 3), at_page_end),
                ((2, channels, 3, 3), guarded_last),
            ):
                x, dout = random(shape, storage, 1, 4), random(shape, storage, 2)
                one = at_page_end(np.ones(channels, np.float32))
                everything(level, storage, x, dout, one, one, lay, lay)
