"""Output sizes, padding and receptive fields: the only place with the formula.

With ``size`` input elements, a window of ``kernel`` taps ``dilation`` apart that moves by ``stride``, and
``before`` + ``after`` elements of padding::

    extent = dilation * (kernel - 1) + 1          taps and the gaps between them
    output = floor((size + before + after - extent) / stride) + 1

``ceil_mode`` rounds up instead and then leaves out the last window if it would start in the padding behind the input
(PyTorch's and ONNX's rule; it looks at one window only, so with much padding behind the input others may start there).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def pair(value: int | Sequence[int], name: str, minimum: int = 1) -> Pair:
    """``value`` as (vertical, horizontal); an int serves for both.

    Raises ``ValueError`` for anything but an int or two of them, each at least ``minimum``.
    """
    try:
        if isinstance(value, (tuple, list)):
            vertical, horizontal = (index(v) for v in value)
        else:
            vertical = horizontal = index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an int or a (vertical, horizontal) pair, not {value!r}") from None
    if vertical < minimum or horizontal < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value!r}")
    return vertical, horizontal


def four_pads(pad: int | Sequence[int], name: str = "pad") -> Pads:
    """``pad`` as (top, bottom, left, right) from an int, a (vertical, horizontal) pair or four sides."""
    if isinstance(pad, (tuple, list)) and len(pad) == 4:
        try:
            top, bottom, left, right = (index(p) for p in pad)
        except TypeError:
            raise ValueError(f"{name} must be made of ints, not {pad!r}") from None
        if min(top, bottom, left, right) < 0:
            raise ValueError(f"{name} must be at least 0, not {pad!r}")
        return top, bottom, left, right
    try:
        vertical, horizontal = pair(pad, name, 0)
    except ValueError as error:
        if "at least" in str(error):
            raise
        raise ValueError(
            f"{name} must be an int, a (vertical, horizontal) pair or (top, bottom, left, right), not {pad!r}"
        ) from None
    return vertical, vertical, horizontal, horizontal


def output_size(
    size: int, kernel: int, stride: int = 1, before: int = 0, after: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Number of windows along one axis; 0 or less where not even one fits."""
    span = size + before + after - (dilation * (kernel - 1) + 1)
    if span < 0:
        return 0
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count


def window_grid(
    size: Pair, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1), ceil_mode: bool = False
) -> Pair:
    """Output (height, width) for an input of ``size``; raises ``ValueError`` where no window fits."""
    top, bottom, left, right = pads
    oh = output_size(size[0], kernel[0], stride[0], top, bottom, dilation[0], ceil_mode)
    ow = output_size(size[1], kernel[1], stride[1], left, right, dilation[1], ceil_mode)
    if oh < 1 or ow < 1:
        raise ValueError(
            f"a {kernel[0]}x{kernel[1]} window with dilation {dilation} does not fit an input of "
            f"{size[0]}x{size[1]} with padding (top, bottom, left, right) = {pads}"
        )
    return oh, ow


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """(field, jump) of a chain of ``(kernel, stride, dilation)`` along one axis, first layer first.

    One output element sees ``field`` input elements; neighbouring ones start ``jump`` apart.
    """
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        field += dilation * (kernel - 1) * jump
        jump *= stride
    return field, jump
