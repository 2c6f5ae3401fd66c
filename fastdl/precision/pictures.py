"""Pictures of a report. Importing this imports nothing; matplotlib is loaded when one is drawn.

``accuracy``     of each format, with the spread over seeds, or the standard error over images
``frontier``     accuracy by bytes and by time: what costs less, and what is better
``noise``        signal to noise of each layer
``sensitivity``  the scores where one layer alone is reduced
``gradients``    how large the gradients of each layer are, and what formats can hold

An emulated format has open markers and dashed lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..bench.breakdown import listed
from ..bench.pictures import Picture
from ..bench.pictures._style import (
    GRID,
    INK,
    MARGIN,
    WIDTH,
    Entry,
    add_axes,
    legend,
    legend_height,
    new_figure,
    participant_look,
    sheet,
    style,
    text_width,
)
from . import view
from .formats import FORMATS, STORAGE
from .record import Histogram, Report, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAPTIONS = {
    "accuracy": "Accuracy in each format.",
    "frontier": "What is better, and what costs less: accuracy by bytes, and by time on this machine. The line joins "
    "the formats that no other one beats in both; emulated ones, with open markers, have no time to speak of.",
    "noise": "How far each layer's output is from that of float64, in decibels of signal to noise: 6 dB are a bit.",
    "sensitivity": "One layer reduced to the format, the others in float32: what that layer alone does to the scores.",
    "gradients": "The gradients by each layer's output at the end of training, by magnitude (zeros left out), "
    "beside what formats hold. What is left of a format's smallest number is rounded to 0.",
}


def pictures(report: Report) -> list[Picture]:
    """All that have something to show."""
    drawn = {
        "accuracy": (accuracy(report), accuracy_text(report)),
        "frontier": (frontier(report), frontier_text(report)),
        "noise": (noise(report), noise_text(report)),
        "sensitivity": (sensitivity(report), sensitivity_text(report)),
        "gradients": (gradients(report), gradients_text(report)),
    }
    return [
        Picture(name, _CAPTIONS[name], text, figure) for name, (figure, text) in drawn.items() if figure is not None
    ]


class _Look(NamedTuple):
    """Of a format in all pictures."""

    color: str
    marker: str
    fill: str
    line: str


def _look(result: Result) -> _Look:
    place = list(FORMATS).index(result.name)
    color, marker = participant_look(place)[0], participant_look(place + place // 7)[1]
    return _Look(color, marker, "none" if result.emulated else "full", "--" if result.emulated else "-")


def _entries(results: Sequence[Result], lines: bool) -> list[Entry]:
    looks = [(view.marked(r, view.Field(r.name, None)).text, _look(r)) for r in results]
    return [Entry(name, o.color, marker=o.marker, line=o.line if lines else "", fill=o.fill) for name, o in looks]


def _plain(axes: Axes) -> None:
    axes.grid(color=GRID, alpha=0.4, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# ---- accuracy -------------------------------------------------------------------------------------------------------


@style()
def accuracy(report: Report) -> Figure | None:
    """A line for each format."""
    results = report.ran
    figure = new_figure(1.55 + 0.32 * len(results))
    sheet(figure, f"Accuracy: {view.title(report)}")
    names = [view.marked(r, view.Field(r.name, None)).text for r in results]
    left = MARGIN + 0.2 + max(text_width(name, 10) for name in names)
    axes = add_axes(figure, left, 0.6, WIDTH - left - 1.2, 0.32 * len(results))
    for place, result in enumerate(results):
        measured, look = result.measured, _look(result)
        assert measured is not None
        axes.errorbar(
            100 * measured.accuracy, place, xerr=100 * measured.deviation, fmt=look.marker, color=look.color,
            fillstyle=look.fill, markersize=7, capsize=3, lw=1.4,
        )  # fmt: skip
        axes.text(1.02, place, view.accuracy(measured.accuracy), transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(results)), names)
    axes.set_ylim(len(results) - 0.5, -0.5)
    bars = "± standard deviation over seeds" if report.mode == "train" else "± standard error over images"
    axes.set_xlabel(f"share of test images recognised, in percent; {bars}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _plain(axes)
    return figure


def accuracy_text(report: Report) -> str:
    """The best and the worst."""
    ranked = sorted(report.ran, key=lambda r: r.measured.accuracy if r.measured else 0.0)
    if not ranked:
        return ""
    worst, best = ((r.name, view.accuracy(r.measured.accuracy)) for r in (ranked[0], ranked[-1]) if r.measured)
    return f"The best is {best[0]} with {best[1]}, the worst {worst[0]} with {worst[1]}."


# ---- frontier -------------------------------------------------------------------------------------------------------


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, accuracy) that no other point beats in both, from the cheapest on."""
    found: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or value > found[-1][1]:
            found.append((cost, value))
    return found


def _bytes(report: Report, result: Result) -> float | None:
    return result.inference.weight_bytes / 1e3 if result.inference else None


def _time(report: Report, result: Result) -> float | None:
    seconds = report.seconds(result)
    return None if seconds is None else 1e6 * seconds


@style()
def frontier(report: Report) -> Figure | None:
    """A panel for each cost."""
    costs: list[tuple[str, Callable[[Report, Result], float | None]]] = [
        ("weights, kB", _bytes),
        ("µs an image", _time),
    ]
    panels = [(label, cost) for label, cost in costs if any(cost(report, r) is not None for r in report.ran)]
    if not panels:
        return None
    entries = _entries(report.ran, False)
    figure = new_figure(4.6 + legend_height(entries))
    paper = sheet(figure, f"Accuracy by cost: {view.title(report)}")
    left, wide = 0.95, (WIDTH - 0.2 - 0.95 * len(panels)) / len(panels)
    for label, cost in panels:
        axes = add_axes(figure, left, 0.7, wide, 3.2)
        _costs(axes, report, cost)
        axes.set(xlabel=f"{label}, logarithmic", ylabel="accuracy, percent")
        if cost is _time and report.mode == "infer":
            _beside(axes, report)
        left += wide + 0.95
    legend(paper, 4.5, entries)
    return figure


def _costs(axes: Axes, report: Report, cost: Callable[[Report, Result], float | None]) -> None:
    from matplotlib.ticker import LogLocator

    real = []
    for result in report.ran:
        found, measured, look = cost(report, result), result.measured, _look(result)
        if found is None or measured is None or (result.emulated and cost is _time):
            continue
        point = found, 100 * measured.accuracy
        real += [] if result.emulated else [point]
        axes.plot(*point, look.marker, color=look.color, fillstyle=look.fill, markersize=8)
    line = best(real)
    axes.step([p[0] for p in line], [p[1] for p in line], where="post", color=INK, lw=1, alpha=0.6, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _plain(axes)


def _beside(axes: Axes, report: Report) -> None:
    """The two float32 that times are to be held against; one where they are the same within their spread."""
    fastest, direct = report.fastest_float32(), report.direct_float32()
    if fastest is None or direct is None:
        return
    lines = {"fastest float32": fastest, "direct float32": direct} if direct > 1.05 * fastest else {"float32": fastest}
    for text, seconds in lines.items():
        axes.axvline(1e6 * seconds, color=INK, lw=0.8, ls=":")
        where = axes.get_xaxis_transform()
        axes.text(1e6 * seconds, 0.02, text, transform=where, rotation=90, size=8.5, ha="right", va="bottom")


def frontier_text(report: Report) -> str:
    """Who is on the line."""
    sentences = []
    for words, cost in (("bytes of weights", _bytes), ("time", _time)):
        found = {
            r.name: (value, r.measured.accuracy)
            for r in report.ran
            if not r.emulated and r.measured and (value := cost(report, r)) is not None
        }
        line = best(list(found.values()))
        if names := [name for name, point in found.items() if point in line]:
            sentences.append(f"By {words} nothing beats {listed(names)}.")
    return " ".join(sentences)


# ---- layers ---------------------------------------------------------------------------------------------------------


def _over_layers(report: Report, title: str, label: str, values: dict[str, dict[str, float]]) -> Figure:
    """A line for each format over the layers; what is not finite is left out."""
    results = [r for r in report.ran if r.name in values]
    names = view.ordered(list(by) for by in values.values())
    entries = _entries(results, True)
    below = 0.35 + max(text_width(name, 9) for name in names)
    figure = new_figure(4.1 + below + legend_height(entries))
    paper = sheet(figure, f"{title}: {view.title(report)}")
    axes = add_axes(figure, 0.75, 0.7, WIDTH - 1.0, 3.2)
    for result in results:
        by, look = values[result.name], _look(result)
        places = [place for place, name in enumerate(names) if math.isfinite(by.get(name, math.nan))]
        axes.plot(
            places, [by[names[place]] for place in places], look.marker + look.line, color=look.color,
            fillstyle=look.fill, lw=1.4, markersize=5.5,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=90, size=9)
    axes.set(ylabel=label)
    _plain(axes)
    legend(paper, 4.0 + below, entries)
    return figure


def _ratios(report: Report) -> dict[str, dict[str, float]]:
    return {r.name: {s.layer: s.ratio for s in r.inference.layers} for r in view.with_layers(report) if r.inference}


@style()
def noise(report: Report) -> Figure | None:
    """Over the layers."""
    values = _ratios(report)
    return _over_layers(report, "Signal to noise", "decibels, beside float64", values) if values else None


def noise_text(report: Report) -> str:
    """Each format's last layer."""
    last = {name: [v for v in by.values() if math.isfinite(v)] for name, by in _ratios(report).items()}
    found = [f"{name} {values[-1]:.0f} dB" for name, values in last.items() if values]
    return f"At the last layer: {listed(found)}." if found else ""


def _alone(report: Report) -> dict[str, dict[str, float]]:
    every = {r.name: r.inference.sensitivity for r in view.with_sensitivity(report) if r.inference}
    return {name: {s.layer: s.ratio for s in some} for name, some in every.items()}


@style()
def sensitivity(report: Report) -> Figure | None:
    """Over the layers."""
    values = _alone(report)
    if not values:
        return None
    return _over_layers(report, "One layer reduced", "signal to noise of the scores, dB", values)


def sensitivity_text(report: Report) -> str:
    """The layer that costs each format most."""
    every = _alone(report)
    worst = {name: min(by, key=lambda k: -math.inf if math.isnan(by[k]) else by[k]) for name, by in every.items() if by}
    return (
        f"The layer that costs most: {listed(f'{layer} in {name}' for name, layer in worst.items())}." if worst else ""
    )


# ---- gradients ------------------------------------------------------------------------------------------------------


def _histograms(report: Report) -> tuple[str, list[Histogram]]:
    """Of float32's training, or the first there is: by the outputs of layers."""
    trained = [r for r in report.ran if r.training is not None and r.training.gradients_last]
    for result in sorted(trained, key=lambda r: r.name != "float32"):
        assert result.training is not None
        found = [h for h in result.training.gradients_last if h.kind == "activation" and h.counts]
        if found:
            return result.name, found
    return "", []


@style()
def gradients(report: Report) -> Figure | None:
    """A strip for each layer, from the first to the last."""
    name, found = _histograms(report)
    if not found:
        return None
    low = min(h.first for h in found) - 2
    top = max(h.first + len(h.counts) for h in found) + 2
    lines = [
        (f, participant_look(place)[0], [e for e in (f.range.subnormal, f.range.normal) if low <= e <= top])
        for place, f in enumerate(FORMATS.values())
        if f.range is not None and f.bits <= 16 and f.kind == STORAGE
    ]
    entries = [Entry(f.name, color, line="-") for f, color, exponents in lines if exponents]
    high = 0.34 * len(found)
    figure = new_figure(1.75 + high + (legend_height(entries) if entries else 0.0))
    paper = sheet(figure, f"Gradients by magnitude, trained in {name}: {report.network} on {report.dataset}")
    left = MARGIN + 0.2 + max(text_width(h.layer, 9) for h in found)
    axes = add_axes(figure, left, 0.6, WIDTH - left - 0.3, high)
    for place, h in enumerate(found):
        most = max(h.counts)
        axes.bar(
            range(h.first, h.first + len(h.counts)), [0.8 * n / most for n in h.counts], 1.0, bottom=-place,
            align="edge", color="#7a8794",
        )  # fmt: skip
    for format, color, exponents in lines:
        for exponent in exponents:
            smallest = format.range is not None and exponent == format.range.subnormal
            axes.axvline(exponent, color=color, lw=1.4, ls="-" if smallest else ":")
    axes.set_yticks([0.3 - place for place in range(len(found))], [h.layer for h in found], size=9)
    axes.set_ylim(-len(found) + 0.9, 1.0)
    axes.set_xlim(low, top)
    axes.set_xlabel("log2 of the magnitude; lines: a format's smallest number, dotted: its smallest with all bits")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend(paper, 1.4 + high, entries)
    return figure


def gradients_text(report: Report) -> str:
    """What float16 would lose of the layer where it loses most."""
    name, found = _histograms(report)
    limit = FORMATS["float16"].range
    if not found or limit is None:
        return ""
    worst = max(found, key=lambda h: h.below(limit.subnormal - 1))
    lost = worst.below(limit.subnormal - 1)
    if not lost:
        return f"Trained in {name}, no gradient is so small that float16 without a loss scale would round it to 0."
    return (
        f"Trained in {name}, float16 without a loss scale would round {view.share(lost)} of the gradients by the "
        f"output of {worst.layer} to 0, more than of any other layer."
    )
