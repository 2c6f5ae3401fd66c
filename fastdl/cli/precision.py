"""``fastdl precision``: what fewer bits cost and bring, for a network and a data set."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..precision.formats import FORMATS, TRAIN
from ..precision.plan import Plan, Reporter, book_half, prepare
from .benchmarks import check_folders, words
from .errors import UserError, user_errors

if TYPE_CHECKING:
    from ..precision.record import Report


def plan(*, network: str, formats: str, preset: str, **more: Any) -> Plan:
    """What the options ask for; ``UserError`` where they contradict each other."""
    found = Plan(network, formats=words(formats, "--formats", (*FORMATS, "all")), preset=preset, **more)
    if not math.isfinite(found.lr):
        raise UserError("--lr must be a finite number")
    if found.mode == TRAIN and found.weights is not None:
        raise UserError("--weights are for --infer: a training starts from weights of its own")
    if not preset:
        if found.data_dir is not None and found.dataset != "mnist":
            raise UserError("--data-dir is for --dataset mnist: the digits are inside the package")
        return found
    if found.mode == TRAIN or network != "deepconvnet":
        raise UserError(f"--preset {preset} runs deepconvnet with trained weights: leave NET and --train out")
    with user_errors(OSError, ValueError):
        return book_half(found)


def run(
    plan: Plan, backend: str, threads: int | None, json: Path | None, html: Path | None, pictures: Path | None
) -> None:
    """Measures, prints, writes; exits with 130 where Ctrl-C ended it early, and with 1 where nothing could be run."""
    import typer
    from rich.console import Console

    from .. import backend as settings
    from ..precision import inference, training

    check_folders(json, html, pictures)
    errors = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        with user_errors(ValueError, RuntimeError):
            if backend != "auto":
                stack.enter_context(settings.use_backend(backend))
            if threads is not None:
                stack.enter_context(settings.threads(threads))
        reporter = stack.enter_context(_Bar(errors, json))
        with user_errors(OSError, ValueError, TypeError, ImportError):
            bench = prepare(plan, ["fastdl", *sys.argv[1:]], reporter)
        report = bench.report
        try:
            (training if plan.mode == "train" else inference).run(bench)
            report.complete = True
        except KeyboardInterrupt:
            reporter.say("interrupted: what was measured is kept")
    if not report.ran:
        errors.print("nothing was measured", style="bold red")
        raise typer.Exit(1 if report.complete else 130)
    with user_errors(OSError):
        _write(report, json, html, pictures, lambda path: errors.print(f"wrote {path}"))
    _print(report)
    if not report.complete:
        raise typer.Exit(130)


def _write(
    report: Report, json: Path | None, html: Path | None, pictures: Path | None, say: Callable[[Path], Any]
) -> None:
    if json is not None:
        report.save(json)
        say(json)
    if html is not None:
        from ..precision import page

        page.save(report, html)
        say(html)
    if pictures is not None:
        from ..bench.pictures import save as save_picture
        from ..precision.pictures import pictures as draw

        pictures.mkdir(exist_ok=True)
        for picture in draw(report):
            for kind in ("png", "svg"):
                target = pictures / f"{picture.name}.{kind}"
                save_picture(picture.figure, target)
                say(target)


def _print(report: Report) -> None:
    from rich.console import Console

    from ..precision.table import tables

    # A pipe or file gets whole lines: 80 columns would cut the names.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for table in tables(report):
        console.print(table)


class _Bar(Reporter):
    """With a bar, the rate and the time that is left, on stderr; where that is a file, a line for each part."""

    def __init__(self, console: Any, json: Path | None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(show_speed=True),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._console, self._json = console, json
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: Any = None
        self._unit = ""

    def __enter__(self) -> _Bar:
        self._bar.start()
        self._task = self._bar.add_task("trying every format on two images", total=None, rate="")
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, text: str, count: int, unit: str = "images") -> None:
        """See ``Reporter``."""
        self._bar.reset(self._task, total=count, description=text, rate="")
        self._unit = unit
        if not self._console.is_terminal:
            self._console.print(f"{text}: {count:,} {unit}", markup=False)

    def advance(self, count: int) -> None:
        """See ``Reporter``."""
        self._bar.advance(self._task, count)
        if speed := self._bar.tasks[0].speed:
            self._bar.update(self._task, rate=f"{speed:,.0f} {self._unit}/s")

    def measured(self, report: Report) -> None:
        """Keeps what there is, whatever happens to the rest."""
        if self._json is not None:
            with user_errors(OSError):
                report.save(self._json)

    def say(self, text: str) -> None:
        """See ``Reporter``."""
        self._console.print(text, style="yellow", markup=False)
