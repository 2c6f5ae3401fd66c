"""What this machine is, and what runs on it."""

from __future__ import annotations

import importlib
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .record import Machine

#: CPU features worth a word, as Linux spells them.
FEATURES = (
    "sse4_2 avx avx2 fma f16c bmi2 avx512f avx512bw avx512cd avx512dq avx512vl avx512_bf16 avx512_fp16 avx512_vnni "
    "avx512_vpopcntdq avx_vnni amx_tile amx_int8 amx_bf16 asimd asimdhp asimddp bf16 i8mm sve sve2"
)


def cpu() -> dict[str, Any]:
    """Model name, architecture and features."""
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
        "features": [name for name in FEATURES.split() if name in features],
    }


def threads() -> dict[str, Any]:
    """How many threads kernels use, and why so many."""
    from .. import _cpus, backend

    count = backend.get_num_threads()
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quota = _cpus.cgroup_limit()
    if os.environ.get("FASTDL_NUM_THREADS", "").strip():
        why = "FASTDL_NUM_THREADS"
    elif quota is not None and math.ceil(quota) < affinity:
        why = f"the control group grants {quota:g} CPUs"
    elif affinity < machine:
        why = f"this process may run on {affinity} of {machine} CPUs"
    else:
        why = "the CPUs of this machine"
    return {"count": count, "reason": why, "cpus": machine, "affinity": affinity, "cgroup_cpus": quota}


def build() -> dict[str, str] | None:
    """Compiler and threading of the extensions; None where there are none."""
    try:
        runtime = importlib.import_module("fastdl.kernels._common._runtime")
    except ImportError:
        return None
    return dict(runtime.build_info())


def _caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Level and kind -> bytes, of the first CPU."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            number, unit = int(size.rstrip("KMG")), size[-1]
        except (OSError, ValueError):
            continue
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found[f"L{level}{letter}"] = number * {"K": 2**10, "M": 2**20, "G": 2**30}.get(unit, 1)
    return found


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def gpu() -> dict[str, Any]:
    """The current CUDA device, as CuPy sees it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    name = properties["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        "memory": properties["totalGlobalMem"],
        "architecture": f"{properties['major']}{properties['minor']}",
        "driver's CUDA": runtime.driverGetVersion(),
    }


def _revision() -> str | None:
    """Of the git tree that this package lies in, with "+" where tracked files differ from it."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside a tree that is not its own.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = git("rev-parse", "HEAD")
    return head and head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def describe(*packages: str) -> Machine:
    """This machine now; ``packages`` are further ones whose versions matter, where they are installed."""
    from .. import __version__

    found, count = cpu(), threads()
    versions = {"fastdl": __version__, "python": platform.python_version()}
    for name in ("numpy", *packages):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        cpu=found["model"],
        architecture=found["architecture"],
        features=found["features"],
        cpus=count["cpus"],
        affinity=count["affinity"],
        cgroup_cpus=count["cgroup_cpus"],
        memory=_memory(),
        caches=_caches(),
        governor=_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load=list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        system=platform.platform(),
        versions=versions,
        build=build(),
        revision=_revision(),
    )
