"""softmax and softmax_cross_entropy in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


def _exponentials(x: np.ndarray, compute: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x - max, its exponentials and their sums (a column), along the last axis."""
    x = x.astype(compute)
    shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(shifted)
    return shifted, e, e.sum(axis=-1, keepdims=True)


def _with_label(labels: np.ndarray, classes: int) -> np.ndarray:
    """The rows whose label is one of the classes."""
    return np.flatnonzero((labels >= 0) & (labels < classes))


def softmax_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = exp(x - max) / sum(exp(x - max)) along the last axis."""
    with np.errstate(all="ignore"):
        _, e, total = _exponentials(x, problem.compute)
        out[...] = e / total


def softmax_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = y * (dout - sum(dout * y))."""
    dout, y = dout.astype(problem.compute), y.astype(problem.compute)
    with np.errstate(all="ignore"):
        dx[...] = y * (dout - (dout * y).sum(axis=-1, keepdims=True))


def softmax_cross_entropy_forward(
    problem: Problem, x: np.ndarray, labels: np.ndarray, losses: np.ndarray, probabilities: np.ndarray, threads: int
) -> None:
    """losses = log(sum(exp(x - max))) - (x[label] - max); probabilities = softmax(x)."""
    rows = _with_label(labels, x.shape[1])
    with np.errstate(all="ignore"):
        shifted, e, total = _exponentials(x, problem.compute)
        probabilities[...] = e / total
        losses[...] = np.nan
        losses[rows] = np.log(total[rows, 0]) - shifted[rows, labels[rows]]


def softmax_cross_entropy_backward(
    problem: Problem, probabilities: np.ndarray, labels: np.ndarray, scale: np.ndarray, dx: np.ndarray, threads: int
) -> None:
    """dx = (probabilities - one_hot(labels)) * scale."""
    rows = _with_label(labels, dx.shape[1])
    difference = probabilities.astype(problem.compute)
    with np.errstate(all="ignore"):
        difference[rows, labels[rows]] -= 1
        dx[...] = difference * scale.astype(problem.compute).reshape(-1)[0]
