"""max_pool2d_int8 in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ...problem import Problem
from ..reference import max_pool2d_forward


def max_pool2d_int8_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = the largest byte of each window; 0 where there is none."""
    found = np.empty(out.shape, np.float32)
    max_pool2d_forward(problem._replace(storage="float32"), x.astype(np.float32), found, None, threads)
    out[...] = np.maximum(found, 0)
