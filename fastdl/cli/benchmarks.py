"""``fastdl bench``: a network layer by layer, its table, its page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench import layerwise
from ..bench.breakdown import DIRECTIONS
from ..bench.layerwise import Plan, Reporter
from .errors import UserError, user_errors

if TYPE_CHECKING:
    from ..bench.record import Record

BACKENDS = ("cython", "numba", "numpy")
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "float64", "float16", "bfloat16")
PEERS = ("torch",)


def words(text: str, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """A list with commas, each word one of ``known``; ``UserError`` otherwise."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if unknown := [word for word in found if word not in known]:
        raise UserError(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return found


def numbers(text: str, option: str) -> tuple[int, ...]:
    """A list of whole numbers from 1, with commas; ``UserError`` otherwise."""
    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",") if word.strip()))
    except ValueError:
        raise UserError(f"{option} takes whole numbers with commas, such as 1,16, not {text!r}") from None
    if min(found, default=1) < 1:
        raise UserError(f"{option} takes numbers from 1, not {min(found)}")
    return found


def plan(
    network: str,
    batch: str,
    devices: str,
    backends: str,
    dtypes: str,
    passes: str,
    peers: str,
    threads: str,
    rounds: int,
    seconds: float,
) -> Plan:
    """What the options ask for; ``UserError`` where one of them is not known."""
    from ..backend import get_num_threads

    wanted = words(passes, "--passes", DIRECTIONS)
    found = Plan(
        network,
        numbers(batch, "--batch"),
        words(devices, "--devices", DEVICES),
        words(backends, "--backends", BACKENDS),
        words(dtypes, "--dtypes", DTYPES),
        tuple(name for name in DIRECTIONS if name in wanted),  # in the order in which they run
        words(peers, "--peers", PEERS),
        numbers(threads, "--threads") or (get_num_threads(),),
        rounds,
        seconds,
    )
    for option, given in (("--devices", found.devices), ("--dtypes", found.dtypes), ("--passes", found.passes)):
        if not given:
            raise UserError(f"{option} must name at least one")
    return found


def check_folders(*targets: Path | None) -> None:
    """``UserError`` where the folder of a file to be written is not there."""
    for target in targets:
        if target is not None and not target.parent.is_dir():
            raise UserError(f"there is no folder {target.parent}")


def run(plan: Plan, json: Path | None, html: Path | None, pictures: Path | None) -> None:
    """Measures, prints, writes; exits with 130 where Ctrl-C ended it early, and with 1 where nobody could run."""
    import typer
    from rich.console import Console

    check_folders(json, html, pictures)
    errors = Console(stderr=True, highlight=False)
    with user_errors(ValueError, TypeError):
        network = layerwise.first_network(plan)
    with _Bar(errors, json) as reporter:
        record = layerwise.run(plan, network, reporter, ["fastdl", *sys.argv[1:]])
    if not record.measurements:
        errors.print("nobody could run this network" if record.complete else "nothing was measured", style="bold red")
        raise typer.Exit(1 if record.complete or not record.peaks else 130)
    with user_errors(OSError):
        _write(record, json, html, pictures, lambda path: errors.print(f"wrote {path}"))
    _print(record)
    if not record.complete:
        raise typer.Exit(130)


def _write(
    record: Record, json: Path | None, html: Path | None, pictures: Path | None, say: Callable[[Path], Any]
) -> None:
    if json is not None:
        record.save(json)
        say(json)
    if html is not None:
        from ..bench import page

        page.save(record, html)
        say(html)
    if pictures is not None:
        from ..bench.breakdown import main_settings
        from ..bench.pictures import pictures as draw
        from ..bench.pictures import save

        pictures.mkdir(exist_ok=True)
        for number, setting in enumerate(main_settings(record)):
            for picture in draw(record, setting):
                for kind in ("png", "svg"):
                    target = pictures / f"{picture.name}{number or ''}.{kind}"
                    save(picture.figure, target)
                    say(target)


def _print(record: Record) -> None:
    from rich.console import Console

    from ..bench.table import tables

    # A pipe or file gets whole lines: 80 columns would cut the names.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for table in tables(record, console.width):
        console.print(table)


class _Bar(Reporter):
    """With a bar and the time that is left, on stderr."""

    def __init__(self, console: Any, json: Path | None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._console, self._json = console, json
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: Any = None

    def __enter__(self) -> _Bar:
        self._bar.start()
        self._task = self._bar.add_task("making the network, comparing results", total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, text: str, seconds: float) -> None:
        """See ``Reporter``."""
        self._bar.reset(self._task, total=seconds, description=text)
        if not self._console.is_terminal:
            self._console.print(f"{text}: about {max(seconds, 1):.0f} s")

    def advance(self, seconds: float) -> None:
        """See ``Reporter``."""
        self._bar.advance(self._task, seconds)

    def measured(self, record: Record) -> None:
        """Keeps what there is, whatever happens to the rest."""
        if self._json is not None and record.measurements:
            record.save(self._json)

    def say(self, text: str) -> None:
        """See ``Reporter``."""
        self._console.print(text, style="yellow", markup=False)
