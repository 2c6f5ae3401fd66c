"""``fastdl profile``: where a script's time goes, layer by layer."""

from __future__ import annotations

import contextlib
import io
import json as formats
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._files import replacing
from ..profiling import Line, Profile
from . import running


def run(
    script: str,
    arguments: Sequence[str],
    dtype: str,
    backend: str,
    threads: int | None,
    trace: Path | None,
    json: Path | None,
) -> None:
    """Runs ``script`` as ``fastdl run`` does, and says at its end, on stderr, where the time went."""
    path = running.prepare(script, dtype, backend, threads)
    # Relative to where the user is: the script runs in its own folder.
    trace, json = (None if target is None else target.resolve() for target in (trace, json))
    profile = Profile()
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(_finish, profile, trace, json)
        at_the_end.enter_context(profile)
        running.execute(path, arguments)


def _finish(profile: Profile, trace: Path | None, json: Path | None) -> None:
    sys.stdout.flush()
    print(f"\n{text(profile, color=sys.stderr.isatty())}", file=sys.stderr)
    if trace is not None:
        profile.save(trace)
        short = f", without the last {profile.left_out:,} calls" if profile.left_out else ""
        print(f"{trace}: open it in ui.perfetto.dev or chrome://tracing{short}", file=sys.stderr)
    if json is not None:
        with replacing(json) as temporary:
            temporary.write_text(formats.dumps(profile.to_json(), indent=1) + "\n")


def text(profile: Profile, *, color: bool = False) -> str:
    """The lines of a profile as a table, the slowest first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{profile.seconds:.3g} s in all"
    for name in ("layer", "pass", "calls", "ms a call", "s", "share", "GFLOP/s", "GB/s", "kernels"):
        left = name in ("layer", "pass", "kernels")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "kernels")
    lines = sorted(profile.lines, key=lambda line: -line.total)
    whole = max(profile.seconds, 1e-12)
    for line in lines:
        table.add_row(*_cells(line, whole))
    rest = profile.seconds - sum(line.total for line in lines)
    if lines:
        table.add_row("everything else", "", "", "", f"{rest:.3f}", f"{rest / whole:.1%}")
    else:
        table.add_row("no layer and no kernel of fastdl ran")
    out = io.StringIO()
    Console(file=out, width=150, highlight=False, force_terminal=color, no_color=not color).print(table)
    return out.getvalue().rstrip()


def _cells(line: Line, whole: float) -> tuple[str, ...]:
    work, seconds, calls = line.work(), line.total, len(line.seconds)
    rates = _rates(work, seconds) if work is not None and seconds and line.kernels else ("", "")
    labels = ", ".join(sorted({kernel.row.label for kernel in line.kernels}))
    per_call = f"{seconds / calls * 1e3:.3f}"
    return line.name, line.direction, f"{calls:,}", per_call, f"{seconds:.3f}", f"{seconds / whole:.1%}", *rates, labels


def _rates(work: Any, seconds: float) -> tuple[str, str]:
    return f"{work.flop / seconds / 1e9:.3g}" if work.flop else "", f"{work.bytes / seconds / 1e9:.3g}"
