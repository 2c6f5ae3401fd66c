"""What the plans need to know about the register tiles: how wide they are at each ISA level."""

from __future__ import annotations

VECTOR_BYTES = {"baseline": 16, "v3": 32, "v4": 64}


def itemsize(compute: str) -> int:
    """Bytes of one value of the compute dtype."""
    return 8 if compute == "float64" else 4


def panel_width(isa: str, compute: str, columns: int) -> int:
    """Columns of a packed panel (nr): two vectors, or one where that already holds them all."""
    lanes = VECTOR_BYTES[isa] // itemsize(compute)
    return 2 * lanes if columns > lanes else lanes
