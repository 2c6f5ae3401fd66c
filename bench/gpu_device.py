"""Where the GPU benchmark runs: arrays that fastdl and PyTorch share, calls recorded as CUDA graphs, and their times.

``Gpu`` is a device. ``Emulation`` has the same methods on a machine without one: NumPy arrays, the backend
"cuda-emulated", PyTorch on the CPU, and times that mean nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
from calls import Draw

import fastdl
from fastdl import backend
from fastdl.bench.replay import Replay, first_line

Call = Callable[[], Any]

#: Random values are parts of an array of this many.
POOL = 2**26
#: Sets of operands at most, which calls take in turns: as many as exceed the second-level cache three times.
SETS = 32
#: "tf32" is float32 with tensor cores allowed.
STORAGE = {"float32": "float32", "tf32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 - makes the name known to NumPy
    return np.dtype(name)


def missing(precision: str) -> str:
    """Why arrays of this precision cannot be made here; empty where they can."""
    try:
        dtype_of(STORAGE[precision])
    except ImportError:
        return "bfloat16 needs the package ml_dtypes"
    return ""


class Recorded:
    """Calls that are made again and again, in the same order."""

    def __init__(self, calls: int, run: Callable[[int], float], reason: str = "") -> None:
        self._calls, self._run = calls, run
        self.reason = reason  # why they are launched one by one; empty where a graph is replayed

    def seconds(self, times: int) -> float:
        """Of one call, when all are made so many times."""
        return self._run(times) / (times * self._calls)

    def times_in(self, seconds: float) -> int:
        """How many times take so long; tries it."""
        self.seconds(1)
        once = self.seconds(1) * self._calls
        return max(1, min(2000, math.ceil(seconds / max(once, 1e-6))))


def interleaved(recorded: dict[str, Recorded], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a call, so many times for each, in turns that take ``seconds``."""
    times = {name: each.times_in(seconds) for name, each in recorded.items()}
    found: dict[str, list[float]] = {name: [] for name in recorded}
    for _ in range(repeats):
        for name, each in recorded.items():
            found[name].append(each.seconds(times[name]))
    return found


class Place:
    """What both have."""

    emulated = False
    torch_device = "cuda"

    def __init__(self) -> None:
        import torch

        self.torch: Any = torch
        self._pool: Any = None

    # -- arrays --

    def array(self, tensor: Any) -> Any:
        """fastdl's array over a tensor's memory."""
        raise NotImplementedError

    def tensor(self, a: np.ndarray) -> Any:
        """A copy of an array of the host, in its memory order."""
        if a.dtype.name == "bfloat16":
            return self.torch.from_numpy(a.view(np.int16)).to(self.torch_device, copy=True).view(self.torch.bfloat16)
        return self.torch.from_numpy(a).to(self.torch_device, copy=True)

    def numpy(self, tensor: Any) -> np.ndarray:
        """A tensor's values."""
        here = tensor.detach().cpu()
        if here.dtype == self.torch.bfloat16:
            return here.view(self.torch.int16).numpy().view(dtype_of("bfloat16"))  # type: ignore[no-any-return]
        return here.numpy()  # type: ignore[no-any-return]

    def normal(self, shape: Sequence[int], dtype: str, scale: float = 1.0) -> Any:
        """A contiguous tensor of normal values."""
        torch, count = self.torch, math.prod(shape)
        if self._pool is None:
            generator = torch.Generator(self.torch_device).manual_seed(0)
            size = 2**16 if self.emulated else POOL
            self._pool = torch.randn(size, device=self.torch_device, generator=generator)
            self._next = 0
        parts = []
        while count > 0:  # from the pool, again from its start where it ends
            part = self._pool[self._next : self._next + count]
            self._next = (self._next + len(part)) % len(self._pool)
            parts.append(part)
            count -= len(part)
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (values * scale).to(getattr(torch, dtype)).reshape(tuple(shape))

    # -- settings --

    def ours(self, precision: str) -> AbstractContextManager[Any]:
        """In which fastdl is called."""
        stack = ExitStack()
        if self.emulated:
            stack.enter_context(backend.use_backend("cuda-emulated"))
        stack.enter_context(backend.tf32(precision == "tf32"))
        return stack

    @contextmanager
    def theirs(self, precision: str, autotune: bool = True) -> Iterator[None]:
        """In which PyTorch is called: the fastest algorithm of cuDNN, sums in float32."""
        backends = self.torch.backends
        settings = [
            (backends.cudnn, "benchmark", autotune),
            (backends.cudnn, "allow_tf32", precision == "tf32"),
            (backends.cuda.matmul, "allow_tf32", precision == "tf32"),
            (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
            (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        ]
        before = [(where, name, getattr(where, name)) for where, name, _ in settings]
        for where, name, value in settings:
            setattr(where, name, value)
        try:
            yield
        finally:
            for where, name, value in before:
                setattr(where, name, value)

    # -- times --

    def sets(self, nbytes: float) -> int:
        """How many sets of operands of so many bytes."""
        raise NotImplementedError

    def record_ours(self, calls: Sequence[Call], precision: str) -> Recorded:
        """Calls of fastdl."""
        raise NotImplementedError

    def record_theirs(self, makers: Sequence[Callable[[], Call]], precision: str) -> Recorded:
        """Calls of PyTorch, which are made here: a gradient runs on the stream of its forward pass."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Waits for all work."""

    def release(self) -> None:
        """Gives memory back where little is left."""


class Gpu(Place):
    """The current CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        import cupy

        self._cupy: Any = cupy
        properties = self.torch.cuda.get_device_properties(0)
        self.l2 = int(getattr(properties, "L2_cache_size", 0)) or 2**26
        self.torch.cuda.init()

    def array(self, tensor: Any) -> Any:
        cupy, size = self._cupy, tensor.element_size()
        name = str(tensor.dtype).removeprefix("torch.")
        reach = size + sum((n - 1) * s * size for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), reach, tensor, 0)
        strides = tuple(s * size for s in tensor.stride())
        return cupy.ndarray(tuple(tensor.shape), dtype_of(name), cupy.cuda.MemoryPointer(memory, 0), strides)

    def sets(self, nbytes: float) -> int:
        return max(2, min(SETS, math.ceil(3 * self.l2 / max(nbytes, 1))))

    def record_ours(self, calls: Sequence[Call], precision: str) -> Recorded:
        self.synchronize()
        replay = Replay(calls, lambda: self.ours(precision))
        return Recorded(len(calls), replay.seconds, replay.reason)

    def record_theirs(self, makers: Sequence[Callable[[], Call]], precision: str) -> Recorded:
        cuda = self.torch.cuda
        self.synchronize()
        stream = cuda.Stream()
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        graph: Any = cuda.CUDAGraph()
        kept, reason = [], ""
        with cuda.stream(stream), self.theirs(precision):
            calls = [make() for make in makers]
            for _ in range(2):
                for call in calls:
                    call()
            stream.synchronize()
            try:
                graph.capture_begin()
                try:
                    kept = [call() for call in calls]
                finally:
                    graph.capture_end()
            except Exception as error:
                graph, reason = None, first_line(error)

        def run(times: int) -> float:
            with cuda.stream(stream), self.theirs(precision):
                begin.record(stream)
                for _ in range(times):
                    if graph is not None:
                        graph.replay()
                    else:
                        for call in calls:
                            call()
                end.record(stream)
                end.synchronize()
            assert kept is not None
            return float(begin.elapsed_time(end)) / 1e3

        return Recorded(len(makers), run, reason)

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()

    def release(self) -> None:
        free, total = self.torch.cuda.mem_get_info()
        if free < total / 3:
            self.synchronize()
            self.torch.cuda.empty_cache()
            self._cupy.get_default_memory_pool().free_all_blocks()


class Emulation(Place):
    """A machine without a GPU."""

    emulated = True
    torch_device = "cpu"

    def array(self, tensor: Any) -> Any:
        return self.numpy(tensor)  # over the same memory

    def sets(self, nbytes: float) -> int:
        return 2

    def record_ours(self, calls: Sequence[Call], precision: str) -> Recorded:
        def run(times: int) -> float:
            begin = time.perf_counter()
            with self.ours(precision):
                for call in list(calls) * times:
                    call()
            return time.perf_counter() - begin

        return Recorded(len(calls), run, "emulated")

    def record_theirs(self, makers: Sequence[Callable[[], Call]], precision: str) -> Recorded:
        calls = [make() for make in makers]

        def run(times: int) -> float:
            begin = time.perf_counter()
            for call in calls * times:
                call()
            return time.perf_counter() - begin

        return Recorded(len(calls), run, "emulated")


class DeviceDraw(Draw):
    """Random values in the memory of a place, as fastdl's arrays over tensors."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._tensors: dict[int, tuple[Any, Any]] = {}  # id of an array -> itself, its tensor

    def _shared(self, tensor: Any) -> Any:
        a = self._place.array(tensor)
        self._tensors[id(a)] = a, tensor
        return a

    def tensor_of(self, a: Any) -> Any:
        """The tensor under an array that was drawn here; None for another."""
        return self._tensors.get(id(a), (None, None))[1]

    def image(self, shape: tuple[int, ...], dtype: str) -> Any:
        if len(shape) != 4:
            return self._shared(self._place.normal(shape, dtype))
        n, c, h, w = shape
        return self._shared(self._place.normal((n, h, w, c), dtype).permute(0, 3, 1, 2))

    def parameter(self, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Any:
        return self._shared(self._place.normal(shape, dtype, scale))

    def factors(self, count: int, dtype: str) -> Any:
        return self._shared(self._place.tensor(self._rng.uniform(0.5, 1.5, count).astype(dtype_of(dtype))))

    def labels(self, count: int, classes: int) -> Any:
        return self._shared(self._place.tensor(self._rng.integers(0, classes, count)))

    def state(self, seed: int, step: int) -> Any:
        """An array, and no tensor's memory: PyTorch has its own masks."""
        return fastdl.to_device(np.array([seed, step], np.uint64), self._place.torch_device)
