"""What the plans need to know about the register tiles: how wide they are at each ISA level."""

from __future__ import annotations

VECTOR_BYTES = {"baseline": 16, "v3": 32, "v4": 64}
#: Accumulators of the largest register tile (tiles.h.in): its rows times its vectors.
TILE_VECTORS = {"baseline": 12, "v3": 12, "v4": 28}


def itemsize(compute: str) -> int:
    """Bytes of one value of the compute dtype."""
    return 8 if compute == "float64" else 4


def panel_width(isa: str, compute: str, columns: int) -> int:
    """Columns of a packed panel (nr): two vectors, or one where that already holds them all."""
    lanes = VECTOR_BYTES[isa] // itemsize(compute)
    return 2 * lanes if columns > lanes else lanes


def macs_per_ns(isa: str, compute: str) -> float:
    """Multiply-adds that the register tiles do in a nanosecond of one thread, roughly: what cost models divide by."""
    return {"baseline": 10.0, "v3": 50.0, "v4": 100.0}[isa] / (2 if compute == "float64" else 1)
