"""Whole registers in kernels: loads, stores and arithmetic of as many numbers as a vector register holds.

LLVM vectorises loops, but not all: an inner loop over the channels of one pixel is too short for its checks, and what
goes from one tap to the next stays in registers only where it is a variable. ``load`` and ``store`` widen and round
halves as ``jit.widen`` and ``jit.narrow`` do. Indices count from the start of a contiguous line and are not checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import extending, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.np.arrayobj import make_array

from .jit import HARDWARE_HALVES, inline, intrinsic, odd_float32, portable_narrow, portable_widen

#: Bytes of a register.
REGISTER = 64 if binding.get_host_cpu_features().get("avx512f") else 32
#: Bytes between what is worked on and what is fetched, where memory is read in order (_common/stream.h).
AHEAD = 5120

_CONTRACT = ("contract",)
_LLVM = {
    types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1),
    types.int32: ir.IntType(32), types.uint8: ir.IntType(8), types.uint16: ir.IntType(16), types.int16: ir.IntType(16),
}  # fmt: skip


class Vector(types.Type):
    """The type of a register full of numbers, for variables of kernels."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype}, {lanes})")

    @property
    def llvm(self) -> Any:
        """The type in LLVM."""
        return ir.VectorType(_LLVM[self.dtype], self.lanes)

    def of(self, dtype: Any) -> Vector:
        """As many numbers of another dtype."""
        return Vector(dtype, self.lanes)


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Any) -> None:
        super().__init__(manager, vector, vector.llvm)


def _compute(a: Any) -> Any:
    return types.float64 if a.dtype == types.float64 else types.float32


def _register(a: Any) -> Vector:
    """A register of an array's compute dtype."""
    return Vector(_compute(a), REGISTER * 8 // _compute(a).bitwidth)


def _address(context: Any, builder: Any, array: Any, target: Any, value: Any, at: Any) -> Any:
    return builder.bitcast(builder.gep(make_array(array)(context, builder, value).data, [at]), target.as_pointer())


def _all(builder: Any, vector: Vector, value: Any) -> Any:
    word = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector.llvm, ir.Undefined), value, ir.Constant(word, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, vector.lanes), None))


def _each(context: Any, builder: Any, function: Any, value: Any, source: Vector, target: Vector) -> Any:
    """``function`` of one lane after the other."""
    found = ir.Constant(target.llvm, ir.Undefined)
    for i in range(source.lanes):
        at = ir.Constant(ir.IntType(32), i)
        lane = builder.extract_element(value, at)
        lane = context.compile_internal(builder, function, target.dtype(source.dtype), [lane])
        found = builder.insert_element(found, lane, at)
    return found


def _widened(context: Any, builder: Any, value: Any, stored: Vector, wide: Vector) -> Any:
    if stored.dtype == types.uint16 and HARDWARE_HALVES:
        return builder.fpext(builder.bitcast(value, ir.VectorType(ir.HalfType(), stored.lanes)), wide.llvm)
    if stored.dtype == types.uint16:
        return _each(context, builder, lambda v: portable_widen(v), value, stored, wide)
    if stored.dtype == types.int16:
        words = wide.of(types.int32).llvm
        high = builder.shl(builder.zext(value, words), ir.Constant(words, [16] * stored.lanes))
        return builder.bitcast(high, wide.llvm)
    return value


def _narrowed(context: Any, builder: Any, value: Any, wide: Vector, stored: Vector) -> Any:
    if wide.dtype == types.float64 and stored.dtype in (types.uint16, types.int16):
        single = wide.of(types.float32)
        value, wide = _each(context, builder, lambda v: odd_float32(v), value, wide, single), single
    if stored.dtype == types.uint16 and HARDWARE_HALVES:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), stored.lanes)), stored.llvm)
    if stored.dtype == types.uint16:
        return _each(context, builder, lambda v: portable_narrow(v), value, wide, stored)
    if stored.dtype == types.int16:
        words = wide.of(types.int32).llvm

        def constant(number: int) -> Any:
            return ir.Constant(words, [number] * stored.lanes)

        word = builder.bitcast(value, words)
        odd = builder.and_(builder.lshr(word, constant(16)), constant(1))
        rounded = builder.add(word, builder.add(odd, constant(0x7FFF)))
        nan = builder.or_(word, constant(0x400000))
        found = builder.select(builder.fcmp_unordered("uno", value, value), nan, rounded)
        return builder.trunc(builder.lshr(found, constant(16)), stored.llvm)
    if stored == wide:
        return value
    return builder.fptrunc(value, stored.llvm) if stored.dtype == types.float32 else builder.fpext(value, stored.llvm)


def _loading(a: Any, wide: Vector) -> Any:
    stored = wide.of(a.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, a, stored.llvm, *arguments)
        return _widened(context, builder, builder.load(place, align=a.dtype.bitwidth // 8), stored, wide)

    return wide(a, types.intp), generate


def _storing(a: Any, value: Vector, around: bool) -> Any:
    stored, size = value.of(a.dtype), a.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = _narrowed(context, builder, arguments[2], value, stored)
        place = _address(context, builder, a, stored.llvm, *arguments[:2])
        word = builder.store(number, place, align=min(REGISTER, stored.lanes * size) if around else size)
        if around:
            word.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.none(a, types.intp, value), generate


# ---- memory ---------------------------------------------------------------------------------------------------------


def lanes(a: Any) -> Any:
    """Numbers of the compute dtype of ``a`` in a register. (Only in kernels, as all of these.)"""
    raise NotImplementedError("lanes is for kernels")


@extending.overload(lanes, inline="always")
def _lanes(a):  # type: ignore[no-untyped-def]
    count = _register(a).lanes
    return lambda a: count


@intrinsic
def load(context: Any, a: Any, at: Any) -> Any:
    """a[at], a[at + 1], ... in the compute dtype."""
    return _loading(a, _register(a))


@intrinsic
def load_16(context: Any, a: Any, at: Any) -> Any:
    """a[at : at + 16], whatever a register holds: for sums whose order is the same on every processor."""
    return _loading(a, Vector(_compute(a), 16))


@intrinsic
def store(context: Any, a: Any, at: Any, value: Any) -> Any:
    """a[at], a[at + 1], ... = value, rounded."""
    return _storing(a, value, around=False)


@intrinsic
def stream(context: Any, a: Any, at: Any, value: Any) -> Any:
    """The same around the caches: a[at] must be aligned to a register, or to what is stored if that is less.

    See ``fence``, and ``streaming.py`` for when it pays.
    """
    return _storing(a, value, around=True)


@intrinsic
def fence(context: Any) -> Any:
    """After the last ``stream``: what is stored later comes later, such as the word that a task is done."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def misaligned(context: Any, a: Any, at: Any) -> Any:
    """Bytes from the register boundary before a[at]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.ptrtoint(builder.gep(make_array(a)(context, builder, arguments[0]).data, [arguments[1]]),
                                   ir.IntType(64))  # fmt: skip
        return builder.and_(address, ir.Constant(ir.IntType(64), REGISTER - 1))

    return types.int64(a, types.intp), generate


@intrinsic
def fetch(context: Any, a: Any, at: Any) -> Any:
    """Brings a[at] nearer; it may lie outside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(make_array(a)(context, builder, arguments[0]).data, [arguments[1]]), byte)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte] + [word] * 3)
        )
        builder.call(call, [place, *(ir.Constant(word, v) for v in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(a, types.intp), generate


@intrinsic
def every(context: Any, a: Any, value: Any) -> Any:
    """``value`` in every lane of a register of the compute dtype of ``a``."""
    wide = _register(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _all(builder, wide, arguments[1])

    return wide(a, wide.dtype), generate


@intrinsic
def load_words(context: Any, a: Any, words: Any, at: Any) -> Any:
    """words[at], ... (uint8 or int32) as int32, as many as a register holds of the compute dtype of ``a``."""
    wide = _register(a).of(types.int32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = wide.of(words.dtype).llvm
        value = builder.load(_address(context, builder, words, stored, *arguments[1:]), align=words.dtype.bitwidth // 8)
        return value if stored == wide.llvm else builder.zext(value, wide.llvm)

    return wide(a, words, types.intp), generate


@intrinsic
def numbers(context: Any, a: Any, words: Any) -> Any:
    """int32 numbers in the compute dtype of ``a``."""
    wide = words.of(_compute(a))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sitofp(arguments[1], wide.llvm)

    return wide(a, words), generate


@intrinsic
def every_word(context: Any, a: Any, value: Any) -> Any:
    """An int32 in as many lanes."""
    wide = _register(a).of(types.int32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _all(builder, wide, arguments[1])

    return wide(a, types.int32), generate


@intrinsic
def store_words(context: Any, words: Any, at: Any, value: Any) -> Any:
    """words[at], ... = the int32 numbers of ``value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = value.of(words.dtype).llvm
        number = arguments[2] if stored == value.llvm else builder.trunc(arguments[2], stored)
        place = _address(context, builder, words, stored, *arguments[:2])
        builder.store(number, place, align=words.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(words, types.intp, value), generate


@inline
def scratch(size, value):
    """An array of so many ``value``, aligned to a register. (np.full's may begin anywhere: each load is two.)"""
    a = np.full(size + REGISTER // 4, value)
    first = (REGISTER - misaligned(a, 0)) % REGISTER // a.itemsize
    return a[first : first + size]


# ---- arithmetic -----------------------------------------------------------------------------------------------------


@intrinsic
def choose(context: Any, mask: Any, value: Any, other: Any) -> Any:
    """``value`` where the mask is true, else ``other``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return value(mask, value, value), generate


def _define(function: Any, result: Callable[[Vector], Vector], emit: Callable[..., Any]) -> None:
    """``function``, an operator, of vectors of one type."""

    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, arguments: Any, keywords: Any) -> Any:
            first = arguments[0]
            if isinstance(first, Vector) and all(other == first for other in arguments):
                return signature(result(first), *arguments)
            return None

    infer_global(function)(Typing)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, isinstance(signature.args[0].dtype, types.Float), *arguments)

    extending.lower_builtin(function, *[Vector] * (1 if function is operator.invert else 2))(generate)


def _same(vector: Vector) -> Vector:
    return vector


def _mask(vector: Vector) -> Vector:
    return vector.of(types.boolean)


_define(operator.add, _same, lambda b, real, v, w: b.fadd(v, w, flags=_CONTRACT) if real else b.add(v, w))
_define(operator.sub, _same, lambda b, real, v, w: b.fsub(v, w, flags=_CONTRACT) if real else b.sub(v, w))
_define(operator.mul, _same, lambda b, real, v, w: b.fmul(v, w, flags=_CONTRACT) if real else b.mul(v, w))
_define(operator.truediv, _same, lambda b, real, v, w: b.fdiv(v, w, flags=_CONTRACT))
_define(operator.le, _mask, lambda b, real, v, w: b.fcmp_ordered("<=", v, w) if real else b.icmp_signed("<=", v, w))
_define(operator.gt, _mask, lambda b, real, v, w: b.fcmp_ordered(">", v, w) if real else b.icmp_signed(">", v, w))
_define(operator.eq, _mask, lambda b, real, v, w: b.fcmp_ordered("==", v, w) if real else b.icmp_signed("==", v, w))
_define(operator.and_, _same, lambda b, real, v, w: b.and_(v, w))
_define(operator.invert, _same, lambda b, real, v: b.not_(v))
