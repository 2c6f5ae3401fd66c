"""Central differences: gradients without any formula for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def central_differences(f: Callable[[], float], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """The gradient by ``x`` (float64) of the number that ``f()`` returns; ``x`` is changed in place and put back."""
    grad = np.empty_like(x)
    for i in np.ndindex(x.shape):
        before = x[i]
        x[i] = before + h
        above = f()
        x[i] = before - h
        below = f()
        x[i] = before
        grad[i] = (above - below) / (2 * h)
    return grad


def check_gradients(
    f: Callable[[], float], tensors: Mapping[str, np.ndarray], grads: Mapping[str, np.ndarray], tolerance: float = 1e-7
) -> None:
    """Each of ``grads`` is the gradient of ``f()`` by the tensor of its name, to ``tolerance`` of its largest value."""
    assert tensors, "nothing to check"
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float64
        assert grads[name].shape == tensor.shape, name
        expected = central_differences(f, tensor)
        error = np.abs(grads[name] - expected).max()
        assert error <= tolerance * max(1.0, np.abs(expected).max()), f"{name}: {error}"
