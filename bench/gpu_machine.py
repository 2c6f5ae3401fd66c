"""What the GPU is, what it can do at most, and the compilation of all kernels in several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_device import STORAGE, Place

from fastdl.bench import machine
from fastdl.bench.record import CUDA, FmaPeak, Machine, Peaks, Triad

#: What nvidia-smi is asked, and under which name it is kept.
QUERIES = {
    "driver_version": "driver", "clocks.max.sm": "most MHz", "clocks.sm": "MHz", "clocks.max.mem": "most memory MHz",
    "power.limit": "power limit", "temperature.gpu": "temperature",
}  # fmt: skip
COPIES = tuple(2**20 * size for size in (2, 8, 32, 128, 512, 2048))


def missing() -> str:
    """Why nothing can be measured here; empty where it can."""
    from fastdl.kernels import registry

    if reason := registry.cuda_missing("cuda"):
        return reason
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported: {error}"
    return "" if torch.cuda.is_available() else "PyTorch finds no CUDA device"


def _smi() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERIES.values(), (value.strip() for value in done.stdout.strip().split(",")), strict=False))


def describe(place: Place) -> Machine:
    """This machine with its GPU."""
    torch, found = place.torch, machine.describe()
    found.versions["torch"] = torch.__version__
    if place.emulated:
        return dataclasses.replace(found, gpu={"name": "no GPU: kernels are emulated on a CPU"})
    import cupy

    properties = torch.cuda.get_device_properties(0)
    found.versions["cupy"] = cupy.__version__
    found.versions["cudnn"] = str(torch.backends.cudnn.version())
    found.versions["cuda of torch"] = str(torch.version.cuda)
    found.versions["cuda of cupy"] = str(cupy.cuda.runtime.runtimeGetVersion())
    gpu: dict[str, Any] = {
        "name": properties.name,
        "architecture": f"{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "L2": int(getattr(properties, "L2_cache_size", 0)),
        "driver's CUDA": cupy.cuda.runtime.driverGetVersion(),
    }
    return dataclasses.replace(found, gpu=gpu | _smi())


def ceilings(place: Place, quick: bool) -> Peaks:
    """Matrix products of random numbers in each precision, and copies of several sizes, by PyTorch."""
    torch, repeats = place.torch, 3 if quick else 7
    side = 32 if place.emulated else 8192
    peaks = []
    for precision, storage in STORAGE.items():
        a, b = (place.normal((side, side), storage) for _ in range(2))
        out = torch.empty_like(a)
        recorded = place.record_theirs([lambda a=a, b=b, out=out: lambda: torch.matmul(a, b, out=out)], precision)  # type: ignore[misc]
        times = recorded.times_in(0 if place.emulated else 0.03)
        rates = [2 * side**3 / recorded.seconds(times) / 1e9 for _ in range(repeats)]
        peaks.append(FmaPeak(CUDA, precision, 1, rates))
    copies = []
    for nbytes in (2**16,) if place.emulated else COPIES:
        pairs = [[place.normal((nbytes // 8,), "float32") for _ in range(2)] for _ in range(place.sets(nbytes))]
        recorded = place.record_theirs([lambda x=x, y=y: lambda: y.copy_(x) for x, y in pairs], "float32")  # type: ignore[misc]
        times = recorded.times_in(0 if place.emulated else 0.01)
        rates = [nbytes / recorded.seconds(times) / 1e9 for _ in range(repeats)]
        copies.append(Triad(nbytes, 1, rates, rates))
        del pairs, recorded
    return Peaks(peaks, copies, None)


# ---- compilation ----------------------------------------------------------------------------------------------------


def _variants(storages: Sequence[str], architecture: int) -> list[tuple[Any, Any]]:
    from fastdl.check import nvrtc

    return [
        (source, variant)
        for source in nvrtc.sources()
        for variant in source.variants
        if variant.storage in storages and variant.oldest <= architecture
    ]


def compile_share(share: int, shares: int, storages: Sequence[str]) -> None:
    """In a process of its own: every ``shares``-th variant of a kernel goes into CuPy's cache of compiled kernels."""
    from fastdl.kernels._common.cuda import launch

    place = launch.device_place(0)
    for source, variant in _variants(storages, place.architecture)[share::shares]:
        with contextlib.suppress(Exception):  # who needs it hears why
            place.load(source, variant.storage, **dict(variant.macros))._module.compile()


def compile_all(script: Path, storages: Sequence[str], say: Callable[[str], None], alive: Callable[[], None]) -> float:
    """Every kernel, in as many processes as there are CPUs; seconds."""
    begin, shares = time.monotonic(), max(1, min(12, len(os.sched_getaffinity(0))))
    command = [sys.executable, str(script), "-", "--compile"]
    processes = [
        subprocess.Popen([*command, f"{share}/{shares}/{','.join(storages)}"], stdout=subprocess.DEVNULL)
        for share in range(shares)
    ]
    while any(process.poll() is None for process in processes):
        alive()
        time.sleep(0.2)
        if time.monotonic() - begin > 120:
            say("kernels are still compiling after two minutes: the rest is compiled when it is needed")
            for process in processes:
                process.kill()
                process.wait()
    return time.monotonic() - begin
