"""Winograd's convolution: the switch, what stays exact, what NaN does, and the matrices behind its error bound."""

import subprocess
import sys

import numpy as np
import pytest

import fastdl
import fastdl.functional as F
from fastdl import backend
from fastdl.check import winograd
from fastdl.check.runner import Selection
from fastdl.check.tolerances import variant
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

needs_kernels = pytest.mark.skipif("cython" not in backend.available_backends(), reason="needs the compiled kernels")
ROWS = [row for row in registry.TABLE if row.is_winograd]
LEVELS = registry.available_levels()


def images(*shape, dtype="float32", seed=0):
    """Random values in channels-last memory."""
    n, c, h, w = shape
    return np.random.default_rng(seed).standard_normal((n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)


def ran(call, *args, **kwargs):
    """The algorithms that a call ran."""
    with fastdl.explain() as log:
        call(*args, **kwargs)
    return [label.split("/")[1] for _, label, _ in log.kernels()]


X, W = images(4, 32, 14, 14), images(48, 32, 3, 3, seed=1)


def test_there_are_rows_for_every_pass_and_level():
    names = {(row.algorithm, row.direction, row.isa) for row in ROWS}
    assert len(names) == 3 * 4 * len(registry.LEVELS)
    assert {variant(row) for row in ROWS} == {(4, 3), (2, 3), (2, 5)}


@needs_kernels
def test_the_switch():
    assert backend.get_conv_algorithm() == "auto"
    with backend.conv_algorithm("winograd"):
        assert backend.get_conv_algorithm() == "winograd"
        assert ran(F.conv2d, X, W, pad=1) == ["winograd_4x4_3x3"]
        assert not ran(F.conv2d, X, W, pad=1, stride=2)[0].startswith("winograd")
        dout = images(4, 48, 14, 14)
        algorithms = ran(F.conv2d_backward, dout, X, W, pad=1, need=("x", "w"))
        assert algorithms == ["winograd_4x4_3x3"] * 2
        with backend.conv_algorithm("direct"):
            assert not ran(F.conv2d, X, W, pad=1)[0].startswith("winograd")
            assert "the convolution algorithm is set to direct" in fastdl.explain("conv2d", X, W, pad=1)
        assert backend.get_conv_algorithm() == "winograd"
    assert backend.get_conv_algorithm() == "auto"


@needs_kernels
def test_the_process_wide_switch():
    try:
        fastdl.set_conv_algorithm("direct")
        assert not ran(F.conv2d, X, W, pad=1)[0].startswith("winograd")
        with fastdl.use_backend("cython"), fastdl.threads(1):
            assert backend.get_conv_algorithm() == "direct"
    finally:
        fastdl.set_conv_algorithm("auto")


def test_other_names_are_refused():
    for call in (fastdl.set_conv_algorithm, lambda name: backend.conv_algorithm(name).__enter__()):
        with pytest.raises(ValueError, match="must be one of 'auto', 'direct', 'winograd', not 'fft'"):
            call("fft")
    assert backend.get_conv_algorithm() == "auto"


@pytest.mark.parametrize(("value", "message"), [("winograd", ""), ("fft", "FASTDL_CONV_ALGORITHM must be one of")])
def test_the_environment(value, message):
    code = "from fastdl import backend; print(backend.get_conv_algorithm())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"FASTDL_CONV_ALGORITHM": value, "PATH": ""},
    )  # fmt: skip
    if message:
        assert message in done.stderr and done.returncode
    else:
        assert done.stdout.strip() == value


@needs_kernels
def test_auto_takes_winograd_where_it_pays():
    """Many channels and a 3x3 filter: less than half of the products."""
    x, w = images(8, 64, 16, 16), images(64, 64, 3, 3)
    assert ran(F.conv2d, x, w, pad=1) == ["winograd_4x4_3x3"]
    assert not ran(F.conv2d, x, images(64, 64, 1, 1))[0].startswith("winograd")
    assert not ran(F.conv2d, images(8, 1, 16, 16), images(16, 1, 3, 3))[0].startswith("winograd")


@needs_kernels
def test_direct_is_exact_on_integers():
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (2, 12, 12, 32)).astype("float32").transpose(0, 3, 1, 2)
    w = rng.integers(-8, 9, (32, 32, 3, 3)).astype("float32")
    with backend.conv_algorithm("direct"):
        out = F.conv2d(x, w, pad=1)
    with fastdl.use_backend("numpy"):
        np.testing.assert_array_equal(out, F.conv2d(x.astype("float64"), w.astype("float64"), pad=1))


# ---- rows, called directly ------------------------------------------------------------------------------------------


def levels(rows):
    """Those of ``rows`` that this machine can run, as parameters."""
    return pytest.mark.parametrize(
        "row", [row for row in rows if row.isa in LEVELS], ids=lambda row: f"{row.label}/{row.direction}"
    )


@needs_kernels
@levels([row for row in ROWS if row.direction == "forward"])
def test_a_nan_stays_in_its_tile(row):
    m, r = variant(row)
    x, w = images(1, 16, 24, 24), images(16, 16, r, r)
    pad = r // 2
    problem = Problem("conv2d", "forward", (x.shape, w.shape), "float32", ("nhwc", "nhwc"), pads=(pad,) * 4)
    clean, spoilt = images(1, 16, 24, 24), images(1, 16, 24, 24)
    registry.load(row)(problem, x, w, None, clean, 1)
    x = x.copy()
    x[0, 3, 11, 12] = np.nan
    registry.load(row)(problem, x, w, None, spoilt, 1)
    reached = np.zeros((24, 24), bool)  # results whose tile reads position (11, 12)
    for i in range(0, 24, m):
        for j in range(0, 24, m):
            if i - pad <= 11 < i - pad + m + r - 1 and j - pad <= 12 < j - pad + m + r - 1:
                reached[i : i + m, j : j + m] = True
    own = np.zeros((24, 24), bool)  # and those that need it
    own[11 - pad : 12 + pad, 12 - pad : 13 + pad] = True
    assert np.isnan(spoilt[:, :, own]).all()
    np.testing.assert_array_equal(spoilt[:, :, ~reached], clean[:, :, ~reached])


@needs_kernels
@levels(ROWS)
def test_the_same_bits_from_any_number_of_threads(row):
    _, r = variant(row)
    x, w, dout = images(6, 40, 20, 18), images(72, 40, r, r), images(6, 72, 20, 18, seed=2)
    problem = Problem("conv2d", row.direction, (x.shape, w.shape), "float32", pads=(r // 2,) * 4)
    bias, taps = w[:, 0, 0, 0].copy(), np.zeros((6, 72, 10, 9), np.uint8)
    out, before, behind = {
        "forward": (dout, (x, w, None), ()),
        "forward_pooled": (taps.astype(np.float32), (x, w, bias, None), (taps,)),
        "backward_input": (x, (dout, w, None), ()),
        "backward_weight": (w, (dout, x), ()),
    }[row.direction]
    results = []
    for threads in (1, 2, 3, 7):
        to = np.full_like(out, np.nan)
        registry.load(row)(problem, *before, to, *behind, threads)
        results.append(np.concatenate([to, *behind]))
    assert np.isfinite(results[0]).all()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_the_check_runs_these_rows():
    labels = {row.label for row, _ in Selection(ops=("conv2d",)).rows()}
    assert {row.label for row in ROWS} <= labels


# ---- the error bound ------------------------------------------------------------------------------------------------


def signed(results, taps):
    """B^T, G and A^T with their signs, from interpolation: A^T and G are evaluations at the points, and B^T follows."""
    n = results + taps - 1
    points = winograd.POINTS[n]
    at, g = np.zeros((results, n)), np.zeros((n, taps))
    for i, p in enumerate(points):
        at[:, i], g[i] = p ** np.arange(results), p ** np.arange(taps)
    at[-1, -1] = g[-1, -1] = 1
    # The one bilinear form sum_l at[i, l] g[l, j] bt[l, k] = (k == i + j) has one solution for bt.
    system = np.einsum("il,lj->ijl", at, g).reshape(-1, n)
    wanted = np.array([[float(k == i + j) for k in range(n)] for i in range(results) for j in range(taps)])
    bt, _, rank, _ = np.linalg.lstsq(system, wanted, rcond=None)
    assert rank == n
    np.testing.assert_allclose(system @ bt, wanted, atol=1e-12)
    return bt, g, at


@pytest.mark.parametrize(("results", "taps"), [(4, 3), (3, 4), (2, 3), (3, 2), (2, 5), (5, 2)])
def test_matrices_of_the_bound(results, taps):
    """Up to a factor that may stand in G or in B^T they are the only ones that give a convolution."""
    bt, g, at = winograd.matrices(results, taps)
    true_bt, true_g, true_at = signed(results, taps)
    np.testing.assert_allclose(at, np.abs(true_at), atol=1e-12)
    for i in range(results + taps - 1):
        np.testing.assert_allclose(np.outer(g[i], bt[i]), np.abs(np.outer(true_g[i], true_bt[i])), atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize(("m", "r"), [(4, 3), (2, 3), (2, 5)])
def test_magnitudes_are_at_least_the_sum_of_the_terms(direction, m, r):
    x, w = np.abs(images(2, 6, 9, 7, dtype="float64")), np.abs(images(8, 3, r, r, dtype="float64", seed=1))
    problem = Problem("conv2d", direction, (x.shape, w.shape), "float64", pads=(1, 2, 3, 0), groups=2)
    dout = np.abs(images(2, 8, *problem.grid(), dtype="float64", seed=2))
    arguments = {"forward": (x, w, None), "backward_input": (dout, w, None), "backward_weight": (dout, x)}[direction]
    out = np.empty({"forward": dout.shape, "backward_input": x.shape, "backward_weight": w.shape}[direction])
    row = next(r for r in registry.TABLE if r[:3] == ("conv2d", direction, "numpy"))
    registry.load(row)(problem, *arguments, out, 1)
    source, other = (x, dout) if direction == "backward_weight" else arguments[:2]
    bound = winograd.magnitudes(problem, m, r, source, other)
    assert bound.shape == out.shape
    assert (bound >= out * (1 - 1e-12)).all()
    assert bound.max() < 1000 * out.max()
