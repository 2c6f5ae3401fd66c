"""``fastdl info``: what this installation and this machine can do."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from .errors import user_errors

#: CPU features worth a word, as Linux spells them.
_FEATURES = (
    "sse4_2 avx avx2 fma f16c bmi2 avx512f avx512bw avx512cd avx512dq avx512vl avx512_bf16 avx512_fp16 avx512_vnni "
    "avx512_vpopcntdq avx_vnni amx_tile amx_int8 amx_bf16 asimd asimdhp asimddp bf16 i8mm sve sve2"
)


def _cpu() -> dict[str, Any]:
    """Model name and features."""
    model, features = "", set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                model = model or value.strip()
            elif key.strip() in ("flags", "Features"):
                features |= set(value.split())
    except OSError:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            model = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "model": model or platform.processor() or "unknown",
        "architecture": platform.machine(),
        "features": [name for name in _FEATURES.split() if name in features],
    }


def _isa() -> dict[str, Any]:
    """Which ISA levels are built and run here, and up to which one dispatch goes."""
    from .. import backend
    from ..kernels import registry

    levels = {level: registry.level_missing(level) for level in registry.LEVELS}
    usable = [level for level, reason in levels.items() if not reason]
    cap = registry.LEVELS.index(backend.get_isa())
    return {
        "in_use": next((level for level in reversed(usable) if registry.LEVELS.index(level) <= cap), None),
        "levels": {level: {"available": not reason, "reason": reason} for level, reason in levels.items()},
        "capped_by_environment": os.environ.get("FASTDL_ISA", ""),
    }


def _threads() -> dict[str, Any]:
    """How many threads kernels use, and why so many."""
    from .. import backend

    count = backend.get_num_threads()
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quota = backend._cgroup_cpus()
    if os.environ.get("FASTDL_NUM_THREADS", "").strip():
        why = "FASTDL_NUM_THREADS"
    elif quota is not None and math.ceil(quota) < affinity:
        why = f"the control group grants {quota:g} CPUs"
    elif affinity < machine:
        why = f"this process may run on {affinity} of {machine} CPUs"
    else:
        why = "the CPUs of this machine"
    return {"count": count, "reason": why, "cpus": machine, "affinity": affinity, "cgroup_cpus": quota}


def _build() -> dict[str, str] | None:
    """Compiler and threading of the extensions; None where there are none."""
    try:
        runtime = importlib.import_module("fastdl.kernels._common._runtime")
    except ImportError:
        return None
    return dict(runtime.build_info())


def _data() -> dict[str, Any]:
    """Where MNIST is."""
    from ..data import mnist

    try:
        paths = mnist._locate(None, download=False)
    except OSError:
        return {"mnist": None, "FASTDL_DATA_DIR": os.environ.get("FASTDL_DATA_DIR")}
    folders = {str(path.parent) for path in paths.values()}
    return {"mnist": sorted(folders)[0], "FASTDL_DATA_DIR": os.environ.get("FASTDL_DATA_DIR")}


def _versions() -> dict[str, str]:
    from importlib import metadata

    import numpy

    from .. import __version__

    versions = {"fastdl": __version__, "python": platform.python_version(), "numpy": numpy.__version__}
    try:
        versions["ml_dtypes"] = metadata.version("ml_dtypes")
    except metadata.PackageNotFoundError:
        versions["ml_dtypes"] = "not installed (needed for bfloat16 arrays)"
    return versions


def collect() -> dict[str, Any]:
    """Everything, as JSON can express it."""
    with user_errors(ValueError, RuntimeError):  # what the environment variables ask for
        from .. import backend
    backends = {name: backend.missing(name) for name in backend.BACKENDS if name != "auto"}
    build = _build()
    warnings = []
    if build is None:
        warnings.append(f"NO COMPILED KERNELS: everything runs on the slow NumPy reference. {backends['cython']}")
    elif build["threading"] == "none":
        warnings.append("BUILT WITHOUT THREADS: every kernel runs on one core. Rebuild where pthreads are found.")
    return {
        "versions": _versions(),
        "cpu": _cpu(),
        "isa": _isa(),
        "threads": _threads(),
        "backend": backend.get_backend(),
        "backends": {name: {"available": not reason, "reason": reason} for name, reason in backends.items()},
        "build": build,
        "data": _data(),
        "warnings": warnings,
    }


def run(as_json: bool) -> None:
    """Prints what ``collect`` finds."""
    found = collect()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    versions, cpu, isa, threads = found["versions"], found["cpu"], found["isa"], found["threads"]
    for name, version in versions.items():
        table.add_row(name, escape(version))
    table.add_row("CPU", escape(f"{cpu['model']} ({cpu['architecture']})"))
    table.add_row("features", " ".join(cpu["features"]) or "none that matter here")
    table.add_row("ISA in use", isa["in_use"] or "none: no compiled kernels")
    for level, state in isa["levels"].items():
        text = "[green]built, runs here[/]" if state["available"] else f"[yellow]no[/]: {escape(state['reason'])}"
        table.add_row(f"  {level}", text)
    if isa["capped_by_environment"]:
        table.add_row("  FASTDL_ISA", escape(isa["capped_by_environment"]))
    table.add_row("threads", f"{threads['count']} ({threads['reason']})")
    table.add_row("backend", found["backend"])
    for name, state in found["backends"].items():
        table.add_row(
            f"  {name}", "[green]available[/]" if state["available"] else f"[red]no[/]: {escape(state['reason'])}"
        )
    if found["build"]:
        table.add_row("compiler", escape(found["build"]["compiler"]))
        table.add_row("threading", found["build"]["threading"])
    data = found["data"]
    table.add_row("MNIST", escape(data["mnist"] or "not found (FASTDL_DATA_DIR may name its folder)"))
    console = Console(highlight=False)
    console.print(table)
    for warning in found["warnings"]:
        console.print(f"\n[bold white on red] {escape(warning)} [/]")
