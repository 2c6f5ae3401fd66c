"""How ``sums.cuh`` cuts a matrix: a function of its shape alone."""

from __future__ import annotations

from typing import NamedTuple

from . import cut

#: As in ``sums.cuh``.
THREADS, PANEL = 256, 8
#: Blocks, about: a large GPU has 132 multiprocessors, and each a few blocks at once.
BLOCKS = 512


class Cut(NamedTuple):
    """Blocks of ``lanes`` columns and ``chunk`` rows."""

    lanes: int
    tiles: int
    chunk: int
    chunks: int


def _power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def cut_matrix(
    rows: int, columns: int, matrices: int = 1, along_rows: bool = False, panel: int = PANEL, blocks: int = BLOCKS
) -> Cut:
    """A cut for sums over ``rows``, of which a thread has ``panel`` at once.

    With ``along_rows`` the rows of a column are beside each other in memory.
    """
    if along_rows:
        lanes = THREADS // min(max(_power(cut(rows, panel)), 32), THREADS)
    else:
        lanes = min(_power(columns), 32)
        while lanes > 8 and matrices * cut(columns, lanes) < blocks // 2 and rows > panel * THREADS // lanes:
            lanes //= 2
    tiles = cut(columns, lanes)
    step = panel * THREADS // lanes
    chunks = max(min(cut(rows, step), blocks // max(tiles * matrices, 1)), 1)
    chunk = cut(cut(rows, chunks), step) * step
    return Cut(lanes, tiles, max(chunk, 1), max(cut(rows, max(chunk, 1)), 1))
