"""Compiles every CUDA kernel for every architecture, without a GPU: what NVRTC and its assembler say about each.

``fastdl check --compile`` runs it. A kernel passes that spills no register, keeps nothing in local memory and needs no
more registers than its launch bounds leave it, which are written beside its name: ``KERNEL(name, threads, blocks,
...)`` is for ``blocks`` of ``threads`` on a multiprocessor with 65,536 registers.

Needs CuPy (13 or later, whose ``cupy.cuda.nvrtc`` imports without a driver) and NVRTC itself, which
``pip install nvidia-cuda-nvrtc`` brings.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from .. import kernels
from ..kernels._common.cuda import Source, Variant

#: sm_75 Turing, 80 and 86 Ampere, 89 Ada, 90 Hopper, 100 Blackwell.
ARCHITECTURES = (75, 80, 86, 89, 90, 100)
#: Registers of a multiprocessor, the most that a thread can have, and the steps in which a warp gets them.
REGISTERS, MOST, STEP = 65536, 255, 8

_LOG = re.compile(
    r"Function properties for (\w+)\s+ptxas\s+\.\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s*: Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
)


class Compiled(NamedTuple):
    """One kernel, compiled."""

    op: str  # the folder of its source
    storage: str
    macros: str
    architecture: int
    kernel: str
    registers: int
    budget: int  # registers that its launch bounds leave it
    stack: int  # bytes of local memory that are no spills: an array with indices that are not known
    spills: int  # bytes
    shared: int  # bytes of static shared memory

    @property
    def passed(self) -> bool:
        """Whether it stays in its registers."""
        return not self.spills and not self.stack and self.registers <= self.budget


def missing() -> str:
    """Why nothing can be compiled here; empty where it can."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        return f"NVRTC is not here ({error}): pip install cupy-cuda13x nvidia-cuda-nvrtc"
    return ""


def sources() -> Iterator[Source]:
    """The source of each op that has CUDA kernels."""
    for path in sorted(Path(kernels.__path__[0]).rglob("_cuda.py")):
        folder = ".".join(path.parent.relative_to(kernels.__path__[0]).parts)
        yield importlib.import_module(f"{kernels.__name__}.{folder}._cuda").SOURCE


def folder_of(source: Source) -> str:
    """Its folder below the kernels: "conv/depthwise"."""
    return source.path.parent.relative_to(kernels.__path__[0]).as_posix()


def compile_source(source: Source, variant: Variant, architecture: int) -> list[Compiled]:
    """Compiles all kernels of a variant to machine code; ``RuntimeError`` with NVRTC's log where it cannot."""
    from cupy.cuda import nvrtc

    macros = [f"-D{name}={value}" for name, value in source.defines(variant).items()]
    program = nvrtc.createProgram(source.text, source.path.name, (), ())
    options = (f"-arch=sm_{architecture}", "-std=c++17", "--ptxas-options=-v", *macros)
    try:
        nvrtc.compileProgram(program, options)
        nvrtc.getCUBIN(program)
        log = nvrtc.getProgramLog(program)
    except Exception as error:
        raise RuntimeError(f"{source.path} {variant} sm_{architecture}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    entries = source.entries(variant)
    folder, shown = folder_of(source), " ".join(f"{name}={value}" for name, value in variant.macros)
    found = []
    for name, stack, stores, loads, registers, shared in _LOG.findall(log):
        entry = entries[name]
        resident = entry.resident if architecture >= 80 else (entry.resident + 1) // 2  # as RESIDENT_HERE
        budget = min(MOST, REGISTERS // (entry.threads * resident) // STEP * STEP)
        spills = int(stores) + int(loads)
        compiled = int(registers), budget, int(stack), spills, int(shared or 0)
        found.append(Compiled(folder, variant.storage, shown, architecture, name, *compiled))
    if not found:
        raise RuntimeError(f"{source.path} {variant} sm_{architecture}: NVRTC names no kernel:\n{log[:2000]}")
    return found


def jobs(
    folders: Collection[str] = (), storages: Collection[str] = (), architectures: Collection[int] = ARCHITECTURES
) -> list[tuple[int, int, int]]:
    """What is to be compiled: (number of the source, number of its variant, architecture). Empty selections are all."""
    return [
        (i, j, architecture)
        for i, source in enumerate(sources())
        for j, variant in enumerate(source.variants)
        for architecture in architectures
        if (not folders or folder_of(source) in folders)
        and (not storages or variant.storage in storages)
        and variant.oldest <= architecture <= (variant.newest or architecture)
    ]


def run(job: tuple[int, int, int]) -> list[Compiled]:
    """Compiles one job."""
    i, j, architecture = job
    source = _sources()[i]
    return compile_source(source, source.variants[j], architecture)


@functools.cache
def _sources() -> list[Source]:
    return list(sources())


def compile_all(work: Sequence[tuple[int, int, int]], processes: int) -> Iterator[list[Compiled]]:
    """The results of all jobs, as they are ready."""
    context = multiprocessing.get_context("spawn")  # NVRTC and CuPy do not like to be forked
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for done in as_completed([pool.submit(run, job) for job in work]):
            yield done.result()
