"""``fastdl check --compile``: every CUDA kernel through NVRTC for every architecture, as a table or as JSON."""

from __future__ import annotations

import json
import sys
import time

from .errors import UserError, user_errors


def run(ops: tuple[str, ...], dtypes: tuple[str, ...], as_json: bool) -> None:
    """Compiles what is selected; exits with 1 where a kernel does not stay in its registers."""
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with user_errors(ValueError, RuntimeError):
        from .. import backend
        from ..check import nvrtc
        from ..kernels import registry

    if reason := nvrtc.missing():
        raise UserError(reason)
    folders = {
        row.target.partition(":")[0].removeprefix("fastdl.kernels.").removesuffix("._cuda").replace(".", "/")
        for row in registry.TABLE
        if row.backend == "cuda" and (not ops or row.op in ops)
    }
    work = nvrtc.jobs(folders, dtypes)
    if not folders or not work:
        raise UserError("no CUDA kernel matches these options")
    errors = Console(stderr=True)
    columns = TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    begin = time.monotonic()
    found: list[nvrtc.Compiled] = []
    with (
        user_errors(RuntimeError),
        Progress(*columns, console=errors, transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        for some in bar.track(nvrtc.compile_all(work, backend.get_num_threads()), total=len(work)):
            found += some
    found.sort()
    if as_json:
        print(json.dumps([kernel._asdict() | {"passed": kernel.passed} for kernel in found], indent=1))
    else:
        _print(found, time.monotonic() - begin)
    if not all(kernel.passed for kernel in found):
        raise typer.Exit(1)


def _print(found: list, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("folder", "kernel", "dtype", "variant"):
        table.add_column(name, no_wrap=True)
    for name in ("architectures", "registers", "budget", "shared", "spills"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    rows: dict[tuple[str, str, str, str], list] = {}
    for kernel in found:
        rows.setdefault((kernel.op, kernel.kernel, kernel.storage, kernel.macros), []).append(kernel)
    for key, kernels in rows.items():
        good = all(kernel.passed for kernel in kernels)
        bad = ", ".join(f"sm_{kernel.architecture}" for kernel in kernels if not kernel.passed)
        table.add_row(
            *key,
            str(len(kernels)),
            str(max(kernel.registers for kernel in kernels)),
            str(min(kernel.budget for kernel in kernels)),
            str(max(kernel.shared for kernel in kernels)),
            str(max(kernel.spills + kernel.stack for kernel in kernels)),
            "[green]passed[/]" if good else f"[bold red]failed[/] on {bad}",
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    console.print(table)
    architectures = sorted({kernel.architecture for kernel in found})
    failed = sum(not kernel.passed for kernel in found)
    console.print(
        f"{len(rows)} kernels for {', '.join(f'sm_{a}' for a in architectures)}: {len(found) - failed} passed, "
        f"{failed} failed, in {seconds:.1f} s"
    )
