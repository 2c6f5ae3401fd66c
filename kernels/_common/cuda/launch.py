"""Where arrays are, and how kernels get there: compiled at their first call and kept, launched with a struct."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .source import FOLDER, Source, Variant

#: The oldest CuPy that is known to do: earlier ones fail where there is no driver.
OLDEST_CUPY = 13
#: Blocks of a launch along its second and third axis.
MOST_BLOCKS = 65535
#: Shared memory that a block may have without asking.
PLAIN_SHARED = 48 * 1024


def cut(a: int, b: int) -> int:
    """How many blocks of ``b`` hold ``a``."""
    return -(-a // b)


def pointer(a: Any) -> int:
    """The address of an array's first element; 0 for None."""
    if a is None:
        return 0
    if isinstance(a, np.ndarray):
        return int(a.__array_interface__["data"][0])
    return int(a.data.ptr)


# ---- availability ---------------------------------------------------------------------------------------------------


@functools.cache
def _compiler() -> list[str]:
    """The C++ compiler: CXX, or the first that is found; empty where there is none."""
    given = os.environ.get("CXX", "").split()
    if given:
        return given if shutil.which(given[0]) else []
    return next(([name] for name in ("g++", "clang++", "c++") if shutil.which(name)), [])


@functools.cache
def missing(emulated: bool) -> str:
    """Why CUDA kernels cannot run here (on a CPU with ``emulated``); empty where they can."""
    if emulated:
        if sys.platform == "win32":
            return "kernels are emulated on POSIX systems only"
        return "" if _compiler() else "emulated kernels need a C++ compiler (g++ or clang++, or set CXX)"
    if importlib.util.find_spec("cupy") is None:
        return 'CuPy is not installed: pip install "fastdl[cuda13]" (or [cuda12], for drivers before 580)'
    try:
        import cupy
    except Exception as error:
        return f"CuPy cannot be imported: {error}"
    if int(cupy.__version__.partition(".")[0]) < OLDEST_CUPY:
        return f"CuPy {cupy.__version__} is too old: fastdl needs {OLDEST_CUPY} or later"
    try:
        if not cupy.cuda.runtime.driverGetVersion():
            return "there is no NVIDIA driver here"
        found = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"no CUDA device can be used: {error}"
    return "" if found else "there is no CUDA device"


# ---- places ---------------------------------------------------------------------------------------------------------


class Kernels:
    """The compiled kernels of one variant of a source."""

    def __init__(self, source: Source, variant: Variant) -> None:
        self._source = source
        self._variant = variant
        self.entries = source.entries(variant)
        self._structs = {name: source.struct(entry.arguments, variant) for name, entry in self.entries.items()}
        self._fields = {name: {field for field, *_ in struct._fields_} for name, struct in self._structs.items()}

    def launch(self, name: str, blocks: int | Sequence[int], *, shared: int = 0, **arguments: Any) -> None:
        """Runs a kernel on ``blocks`` (x, or x and y, or x, y and z). Nothing happens where one of them is 0."""
        grid = (blocks,) if isinstance(blocks, int) else tuple(blocks)
        grid = (*grid, 1, 1)[:3]
        if arguments.keys() != self._fields[name]:  # ctypes would leave out a field, and take any name
            raise TypeError(f"{name} takes {', '.join(sorted(self._fields[name]))}, not {', '.join(sorted(arguments))}")
        if max(grid[1:]) > MOST_BLOCKS or grid[0] >= 2**31:
            raise ValueError(
                f"{name}: a launch has at most 2**31 - 1, {MOST_BLOCKS} and {MOST_BLOCKS} blocks, not {grid}"
            )
        packed = self._structs[name](**arguments)
        if 0 not in grid:
            self._run(name, grid, shared, packed)

    def _run(self, name: str, grid: tuple[int, ...], shared: int, packed: ctypes.Structure) -> None:
        raise NotImplementedError


class Place:
    """Where the arrays of a call are: compiles for it, and has its memory."""

    architecture: int  # 75 is sm_75

    def load(self, source: Source, storage: str, **macros: str) -> Any:
        """The kernels of ``source`` for this storage dtype and these macros, which it must list."""
        raise NotImplementedError

    def scratch(self, nbytes: int) -> Any:
        """Memory for one call, of undefined content, aligned to 256 bytes; ``pointer`` gives its address."""
        raise NotImplementedError

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...]) -> Any:
        """An array for one call, of undefined values; dense in the order that its strides tell."""
        raise NotImplementedError

    def table(self, values: np.ndarray) -> Any:
        """A copy of a small host array that kernels can read."""
        raise NotImplementedError

    def number_of(self, a: Any) -> tuple[int, Any]:
        """A one-element array for ``given`` in ``device.cuh``: (its address, 0), or (0, its value) where it is on the
        host."""
        raise NotImplementedError


def _variant(source: Source, storage: str, macros: dict[str, str]) -> Variant:
    wanted = tuple(sorted(macros.items()))
    for variant in source.variants:
        if variant[:2] == (storage, wanted):
            return variant
    raise ValueError(f"{source.path} lists no variant of {storage} with {macros}")


def place_of(out: Any, threads: int) -> Place:
    """The place of an array: a device, or the emulation for a NumPy array, with ``threads`` as the seed."""
    if isinstance(out, np.ndarray):
        return Emulation(threads)
    return device_place(out.device.id)


# ---- on a CPU -------------------------------------------------------------------------------------------------------


class EmulatedLaunch(ctypes.Structure):
    """What an emulated kernel is told about its launch: ``Launch`` of emulator.h."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared", ctypes.c_uint32),
        ("seed", ctypes.c_uint32),
    ]


class EmulationError(RuntimeError):
    """An emulated kernel did what a GPU would not forgive."""


class _EmulatedKernels(Kernels):
    def __init__(self, source: Source, variant: Variant) -> None:
        super().__init__(source, variant)
        path = compiled_emulation(f"{source.path.parent.name}-{variant.storage}", source.text, source.defines(variant))
        self._library = ctypes.CDLL(str(path))
        self.seed = 0

    def _run(self, name: str, grid: tuple[int, ...], shared: int, packed: ctypes.Structure) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        launch = EmulatedLaunch(grid, self.entries[name].threads, shared, self.seed)
        error = function(ctypes.byref(launch), ctypes.byref(packed))
        if error is not None:
            raise EmulationError(f"{name}: {error.decode()}")


_loaded: dict[tuple[Source, Variant], _EmulatedKernels] = {}
_loading = threading.Lock()


class Emulation(Place):
    """The emulation, with the seed of its schedules."""

    architecture = 90

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def load(self, source: Source, storage: str, **macros: str) -> Any:
        key = source, _variant(source, storage, macros)
        with _loading:
            found = _loaded.get(key)
            if found is None:
                found = _loaded[key] = _EmulatedKernels(*key)
        found.seed = self.seed
        return found

    def scratch(self, nbytes: int) -> np.ndarray:
        memory = np.full(nbytes + 512, 0xFF, np.uint8)  # NaN: nothing may be read before it is written
        start = -pointer(memory) % 256
        return memory[start : start + nbytes]

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...]) -> Any:
        return np.ndarray(shape, dtype, self.scratch(math.prod(shape) * dtype.itemsize), 0, strides)

    def table(self, values: np.ndarray) -> np.ndarray:
        return values

    def number_of(self, a: np.ndarray) -> tuple[int, Any]:
        return (pointer(a), 0) if self.seed % 2 else (0, a.item())


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``FASTDL_CACHE_DIR``, or this user's cache; ``cuda/`` below it."""
    import platformdirs

    home = os.environ.get("FASTDL_CACHE_DIR") or platformdirs.user_cache_dir("fastdl", appauthor=False)
    return Path(home) / "cuda"


#: No contraction: a kernel that needs an FMA says so.
_FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing",
          "-fvisibility=default", "-shared", "-fPIC", "-w")  # fmt: skip

_refused: dict[str, str] = {}  # what does not compile, so that it is not tried for each call


def compiled_emulation(name: str, text: str, defines: Mapping[str, str]) -> Path:
    """The shared object of a source's emulation with these macros, from the cache where it is there."""
    import hashlib  # these two would be a good part of `import fastdl.layers`
    import subprocess

    macros = (f"-D{macro}={value}" for macro, value in defines.items())
    compiler = [*_compiler(), *_FLAGS, f"-I{FOLDER}", *macros]
    emulator = (FOLDER / "emulator.h").read_text()
    key = hashlib.sha256("\0".join([*compiler, text, emulator]).encode()).hexdigest()[:24]
    target = cache_folder() / f"{name}-{key}.so"
    if target.exists():
        return target
    if key in _refused:
        raise EmulationError(_refused[key])
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    done = subprocess.run(
        [*compiler, "-o", str(temporary), "-"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        _refused[key] = f"{name} does not compile for the emulation:\n{done.stderr[:4000]}"
        raise EmulationError(_refused[key])
    os.replace(temporary, target)
    return target


# ---- on a device ----------------------------------------------------------------------------------------------------


def device_memory(shape: Sequence[int], dtype: np.dtype[Any], strides: Sequence[int] | None = None) -> Any:
    """A new CuPy array on the current device. Raises ``MemoryError`` that says how much there is."""
    import cupy

    nbytes = math.prod(shape) * dtype.itemsize
    try:
        return cupy.ndarray(tuple(shape), dtype, cupy.cuda.alloc(nbytes), strides)
    except cupy.cuda.memory.OutOfMemoryError as error:
        free, total = cupy.cuda.runtime.memGetInfo()
        free += cupy.get_default_memory_pool().free_bytes()
        raise MemoryError(
            f"the GPU has no memory for another {nbytes / 2**20:,.1f} MiB: {free / 2**20:,.1f} of its "
            f"{total / 2**20:,.1f} MiB are free"
        ) from error


_of_graphs: list[Any] = []


def kept(a: Any) -> Any:
    """``a``, which is never freed if a graph that is being captured will read it."""
    import cupy

    if cupy.cuda.get_current_stream().is_capturing():
        _of_graphs.append(a)
    return a


def uploaded(values: np.ndarray) -> Any:
    """A copy of a C-contiguous array on the current device."""
    out = device_memory(values.shape, values.dtype, values.strides)
    out.data.copy_from_host_async(ctypes.c_void_p(pointer(values)), values.nbytes)
    return out


class _DeviceKernels(Kernels):
    def __init__(self, source: Source, variant: Variant) -> None:
        import cupy

        super().__init__(source, variant)
        macros = [f"-D{name}={value}" for name, value in source.defines(variant).items()]
        self._module = cupy.RawModule(code=source.text, options=("-std=c++17", *macros))
        self._functions: dict[str, Any] = {}

    def _run(self, name: str, grid: tuple[int, ...], shared: int, packed: ctypes.Structure) -> None:
        import cupy
        from cupy_backends.cuda.api import driver

        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        if shared > PLAIN_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        # One argument, the struct, whose bytes the driver copies before launchKernel returns.
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(packed))
        stream = cupy.cuda.get_current_stream().ptr
        threads = self.entries[name].threads
        driver.launchKernel(function.kernel.ptr, *grid, threads, 1, 1, shared, stream, ctypes.addressof(parameters), 0)


class Device(Place):
    """A CUDA device."""

    def __init__(self, number: int) -> None:
        import cupy

        self.index = number
        self.architecture = int(cupy.cuda.Device(number).compute_capability)
        self._kernels: dict[tuple[Source, Variant], _DeviceKernels] = {}
        self._tables: dict[tuple[Any, ...], Any] = {}

    def load(self, source: Source, storage: str, **macros: str) -> Any:
        key = source, _variant(source, storage, macros)
        found = self._kernels.get(key)
        if found is None:
            with _loading:
                found = self._kernels.setdefault(key, _DeviceKernels(*key))
        return found

    def scratch(self, nbytes: int) -> Any:
        return device_memory((nbytes,), np.dtype(np.uint8))  # from CuPy's pool, in the order of the stream

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...]) -> Any:
        return device_memory(shape, dtype, strides)

    def number_of(self, a: Any) -> tuple[int, Any]:
        return (0, a.item()) if isinstance(a, np.ndarray) else (pointer(a), 0)

    def table(self, values: np.ndarray) -> Any:
        """A copy of ``values``, kept: a captured step may read no memory of the host."""
        import cupy

        key = values.dtype, values.shape, values.tobytes()
        found = self._tables.get(key)
        if found is None:
            if cupy.cuda.get_current_stream().is_capturing():
                raise RuntimeError("a kernel needs a table of addresses that were others in the steps before")
            if len(self._tables) >= 256:
                self._tables.clear()
            found = self._tables[key] = uploaded(values)
        return kept(found)


@functools.cache
def device_place(number: int) -> Device:
    """The device ``number``, once."""
    return Device(number)
