"""conv2d_int8 in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from ..._common.jit import inline, kernel
from ..._common.tasks import parallel
from ...problem import Problem


@inline
def _stored(value, low, zero):
    """The byte of a result, clipped first."""
    high = np.float32(255) - zero
    value = value if value > low else low
    value = value if value < high else high
    return np.uint8(np.rint(value) + zero)


@kernel
def _rows(first, last, geometry, groups, x_zero, relu, to_bytes, out_zero, bias, scale, weights, x, out):
    """Tasks are rows of outputs; x is (N, H, W, C), out (N, OH, OW, K), weights (R, S, C / groups, K). Taps beside x
    are left out."""
    stride_h, stride_w, top, left, down, right = geometry
    channels, per_group = weights.shape[2], out.shape[3] // groups
    sums = np.empty(out.shape[3], np.int32)
    low = np.float32(0) if relu else -out_zero
    for task in range(first, last):
        n, i = divmod(task, out.shape[1])
        for j in range(out.shape[2]):
            sums[:] = bias
            for r in range(weights.shape[0]):
                h = i * stride_h - top + r * down
                if h < 0 or h >= x.shape[1]:
                    continue
                for s in range(weights.shape[1]):
                    w = j * stride_w - left + s * right
                    if w < 0 or w >= x.shape[2]:
                        continue
                    for g in range(groups):
                        to = sums[g * per_group : (g + 1) * per_group]
                        for c in range(channels):
                            value = np.int32(x[n, h, w, g * channels + c]) - x_zero
                            row = weights[r, s, c, g * per_group : (g + 1) * per_group]
                            for k in range(to.size):
                                to[k] += value * row[k]
            for k in range(sums.size):
                value = np.float32(sums[k]) * scale[k]
                if to_bytes:
                    out[n, i, j, k] = _stored(value, low, out_zero)
                else:
                    out[n, i, j, k] = np.float32(0) if relu and value <= 0 else value


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
    if out.size == 0:
        return
    k = w.shape[0]
    start = np.zeros(k, np.int32) if bias is None else np.ascontiguousarray(bias)
    geometry = (*problem.stride, problem.pads[0], problem.pads[2], *problem.dilation)
    parallel(
        _rows, out.shape[0] * out.shape[2], threads, 0.1 * out.size * w[0].size,
        geometry, problem.groups, np.int32(zeros[0]), problem.epilogue == "bias_relu", out.dtype == np.uint8,
        np.float32(zeros[1]), start, np.ascontiguousarray(scale),
        np.ascontiguousarray(w.transpose(2, 3, 1, 0), np.int32), x.transpose(0, 2, 3, 1), out.transpose(0, 2, 3, 1),
    )  # fmt: skip
