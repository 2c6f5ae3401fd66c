"""``fastdl run``: a script of the book, as it is, on fastdl's kernels."""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from ..backend import Explanation
    from ..book import Report


def run(
    script: str, arguments: Sequence[str], dtype: str, backend: str, threads: int | None, with_report: bool
) -> None:
    """Runs ``script`` in this process as ``python SCRIPT`` would from the script's own folder.

    Ends with ``SystemExit`` where the script does, and with status 1, after the script's traceback, where it raises.
    """
    from ..backend import explain
    from ..book import Report

    report = Report() if with_report else None
    path = prepare(script, dtype, backend, threads, report)
    if report is None:
        execute(path, arguments)
        return
    with explain() as kernels, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(_print, report, kernels)
        execute(path, arguments)


def prepare(script: str, dtype: str, backend: str, threads: int | None, report: Report | None = None) -> Path:
    """The path of the script, after the settings are made and the book's classes are stood in for."""
    path = Path(script).resolve()
    if not path.is_file():
        raise UserError(f"there is no script {script}" + (": it is a folder" if path.is_dir() else ""))
    from .. import backend as settings
    from .. import book

    book.set_compute_dtype(dtype)
    settings.set_backend(backend)
    if threads is not None:
        settings.set_num_threads(threads)
    book.install(report)
    return path


def execute(path: Path, arguments: Sequence[str]) -> None:
    """Runs the script, and raises ``SystemExit`` where that failed or asked for it."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    sys.argv = [path.name, *arguments]
    sys.path[0] = str(path.parent)
    os.chdir(path.parent)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)  # nor this file's __future__
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        _show(path)
        raise SystemExit(130) from None
    except BaseException:
        _show(path)
        raise SystemExit(1) from None


def _print(report: Report, kernels: Explanation) -> None:
    """What was replaced, where the time went, and the kernels, on stderr."""
    from collections import Counter

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from .. import book

    sys.stdout.flush()
    seconds = report.seconds()
    with book.without():
        lines = report.lines()
    console = Console(stderr=True, highlight=False)
    outcomes = book.outcomes()
    replaced = ", ".join(outcome.name for outcome in outcomes if outcome.replaced)
    console.print(f"\n[bold]replaced[/bold]  {escape(replaced) or 'nothing'}")
    left: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if not outcome.replaced:
            left.setdefault((outcome.module, outcome.reason), []).append(outcome.name)
    for (module, reason), names in left.items():
        console.print(f"[bold]left[/bold]      {escape(module + ': ' + ', '.join(names) + ': ' + reason)}")
    table = Table(box=None, header_style="bold", pad_edge=False, title=f"{seconds:.1f} s in all", title_justify="left")
    for name in ("class", "objects", "calls", "s", "plain NumPy s", "times"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    for line in lines:
        plain, times = ("?", "") if line.plain is None else (f"{line.plain:.2f}", f"{line.plain / line.seconds:.1f}")
        table.add_row(line.name, str(line.layers), f"{line.calls:,}", f"{line.seconds:.2f}", plain, times)
    rest = seconds - sum(line.seconds for line in lines)
    table.add_row("everything else", "", "", f"{rest:.2f}", "", "")
    console.print(table)
    found: Counter[tuple[str, str]] = Counter()
    for problem, label, calls in kernels.kernels():
        found[f"{problem.op} {problem.direction}", label] += calls
    text = "; ".join(f"{name} {label} ({calls:,})" for (name, label), calls in found.most_common())
    console.print(f"[bold]kernels[/bold]   {escape(text)}")


def _show(path: Path) -> None:
    """The traceback from the script's first line on: how it was started is no business of its reader."""
    kind, error, trace = sys.exc_info()
    own = Path(__file__).resolve()
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).resolve() == own:
        trace = trace.tb_next
    sys.stdout.flush()
    traceback.print_exception(kind, error, trace)
