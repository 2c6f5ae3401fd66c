"""gemm in Numba; the contract is the folder's docstring.

Both operands are copied in blocks of the compute dtype: only this copy knows of strides and storage dtypes.
"""

from __future__ import annotations

import numpy as np

from .._common.jit import borrowing, compute_dtype, kernel, widen, zero
from .._common.tasks import parallel
from .._common.tiles import SPEED, WIDE, clear, copy_line, padded, panel_product, span, store_line, width_of
from .._common.vectors import scratch
from ..problem import Problem


@borrowing
def _load_turned(line, at, n, step, k, to, width):
    """to[p][j] = element (p, j) of an array with n contiguous columns of k elements."""
    for p0 in range(0, k, 64):
        for j in range(n):
            first = at + j * step + p0
            for p in range(min(64, k - p0)):
                to[(p0 + p) * width + j] = widen(line[first + p])


@kernel
def _blocks(first, last, size, blocks, a, a_place, b, b_place, bias, relu, out, out_place):
    (m, k, n), (mc, kc, nc) = size, blocks
    a_at, a_row, a_step = a_place
    b_at, b_row, b_step = b_place
    out_at, out_row, out_step = out_place
    across = (n + nc - 1) // nc
    left, right = scratch(mc * kc, zero(bias)), scratch(kc * WIDE, zero(bias))
    sums, start = scratch(mc * nc, zero(bias)), np.zeros(1, np.int64)
    for t in range(first, last):
        m0, n0 = t // across * mc, t % across * nc
        rows, columns = min(mc, m - m0), min(nc, n - n0)
        rows8 = (rows + 7) // 8 * 8  # what is in the last of them does not matter
        clear(sums, 0, sums.size)
        for k0 in range(0, k, kc):
            depth = min(kc, k - k0)
            if a_row == 1 and a_step != 1:
                for p in range(depth):
                    copy_line(a, a_at + m0 + (k0 + p) * a_step, 1, rows, left, p * mc)
                row, step = 1, mc
            else:
                for i in range(rows):
                    copy_line(a, a_at + (m0 + i) * a_row + k0 * a_step, a_step, depth, left, i * kc)
                row, step = kc, 1
            for j0 in range(0, columns, WIDE):
                many = min(WIDE, columns - j0)
                width = width_of(many)
                at = b_at + k0 * b_row + (n0 + j0) * b_step
                if b_row == 1 and b_step != 1:
                    _load_turned(b, at, many, b_step, depth, right, width)
                else:
                    for p in range(depth):
                        copy_line(b, at + p * b_row, b_step, many, right, p * width)
                panel_product(width, rows8, 1, start, 0, depth, left, 0, row, step, right, 0, width, sums, j0 * mc)
        for j0 in range(0, columns, WIDE):
            many = min(WIDE, columns - j0)
            width = width_of(many)
            for i in range(rows):
                at = out_at + (m0 + i) * out_row + (n0 + j0) * out_step
                store_line(sums, j0 * mc + i * width, bias, n0 + j0, many, relu, out, at, out_step, False)


def gemm_forward(
    problem: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(a @ b + bias)."""
    (m, k), n = a.shape, b.shape[1]
    if out.size == 0:
        return
    if bias is None and 10 * m < k and b.strides[0] == b.itemsize < b.strides[1]:
        # A panel is gathered from columns here: the small operand instead, although out is scattered then.
        a, b, out, (m, n) = b.T, a.T, out.T, (n, m)
    # Blocks of even size; rows in eights, as the tiles take them. Two at least, for two threads.
    mc = -(-m // -(-m // (256 if m > 512 else 128)) // 8) * 8
    if mc >= m > 8 and n <= 256 and m * n * k > 1_000_000:
        mc = -(-m // 2 // 8) * 8
    kc = max(1, -(-k // max(1, -(-k // 256))))
    nc = padded(min(n, 256))
    added = np.zeros(n, compute_dtype(out)) if bias is None else np.ascontiguousarray(bias, compute_dtype(out))
    tasks = -(-m // mc) * -(-n // nc)
    parallel(
        _blocks, tasks, threads, m * n * (k + 8) / SPEED, (m, k, n), (mc, kc, nc), *span(a), *span(b), added,
        problem.epilogue == "bias_relu", *span(out, True),
    )  # fmt: skip
