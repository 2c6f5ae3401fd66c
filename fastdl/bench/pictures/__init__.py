"""Pictures of a network's record. Importing this imports nothing; matplotlib is loaded when one is drawn.

``shares``     where the time of a pass goes: a bar for each participant, its parts the rows, by kind of layer
``times``      the rows beside each other, participant by participant
``roofline``   what each row reaches of what the machine can do
``scaling``    images per second over the batch, speed-up over threads

Each takes a record and the setting to show (``breakdown.main_settings``); ``..._text`` is a sentence with the main
finding, for those who do not see the picture. ``pictures`` draws everything that a record has something to say about.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..._files import replacing
from ..breakdown import Setting, passes
from ..record import Record
from ._roofline import roofline, roofline_text
from ._scaling import scaling, scaling_text
from ._shares import shares, shares_text
from ._style import style
from ._times import times, times_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Picture",
    "pictures",
    "roofline",
    "roofline_text",
    "save",
    "scaling",
    "scaling_text",
    "shares",
    "shares_text",
    "svg",
    "times",
    "times_text",
]


class Picture(NamedTuple):
    """With how to read it, and a sentence that can stand in its place."""

    name: str
    caption: str
    text: str
    figure: Figure


_CAPTIONS = {
    "shares": "Where the time goes: the median times of the rows as parts of their sum, by kind of layer. "
    "The time and the images per second are those of the whole pass, where it was measured.",
    "times": "The median time of each row with every participant.",
    "roofline": "What each row reaches of what the machine can do. A point is a row, the lines are the most that this "
    "machine did in the same run, in arithmetic and from each level of memory. Operations are those of the formula: "
    "Winograd's convolutions need fewer and may stand above the roof.",
    "scaling": "What larger batches and more threads bring.",
}


def pictures(record: Record, setting: Setting) -> list[Picture]:
    """All that have something to show; none for a record without rows."""
    found = passes(record, setting)
    with_rows = [name for name, columns in found.items() if any(column.rows for column in columns)]
    if not with_rows:
        return []
    drawn = {
        "shares": (shares(record, setting), shares_text(record, setting)),
        "times": (times(record, setting), times_text(record, setting)),
        "roofline": (roofline(record, setting, with_rows[0]), roofline_text(record, setting, with_rows[0])),
        "scaling": (scaling(record, setting), scaling_text(record, setting)),
    }
    return [
        Picture(name, _CAPTIONS[name], text, figure) for name, (figure, text) in drawn.items() if figure is not None
    ]


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a PNG or SVG file, by the end of its name, whole or not at all; ``ValueError`` for another end."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a picture's name ends in .png or .svg, not as {path.name!r}")
    with replacing(path) as temporary:
        temporary.write_bytes(_bytes(figure, kind))


def svg(figure: Figure) -> str:
    """As text; the same picture is always the same text."""
    return _bytes(figure, "svg").decode()


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
