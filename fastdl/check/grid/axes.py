"""What the grids of several ops share: the values of common axes, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...kernels.geometry import Pads, Pair
from ...kernels.problem import Problem
from ..arrays import ORDERS
from ..cases import Argument, Axes, numbers

Made = tuple[Problem, Sequence[Argument], Sequence[str]] | None
ToProblem = Callable[..., Problem]
AxisValues = dict[str, tuple[str, ...]]

OUT_ORDERS = ORDERS[:-1]
#: batch x height x width: small, not square, one row, one column, empty batch
SIZES = ("2x6x9", "1x7x5", "3x1x8", "2x9x1", "0x5x4")
#: around every tile edge: vectors of 4, 8 and 16 elements, one and two of them
EDGES = ("1", "3", "8", "15", "16", "17", "31", "32", "33", "64", "65")
STRIDES = ("1x1", "2x1", "1x3", "2x2", "3x2")
#: top x bottom x left x right; the last two are wider than most of the filters
PADS = ("0x0x0x0", "1x1x1x1", "2x1x0x3", "6x2x3x5", "0x4x5x0")
DILATIONS = ("1x1", "2x1", "1x2", "2x3")
ORDER_AXIS = {"order": ORDERS, "out_order": OUT_ORDERS}


def pair_of(text: str) -> Pair:
    """``"2x3"`` as (vertical, horizontal)."""
    vertical, horizontal = numbers(text)
    return vertical, horizontal


def pads_of(text: str) -> Pads:
    """``"1x2x3x4"`` as (top, bottom, left, right)."""
    top, bottom, left, right = numbers(text)
    return top, bottom, left, right


def window_of(axes: Axes) -> tuple[Pair, Pair, Pads, Pair]:
    """Kernel, stride, pads and dilation."""
    return pair_of(axes["kernel"]), pair_of(axes["stride"]), pads_of(axes["pads"]), pair_of(axes["dilation"])


def same_order(axes: Axes) -> str:
    """The order of all other operands where two have the same one, as it is in a network; else it is drawn."""
    return axes["order"] if axes["order"] == axes["out_order"] else ""
