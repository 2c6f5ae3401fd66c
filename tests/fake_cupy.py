"""A stand-in for the parts of CuPy that fastdl uses, for machines without a GPU: ``install`` puts it into sys.modules.

"Device" memory is host memory which NumPy cannot get at by accident: ``cupy.ndarray`` is a class of its own, and every
way of CuPy's own from it to the host, and every kernel that CuPy itself would launch (arithmetic, copies of strided
arrays, fancy indices), raises an error here or is counted. Kernels of ``RawModule`` are compiled for the emulation on a
CPU, and reach it by the driver's ``launchKernel`` with a packed struct, as they would a GPU. A stream that captures
records launches and copies and runs none of them. Freed memory is filled with NaN patterns and given out again.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import itertools
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np

from fastdl.kernels._common.cuda import launch as cuda_launch
from fastdl.kernels._common.cuda.source import STORAGES, Source, Variant

POISON = 0xFF


class CUDARuntimeError(RuntimeError):
    """What the runtime says."""


class OutOfMemoryError(MemoryError):
    """What the pool says."""


class State:
    """The machine: devices, what has happened so far."""

    def __init__(self) -> None:
        self.devices = 1
        self.device = 0
        self.total = 8 << 30  # bytes of memory
        self.used = 0
        self.launches: list[str] = []
        self.reads = 0  # device to host
        self.writes = 0  # host to device
        self.graphs = 0  # launches of graphs
        self.handles: dict[int, Any] = {}
        self.modules: dict[str, Any] = {}


state = State()


# ---- streams and graphs ---------------------------------------------------------------------------------------------


class Graph:
    """What a stream has recorded."""

    def __init__(self, steps: list[Any]) -> None:
        self.steps = steps

    def launch(self, stream: Any = None) -> None:
        state.graphs += 1
        for step in self.steps:
            step()

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    """A stream that runs what it gets at once."""

    null: Stream
    _current = threading.local()
    _numbers = itertools.count(0x1000, 16)

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(self._numbers)
        self.recorded: list[Any] | None = None
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        Stream._current.stream = self
        return self

    def __exit__(self, *exception: object) -> None:
        Stream._current.stream = self._before.pop()

    def synchronize(self) -> None:
        if self.recorded is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.recorded = []

    def end_capture(self) -> Graph:
        if self.recorded is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        recorded, self.recorded = self.recorded, None
        return Graph(recorded)

    def is_capturing(self) -> bool:
        return self.recorded is not None

    def do(self, step: Any) -> None:
        """Runs ``step``, or records it."""
        if self.recorded is None:
            step()
        else:
            self.recorded.append(step)


Stream.null = Stream(null=True)


class Event:
    """An event; two that follow each other are 2 ms apart."""

    def __init__(self, **options: Any) -> None:
        self.recorded = 0

    def record(self, stream: Any = None) -> None:
        if (stream or get_current_stream()).is_capturing():
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: an event that is timed cannot be recorded")
        self.recorded += 1

    def synchronize(self) -> None:
        assert self.recorded


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Milliseconds."""
    assert begin.recorded and end.recorded
    return 2.0


def get_current_stream() -> Stream:
    return getattr(Stream._current, "stream", Stream.null)


# ---- memory ---------------------------------------------------------------------------------------------------------


class _Memory:
    """A block of device memory; back in its pool with its last pointer."""

    def __init__(self, pool: MemoryPool, size: int, buffer: np.ndarray) -> None:
        self.pool, self.size, self.buffer = pool, size, buffer
        self.device_id = state.device
        self.ptr = int(buffer.__array_interface__["data"][0])

    def __del__(self) -> None:
        self.buffer[:] = POISON
        self.pool.free.setdefault(self.size, []).append(self.buffer)


class MemoryPointer:
    """An address in a block of device memory."""

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset
        self.device_id = mem.device_id

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        if get_current_stream().is_capturing():
            raise CUDARuntimeError("the test forbids copies of host memory while a stream is capturing")
        state.writes += 1
        ctypes.memmove(self.ptr, mem.value, size)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        get_current_stream().synchronize()
        state.reads += 1
        ctypes.memmove(mem.value, self.ptr, size)

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        target, source = self.ptr, src.ptr
        get_current_stream().do(lambda: ctypes.memmove(target, source, size))

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        target = self.ptr
        get_current_stream().do(lambda: ctypes.memset(target, value, size))


class MemoryPool:
    """Gives out blocks, last freed first."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = {}

    def malloc(self, size: int) -> MemoryPointer:
        size = max(-(-size // 512) * 512, 512)
        if self.free.get(size):
            return MemoryPointer(_Memory(self, size, self.free[size].pop()), 0)
        if state.used + size > state.total:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {state.used:,} bytes).")
        state.used += size
        raw = np.full(size + 512, POISON, np.uint8)
        start = -int(raw.__array_interface__["data"][0]) % 512
        return MemoryPointer(_Memory(self, size, raw[start : start + size]), 0)

    def free_bytes(self) -> int:
        return sum(size * len(blocks) for size, blocks in self.free.items())

    def free_all_blocks(self) -> None:
        pass


_pool = MemoryPool()
_allocator = threading.local()


def alloc(size: int) -> MemoryPointer:
    return getattr(_allocator, "malloc", _pool.malloc)(size)


@contextlib.contextmanager
def using_allocator(malloc: Any) -> Any:
    before = getattr(_allocator, "malloc", _pool.malloc)
    _allocator.malloc = malloc
    try:
        yield
    finally:
        _allocator.malloc = before


class Device:
    """A device, as a context manager the current one."""

    def __init__(self, device: int | None = None) -> None:
        self.id = state.device if device is None else device

    def __enter__(self) -> Device:
        self._before, state.device = state.device, self.id
        return self

    def __exit__(self, *exception: object) -> None:
        state.device = self._before

    def use(self) -> None:
        state.device = self.id

    def synchronize(self) -> None:
        get_current_stream().synchronize()

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return state.total - state.used, state.total


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _forbidden(what: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{what} would run a kernel of CuPy's own, or wait for the device")

    return method


_OPERATORS = """add sub mul truediv pow neg radd rsub rmul rtruediv iadd isub imul itruediv lt le gt ge matmul setitem
iter bool eq ne""".split()  # noqa: SIM905


class _Flags:
    def __init__(self, view: np.ndarray) -> None:
        self.c_contiguous = view.flags.c_contiguous
        self.f_contiguous = view.flags.f_contiguous
        self.owndata = True


class ndarray:
    """An array in device memory."""

    __module__ = "cupy"
    __array_priority__ = 100
    __array_ufunc__ = None

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = np.dtype(dtype)
        if strides is not None and memptr is None:
            raise ValueError("memptr is required if strides is given.")
        if strides is None:
            strides = np.ndarray(tuple(max(n, 1) for n in self.shape), np.uint8, order=order).strides
            strides = tuple(s * self.dtype.itemsize for s in strides)
        self.strides = tuple(strides)
        self.data = alloc(self.size * self.dtype.itemsize) if memptr is None else memptr

    # What is as in NumPy.
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape, dtype=np.int64)))
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    device = property(lambda self: Device(self.data.device_id))
    flags = property(lambda self: _Flags(self.host))
    T = property(lambda self: self.transpose())

    @property
    def host(self) -> np.ndarray:
        """The memory as NumPy sees it: for tests."""
        # A buffer of its lowest address on; strides may be negative.
        spans = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)] if self.size else []
        low = sum(min(s, 0) for s in spans)
        length = sum(abs(s) for s in spans) + self.itemsize if self.size else 0
        raw = (ctypes.c_char * max(length, 1)).from_address(self.data.ptr + low)
        view = np.ndarray(self.shape, self.dtype, raw, -low if self.size else 0, self.strides)
        assert view.base is not None
        return view

    def _view(self, view: np.ndarray) -> ndarray:
        address = int(view.__array_interface__["data"][0]) if view.size else self.data.ptr
        memptr = MemoryPointer(self.data.mem, address - self.data.mem.ptr)
        return ndarray(view.shape, view.dtype, memptr, view.strides)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self.host.transpose(*axes))

    def reshape(self, *shape: Any) -> ndarray:
        view = self.host.reshape(*shape)
        if self.size and not np.shares_memory(view, self.host):
            _forbidden("a reshape that copies")(self)
        return self._view(view)

    def view(self, dtype: Any) -> ndarray:
        return self._view(self.host.view(dtype))

    def __getitem__(self, index: Any) -> ndarray:
        index = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(i, (int, np.integer, slice)) or i is None or i is Ellipsis for i in index):
            _forbidden("a fancy index")(self)
        return self._view(self.host[(*index, *(() if Ellipsis in index else (Ellipsis,)))])

    def __len__(self) -> int:
        return self.shape[0]

    def get(self) -> np.ndarray:
        get_current_stream().synchronize()
        state.reads += 1
        return self.host.copy()

    def item(self) -> Any:
        return self.get().item()

    def __float__(self) -> float:
        return float(self.item())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "strides": self.strides, "data": (self.data.ptr, False),
            "version": 3, "stream": 1,
        }  # fmt: skip

    def __dlpack__(self, **options: Any) -> Any:
        return self  # as good as a capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.data.device_id

    for _name in _OPERATORS:
        locals()[f"__{_name}__"] = _forbidden(f"__{_name}__")
    __hash__ = None  # type: ignore[assignment]
    for _name in ["sum", "mean", "max", "min", "all", "any", "argmax", "astype", "copy", "fill"]:
        locals()[_name] = _forbidden(_name)
    del _name


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """Of host arrays a copy, of others a view."""
    if isinstance(a, ndarray):
        return a
    found = getattr(a, "__cuda_array_interface__", None)
    if found is not None:
        holder = types.SimpleNamespace(ptr=found["data"][0], device_id=state.device, keeps=a)
        memptr = MemoryPointer(holder, 0)
        return ndarray(found["shape"], np.dtype(found["typestr"]), memptr, found.get("strides"))
    host = np.ascontiguousarray(a, dtype).reshape(np.shape(a))
    out = ndarray(host.shape, host.dtype)
    out.data.copy_from_host_async(ctypes.c_void_p(host.__array_interface__["data"][0]), host.nbytes)
    return out


def from_dlpack(a: Any) -> ndarray:
    found = a.__dlpack__(stream=0)
    assert isinstance(found, ndarray)
    return ndarray(found.shape, found.dtype, found.data, found.strides)


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


# ---- kernels --------------------------------------------------------------------------------------------------------


class _Text(Source):
    """A source that is known by its text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.path = Path("module.cu")

    @property
    def text(self) -> str:  # type: ignore[override]
        return self._text


class _Function:
    def __init__(self, module: RawModule, name: str) -> None:
        entry = module.source.entries(module.variant)[name]
        self.name, self.threads = name, entry.threads
        self.size = ctypes.sizeof(module.source.struct(entry.arguments, module.variant))
        self.entry = getattr(module.library, name)
        self.entry.restype = ctypes.c_char_p
        self.ptr = 0xF000 + len(state.handles)
        self.kernel = self
        self.max_dynamic_shared_size_bytes = 48 * 1024
        state.handles[self.ptr] = self


class RawModule:
    """A source, compiled for the emulation."""

    def __init__(self, *, code: str, options: Any = (), backend: str = "nvrtc") -> None:
        if get_current_stream().is_capturing():
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a module cannot be loaded while capturing")
        macros = dict(option[2:].split("=", 1) for option in options if option.startswith("-D"))
        storage = {kind: name for name, kind in STORAGES.items()}[macros["FD_STORAGE"]]
        self.source = _Text(code)
        self.variant = Variant(storage, tuple(sorted((k, v) for k, v in macros.items() if k != "FD_STORAGE")))
        self.library = ctypes.CDLL(str(cuda_launch.compiled_emulation("module", code, macros)))

    def get_function(self, name: str) -> _Function:
        return _Function(self, name)


def launch_kernel(
    f: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, parameters: int, extra: int
) -> None:
    """``cuLaunchKernel``: one parameter, the struct, whose bytes are copied."""
    function = state.handles[f]
    assert (by, bz, extra) == (1, 1, 0) and bx == function.threads and stream == get_current_stream().ptr
    assert shared <= function.max_dynamic_shared_size_bytes, "more dynamic shared memory than was asked for"
    address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
    packed = ctypes.create_string_buffer(ctypes.string_at(address, function.size), function.size)

    def step() -> None:
        state.launches.append(function.name)
        launch = cuda_launch.EmulatedLaunch((gx, gy, gz), bx, shared, len(state.launches))
        error = function.entry(ctypes.byref(launch), packed)
        if error is not None:
            raise cuda_launch.EmulationError(f"{function.name}: {error.decode()}")

    get_current_stream().do(step)


# ---- modules --------------------------------------------------------------------------------------------------------


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    return module


def _set_device(number: int) -> None:
    state.device = number


def modules() -> dict[str, types.ModuleType]:
    """The modules by name, over a machine in its first state."""
    global state, _pool
    state, _pool = State(), MemoryPool()
    runtime = _module(
        "cupy.cuda.runtime",
        getDeviceCount=lambda: state.devices,
        getDevice=lambda: state.device,
        setDevice=_set_device,
        memGetInfo=lambda: (state.total - state.used, state.total),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda number: {"name": b"Stand-in", "totalGlobalMem": state.total, "major": 9, "minor": 0},
        streamCaptureModeRelaxed=2,
        CUDARuntimeError=CUDARuntimeError,
    )
    memory = _module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
    cuda = _module(
        "cupy.cuda", runtime=runtime, memory=memory, Device=Device, Stream=Stream, Graph=Graph, alloc=alloc,
        Event=Event, get_elapsed_time=get_elapsed_time,
        MemoryPool=MemoryPool, MemoryPointer=MemoryPointer, using_allocator=using_allocator,
        get_current_stream=get_current_stream, is_available=lambda: state.devices > 0,
    )  # fmt: skip
    cupy = _module(
        "cupy", __version__="14.2.0", cuda=cuda, ndarray=ndarray, empty=empty, asarray=asarray, asnumpy=asnumpy,
        from_dlpack=from_dlpack, RawModule=RawModule, get_default_memory_pool=lambda: _pool,
        is_available=lambda: state.devices > 0,
    )  # fmt: skip
    driver = _module("cupy_backends.cuda.api.driver", launchKernel=launch_kernel)
    api = _module("cupy_backends.cuda.api", driver=driver)
    return {
        "cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.runtime": runtime, "cupy.cuda.memory": memory,
        "cupy_backends": _module("cupy_backends"), "cupy_backends.cuda": _module("cupy_backends.cuda"),
        "cupy_backends.cuda.api": api, "cupy_backends.cuda.api.driver": driver,
    }  # fmt: skip


@contextlib.contextmanager
def installed() -> Any:
    """Inside the block ``import cupy`` finds the stand-in, and fastdl has forgotten what it knew of CuPy."""
    ours = modules()
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES}
    for name in before:
        del sys.modules[name]
    sys.modules.update(ours)
    forget()
    try:
        yield ours["cupy"]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)
        forget()


_PACKAGES = ("cupy", "cupy_backends")


def forget() -> None:
    """Empties the caches of fastdl that hold what depends on CuPy."""
    from fastdl import _device, backend
    from fastdl.functional import _call
    from fastdl.kernels import registry

    for cache in (
        backend.missing, registry.cuda_missing, registry.choose, cuda_launch.missing, cuda_launch.device_place,
    ):  # fmt: skip
        cache.cache_clear()
    _device.forget()
    _call.plans.clear()
