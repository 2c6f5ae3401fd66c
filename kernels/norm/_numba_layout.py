"""Views of arrays for the kernels of both normalisations."""

from __future__ import annotations

import numpy as np

from .._common.jit import bits


def as_lines(*arrays: np.ndarray) -> list[np.ndarray] | None:
    """Arrays as lines of their rows of channels, if the channels of all are beside each other."""
    found = []
    for a in arrays:
        turned = a if a.ndim == 2 else a.transpose(0, 2, 3, 1)
        if not turned.flags.c_contiguous:
            return None
        found.append(bits(turned.reshape(-1)))
    return found


def as_grids(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays as (N, C, H, W), with lines as long as they can be."""
    if arrays[0].ndim == 2:
        return [bits(a).T[None, :, None, :] for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        return [bits(a).reshape(*a.shape[:2], 1, -1) for a in arrays]
    return [bits(a) for a in arrays]
