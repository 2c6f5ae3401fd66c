"""A network's record taken apart for those who show it: settings, columns, rows in the network's order, shares, ratios.

A **setting** is what participants share when they are compared: network, batch, dtype and the threads of the CPU. A
**column** is one participant's pass in one direction there. What ran on a GPU has no threads to choose; it stands
beside the CPU's largest number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .record import CUDA, Measurement, Peaks, Record

#: The suite of these records.
SUITE = "network"
#: Kinds of layers, in the order in which they are shown.
KINDS = ("convolution", "dense", "pooling", "normalisation", "activation", "dropout", "join", "loss", "other")
DIRECTIONS = ("inference", "forward", "backward")


class Setting(NamedTuple):
    """What participants have in common."""

    network: str
    batch: int
    dtype: str
    threads: int  # of the CPU; 1 where only a GPU was measured

    def __str__(self) -> str:
        return f"{self.network}, batch {self.batch}, {self.dtype}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True)
class Column:
    """One participant's pass."""

    participant: str
    direction: str
    batch: int
    device: str  # "cpu" or "cuda"
    rows: tuple[Measurement, ...]  # in the order of the network
    whole: Measurement | None  # the pass at one go; None where the record ends before it

    @property
    def sum(self) -> float:
        """Seconds: the medians of the rows together."""
        return math.fsum(m.median for m in self.rows)

    @property
    def seconds(self) -> float | None:
        """Of the whole pass; the rows together are no substitute, where some of them may be missing."""
        return None if self.whole is None else self.whole.median

    @property
    def images_per_second(self) -> float | None:
        """In the whole pass."""
        return None if self.whole is None else self.batch / self.whole.median

    def share(self, rows: Iterable[Measurement]) -> float:
        """The part of these rows in the sum of all."""
        return math.fsum(m.median for m in rows) / self.sum

    def kinds(self) -> dict[str, list[Measurement]]:
        """Kind of layer -> its rows, in the order of ``KINDS``."""
        found: dict[str, list[Measurement]] = {kind: [] for kind in KINDS}
        for m in self.rows:
            found[kind(m)].append(m)
        return {kind: rows for kind, rows in found.items() if rows}

    def row(self, name: str) -> Measurement | None:
        """The row of this name."""
        return next((m for m in self.rows if row_name(m) == name), None)


def kind(m: Measurement) -> str:
    """Of a row; "other" for a group that is none of ``KINDS``."""
    return m.group if m.group in KINDS else "other"


def row_name(m: Measurement) -> str:
    """The case without its network; empty for the whole pass."""
    return m.case.partition("/")[2]


def device(m: Measurement) -> str:
    """Where it ran: "cpu" or "cuda"."""
    return "cuda" if m.isa == CUDA else "cpu"


def settings(record: Record) -> list[Setting]:
    """In the order of the record; ``ValueError`` where it holds no network."""
    found = [m for m in record.measurements if m.suite == SUITE]
    if not found:
        suites = ", ".join(dict.fromkeys(repr(m.suite) for m in record.measurements)) or "nothing at all"
        raise ValueError(f"the record holds no measurement of suite {SUITE!r}: it has {suites}")
    for m in found:
        for name, type_ in (("network", str), ("batch", int), *([("index", int)] if row_name(m) else [])):
            if not isinstance(given := m.settings.get(name), type_):
                raise ValueError(f"{m.case}: settings[{name!r}] must be of type {type_.__name__}, not {given!r}")
    every = dict.fromkeys(_setting(m, m.threads) for m in found if device(m) == "cpu")
    beside = {setting[:3] for setting in every}
    every |= dict.fromkeys(s for m in found if device(m) == "cuda" and (s := _setting(m, 1))[:3] not in beside)
    return list(every)


def _setting(m: Measurement, threads: int) -> Setting:
    return Setting(m.settings["network"], m.settings["batch"], m.dtype, threads)


def main_settings(record: Record) -> list[Setting]:
    """For each network and dtype the one with the largest batch and the most threads: what pictures show."""
    best: dict[tuple[str, str], Setting] = {}
    for s in settings(record):
        key = s.network, s.dtype
        best[key] = max(best.get(key, s), s, key=lambda s: (s.batch, s.threads))
    return list(best.values())


def columns(record: Record, setting: Setting, direction: str) -> list[Column]:
    """The participants in the order of the record."""
    alike = [s.threads for s in settings(record) if s[:3] == setting[:3]]
    with_gpu = setting.threads == max(alike, default=setting.threads)
    found: dict[str, list[Measurement]] = {name: [] for name in participants(record)}
    for m in record.measurements:
        if m.suite != SUITE or m.direction != direction or _setting(m, setting.threads) != setting:
            continue
        if with_gpu if device(m) == "cuda" else m.threads == setting.threads:
            found[m.participant].append(m)
    return [
        Column(
            participant,
            direction,
            setting.batch,
            device(some[0]),
            tuple(sorted((m for m in some if row_name(m)), key=lambda m: m.settings["index"])),
            next((m for m in some if not row_name(m)), None),
        )
        for participant, some in found.items()
        if some
    ]


def participants(record: Record) -> list[str]:
    """In the order in which they were measured first."""
    return list(dict.fromkeys(m.participant for m in record.measurements if m.suite == SUITE))


def passes(record: Record, setting: Setting) -> dict[str, list[Column]]:
    """Direction -> columns, of the directions that were measured."""
    every = {direction: columns(record, setting, direction) for direction in DIRECTIONS}
    return {direction: found for direction, found in every.items() if found}


def row_names(columns: Iterable[Column]) -> list[str]:
    """Of all columns together, in the order of the network."""
    index = {row_name(m): m.settings["index"] for column in columns for m in column.rows}
    return sorted(index, key=lambda name: index[name])


def who(column: Column, setting: Setting) -> str:
    """The participant, and its threads if it has any."""
    return (
        column.participant if column.device == "cuda" else f"{column.participant}, {counted(setting.threads, 'thread')}"
    )


def kernels(m: Measurement) -> str:
    """The rows of the registry that ran, without what they did; empty where nothing is known."""
    return ", ".join(dict.fromkeys(kernel.rpartition(": ")[2] for kernel in m.kernels))


def memory(m: Measurement) -> dict[str, int | None]:
    """Bytes of parameters, output and workspace; None where nothing is known."""
    return {name: m.settings.get(f"{name}_bytes") for name in ("parameter", "output", "workspace")}


def roofline(m: Measurement, peaks: Peaks | None) -> float | None:
    """Percent of the roof above it, the peak of arithmetic or the triad; None where neither was measured for it.

    Of a participant that names no ISA level the peak is that of the highest one.
    """
    figures = m.figures(peaks)
    arithmetic = figures["percent_of_peak"]
    if arithmetic is None and peaks is not None and device(m) == "cpu" and figures["gflops"] is not None:
        levels = {p.isa for p in peaks.fma} - {CUDA}
        best = max((rate for isa in levels if (rate := peaks.gflops(isa, m.dtype, m.threads))), default=None)
        arithmetic = best and 100 * figures["gflops"] / best
    found = [value for value in (arithmetic, figures["percent_of_triad"]) if value is not None]
    return max(found, default=None)


# ---- numbers as text ------------------------------------------------------------------------------------------------


def significant(value: float, digits: int = 3) -> str:
    """With so many significant digits, without an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    return f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def milliseconds(seconds: float) -> str:
    """Without the unit."""
    return significant(1e3 * seconds)


def percent(share: float) -> str:
    """With a decimal where it is small."""
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def size(nbytes: float) -> str:
    """Bytes with a unit that suits them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= factor:
            return f"{significant(nbytes / factor)} {unit}"
    return f"{nbytes:.0f} B"


def counted(count: int, noun: str) -> str:
    """1 thread, 2 threads."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last
