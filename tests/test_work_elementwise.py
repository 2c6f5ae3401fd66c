"""fastdl.bench.work against loops that count: activations, losses, optimizers.

Each loop computes one element after the other what the contract of an op says, with numbers that count; that it
computes the right thing is seen from the NumPy reference.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from counting import DTYPES, check, every_dtype, normal, scalar
from fastdl.bench import work
from fastdl.kernels.problem import COMPUTE, Problem

# ---- elementwise ----------------------------------------------------------------------------------------------------


def clipped(tally, x):
    """min(max(x, 0), 6): both comparisons, whatever the first says."""
    low, high = x <= 0, x >= 6
    return tally.number(0) if low else tally.number(6) if high else x


ACTIVATIONS = {
    "relu": (
        lambda t, x: t.number(0) if x <= 0 else x,
        lambda t, d, y: t.number(0) if y <= 0 else d,
    ),
    "relu6": (clipped, lambda t, d, y: t.number(0) if any([y <= 0, y >= 6]) else d),
    "sigmoid": (lambda t, x: 1 / (1 + (-x).exp()), lambda t, d, y: d * y * (1 - y)),
    "tanh": (lambda t, x: x.tanh(), lambda t, d, y: d * (1 - y * y)),
}


@every_dtype
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype):
    forward, backward = ACTIVATIONS[name]

    def forward_loop(p, tally, x, out):
        for i in x.indices():
            out[i] = forward(tally, x[i])

    def backward_loop(p, tally, dout, y, dx):
        for i in y.indices():
            dx[i] = backward(tally, dout[i], y[i])

    x, y, dout = (normal((3, 4, 5), dtype, seed) * np.dtype(dtype).type(3) for seed in range(3))
    problem = Problem(name, "forward", (x.shape,), dtype)
    check(problem, forward_loop, x, np.zeros_like(x))
    check(problem._replace(direction="backward"), backward_loop, dout, y, np.zeros_like(x))


@every_dtype
def test_add_concat_dropout_and_cast(dtype):
    def add(p, tally, a, b, out):
        for i in a.indices():
            out[i] = a[i] + b[i]

    def concat(p, tally, arrays, out):
        start = 0
        for a in arrays:
            for n, c in a.indices():
                out[n, start + c] = a[n, c]
            start += a.shape[1]

    def dropout(p, tally, x, mask, out):
        for i in x.indices():
            out[i] = x[i] * (p.attr("scale") if mask[i] else 0.0)

    def cast(p, tally, x, out):
        for i in x.indices():
            out[i] = x[i]

    a, b = normal((3, 4), dtype), normal((3, 4), dtype, 1)
    check(Problem("add", "forward", (a.shape,), dtype), add, a, b, np.zeros_like(a))
    parts = [a, a[:, :1].copy(), b]
    problem = Problem("concat", "forward", tuple(part.shape for part in parts), dtype, attrs=(("axis", 1),))
    check(problem, concat, parts, np.zeros((3, 9), dtype))
    mask = (normal((3, 4), seed=2) > 0).astype(np.uint8)
    check(Problem("dropout", "forward", (a.shape,), dtype, attrs=(("scale", 2.0),)), dropout, a, mask, np.zeros_like(a))
    for source in DTYPES:
        problem = Problem("cast", "forward", (a.shape,), dtype, attrs=(("source", source),))
        check(problem, cast, a.astype(source), np.zeros_like(a))


def test_a_mask_is_written_and_nothing_computed():
    problem = Problem("dropout", "mask", ((3, 5),), "float32", attrs=(("ratio", 0.5),))
    assert work.of(problem) == (0, 15)


# ---- losses, optimizers ---------------------------------------------------------------------------------------------


def exponentials(tally, row):
    """The values minus the largest, their exponentials, and the sum of these."""
    most, total = tally.number(-math.inf), tally.number(0)
    for value in row:
        most = value if value > most else most
    shifted = [value - most for value in row]
    e = [value.exp() for value in shifted]
    for value in e:
        total = total + value
    return shifted, e, total


def softmax_forward(p, tally, x, out):
    for i in range(x.shape[0]):
        _, e, total = exponentials(tally, [x[i, j] for j in range(x.shape[1])])
        for j, value in enumerate(e):
            out[i, j] = value / total


def softmax_backward(p, tally, dout, y, dx):
    for i in range(y.shape[0]):
        total = tally.number(0)
        for j in range(y.shape[1]):
            total = total + dout[i, j] * y[i, j]
        for j in range(y.shape[1]):
            dx[i, j] = y[i, j] * (dout[i, j] - total)


def entropy_forward(p, tally, x, labels, losses, probabilities):
    for i in range(x.shape[0]):
        shifted, e, total = exponentials(tally, [x[i, j] for j in range(x.shape[1])])
        for j, value in enumerate(e):
            probabilities[i, j] = value / total
        losses[i,] = total.log() - shifted[labels[i,]]


def entropy_backward(scale):
    def loop(p, tally, probabilities, labels, _, dx):
        for i, j in dx.indices():
            dx[i, j] = (probabilities[i, j] - (1.0 if j == labels[i,] else 0.0)) * scale

    return loop


@every_dtype
def test_softmax_and_cross_entropy(dtype):
    x, dout, labels = normal((3, 5), dtype), normal((3, 5), dtype, 1), np.array([4, 0, 2])
    problem = Problem("softmax", "forward", (x.shape,), dtype)
    check(problem, softmax_forward, x, np.zeros_like(x))
    check(problem._replace(direction="backward"), softmax_backward, dout, x, np.zeros_like(x))
    compute = COMPUTE[dtype]
    problem = Problem("softmax_cross_entropy", "forward", (x.shape,), dtype)
    probabilities = np.zeros(x.shape, compute)
    check(problem, entropy_forward, x, labels, np.zeros(3, compute), probabilities)
    backward = problem._replace(direction="backward")
    check(backward, entropy_backward(0.5), probabilities, labels, scalar(0.5, compute), np.zeros_like(x))


LR, STEP = 0.25, 3


def _root_step(p, g, h, eps):
    return p - LR * g / (h.sqrt() + eps)


def _adam(p, g, m, v, beta1, beta2, eps):
    m = m + (1 - beta1) * (g - m)
    v = v + (1 - beta2) * (g * g - v)
    rate = LR * math.sqrt(1 - beta2**STEP) / (1 - beta1**STEP)
    return p - rate * m / (v.sqrt() + eps), m, v


def _momentum(p, g, v, momentum):
    v = momentum * v - LR * g
    return p + v, v


def _nesterov(p, g, v, momentum):
    return p + momentum**2 * v - (1 + momentum) * LR * g, momentum * v - LR * g


def _adagrad(p, g, h, eps):
    h = h + g * g
    return _root_step(p, g, h, eps), h


def _rmsprop(p, g, h, decay_rate, eps):
    h = decay_rate * h + (1 - decay_rate) * g * g
    return _root_step(p, g, h, eps), h


#: The new parameter and states of one element, how many states, and the numbers.
OPTIMIZERS = {
    "sgd": (lambda p, g: (p - LR * g,), 0, {}),
    "momentum": (_momentum, 1, {"momentum": 0.9}),
    "nesterov": (_nesterov, 1, {"momentum": 0.9}),
    "adagrad": (_adagrad, 1, {"eps": 1e-3}),
    "rmsprop": (_rmsprop, 1, {"decay_rate": 0.9, "eps": 1e-3}),
    "adam": (_adam, 2, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-3}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, dtype):
    update, count, numbers = OPTIMIZERS[name]

    def loop(problem, tally, *lists):
        for arrays in zip(*lists[: 2 + count], strict=True):
            for i in arrays[0].indices():
                p, g, *states = (a[i] for a in arrays)
                for a, value in zip((arrays[0], *arrays[2:]), update(p, g, *states, **numbers), strict=True):
                    a[i] = value

    shapes = (3, 4), (5,), ()
    lists = [[np.asarray(np.abs(normal(shape, dtype, seed))) for shape in shapes] for seed in range(2 + count)]
    step = [scalar(STEP, np.int64)] if name == "adam" else []
    problem = Problem(name, "step", shapes, dtype, attrs=tuple(sorted(numbers.items())))
    check(problem, loop, *lists, scalar(LR), *step)


@every_dtype
def test_unscale(dtype):
    def loop(problem, tally, grads, _, overflow):
        for g in grads:
            for i in g.indices():
                value = g[i]
                overflow.values[0] |= not value.is_finite()
                g[i] = value * 0.125

    grads = [normal(shape, dtype) for shape in ((3, 4), (5,))]
    problem = Problem("unscale", "step", tuple(g.shape for g in grads), dtype)
    check(problem, loop, grads, scalar(8.0), scalar(0, np.int32))
