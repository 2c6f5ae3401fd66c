"""``fastdl check``: every row of the registry against the reference, as a table or as JSON."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import UserError, user_errors

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "missing": "bold red",
    "left out": "yellow",
    "not drawn": "yellow",
    "unavailable": "yellow",
}

#: Reads ids until its input ends: with an empty line, or in the middle of a case.
_WITNESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
last = ""
for line in sys.stdin:
    last = line.strip()
if last:
    print(f"fastdl: the process died in: fastdl check --case '{last}'", file=sys.stderr)
"""


def run(
    ops: tuple[str, ...],
    dtypes: tuple[str, ...],
    backends: tuple[str, ...],
    isas: tuple[str, ...],
    full: bool,
    light: bool,
    fuzz: int,
    seed: int,
    case: str,
    as_json: bool,
) -> None:
    """Checks what is selected; exits with 1 where something failed or is missing."""
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with user_errors(ValueError, RuntimeError):
        from ..check import Selection, check, succeeded, to_json
        from ..kernels import registry

    known = dict.fromkeys(row.op for row in registry.TABLE)
    if unknown := [op for op in ops if op not in known]:
        raise UserError(f"there is no op {unknown[0]!r}; there are {', '.join(known)}")
    if (fuzz > 0) + full + light + bool(case) > 1:
        raise UserError("--full, --light, --fuzz and --case exclude each other")
    selection = Selection(ops, dtypes, backends, isas, full, case, fuzz=fuzz, seed=seed, light=light)
    with user_errors(ValueError):
        if not any(True for _ in selection.rows()):
            raise UserError("no kernel matches these options")
    errors = Console(stderr=True)
    columns = (
        TextColumn("{task.description:32s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cases"),
        TimeRemainingColumn(),
    )
    begin = time.monotonic()

    def show(done: int, total: int, identity: str) -> None:
        now_in(identity)
        bar.update(task, completed=done, total=total, description=" ".join(identity.split("/")[:3]))

    with (
        _witness() as now_in,
        Progress(*columns, console=errors, transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task("making cases", total=None)
        results = check(selection, progress=show)
    seconds = time.monotonic() - begin
    if as_json:
        print(to_json(results))
    else:
        _print(results, seconds)
        if fuzz:
            print(f"the same cases again: --fuzz {fuzz} --seed {seed}")
    if not succeeded(results):
        if not as_json and "passed" not in {result.status for result in results}:
            errors.print("[bold red]no kernel ran[/]")
        raise typer.Exit(1)


@contextmanager
def _witness() -> Iterator[Callable[[str], None]]:
    """Takes the id of the case that is next, and prints it where this process dies in it: a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _WITNESS], stdin=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        pipe = process.stdin
        assert pipe is not None

        def now_in(identity: str) -> None:
            pipe.write(f"{identity}\n")

        try:
            yield now_in
        finally:
            now_in("")
            pipe.close()


def _print(results: list, seconds: float) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..check.runner import MEMORY_ORDERS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("op", "direction", "backend", "algorithm", "dtype", "ISA"):
        table.add_column(name, no_wrap=True)
    for name in (*MEMORY_ORDERS, "error", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for r in results:
        exact = r.tolerance == 0 and r.status == "passed"
        table.add_row(
            r.op,
            r.direction,
            r.backend,
            r.algorithm,
            r.dtype,
            r.isa,
            *(str(r.runs(order) or "-") for order in MEMORY_ORDERS),
            "-" if r.max_error is None else f"{r.max_error:.2e}",
            "-" if r.tolerance is None else "exact" if exact else f"{r.tolerance:.2e}",
            f"[{_STYLES[r.status]}]{r.status}[/]",
        )
    # A pipe or file gets whole lines: 80 columns would cut the names.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in results:
        if r.reason:
            label = f"{r.op} {r.direction} {r.backend}/{r.algorithm}/{r.isa} {r.dtype}"
            reasons.setdefault((r.status, r.reason), []).append(label)
    for (status, reason), labels in reasons.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        console.print(f"[{_STYLES[status]}]{status}[/] {escape(labels[0])}{more}: {escape(reason)}", soft_wrap=True)
    for identity in dict.fromkeys(identity for r in results for identity in r.failed):
        console.print(f"fastdl check --case '{identity}'", soft_wrap=True, markup=False)
    counts = Counter(r.status for r in results)
    parts = [f"[{_STYLES[status]}]{counts[status]} {status}[/]" for status in _STYLES if counts[status]]
    cases, threads = sum(r.cases for r in results), sorted({cell.threads for r in results for cell in r.cells})
    each = f", each with {' and '.join(map(str, threads))} threads" if threads else ""
    console.print(f"{len(results)} rows: {', '.join(parts)}; {cases:,} runs of cases{each}, in {seconds:.1f} s")
