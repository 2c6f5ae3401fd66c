"""Vectors in Numba kernels: sums that stay in registers, and lines around the caches.

LLVM makes vectors of plain loops, but keeps no sixteen sums of an array in registers, and takes no maximum that passes
over NaN: :class:`Lanes` are for those.

Large results are stored around the caches; the rule and the reasons are those of ``stream.h``. LLVM makes no such
stores. So a kernel has, beside its loop, an intrinsic that does 16 elements at once, which :func:`line` makes of a
formula in LLVM's terms. Both give the same bits: a formula here rounds each of its operations. (relu from and to
memory, 51 MB each, one thread: 2.5 ms plainly, 1.9 around the caches, 1.8 with the input fetched ahead. Blocks worked
out in a buffer and copied from there: 4 ms.)

A kernel that goes through contiguous arrays looks like this, where ``streams`` is what :func:`streams` says::

    head, tail = whole_lines(first, last, streams, out)
    for at in range(head, tail, LANES):
        _relu(at, zero, x, None, out)
    for a, b in ((first, head), (tail, last)):
        ...  # the loop over x[a:b] and out[a:b]
    fence()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.np.arrayobj import make_array

from .jit import HARDWARE_HALVES, borrowing, intrinsic

#: Results of at least so many bytes go around the caches.
STREAM_BYTES = 8 << 20
#: Elements that an intrinsic does at once.
LANES = 16
#: Bytes between what is computed and what is fetched.
_AHEAD = 5120
_WORD, _LONG, _FLOAT, _DOUBLE = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


def _possible(names: set[str]) -> bool:
    """Whether there are lines for these dtypes, as :func:`bits` gives them: one rounding, by the processor."""
    return "int16" not in names and ("uint16" not in names or (HARDWARE_HALVES and "float64" not in names))


def streams(out: np.ndarray, *inputs: np.ndarray) -> bool:
    """Whether contiguous arrays go line by line around the caches: where ``out`` is large, and no input's memory."""
    if out.nbytes < STREAM_BYTES:
        return False
    if not _possible({a.dtype.name for a in (out, *inputs)}):
        return False
    start = out.__array_interface__["data"][0]
    return start % out.itemsize == 0 and all(a.__array_interface__["data"][0] != start for a in inputs)


def _element(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    return builder.gep(make_array(array)(context, builder, value).data, [at])


def _load(context: Any, builder: Any, array: Any, value: Any, at: Any, wide: Any) -> Any:
    """16 elements of an array in the dtype ``wide``; what lies _AHEAD bytes behind them is fetched."""
    place, dtype, count = _element(context, builder, array, value, at), array.dtype, ir.VectorType
    byte = ir.IntType(8).as_pointer()
    ahead = builder.gep(builder.bitcast(place, byte), [_LONG(_AHEAD)])
    name, form = "llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD])
    prefetch = builder.module.globals.get(name) or ir.Function(builder.module, form, name)
    for line in range(0, LANES * dtype.bitwidth // 8, 64):
        builder.call(prefetch, [builder.gep(ahead, [_LONG(line)]), _WORD(0), _WORD(3), _WORD(1)])
    stored = ir.HalfType() if dtype == types.uint16 else context.get_data_type(dtype)
    found = builder.load(builder.bitcast(place, count(stored, LANES).as_pointer()), align=dtype.bitwidth // 8)
    if dtype in (types.uint8, types.boolean):
        return builder.uitofp(found, count(wide, LANES))
    return found if stored == wide else builder.fpext(found, count(wide, LANES))


def line(formula: Callable[..., Any]) -> Any:
    """An intrinsic ``f(at, number, a, b, out)``: out[at : at + 16] = formula(number, a, b) of the same elements.

    ``formula`` is called with LLVM's builder, a vector of numbers, and those of a, and of b if it is not None. out[at]
    lies at a multiple of 64 bytes or, in halves, of 32.
    """

    @intrinsic
    def store(context: Any, at: Any, number: Any, a: Any, b: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at, number, *arrays = arguments
            given = [(t, v) for t, v in zip((a, b), arrays[:2], strict=True) if t != types.none]
            names = {str(t.dtype) for t, _ in given} | {str(out.dtype)}
            if not _possible(names):
                return context.get_dummy_value()
            wide = _DOUBLE if "float64" in names else _FLOAT
            vector = ir.VectorType(wide, LANES)
            values = [_load(context, builder, t, v, at, wide) for t, v in given]
            if number.type != wide:
                number = builder.fptrunc(number, wide)
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, _WORD(0))
            all_lanes = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_WORD, LANES), None))
            found = formula(builder, all_lanes, *values)
            stored = ir.HalfType() if out.dtype == types.uint16 else context.get_data_type(out.dtype)
            if stored != wide:
                found = builder.fptrunc(found, ir.VectorType(stored, LANES))
            place = _element(context, builder, out, arrays[2], at)
            place = builder.bitcast(place, ir.VectorType(stored, LANES).as_pointer())
            done = builder.store(found, place, align=min(64, LANES * out.dtype.bitwidth // 8))
            done.set_metadata("nontemporal", builder.module.add_metadata([_WORD(1)]))
            return context.get_dummy_value()

        return types.none(types.intp, number, a, b, out), generate

    return store


@intrinsic
def fence(context: Any) -> Any:
    """After the last line of a task: what is stored later, such as that the task is done, is seen later."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def _misplaced(context: Any, a: Any, at: Any) -> Any:
    """How far the address of a[at] is behind a multiple of 64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.ptrtoint(_element(context, builder, a, *arguments), _LONG)
        return builder.and_(address, _LONG(63))

    return types.int64(a, types.intp), generate


@borrowing
def whole_lines(first, last, streams, out):
    """From where to where a kernel stores around the caches: nowhere (last, last) without ``streams``."""
    if not streams:
        return last, last
    head = min(last, first + (64 - _misplaced(out, first)) % 64 // out.itemsize)
    return head, head + (last - head) // LANES * LANES


# ---- sixteen numbers in registers -----------------------------------------------------------------------------------


class Lanes(types.Type):
    """The type of 16 numbers in one or two vector registers, for variables of kernels."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


def _vector(dtype: Any) -> Any:
    return ir.VectorType(_DOUBLE if dtype == types.float64 else _FLOAT, LANES)


@extending.register_model(Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, _vector(lanes.dtype))


@intrinsic
def lanes_load(context: Any, a: Any, at: Any) -> Any:
    """a[at : at + 16] of an array of float32 or float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(_element(context, builder, a, *arguments), _vector(a.dtype).as_pointer())
        return builder.load(place, align=a.dtype.bitwidth // 8)

    return Lanes(a.dtype)(a, types.intp), generate


@intrinsic
def lanes_store(context: Any, a: Any, value: Any) -> Any:
    """a[:16] = value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _element(context, builder, a, arguments[0], _LONG(0))
        place = builder.bitcast(place, _vector(a.dtype).as_pointer())
        builder.store(arguments[1], place, align=a.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(a, value), generate


@intrinsic
def lanes_add(context: Any, a: Any, b: Any) -> Any:
    """a + b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return a(a, b), generate


@intrinsic
def lanes_larger(context: Any, a: Any, b: Any) -> Any:
    """a where it is larger than b, else b: NaN in a is passed over."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return a(a, b), generate
