"""Problem: the description of one call, and the key of everything that is decided about it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .geometry import Pads, Pair, window_grid

Shape = tuple[int, ...]

#: Storage dtypes of inference alone, by ml_dtypes' names: no gradient is computed in them.
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
#: Storage dtype -> dtype in which its sums run.
COMPUTE = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float32",
    "bfloat16": "float32",
    **dict.fromkeys(FLOAT8, "float32"),
}
#: The same for arrays that hold no numbers of their own: bytes that stand for numbers, and words of bits.
_COMPUTE = {**COMPUTE, "uint8": "float32", "uint32": "float32"}


class Problem(NamedTuple):
    """One call, without its values: frozen and hashable.

    ``shapes`` and ``orders`` follow the contract of the op (its folder's ``__init__.py``), one entry for each array
    that the contract lists under *Problem*. ``attrs`` holds what only one op knows, as sorted (name, value) pairs.
    The algorithm that runs and the order of every sum depend on this, on the ISA level, and on nothing else.
    """

    op: str
    direction: str
    shapes: tuple[Shape, ...]
    storage: str
    orders: tuple[str, ...] = ()
    pads: Pads = (0, 0, 0, 0)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    epilogue: str = "none"
    attrs: tuple[tuple[str, Any], ...] = ()

    @property
    def compute(self) -> str:
        """Name of the dtype in which sums run."""
        return _COMPUTE[self.storage]

    def attr(self, name: str) -> Any:
        """The op's own parameter ``name``; ``KeyError`` where it has none."""
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(f"{self.op} has no attribute {name!r}")

    def grid(self) -> Pair:
        """(OH, OW) of a convolution's ``shapes == (x, w)``."""
        (_, _, h, w), (_, _, kh, kw) = self.shapes[:2]
        return window_grid((h, w), (kh, kw), self.stride, self.pads, self.dilation)


def memory_order(a: np.ndarray) -> str:
    """``"nchw"`` for C-contiguous memory, ``"nhwc"`` for a 4-D channels-last view, ``"strided"`` for the rest."""
    if a.flags.c_contiguous:
        return "nchw"
    if a.ndim == 4 and a.transpose(0, 2, 3, 1).flags.c_contiguous:
        return "nhwc"
    return "strided"
