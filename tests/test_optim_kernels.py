"""The optimizers: the reference against single elements, and the compiled rows against the reference."""

from __future__ import annotations

import itertools
import platform

import numpy as np
import pytest

import layouts
import oracle_optim
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")

#: op -> (number of states, parameters)
OPS = {
    "sgd": (0, {}),
    "momentum": (1, {"momentum": 0.9}),
    "nesterov": (1, {"momentum": 0.9}),
    "adagrad": (1, {"eps": 1e-7}),
    "rmsprop": (1, {"decay_rate": 0.99, "eps": 1e-7}),
    "adam": (2, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-7}),
}
LR = 0.0123
#: The reference also runs in extended precision, to judge float64.
STORAGE = {"f": "float32", "d": "float64", "g": "float64"}
SHAPES = [
    (), (0,), (1,), (3,), (7,), (16,), (17,), (33,), (4, 0, 2), (1, 1), (5, 7), (2, 3, 4, 5), (8, 6, 3, 3), (33, 65),
    (70, 40), (3, 2000), (2000, 3), (40, 50, 3, 3), (1, 9, 1, 130), (2, 3, 2, 2, 5),
]  # fmt: skip


def problem_of(op, arrays):
    return Problem(
        op, "step", tuple(a.shape for a in arrays), STORAGE[arrays[0].dtype.char] if arrays else "float32",
        attrs=tuple(sorted(OPS[op][1].items())),
    )  # fmt: skip


def exact_operations(isa):
    """Whether the level has no fused multiply-add, so that it does the very operations of the reference."""
    return isa == "baseline" and platform.machine() in ("x86_64", "AMD64")


def values(op, shapes, dtype, seed=0):
    """[params, grads, state, ...]; the states that are squares are not negative."""
    rng = np.random.default_rng(seed)
    lists = [[rng.standard_normal(s).astype(dtype) for s in shapes] for _ in range(2 + OPS[op][0])]
    if op in ("adagrad", "rmsprop", "adam"):
        lists[-1] = [np.array(np.abs(a)) for a in lists[-1]]
    return lists


def step(op, backend, isa, lists, threads=1, number=3):
    """Runs one step on the arrays of ``lists`` and says which row it was."""
    params, grads, *states = lists
    problem = problem_of(op, params)
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    lr, count = np.array([LR]), np.array([number], np.int64)
    function(problem, params, grads, *states, lr, *([count] if op == "adam" else []), threads)
    assert lr.item() == LR and count.item() == number
    return row


def copies(lists, convert=np.array):
    return [[convert(a) for a in arrays] for arrays in lists]


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


def same_bits(got, want):
    return all(
        np.array_equal(bits(g), bits(w)) for g, w in zip(itertools.chain(*got), itertools.chain(*want), strict=True)
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("number", [1, 2, 1000])
def test_reference_equals_the_papers_element_by_element(op, number):
    before = values(op, [(), (0,), (3,), (2, 3)], "float64")
    after = copies(before)
    step(op, "numpy", "v4", after, number=number)
    seen = 0
    for i, p in enumerate(before[0]):
        for at in np.ndindex(p.shape):
            element = [float(arrays[i][at]) for arrays in before]
            want, states = getattr(oracle_optim, op)(element[0], element[1], element[2:], LR, number, **OPS[op][1])
            # Some twenty roundings, on numbers of the size of the largest term.
            size = max(1.0, *(abs(v) for v in element), abs(want))
            for got, expected in zip(
                [arrays[i][at] for arrays in (after[0], *after[2:])], [want, *states], strict=True
            ):
                assert abs(got - expected) <= 20 * np.finfo(float).eps * size
                seen += 1
            assert after[1][i][at] == element[1]
    assert seen == 10 * (1 + OPS[op][0])


def bound(op, before, after, dtype):
    """Largest error of one step in ``dtype`` for each of (parameter, states...), from exact arrays before and after.

    u is the error of one rounding, half of eps. A term that went through k roundings is off by k * u of itself.
    """
    u = np.finfo(dtype).eps / 2
    p, g, *states = (np.abs(a) for a in before)
    p_new, *new = (np.abs(a) for a in (after[0], *after[2:]))
    moved = np.abs(after[0] - before[0])
    if op == "sgd":
        return [u * (2 * moved + p_new)]
    if op in ("momentum", "nesterov"):
        # Two rounded products (a scalar is rounded too) and their sum, in the state and in what is added to p.
        mu = OPS[op][1]["momentum"]
        terms = mu * states[0] + LR * g
        step_terms = terms if op == "momentum" else mu * mu * states[0] + (1 + mu) * LR * g
        return [u * (4 * step_terms + p_new + p), 3 * u * terms]
    if op == "adagrad":
        # h: two roundings. Half of them in the root, then root, sum with the rounded eps, lr, lr * g, quotient.
        return [u * (7 * moved + p_new), 2 * u * new[0]]
    if op == "rmsprop":
        return [u * (8 * moved + p_new), 5 * u * new[0]]
    # Adam: a difference, its product with a rounded scalar, a sum; the square of g is one rounding more.
    b1, b2 = OPS[op][1]["beta1"], OPS[op][1]["beta2"]
    m_error = u * (3 * (1 - b1) * (g + states[0]) + new[0])
    v_error = u * (4 * (1 - b2) * (g * g + states[1]) + new[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(new[0] > 0, m_error / new[0], 0) + np.where(new[1] > 0, v_error / new[1] / 2, 0)
    return [moved * (share + 6 * u) + u * p_new, m_error, v_error]


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
def test_values_of_every_level(op, isa, dtype):
    """Within the roundings of the formula; in float32 against float64, in float64 against extended precision."""
    wide = "float64" if dtype == "float32" else np.longdouble
    got = values(op, SHAPES, dtype)
    exact = copies(got, lambda a: a.astype(wide))
    before, narrow = copies(exact), copies(got)
    step(op, "cython", isa, got)
    step(op, "numpy", isa, exact)
    step(op, "numpy", isa, narrow)
    checked = 0
    for i in range(len(SHAPES)):
        limits = bound(op, [a[i] for a in before], [a[i] for a in exact], dtype)
        for limit, k in zip(limits, [0, *range(2, len(got))], strict=True):
            # Twice: scalars are rounded to the dtype before use, in the reference from the wider dtype to itself.
            assert np.all(np.abs(got[k][i].astype(wide) - exact[k][i]) <= 2 * limit)
            checked += got[k][i].size
    assert checked == sum(int(np.prod(s)) for s in SHAPES) * (1 + OPS[op][0])
    assert same_bits([got[1]], [narrow[1]])  # gradients are not written
    assert not exact_operations(isa) or same_bits(got, narrow)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layouts_give_the_bits_of_contiguous_arrays(op, isa, dtype):
    plain = values(op, SHAPES, dtype)
    start = copies(plain)
    step(op, "cython", isa, plain)
    names = list(layouts.LAYOUTS)
    pairs = [(a, b) for a in names for b in names]
    assert len(pairs) == len(names) ** 2 > 40
    for number, (ours, theirs) in enumerate(pairs):
        # Parameters in one layout, gradients in the other, states in either.
        chosen = [ours, theirs, *(pairs[number][k % 2] for k in range(OPS[op][0]))]
        strided = [[layouts.LAYOUTS[name](a) for a in arrays] for name, arrays in zip(chosen, start, strict=True)]
        for g in strided[1]:
            g.flags.writeable = False
        step(op, "cython", isa, strided)
        assert same_bits(strided, plain), (ours, theirs)
        for a in itertools.chain(*strided):
            rest = layouts.surroundings(a)
            assert rest is None or np.all(rest == 77), (ours, theirs)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
def test_broadcast_gradient(op, isa):
    """A gradient with zero strides, as np.broadcast_to makes it."""
    strided = values(op, [(50, 60), (7, 5, 3)], "float32")
    strided[1] = [np.broadcast_to(g[:1], g.shape) for g in strided[1]]
    plain = copies(strided)
    step(op, "cython", isa, strided)
    step(op, "cython", isa, plain)
    assert same_bits(strided, plain)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
def test_bits_do_not_depend_on_threads_or_on_the_list(op, isa):
    """Many arrays in one call are what they are one by one; several tasks, more than 20 us of work."""
    shapes = [(30, 1, 5, 5), (30,), (432, 100), (100,), (100, 10), (10,), (0,), (64, 64, 3, 3), (300, 257), ()]
    start = values(op, shapes, "float32")
    start[1][7] = layouts.channels_last(start[1][7])
    start[1][8] = layouts.fortran(start[1][8])
    alone = copies(start)
    for i in range(len(shapes)):
        step(op, "cython", isa, [arrays[i : i + 1] for arrays in alone])
    for threads in (1, 2, 3, 2, 1):
        together = [[a.copy(order="K") for a in arrays] for arrays in start]
        step(op, "cython", isa, together, threads)
        assert same_bits(together, alone), threads


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
def test_no_arrays_and_only_empty_arrays(op, isa):
    for shapes in ([], [(0,)], [(0, 3), (2, 0)]):
        step(op, "cython", isa, values(op, shapes, "float32"))


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
def test_workspace_is_declared(op, isa):
    from fastdl.kernels._common import _runtime

    for shapes in ([(5,)], [(40, 40)] * 70, [(3, 4, 5, 6)] * 7):
        lists = values(op, shapes, "float64")
        lists[1] = [layouts.fortran(g) for g in lists[1]]
        row = step(op, "cython", isa, lists)
        _runtime.arena_peak(reset=True)
        idle = _runtime.arena_peak()
        step(op, "cython", isa, lists, 2)
        assert 0 < _runtime.arena_peak() - idle <= row.workspace(problem_of(op, lists[0]), isa, 2)
        assert _runtime.arena_peak(reset=True) and _runtime.arena_peak() == idle  # and given back


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", ["contiguous", "every_other"])
def test_special_values(op, isa, layout):
    """NaN and infinity as in the reference, element by element; no subnormal is flushed."""
    tiny = np.finfo(np.float32).smallest_subnormal
    special = np.array([0.0, -0.0, 1.0, tiny, -3 * tiny, 1e-20, 3e38, np.inf, -np.inf, np.nan], np.float32)
    states = OPS[op][0]
    grid = np.array(np.meshgrid(*[special] * (2 + states))).reshape(2 + states, -1)
    if op in ("adagrad", "rmsprop", "adam"):
        grid[-1] = np.abs(grid[-1])
    want = [[row.copy()] for row in grid]
    got = [[layouts.LAYOUTS[layout](row)] for row in grid]
    with np.errstate(all="ignore"):
        step(op, "numpy", isa, want)
    step(op, "cython", isa, got)
    for (g,), (w,) in zip(got, want, strict=True):
        # A fused operation may keep finite what overflows in two steps: leave out where intermediate values do.
        assert not exact_operations(isa) or np.array_equal(g, w, equal_nan=True)
        finite = np.isfinite(w) & (np.abs(w) < 1e37)
        assert np.array_equal(np.isnan(g)[finite], np.isnan(w)[finite])
        assert np.allclose(g[finite], w[finite], rtol=32 * np.finfo(np.float32).eps, atol=4 * tiny)
    still = [[np.array([tiny, -3 * tiny], np.float32)], *([[np.zeros(2, np.float32)]] * (1 + states))]
    still = copies(still)
    step(op, "cython", isa, still)
    assert np.array_equal(still[0][0], np.array([tiny, -3 * tiny], np.float32))


def test_scalars_are_rounded_once():
    """(1 + momentum) * lr and the others are float64 until they meet an array."""
    p, g, v = (np.array([x], np.float32) for x in (0.0, 1.0, 0.0))
    step("nesterov", "numpy", "v4", [[p], [g], [v]])
    assert p[0] == -np.float32((1 + 0.9) * LR)
    for isa in LEVELS:
        q, w = np.zeros(1, np.float32), np.zeros(1, np.float32)
        step("nesterov", "cython", isa, [[q], [g], [w]])
        assert (q[0], w[0]) == (p[0], v[0])


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_adam_counts_steps_beyond_float32(isa):
    for number in (1, 2, 10, 10**4, 2**24 + 1, 10**9):
        want = values("adam", [(9,)], "float64")
        got = copies(want)
        step("adam", "numpy", isa, want, number=number)
        step("adam", "cython", isa, got, number=number)
        assert all(
            np.allclose(g[0], w[0], rtol=8 * np.finfo(float).eps, atol=0)
            for g, w in zip(got[2:], want[2:], strict=True)
        )
        limit = bound("adam", [a[0] for a in values("adam", [(9,)], "float64")], [a[0] for a in want], "float64")
        assert np.all(np.abs(got[0][0] - want[0][0]) <= 2 * limit[0])
