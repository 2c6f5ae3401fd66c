"""``fastdl info``: what this installation and this machine can do."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

from ..bench import machine
from .errors import user_errors


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


def _data() -> dict[str, Any]:
    """Where MNIST is."""
    from ..data import mnist

    try:
        paths = mnist._locate(None, download=False)
    except OSError:
        return {"mnist": None, "FASTDL_DATA_DIR": os.environ.get("FASTDL_DATA_DIR")}
    folders = {str(path.parent) for path in paths.values()}
    return {"mnist": sorted(folders)[0], "FASTDL_DATA_DIR": os.environ.get("FASTDL_DATA_DIR")}


#: kernels/_common/tasks.py says why. (To ask it would be to import Numba.)
NUMBA_THREADING = "Python threads: any number of callers, safe after fork"


def _versions() -> dict[str, str]:
    from importlib import metadata

    import numpy

    from .. import __version__

    versions = {"fastdl": __version__, "python": platform.python_version(), "numpy": numpy.__version__}
    for name, use in (("ml_dtypes", "bfloat16 and float8 arrays"), ("numba", "the backend of that name")):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = f"not installed (needed for {use})"
    return versions


def _gpu() -> dict[str, Any]:
    """CuPy, the driver and the devices, or why there are none."""
    import importlib.metadata
    import importlib.util

    from ..kernels import registry

    cupy_version = None
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            cupy_version = f"{name} {importlib.metadata.version(name)}"
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    reason = registry.cuda_missing("cuda")
    found: dict[str, Any] = {"cupy": cupy_version, "driver": None, "runtime": None, "devices": [], "reason": reason}
    if reason:
        return found
    import cupy

    runtime = cupy.cuda.runtime
    found["cupy"] = cupy_version or f"cupy {cupy.__version__}"
    found["driver"], found["runtime"] = (
        _cuda_version(f()) for f in (runtime.driverGetVersion, runtime.runtimeGetVersion)
    )
    for number in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(number)
        with cupy.cuda.Device(number):
            free, total = runtime.memGetInfo()
        found["devices"].append({
            "device": f"cuda:{number}",
            "name": properties["name"].decode(errors="replace"),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "memory": total,
            "memory_free": free,
        })  # fmt: skip
    return found


def _cuda_version(number: int) -> str:
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def collect() -> dict[str, Any]:
    """Everything, as JSON can express it."""
    with user_errors(ValueError, RuntimeError):  # what the environment variables ask for
        from .. import backend
    backends = {name: backend.missing(name) for name in backend.BACKENDS if name != "auto"}
    build = machine.build()
    warnings = []
    if build is None:
        what = "the slow NumPy reference" if backends["numba"] else "Numba's kernels"
        warnings.append(f"NO COMPILED KERNELS: everything runs on {what}. {backends['cython']}")
    elif build["threading"] == "none":
        warnings.append("BUILT WITHOUT THREADS: every kernel runs on one core. Rebuild where pthreads are found.")
    return {
        "versions": _versions(),
        "cpu": machine.cpu(),
        "isa": _isa(),
        "threads": machine.threads(),
        "backend": backend.get_backend(),
        "backends": {name: {"available": not reason, "reason": reason} for name, reason in backends.items()},
        "gpu": _gpu(),
        "build": build,
        "numba_threading": "" if backends["numba"] else NUMBA_THREADING,
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
    if found["numba_threading"]:
        table.add_row("with numba", found["numba_threading"])
    gpu = found["gpu"]
    if gpu["reason"]:
        table.add_row("GPU", escape(f"none that can be used: see cuda above ({gpu['cupy'] or 'no CuPy'})"))
    else:
        table.add_row("GPU", escape(f"{gpu['cupy']}, runtime {gpu['runtime']}, driver for {gpu['driver']}"))
    for device in gpu["devices"]:
        table.add_row(
            f"  {device['device']}",
            escape(
                f"{device['name']}, compute capability {device['compute_capability']}, "
                f"{device['memory'] / 2**30:.1f} GiB ({device['memory_free'] / 2**30:.1f} free)"
            ),
        )
    data = found["data"]
    table.add_row("MNIST", escape(data["mnist"] or "not found (FASTDL_DATA_DIR may name its folder)"))
    console = Console(highlight=False)
    console.print(table)
    for warning in found["warnings"]:
        console.print(f"\n[bold white on red] {escape(warning)} [/]")
