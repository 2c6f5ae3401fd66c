"""What larger batches and more threads bring, where more than one was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..breakdown import Setting, columns, counted, participants, significant
from ..breakdown import settings as settings_of
from ..record import Record
from ._style import (
    GRID,
    INK,
    WIDTH,
    Entry,
    add_axes,
    legend,
    legend_height,
    new_figure,
    participant_look,
    sheet,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = {"inference": "-.", "forward": "-", "backward": "--"}
#: Direction and participant -> size of the batch, or threads, -> seconds of the whole pass.
Series = dict[tuple[str, str], dict[int, float]]
Looks = dict[str, tuple[str, str]]


def _series(record: Record, setting: Setting, name: str) -> Series:
    """Over the batch or the threads (``name``), everything else as in ``setting``; only where there are two or more."""
    found: Series = {}
    for other in settings_of(record):
        if other._replace(**{name: getattr(setting, name)}) != setting:
            continue
        for direction in _LINES:
            for column in columns(record, other, direction):
                if column.seconds is not None and (name == "batch" or column.device == "cpu"):
                    found.setdefault((direction, column.participant), {})[getattr(other, name)] = column.seconds
    return {key: dict(sorted(by.items())) for key, by in found.items() if len(by) > 1}


@style()
def scaling(record: Record, setting: Setting) -> Figure | None:
    """Images per second over the batch, speed-up over threads; None where neither was varied."""
    batches, threads = _series(record, setting, "batch"), _series(record, setting, "threads")
    panels = [(draw, series) for draw, series in ((_batches, batches), (_threads, threads)) if series]
    if not panels:
        return None
    shown = [name for name in participants(record) if any(name == key[1] for _, series in panels for key in series)]
    looks = {name: participant_look(participants(record).index(name)) for name in shown}
    entries = [Entry(name, color, marker=marker, line="-") for name, (color, marker) in looks.items()]
    directions = {key[0] for _, series in panels for key in series}
    entries += [Entry(f"{name} pass", INK, line=line) for name, line in _LINES.items() if name in directions]
    figure = new_figure(4.95 + legend_height(entries))
    paper = sheet(figure, f"Scaling: {setting.network}, {setting.dtype}")
    left, wide = 0.85, (WIDTH - 0.2 - 0.85 * len(panels)) / len(panels)
    for draw, series in panels:
        axes = add_axes(figure, left, 0.85, wide, 3.5)
        draw(axes, series, looks, setting)
        axes.grid(color=GRID, alpha=0.4, lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        left += wide + 0.85
    legend(paper, 4.85, entries)
    return figure


def _line(axes: Axes, key: tuple[str, str], x: list[int], y: list[float], looks: Looks) -> None:
    color, marker = looks[key[1]]
    axes.plot(x, y, marker + _LINES[key[0]], color=color, lw=1.6, markersize=5.5)


def _batches(axes: Axes, series: Series, looks: Looks, setting: Setting) -> None:
    every = sorted({batch for by in series.values() for batch in by})
    for key, by in series.items():
        _line(axes, key, list(by), [batch / seconds for batch, seconds in by.items()], looks)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(every, [str(batch) for batch in every])
    axes.yaxis.set_major_formatter(lambda value, _: significant(value, 1))
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="batch", ylabel="images/s, logarithmic")
    axes.set_title(f"Images per second, {counted(setting.threads, 'thread')} of the CPU", size=11, loc="left")


def _threads(axes: Axes, series: Series, looks: Looks, setting: Setting) -> None:
    every = sorted({count for by in series.values() for count in by})
    axes.plot(every, [count / every[0] for count in every], color=INK, lw=1, ls=":")
    axes.text(every[-1], every[-1] / every[0], "ideal ", ha="right", va="bottom", size=9.5)
    top = every[-1] / every[0]
    for key, by in series.items():
        few = next(iter(by))
        gains = [by[few] / seconds * few / every[0] for seconds in by.values()]
        top = max(top, *gains)
        _line(axes, key, list(by), gains, looks)
    axes.set_xticks(every, [str(count) for count in every])
    axes.set(
        xlabel="threads",
        ylabel=f"times as fast as with {counted(every[0], 'thread')}",
        ylim=(0, 1.1 * top),
    )
    axes.set_title(f"Speed-up, batch {setting.batch}", size=11, loc="left")


def scaling_text(record: Record, setting: Setting) -> str:
    """What the first participant gains from the largest batch and from all threads."""
    sentences = []
    for (direction, name), by in list(_series(record, setting, "batch").items())[:1]:
        few, many = (significant(batch / by[batch]) for batch in (min(by), max(by)))
        sentences.append(
            f"From batch {min(by)} to {max(by)} the {direction} pass with {name} goes from {few} to {many} images/s."
        )
    for (direction, name), by in list(_series(record, setting, "threads").items())[:1]:
        gain = f"{by[min(by)] / by[max(by)]:.2f} times as fast as with {min(by)}"
        sentences.append(f"With {counted(max(by), 'thread')} the {direction} pass with {name} is {gain}.")
    return " ".join(sentences)
