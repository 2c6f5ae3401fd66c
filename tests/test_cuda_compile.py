"""CUDA sources: what Python reads out of them, and that NVRTC takes them.

``fastdl check --compile`` tries all of their kernels for all architectures; here it is one variant of each source.
"""

from __future__ import annotations

import ctypes
import json

import pytest

import fastdl.cli
from fastdl.check import nvrtc
from fastdl.kernels import registry
from fastdl.kernels._common.cuda.source import Source

needs_nvrtc = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
SOURCES = list(nvrtc.sources())


def test_every_cuda_row_has_a_source_that_is_compiled():
    folders = {row.target.partition(":")[0] for row in registry.TABLE if row.backend == "cuda"}
    compiled = {f"fastdl.kernels.{nvrtc.folder_of(source).replace('/', '.')}._cuda" for source in SOURCES}
    assert folders and folders <= compiled


@pytest.mark.parametrize("source", SOURCES, ids=nvrtc.folder_of)
def test_structs_are_read_as_the_compiler_lays_them_out(source):
    """Sizes of all argument structs, against the C++ compiler's through the emulation where there is one."""
    variant = source.variants[0]
    for entry in source.entries(variant).values():
        struct = source.struct(entry.arguments, variant)
        assert issubclass(struct, ctypes.Structure) and 0 < ctypes.sizeof(struct) <= 4096, entry.name
        assert 32 <= entry.threads <= 1024 and entry.threads % 32 == 0
        assert entry.threads * entry.resident <= 2048, "more threads than a multiprocessor holds"


@needs_nvrtc
@pytest.mark.parametrize("source", SOURCES, ids=nvrtc.folder_of)
def test_nvrtc_takes_it_and_its_kernels_stay_in_registers(source):
    kernels = nvrtc.compile_source(source, source.variants[0], 90)
    assert {kernel.kernel for kernel in kernels} <= set(source.entries(source.variants[0]))
    assert all(kernel.passed for kernel in kernels), kernels


@needs_nvrtc
def test_a_kernel_that_spills_fails(tmp_path, monkeypatch):
    (tmp_path / "_cuda.cu").write_text(
        '#include "device.cuh"\n'
        "struct Args {\n    float *x;\n};\n"
        "KERNEL(hungry, 1024, 2, Args) {\n"
        "    float v[48];\n"
        "    UNROLL for (int i = 0; i < 48; i++) v[i] = a.x[i * 1024 + THREAD];\n"
        "    ROLLED for (int k = 0; k < 9; k++)\n"
        "        UNROLL for (int i = 0; i < 48; i++) v[i] = v[i] * v[(i * 7 + 3) % 48] + v[(i + 11) % 48];\n"
        "    UNROLL for (int i = 0; i < 48; i++) a.x[i * 1024 + THREAD] = v[i];\n"
        "}\n"
    )
    monkeypatch.setattr(nvrtc, "folder_of", lambda source: "hungry")
    source = Source(str(tmp_path / "_cuda.py"), storages=("float32",))
    (kernel,) = nvrtc.compile_source(source, source.variants[0], 90)
    assert kernel.budget == 32 and kernel.spills > 0 and not kernel.passed


@needs_nvrtc
def test_a_source_that_does_not_compile_says_where(tmp_path):
    (tmp_path / "_cuda.cu").write_text('#include "device.cuh"\nstruct Args {\n    int n;\n};\nnonsense\n')
    source = Source(str(tmp_path / "_cuda.py"), storages=("float32",))
    with pytest.raises(RuntimeError, match=r"_cuda\.cu\(5\)"):
        nvrtc.compile_source(source, source.variants[0], 90)


@needs_nvrtc
def test_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        fastdl.cli.main(["check", "--compile", "--op", "relu", "--dtype", "float32", "--json"])
    kernels = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0
    assert {kernel["architecture"] for kernel in kernels} == set(nvrtc.ARCHITECTURES)
    assert {"relu_forward", "relu_backward"} <= {kernel["kernel"] for kernel in kernels}


def test_the_command_refuses_what_it_does_not_take(capsys):
    with pytest.raises(SystemExit) as stop:
        fastdl.cli.main(["check", "--compile", "--fuzz", "3"])
    assert stop.value.code == 2 and "--compile goes with" in capsys.readouterr().err
