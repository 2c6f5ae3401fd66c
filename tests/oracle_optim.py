"""One step of each optimizer for a single element, in the form in which its paper has it; and unscale."""

from __future__ import annotations

import math
from fractions import Fraction


def sgd(p, g, states, lr, step):
    return p - lr * g, states


def momentum(p, g, states, lr, step, *, momentum):
    """The heavy ball: a velocity that loses a share of itself and takes up the slope."""
    velocity = momentum * states[0] - lr * g
    return p + velocity, [velocity]


def nesterov(p, g, states, lr, step, *, momentum):
    """The stored parameter is the point to which the momentum alone would carry: there the gradient was taken."""
    position = p - momentum * states[0]
    velocity = momentum * states[0] - lr * g
    position += velocity
    return position + momentum * velocity, [velocity]


def adagrad(p, g, states, lr, step, *, eps):
    total = states[0] + g**2
    return p - lr / (math.sqrt(total) + eps) * g, [total]


def rmsprop(p, g, states, lr, step, *, decay_rate, eps):
    average = states[0] + (1 - decay_rate) * (g**2 - states[0])
    return p - lr / (math.sqrt(average) + eps) * g, [average]


def adam(p, g, states, lr, step, *, beta1, beta2, eps):
    """With the corrected moments; eps is scaled because the book adds it to the uncorrected root."""
    m = beta1 * states[0] + (1 - beta1) * g
    v = beta2 * states[1] + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return p - lr * m_hat / (math.sqrt(v_hat) + eps / math.sqrt(1 - beta2**step)), [m, v]


#: storage -> (bits of a significand, exponent of the smallest subnormal, largest exponent)
FORMATS = {
    "float64": (53, -1074, 1023), "float32": (24, -149, 127), "float16": (11, -24, 15), "bfloat16": (8, -133, 127)
}  # fmt: skip


def rounded(exact, storage):
    """A Fraction to the nearest number of a format, ties to even; as a float."""
    bits, lowest, highest = FORMATS[storage]
    size = abs(exact.numerator).bit_length() - exact.denominator.bit_length()  # exact is below 2**(size + 1)
    unit = Fraction(2) ** max(size - bits, lowest)
    while abs(exact) >= unit * 2**bits:
        unit *= 2
    found = round(exact / unit) * unit  # Python's round takes ties to even
    if abs(found) >= Fraction(2) ** (highest + 1):
        return math.inf if exact > 0 else -math.inf
    return float(found)


def unscale(g, scale, storage):
    """(the gradient, whether it was no number): in exact arithmetic, with a rounding of the reciprocal and another."""
    by = 1.0 / scale
    if storage != "float64":
        by = rounded(Fraction(by), "float32")
    if not math.isfinite(g):
        return g * by, True
    product = rounded(Fraction(g) * Fraction(by), storage)
    return math.copysign(product, g * math.copysign(1.0, by)), False
