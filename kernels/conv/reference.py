"""conv2d in NumPy, one tap at a time: the specification."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..gemm.reference import epilogue, tf32
from ..pool.reference import max_pool2d_forward
from ..problem import Problem


def _pad(x: np.ndarray, problem: Problem) -> np.ndarray:
    """x in the compute dtype with its zero padding."""
    top, bottom, left, right = problem.pads
    return np.pad(x.astype(problem.compute), ((0, 0), (0, 0), (top, bottom), (left, right)))


def taps_of(problem: Problem) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """(r, s, slices of the padded input that tap (r, s) multiplies) for every tap, in row-major order."""
    (oh, ow), (sh, sw), (dh, dw) = problem.grid(), problem.stride, problem.dilation
    kh, kw = problem.shapes[1][2:]
    for r in range(kh):
        for s in range(kw):
            rows = slice(r * dh, r * dh + (oh - 1) * sh + 1, sh)
            columns = slice(s * dw, s * dw + (ow - 1) * sw + 1, sw)
            yield r, s, (rows, columns)


def groups_of(problem: Problem) -> Iterator[tuple[slice, slice]]:
    """(input channels, output channels) of each group."""
    k, c = problem.shapes[1][:2]
    k //= problem.groups
    for g in range(problem.groups):
        yield slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)


def conv2d_forward(
    problem: Problem, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(correlation of x with w, + b)."""
    padded, w = _pad(x, problem), w.astype(problem.compute)
    total = np.zeros(out.shape, problem.compute)
    for cs, ks in groups_of(problem):
        for r, s, (rows, columns) in taps_of(problem):
            # (k, c) x (n, c, i, j) -> (k, n, i, j)
            product = np.tensordot(w[ks, :, r, s], padded[:, cs, rows, columns], (1, 1))
            total[:, ks] += product.transpose(1, 0, 2, 3)
    out[...] = epilogue(total, b, problem.epilogue, axis=1)


def conv2d_forward_pooled(
    problem: Problem,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None,
    pooled: np.ndarray,
    indices: np.ndarray | None,
    threads: int,
) -> None:
    """out = relu(correlation of x with w, + b); pooled, indices = the largest of its 2x2 windows."""
    if out is None:
        out = np.empty((*pooled.shape[:2], *problem.grid()), pooled.dtype)
    conv2d_forward(problem, x, w, b, out, threads)
    windows = Problem(
        "max_pool2d", "forward", (out.shape,), problem.storage, stride=(2, 2), attrs=(("kernel", (2, 2)),)
    )
    max_pool2d_forward(windows, out, pooled, indices, threads)


def conv2d_backward_input(
    problem: Problem, dout: np.ndarray, w: np.ndarray, y: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = what each input element contributed, weighted by dout."""
    (n, c, h, width), (top, bottom, left, right) = problem.shapes[0], problem.pads
    padded = np.zeros((n, c, h + top + bottom, width + left + right), problem.compute)
    dout, w = dout.astype(problem.compute), w.astype(problem.compute)
    for cs, ks in groups_of(problem):
        for r, s, (rows, columns) in taps_of(problem):
            # (k, c) x (n, k, i, j) -> (c, n, i, j)
            product = np.tensordot(w[ks, :, r, s], dout[:, ks], (0, 1))
            padded[:, cs, rows, columns] += product.transpose(1, 0, 2, 3)
    dx[...] = padded[:, :, top : top + h, left : left + width]
    if y is not None:
        dx[y <= 0] = 0


def conv2d_backward_weight(problem: Problem, dout: np.ndarray, x: np.ndarray, dw: np.ndarray, threads: int) -> None:
    """dw = correlation of x with dout."""
    padded, dout = _pad(x, problem), dout.astype(problem.compute)
    for cs, ks in groups_of(problem):
        for r, s, (rows, columns) in taps_of(problem):
            dw[ks, :, r, s] = np.tensordot(dout[:, ks], padded[:, cs, rows, columns], ((0, 2, 3), (0, 2, 3)))


def conv2d_backward_bias(problem: Problem, dout: np.ndarray, db: np.ndarray, threads: int) -> None:
    """db = dout summed over everything but the channels."""
    db[...] = dout.sum((0, 2, 3), dtype=problem.compute)


# ---- emulated arithmetic --------------------------------------------------------------------------------------------


def conv2d_forward_tf32(
    problem: Problem, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """conv2d_forward with x and w rounded to TF32."""
    conv2d_forward(problem, tf32(x), tf32(w), b, out, threads)


def conv2d_backward_input_tf32(
    problem: Problem, dout: np.ndarray, w: np.ndarray, y: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """conv2d_backward_input with dout and w rounded to TF32."""
    conv2d_backward_input(problem, tf32(dout), tf32(w), y, dx, threads)


def conv2d_backward_weight_tf32(
    problem: Problem, dout: np.ndarray, x: np.ndarray, dw: np.ndarray, threads: int
) -> None:
    """conv2d_backward_weight with dout and x rounded to TF32."""
    conv2d_backward_weight(problem, tf32(dout), tf32(x), dw, threads)


def conv2d_forward_float16_sums(
    problem: Problem, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """conv2d_forward, each product and each partial sum rounded to float16."""
    padded, w, total = _pad(x, problem).astype(np.float16), w.astype(np.float16), np.zeros(out.shape, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for cs, ks in groups_of(problem):
            for r, s, (rows, columns) in taps_of(problem):
                image = padded[:, cs, rows, columns]
                for c in range(w.shape[1]):
                    total[:, ks] += image[:, c, None] * w[ks, c, r, s, None, None]
    out[...] = epilogue(total.astype(np.float32), b, problem.epilogue, axis=1).astype(np.float16)
