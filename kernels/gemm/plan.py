"""Block sizes of the compiled gemm, and the scratch memory that follows from them."""

from __future__ import annotations

import functools
from typing import NamedTuple

from .._common.tiling import itemsize, macs_per_ns, panel_width
from ..problem import Problem

#: Up to so many rows of a, b is read in place.
THIN = 64
#: Multiply-adds from which on a product of one block is cut in two, for two threads: each then copies one of the
#: operands whole, a tenth more work for one thread (100 x 4320 x 100, float64: 1.31 ms on two threads, then 0.72).
CUT = 1_000_000


class Plan(NamedTuple):
    """Rows, inner length and columns of one block."""

    mc: int
    kc: int
    nc: int


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks for ``problem``. kc orders the sums: it depends on K alone. mc and nc cross no sum.

    A panel of b (kc x nr) fills 32 KiB of L1, a block of a (mc x kc) a quarter of a 1 MiB L2.
    """
    (m, k), (_, n) = problem.shapes
    double = problem.compute == "float64"
    # Blocks of even size: 112 + 16 rows are no work for two threads.
    kc = -(-k // max(1, -(-k // 256)))
    mc = -(-m // max(1, -(-m // (112 if double else 224))))
    nr = panel_width(isa, problem.compute, n)
    nc = -(-n // max(1, -(-n // 256)) // nr) * nr
    if m <= mc and n <= nc and m * n * k >= CUT:
        if m <= THIN:
            nc = -(-nc // 2 // nr) * nr
        else:
            mc = -(-m // 2)
    return Plan(max(mc, 1), max(kc, 1), max(nc, nr))


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most: one block each of a, b and out per thread, and the bias."""
    mc, kc, nc = plan(problem, isa)
    size = itemsize(problem.compute)
    n = problem.shapes[1][1]
    wide = panel_width(isa, problem.compute, min(mc, THIN))
    turned = kc * (THIN + wide) + nc * (THIN + wide + 1) if mc <= THIN else 0  # gemm_thin_task
    blocks = mc * (kc + 16) + (mc + 16) * kc + kc * nc + mc * nc + turned
    return threads * (blocks * size + 4 * 128) + n * size + 128


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: the products, and 0.15 for each element of b, packed."""
    (m, k), (_, n) = problem.shapes
    return m * k * n / macs_per_ns(isa, problem.compute) + 0.15 * k * n
