"""The arrays of a case where CUDA kernels read them: on a device, or once more on the host, aligned.

Kernels choose wide accesses by the alignment of what they get, and the buffers of a case are not aligned on purpose. So
the first run of a CUDA row gets its arrays at multiples of 256 bytes, and the second one 8 bytes behind: the two have
to give the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .cases import Built, Case, Operand

GUARD, BYTE = 256, 0xA5


class _Stage(NamedTuple):
    """A copy of an operand's buffer, between guard bytes."""

    buffer: Any  # bytes, NumPy's or CuPy's
    start: int  # of the copy in it
    array: Any


class Staged:
    """Copies of a case's buffers for a row of ``backend``; ``shift`` bytes behind a multiple of 256."""

    def __init__(self, built: Built, case: Case, backend: str, shift: int) -> None:
        self._built, self._case = built, case
        place = _on_host if backend == "cuda-emulated" else _on_device
        self._stages = {name: place(to.memory, to.array, shift) for name, to in built.placed.items()}

    def arguments(self) -> list[Any]:
        """The arrays as the kernel takes them."""

        def found(argument: Any) -> Any:
            if argument is None:
                return None
            if isinstance(argument, Operand):
                return self._stages[argument.name].array
            return [self._stages[operand.name].array for operand in argument]

        return [found(argument) for argument in self._case.arguments]

    def copy_back(self) -> str:
        """Writes what the kernel has left into the case's buffers; the operand it wrote beside, or nothing."""
        beside = ""
        for name, stage in self._stages.items():
            memory = self._built.placed[name].memory
            found = stage.buffer if isinstance(stage.buffer, np.ndarray) else _downloaded(stage.buffer)
            end = stage.start + memory.size
            memory[...] = found[stage.start : end]
            if (found[: stage.start] != BYTE).any() or (found[end:] != BYTE).any():
                beside = name
        return beside


def _downloaded(buffer: Any) -> np.ndarray:
    from .._device import to_host

    return to_host(buffer)


def _copied(memory: np.ndarray, start: int) -> np.ndarray:
    buffer = np.full(start + memory.size + GUARD, BYTE, np.uint8)
    buffer[start : start + memory.size] = memory
    return buffer


def _offset(memory: np.ndarray, array: np.ndarray) -> int:
    """Bytes from a buffer's begin to its array's first element."""
    return array.__array_interface__["data"][0] - memory.__array_interface__["data"][0] if array.size else 0


def _on_host(memory: np.ndarray, array: np.ndarray, shift: int) -> _Stage:
    raw = np.full(memory.size + 3 * GUARD, BYTE, np.uint8)
    start = GUARD + -raw.__array_interface__["data"][0] % 256 + shift
    raw[start : start + memory.size] = memory
    staged = np.ndarray(array.shape, array.dtype, raw, start + _offset(memory, array), array.strides)
    staged.flags.writeable = array.flags.writeable
    return _Stage(raw, start, staged)


def _on_device(memory: np.ndarray, array: np.ndarray, shift: int) -> _Stage:
    import cupy

    from .._device import from_host

    start = GUARD + shift
    buffer = from_host(_copied(memory, start), int(cupy.cuda.runtime.getDevice()))
    first = buffer.data + (start + _offset(memory, array))
    return _Stage(buffer, start, cupy.ndarray(array.shape, array.dtype, first, array.strides))
