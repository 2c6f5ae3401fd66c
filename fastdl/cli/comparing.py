"""``fastdl compare``: two records of a benchmark, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import user_errors

if TYPE_CHECKING:
    from rich.table import Table

    from ..bench.compare import Comparison, Pair

#: Cases in one file only that are named.
NAMED = 12


def run(old: Path, new: Path, confidence: float, threshold: float, only: Sequence[str], as_json: bool) -> None:
    """Prints the comparison; exits with 1 where something is slower."""
    import typer

    from ..bench.compare import Verdict, compare
    from ..bench.record import load

    with user_errors(OSError, ValueError):
        found = compare(load(old), load(new), confidence=confidence, threshold=threshold / 100, only=only)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    if found.found(Verdict.SLOWER):
        raise typer.Exit(1)


def _print(found: Comparison) -> None:
    import sys

    from rich.console import Console
    from rich.text import Text

    from ..bench.compare import Verdict

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    for warning in found.warnings:
        console.print(Text(f"WARNING: {warning}", style="bold yellow"))
    for verdict, color in ((Verdict.SLOWER, "red"), (Verdict.FASTER, "green"), (Verdict.UNDECIDED, "yellow")):
        pairs = found.found(verdict)
        if pairs:
            console.print(_table(found, pairs, str(verdict), color))
    unchanged = len(found.found(Verdict.UNCHANGED))
    within = f"by less than {100 * found.threshold:g}% or within the noise"
    console.print(f"{unchanged} of {len(found.pairs)} unchanged: {within}")
    without = sum(pair.interval is None for pair in found.pairs)
    if without:
        console.print(f"{without} have no interval and cannot be found changed: there are too few times of them")
    if without < len(found.pairs):
        console.print(
            f"All intervals hold together with a confidence of {100 * found.confidence:g}%, as far as so many times "
            f"allow; if nothing had changed, up to {found.by_chance:.2g} would be found changed."
        )
    for name, keys in (("old", found.only_old), ("new", found.only_new)):
        if keys:
            console.print(f"only in the {name} record: {len(keys)}")
            console.print(Text("\n".join(f"  {key}" for key in keys[:NAMED])))
            if len(keys) > NAMED:
                console.print("  ...")


def _table(found: Comparison, pairs: Sequence[Pair], title: str, color: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ..bench.breakdown import milliseconds

    table = Table(
        title=f"{title}: {len(pairs)}", title_justify="left", title_style=f"bold {color}", box=None, pad_edge=False
    )
    # What is the same everywhere needs no column.
    names = [n for n in found.pairs[0].key._fields if n == "case" or len({getattr(p.key, n) for p in found.pairs}) > 1]
    for name in names:
        table.add_column(name.replace("direction", "pass"), overflow="fold")
    for name in ("old, ms", "new, ms", "new / old", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in pairs:
        values: list[Any] = [getattr(pair.key, name) for name in names]
        interval = "" if pair.interval is None else f"{pair.interval.lower:.3f} to {pair.interval.upper:.3f}"
        cells = [*map(str, values), milliseconds(pair.old), milliseconds(pair.new), f"{pair.ratio:.3f}", interval]
        table.add_row(*map(Text, cells))
    return table
