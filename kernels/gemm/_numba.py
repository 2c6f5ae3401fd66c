"""gemm in Numba, and the pieces of it that convolutions use; the contract is the folder's docstring.

Both operands are copied in blocks of the compute dtype: only this copy knows of strides and storage dtypes. A panel is
up to ``WIDE`` columns of b, row after row; sums lie in panels of the same width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import extending, types
from numba.np.arrayobj import make_array
from numpy.lib.stride_tricks import as_strided

from .._common.jit import bits, borrowing, compute_dtype, inline, intrinsic, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..problem import Problem

#: Columns of a panel; the last one may have a half or a quarter of them.
WIDE = 64
#: Multiply-adds in a nanosecond on one thread, roughly.
SPEED = 80.0


def span(a: np.ndarray, writeable: bool = False) -> tuple[np.ndarray, tuple[int, ...]]:
    """The memory from the first to the last element of ``a`` as a dense line, and where elements are in it.

    Element [i, j, ...] is at ``place[0] + i * place[1] + j * place[2] + ...``. This way there is one type, and one
    compiled kernel, for arrays of any strides.
    """
    a = bits(a)
    steps = [step // a.itemsize for step in a.strides]
    turned = a.transpose(0, 2, 3, 1) if a.ndim == 4 else a.T
    start = 0
    if a.flags.c_contiguous:
        line = a.reshape(-1)
    elif turned.flags.c_contiguous:
        line = turned.reshape(-1)
    else:
        start = sum((1 - size) * step for size, step in zip(a.shape, steps, strict=True) if step < 0)
        length = 1 + sum((size - 1) * abs(step) for size, step in zip(a.shape, steps, strict=True))
        lowest = a[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in steps)]
        line = as_strided(lowest, (length,), (a.itemsize,))
    if not writeable:  # one type for the inputs that are and those that are not
        line.flags.writeable = False
    return line, (start, *steps)


def padded(columns: int) -> int:
    """Columns of all panels together."""
    rest = columns % WIDE
    return columns - rest + (rest and max(16, 1 << (rest - 1).bit_length()))


# ---- vectors --------------------------------------------------------------------------------------------------------

#: Bytes of a vector register: LLVM vectorises loops, but sums stay in registers only where they are variables.
_REGISTER = 64 if binding.get_host_cpu_features().get("avx512f") else 32


class Vector(types.Type):
    """The type of a register full of numbers, for variables of kernels."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


def _llvm(dtype: Any) -> Any:
    if dtype == types.float64:
        return ir.VectorType(ir.DoubleType(), _REGISTER // 8)
    return ir.VectorType(ir.FloatType(), _REGISTER // 4)


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Any) -> None:
        super().__init__(manager, vector, _llvm(vector.dtype))


def _address(context: Any, builder: Any, array: Any, arguments: Any, target: Any) -> Any:
    value, at = arguments[:2]
    return builder.bitcast(builder.gep(make_array(array)(context, builder, value).data, [at]), target.as_pointer())


@intrinsic
def _vector_load(context: Any, a: Any, at: Any) -> Any:
    """a[at : at + lanes]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, a, arguments, _llvm(a.dtype))
        return builder.load(place, align=a.dtype.bitwidth // 8)

    return Vector(a.dtype)(a, types.intp), generate


@intrinsic
def _vector_store(context: Any, a: Any, at: Any, value: Any) -> Any:
    """a[at : at + lanes] = value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, a, arguments, _llvm(a.dtype))
        builder.store(arguments[2], place, align=a.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(a, types.intp, value), generate


@intrinsic
def _vector_of(context: Any, a: Any, at: Any) -> Any:
    """a[at] in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, word = _llvm(a.dtype), ir.IntType(32)
        value = builder.load(_address(context, builder, a, arguments, vector.element))
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(word, 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, vector.count), None))

    return Vector(a.dtype)(a, types.intp), generate


@intrinsic
def _multiply_add(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, c = arguments
        return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

    return c(c, c, c), generate


def _lanes(a: Any) -> Any:
    """Numbers in a register. (Only in kernels.)"""
    raise NotImplementedError("_lanes is for kernels")


@extending.overload(_lanes, inline="always")
def _lanes_of(a):  # type: ignore[no-untyped-def]
    lanes = _REGISTER * 8 // a.dtype.bitwidth
    return lambda a: lanes


# ---- register tiles -------------------------------------------------------------------------------------------------


@borrowing
def _tile_4x4(k, a, at, row, step, b, b_at, width, c, c_at):
    """c[4][4 registers] += a[4][k] b[k][4 registers]."""
    n = _lanes(c)
    c0, c1, c2, c3 = c_at, c_at + width, c_at + 2 * width, c_at + 3 * width
    s00, s01 = _vector_load(c, c0), _vector_load(c, c0 + n)
    s02, s03 = _vector_load(c, c0 + 2 * n), _vector_load(c, c0 + 3 * n)
    s10, s11 = _vector_load(c, c1), _vector_load(c, c1 + n)
    s12, s13 = _vector_load(c, c1 + 2 * n), _vector_load(c, c1 + 3 * n)
    s20, s21 = _vector_load(c, c2), _vector_load(c, c2 + n)
    s22, s23 = _vector_load(c, c2 + 2 * n), _vector_load(c, c2 + 3 * n)
    s30, s31 = _vector_load(c, c3), _vector_load(c, c3 + n)
    s32, s33 = _vector_load(c, c3 + 2 * n), _vector_load(c, c3 + 3 * n)
    for _ in range(k):
        b0, b1 = _vector_load(b, b_at), _vector_load(b, b_at + n)
        b2, b3 = _vector_load(b, b_at + 2 * n), _vector_load(b, b_at + 3 * n)
        v = _vector_of(a, at)
        s00, s01 = _multiply_add(v, b0, s00), _multiply_add(v, b1, s01)
        s02, s03 = _multiply_add(v, b2, s02), _multiply_add(v, b3, s03)
        v = _vector_of(a, at + row)
        s10, s11 = _multiply_add(v, b0, s10), _multiply_add(v, b1, s11)
        s12, s13 = _multiply_add(v, b2, s12), _multiply_add(v, b3, s13)
        v = _vector_of(a, at + 2 * row)
        s20, s21 = _multiply_add(v, b0, s20), _multiply_add(v, b1, s21)
        s22, s23 = _multiply_add(v, b2, s22), _multiply_add(v, b3, s23)
        v = _vector_of(a, at + 3 * row)
        s30, s31 = _multiply_add(v, b0, s30), _multiply_add(v, b1, s31)
        s32, s33 = _multiply_add(v, b2, s32), _multiply_add(v, b3, s33)
        at += step
        b_at += width
    _vector_store(c, c0, s00), _vector_store(c, c0 + n, s01)
    _vector_store(c, c0 + 2 * n, s02), _vector_store(c, c0 + 3 * n, s03)
    _vector_store(c, c1, s10), _vector_store(c, c1 + n, s11)
    _vector_store(c, c1 + 2 * n, s12), _vector_store(c, c1 + 3 * n, s13)
    _vector_store(c, c2, s20), _vector_store(c, c2 + n, s21)
    _vector_store(c, c2 + 2 * n, s22), _vector_store(c, c2 + 3 * n, s23)
    _vector_store(c, c3, s30), _vector_store(c, c3 + n, s31)
    _vector_store(c, c3 + 2 * n, s32), _vector_store(c, c3 + 3 * n, s33)


@borrowing
def _tile_4x2(k, a, at, row, step, b, b_at, width, c, c_at):
    """c[4][2 registers] += a[4][k] b[k][2 registers]."""
    n = _lanes(c)
    c0, c1, c2, c3 = c_at, c_at + width, c_at + 2 * width, c_at + 3 * width
    s00, s01 = _vector_load(c, c0), _vector_load(c, c0 + n)
    s10, s11 = _vector_load(c, c1), _vector_load(c, c1 + n)
    s20, s21 = _vector_load(c, c2), _vector_load(c, c2 + n)
    s30, s31 = _vector_load(c, c3), _vector_load(c, c3 + n)
    for _ in range(k):
        b0, b1 = _vector_load(b, b_at), _vector_load(b, b_at + n)
        v = _vector_of(a, at)
        s00, s01 = _multiply_add(v, b0, s00), _multiply_add(v, b1, s01)
        v = _vector_of(a, at + row)
        s10, s11 = _multiply_add(v, b0, s10), _multiply_add(v, b1, s11)
        v = _vector_of(a, at + 2 * row)
        s20, s21 = _multiply_add(v, b0, s20), _multiply_add(v, b1, s21)
        v = _vector_of(a, at + 3 * row)
        s30, s31 = _multiply_add(v, b0, s30), _multiply_add(v, b1, s31)
        at += step
        b_at += width
    _vector_store(c, c0, s00), _vector_store(c, c0 + n, s01)
    _vector_store(c, c1, s10), _vector_store(c, c1 + n, s11)
    _vector_store(c, c2, s20), _vector_store(c, c2 + n, s21)
    _vector_store(c, c3, s30), _vector_store(c, c3 + n, s31)


@borrowing
def _tile_8x1(k, a, at, row, step, b, b_at, width, c, c_at):
    """c[8][1 register] += a[8][k] b[k][1 register]."""
    c1, c2, c3, c4 = c_at + width, c_at + 2 * width, c_at + 3 * width, c_at + 4 * width
    c5, c6, c7 = c_at + 5 * width, c_at + 6 * width, c_at + 7 * width
    s0, s1, s2, s3 = _vector_load(c, c_at), _vector_load(c, c1), _vector_load(c, c2), _vector_load(c, c3)
    s4, s5, s6, s7 = _vector_load(c, c4), _vector_load(c, c5), _vector_load(c, c6), _vector_load(c, c7)
    for _ in range(k):
        b0 = _vector_load(b, b_at)
        s0, s1 = _multiply_add(_vector_of(a, at), b0, s0), _multiply_add(_vector_of(a, at + row), b0, s1)
        s2 = _multiply_add(_vector_of(a, at + 2 * row), b0, s2)
        s3 = _multiply_add(_vector_of(a, at + 3 * row), b0, s3)
        s4 = _multiply_add(_vector_of(a, at + 4 * row), b0, s4)
        s5 = _multiply_add(_vector_of(a, at + 5 * row), b0, s5)
        s6 = _multiply_add(_vector_of(a, at + 6 * row), b0, s6)
        s7 = _multiply_add(_vector_of(a, at + 7 * row), b0, s7)
        at += step
        b_at += width
    _vector_store(c, c_at, s0), _vector_store(c, c1, s1), _vector_store(c, c2, s2), _vector_store(c, c3, s3)
    _vector_store(c, c4, s4), _vector_store(c, c5, s5), _vector_store(c, c6, s6), _vector_store(c, c7, s7)


@borrowing
def panel_product(width, m, k, a, row, step, b, b_at, c, c_at):
    """c[m][width] += a[m][k] b[k][width], where m is a multiple of 8 and a[i, p] is at i * row + p * step."""
    n = _lanes(c)
    j = 0
    while j + 4 * n <= width:
        for i in range(0, m, 4):
            _tile_4x4(k, a, i * row, row, step, b, b_at + j, width, c, c_at + i * width + j)
        j += 4 * n
    while j + 2 * n <= width:
        for i in range(0, m, 4):
            _tile_4x2(k, a, i * row, row, step, b, b_at + j, width, c, c_at + i * width + j)
        j += 2 * n
    if j < width:
        for i in range(0, m, 8):
            _tile_8x1(k, a, i * row, row, step, b, b_at + j, width, c, c_at + i * width + j)


# ---- copies ---------------------------------------------------------------------------------------------------------


@inline
def width_of(columns):
    """Columns that the first panel of so many has."""
    return 64 if columns > 32 else 32 if columns > 16 else 16


@borrowing
def load(line, at, step, n, to, to_at):
    """to[to_at : to_at + n] = n elements of an array in the compute dtype."""
    target = to[to_at : to_at + n]
    if step == 1:
        source = line[at : at + n]
        for i in range(source.size):
            target[i] = widen(source[i])
    else:
        for i in range(target.size):
            target[i] = widen(line[at + i * step])


@borrowing
def clear(to, to_at, n):
    """to[to_at : to_at + n] = 0."""
    target = to[to_at : to_at + n]
    for i in range(target.size):
        target[i] = zero(to)


@borrowing
def store(sums, at, bias, bias_at, n, relu, line, line_at, step):
    """f(sums + bias) to n elements of an array, rounded."""
    source, added, none = sums[at : at + n], bias[bias_at : bias_at + n], zero(sums)
    if step == 1:
        target = line[line_at : line_at + n]
        if relu:
            for i in range(target.size):
                v = source[i] + added[i]
                target[i] = narrow(none if v <= none else v, line)
        else:
            for i in range(target.size):
                target[i] = narrow(source[i] + added[i], line)
    else:
        for i in range(source.size):
            v = source[i] + added[i]
            line[line_at + i * step] = narrow(none if relu and v <= none else v, line)


@borrowing
def _load_turned(line, at, n, step, k, to, width):
    """to[p][j] = element (p, j) of an array with n contiguous columns of k elements."""
    for p0 in range(0, k, 64):
        for j in range(n):
            first = at + j * step + p0
            for p in range(min(64, k - p0)):
                to[(p0 + p) * width + j] = widen(line[first + p])


@kernel
def _blocks(first, last, size, blocks, a, a_place, b, b_place, bias, relu, out, out_place):
    (m, k, n), (mc, kc, nc) = size, blocks
    a_at, a_row, a_step = a_place
    b_at, b_row, b_step = b_place
    out_at, out_row, out_step = out_place
    across = (n + nc - 1) // nc
    left, right = np.zeros(mc * kc, bias.dtype), np.zeros(kc * WIDE, bias.dtype)
    sums = np.empty(mc * nc, bias.dtype)
    for t in range(first, last):
        m0, n0 = t // across * mc, t % across * nc
        rows, columns = min(mc, m - m0), min(nc, n - n0)
        rows8 = (rows + 7) // 8 * 8  # what is in the last of them does not matter
        clear(sums, 0, sums.size)
        for k0 in range(0, k, kc):
            depth = min(kc, k - k0)
            if a_row == 1 and a_step != 1:
                for p in range(depth):
                    load(a, a_at + m0 + (k0 + p) * a_step, 1, rows, left, p * mc)
                row, step = 1, mc
            else:
                for i in range(rows):
                    load(a, a_at + (m0 + i) * a_row + k0 * a_step, a_step, depth, left, i * kc)
                row, step = kc, 1
            for j0 in range(0, columns, WIDE):
                many = min(WIDE, columns - j0)
                width = width_of(many)
                at = b_at + k0 * b_row + (n0 + j0) * b_step
                if b_row == 1 and b_step != 1:
                    _load_turned(b, at, many, b_step, depth, right, width)
                else:
                    for p in range(depth):
                        load(b, at + p * b_row, b_step, many, right, p * width)
                panel_product(width, rows8, depth, left, row, step, right, 0, sums, j0 * mc)
        for j0 in range(0, columns, WIDE):
            many = min(WIDE, columns - j0)
            width = width_of(many)
            for i in range(rows):
                at = out_at + (m0 + i) * out_row + (n0 + j0) * out_step
                store(sums, j0 * mc + i * width, bias, n0 + j0, many, relu, out, at, out_step)


def gemm_forward(
    problem: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(a @ b + bias)."""
    (m, k), n = a.shape, b.shape[1]
    if out.size == 0:
        return
    # Blocks of even size; rows in eights, as the tiles take them.
    mc = -(-m // -(-m // (256 if m > 512 else 128)) // 8) * 8
    kc = max(1, -(-k // max(1, -(-k // 256))))
    nc = padded(min(n, 256))
    added = np.zeros(n, compute_dtype(out)) if bias is None else np.ascontiguousarray(bias, compute_dtype(out))
    tasks = -(-m // mc) * -(-n // nc)
    parallel(
        _blocks, tasks, threads, m * n * (k + 8) / SPEED, (m, k, n), (mc, kc, nc), *span(a), *span(b), added,
        problem.epilogue == "bias_relu", *span(out, True),
    )  # fmt: skip
