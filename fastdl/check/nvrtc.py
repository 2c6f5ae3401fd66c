"""Compiles every CUDA kernel for every architecture, without a GPU: what NVRTC and its assembler say about each.

Needs CuPy (13 or later, whose ``cupy.cuda.nvrtc`` imports without a driver) and NVRTC itself, which
``pip install nvidia-cuda-nvrtc`` brings.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
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

    kernel: str
    registers: int
    budget: int  # registers that its launch bounds leave it
    stack: int  # bytes of local memory that are no spills: an array with indices that are not known
    spills: int  # bytes
    shared: int  # bytes of static shared memory


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
    found = []
    for name, stack, stores, loads, registers, shared in _LOG.findall(log):
        entry = entries[name]
        resident = entry.resident if architecture >= 80 else (entry.resident + 1) // 2  # as RESIDENT_HERE
        budget = min(MOST, REGISTERS // (entry.threads * resident) // STEP * STEP)
        found.append(Compiled(name, int(registers), budget, int(stack), int(stores) + int(loads), int(shared or 0)))
    return found
