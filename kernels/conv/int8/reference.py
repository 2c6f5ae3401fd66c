"""conv2d_int8 in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ...problem import Problem
from ..reference import groups_of, taps_of


def conv2d_int8_forward(
    problem: Problem,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    zeros: np.ndarray,
    out: np.ndarray,
    threads: int,
) -> None:
    """out = f((correlation of x - zero with w, + bias) * scale)."""
    top, bottom, left, right = problem.pads
    shifted = x.astype(np.int32) - zeros[0].astype(np.int32)
    padded = np.pad(shifted, ((0, 0), (0, 0), (top, bottom), (left, right)))
    total = np.zeros(out.shape, np.int32)
    if bias is not None:
        total += bias[:, None, None].astype(np.int32)
    for cs, ks in groups_of(problem):
        for r, s, (rows, columns) in taps_of(problem):
            product = np.tensordot(w[ks, :, r, s].astype(np.int32), padded[:, cs, rows, columns], (1, 1))
            total[:, ks] += product.transpose(1, 0, 2, 3)
    v = total.astype(np.float32) * scale[:, None, None].astype(np.float32)
    relu = problem.epilogue == "bias_relu"
    if problem.attr("out") == "uint8":
        zero = int(zeros[1])
        out[...] = np.clip(np.rint(v), -zero if not relu else 0, 255 - zero).astype(np.int32) + zero
    else:
        out[...] = np.where(v <= 0, np.float32(0), v) if relu else v
