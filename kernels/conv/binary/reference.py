"""conv2d_binary in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ...bits.reference import signs
from ...problem import Problem
from ..reference import groups_of, taps_of


def conv2d_binary_forward(
    problem: Problem, x: np.ndarray, w: np.ndarray, scale: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = correlation of signs * scale."""
    channels, (top, bottom, left, right) = problem.attr("channels"), problem.pads
    total = np.zeros(out.shape, np.int32)
    for words, ks in groups_of(problem):
        padded = np.pad(signs(x[:, words], channels), ((0, 0), (0, 0), (top, bottom), (left, right)))
        weights = signs(w[ks], channels)
        for r, s, (rows, columns) in taps_of(problem):
            product = np.tensordot(weights[:, :, r, s], padded[:, :, rows, columns], (1, 1))
            total[:, ks] += product.transpose(1, 0, 2, 3)
    v = total.astype(np.float32)
    out[...] = v if scale is None else v * scale[:, None, None].astype(np.float32)
