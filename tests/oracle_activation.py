"""The activations on one Python float after the other, by the functions of the math module."""

from __future__ import annotations

import math


def relu(x: float) -> float:
    if math.isnan(x):
        return x
    return max(0.0, x) + 0.0  # -0.0 becomes 0.0


def relu_gradient(dout: float, y: float) -> float:
    return dout if y > 0 or math.isnan(y) else 0.0


def relu6(x: float) -> float:
    return x if math.isnan(x) else min(relu(x), 6.0)


def relu6_gradient(dout: float, y: float) -> float:
    return 0.0 if y <= 0 or y >= 6 else dout


def sigmoid(x: float) -> float:
    """By tanh(x / 2) near 0, elsewhere by an exponential that does not overflow."""
    if math.isnan(x):
        return x
    if abs(x) < 1:
        return 0.5 + 0.5 * math.tanh(x / 2)
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def sigmoid_gradient(dout: float, y: float) -> float:
    return dout * y * (1.0 - y)


def tanh(x: float) -> float:
    return math.tanh(x)


def tanh_gradient(dout: float, y: float) -> float:
    return dout * (1.0 - y * y)
