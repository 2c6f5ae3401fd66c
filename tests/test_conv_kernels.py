"""gemm and convolution: the reference against plain loops, and what the compiled rows promise beyond their values.

Values of the compiled rows on the whole case grid are proved in test_matrix.py.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import oracle_conv
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem, memory_order

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")

GEOMETRIES = [
    # x, w, stride, pads (top, bottom, left, right), dilation, groups
    ((2, 3, 5, 4), (4, 3, 3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 1, 4, 7), (2, 1, 2, 3), (2, 1), (1, 2, 3, 0), (1, 1), 1),
    ((2, 4, 5, 6), (6, 2, 3, 3), (1, 3), (2, 2, 2, 2), (2, 1), 2),
    ((1, 3, 4, 4), (3, 1, 3, 3), (3, 2), (4, 1, 0, 5), (1, 2), 3),
    ((0, 2, 4, 4), (3, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
]


def arrays(geometry, dtype="float64", seed=0, low=-4, high=5):
    """x, w, b, dout of small integers, and the forward Problem."""
    x_shape, w_shape, stride, pads, dilation, groups = geometry
    rng = np.random.default_rng(seed)
    problem = Problem("conv2d", "forward", (x_shape, w_shape), dtype, ("nchw", "nchw"), pads, stride, dilation, groups)
    shape = (x_shape[0], w_shape[0], *problem.grid())
    x, w, b, dout = (rng.integers(low, high, s).astype(dtype) for s in (x_shape, w_shape, (w_shape[0],), shape))
    return problem, x, w, b, dout


def run_all(problem, x, w, b, dout, backend, isa, threads):
    """out, dx, dw, db from one backend, outputs poisoned beforehand."""
    out, dx, dw, db = (np.full_like(a, np.nan) for a in (dout, x, w, b))

    def call(direction, *args, **changes):
        changed = problem._replace(direction=direction, **changes)
        row, function = registry.choose(changed, backend, isa)
        assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
        function(changed, *args, threads)

    call("forward", x, w, b, out, epilogue="bias")
    call("backward_input", dout, w, None, dx)
    call("backward_weight", dout, x, dw)
    call("backward_bias", dout, db, shapes=(dout.shape,))
    return out, dx, dw, db


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_reference_convolution_equals_plain_loops(geometry):
    problem, x, w, b, dout = arrays(geometry)
    expected = oracle_conv.conv2d(x, w, b, dout, problem.grid(), *geometry[2:])
    got = run_all(problem, x, w, b, dout, "numpy", "baseline", 1)
    for name, a, e in zip(("out", "dx", "dw", "db"), got, expected, strict=True):
        np.testing.assert_array_equal(a, e, err_msg=name)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 7, 1), (2, 0, 3), (0, 3, 2)], ids=str)
@pytest.mark.parametrize("epilogue", ["none", "bias", "bias_relu"])
def test_reference_gemm_equals_plain_loops(shape, epilogue):
    m, k, n = shape
    rng = np.random.default_rng(1)
    a, b, bias = (rng.integers(-4, 5, s).astype(float) for s in ((m, k), (k, n), (n,)))
    bias = None if epilogue == "none" else bias
    problem = Problem("gemm", "forward", (a.shape, b.shape), "float64", epilogue=epilogue)
    out = np.full((m, n), np.nan)
    _, function = registry.choose(problem, "numpy", "baseline")
    function(problem, a, b, bias, out, 1)
    np.testing.assert_array_equal(out, oracle_conv.gemm(a, b, bias, epilogue == "bias_relu"))


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_compiled_convolution_equals_plain_loops(isa):
    """Not only through the reference: two implementations may agree and be wrong."""
    for geometry in GEOMETRIES:
        problem, x, w, b, dout = arrays(geometry, "float32")
        expected = oracle_conv.conv2d(x, w, b, dout, problem.grid(), *geometry[2:])
        for a, e in zip(run_all(problem, x, w, b, dout, "cython", isa, 2), expected, strict=True):
            np.testing.assert_array_equal(a, e)


BIG = ((7, 24, 19, 23), (40, 24, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_do_not_depend_on_threads(isa, dtype):
    problem, *_ = arrays(BIG, dtype)
    rng = np.random.default_rng(2)
    x, w, b, dout = (rng.standard_normal(a.shape).astype(dtype) for a in arrays(BIG, dtype)[1:])
    first = run_all(problem, x, w, b, dout, "cython", isa, 1)
    for threads, _ in itertools.product((2, 3, 5), range(3)):
        for a, e in zip(run_all(problem, x, w, b, dout, "cython", isa, threads), first, strict=True):
            assert a.tobytes() == e.tobytes()


@compiled
def test_several_python_threads_compute_the_same():
    problem, x, w, b, dout = arrays(BIG, "float32")
    expected = run_all(problem, x, w, b, dout, "cython", LEVELS[-1], 1)
    failures = []

    def work():
        for _ in range(5):
            got = run_all(problem, x, w, b, dout, "cython", LEVELS[-1], 2)
            if any(a.tobytes() != e.tobytes() for a, e in zip(got, expected, strict=True)):
                failures.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_after_fork_computes_with_threads():
    problem, x, w, b, dout = arrays(BIG, "float32")
    expected = run_all(problem, x, w, b, dout, "cython", LEVELS[-1], 2)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            got = run_all(problem, x, w, b, dout, "cython", LEVELS[-1], 2)
            code = 0 if all(a.tobytes() == e.tobytes() for a, e in zip(got, expected, strict=True)) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    run_all(problem, x, w, b, dout, "cython", LEVELS[-1], 2)  # the parent's pool still works


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_strides_beyond_four_gigabytes(isa):
    """Two images 5 GB apart in a mapping of which only their own pages exist."""
    geometry = ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    problem, x, w, b, dout = arrays(geometry, "float32")
    far = np.zeros((2, 1_250_000_000), np.float32)[:, : x[0].size].reshape(x.shape)
    assert far.strides[0] > 2**32
    far[...] = x
    expected = run_all(problem, x, w, b, dout, "numpy", isa, 1)
    got = run_all(problem._replace(orders=(memory_order(far), "nchw")), far, w, b, dout, "cython", isa, 2)
    for a, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_scratch_stays_within_the_declared_workspace_whatever_the_image_size(isa):
    from fastdl.kernels._common import _runtime

    declared = {}
    for size in (12, 192, 384):
        problem, x, w, _, dout = arrays(((2, 8, size, size), (16, 8, 3, 3), (1, 1), (1,) * 4, (1, 1), 1), "float32")
        for direction, args in (
            ("forward", (x, w, None, np.empty_like(dout))),
            ("backward_input", (dout, w, None, np.empty_like(x))),
            ("backward_weight", (dout, x, np.empty_like(w))),
        ):
            changed = problem._replace(direction=direction)
            row, function = registry.choose(changed, "cython", isa)
            _runtime.arena_peak(reset=True)
            function(changed, *args, 2)
            assert 0 < _runtime.arena_peak() <= row.workspace(changed, isa, 2)
            declared.setdefault(direction, []).append(row.workspace(changed, isa, 2))
    im2col_of_the_largest = 2 * 384 * 384 * 8 * 9 * 4
    for direction, sizes in declared.items():
        assert sizes[1] == sizes[2], direction
        assert sizes[2] < im2col_of_the_largest / 10, direction


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_relu_in_the_epilogue_keeps_nan_and_clears_negatives(isa):
    problem = Problem("gemm", "forward", ((1, 1), (1, 4)), "float32", epilogue="bias_relu")
    b = np.array([[1, np.nan, -np.inf, np.inf]], np.float32)
    out = np.zeros((1, 4), np.float32)
    registry.choose(problem, "cython", isa)[1](
        problem, np.ones((1, 1), np.float32), b, np.array([-3, 0, 0, 0], np.float32), out, 1
    )
    np.testing.assert_array_equal(out, np.array([[0, np.nan, 0, np.inf]], np.float32))


@compiled
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of a process is read from /proc")
def test_the_process_never_holds_an_im2col_of_the_input():
    """All three passes in a process of their own: what they need beyond inputs and outputs is small."""
    program = """
import fastdl, numpy as np, re
from fastdl import functional as F
fastdl.use_backend("cython")
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
rng = np.random.default_rng(0)
w = rng.standard_normal((32, 32, 3, 3), dtype=np.float32)
small = rng.standard_normal((1, 32, 8, 8), dtype=np.float32)
F.conv2d_backward(F.conv2d(small, w, pad=1), small, w, pad=1)  # loads everything
x = np.ones((8, 128, 128, 32), np.float32).transpose(0, 3, 1, 2)
before = peak()
out = F.conv2d(x, w, pad=1)
F.conv2d_backward(out, x, w, pad=1)
print(peak() - before - out.nbytes - x.nbytes, 9 * x.nbytes)  # the last: out and dx
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    extra, im2col = map(int, done.stdout.split())
    assert extra < im2col / 10
