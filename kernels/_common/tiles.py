"""What gemm and convolutions in Numba are made of: vectors, register tiles, copies of lines, panels.

A panel is up to ``WIDE`` columns of a matrix, row after row; sums lie in panels of the same width. A tile adds products
of rows and a panel to sums that stay in registers meanwhile. Packing knows strides and storage dtypes, tiles do not.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .jit import OPTIONS, bits, borrowing, inline, narrow, njit, widen, zero
from .vectors import REGISTER, choose, every, lanes, load, misaligned, store, stream

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
    place, length = _place(a.shape, a.strides, a.itemsize)
    if a.flags.c_contiguous:
        line = a.reshape(-1)
    elif a.ndim == 4 and (turned := a.transpose(0, 2, 3, 1)).flags.c_contiguous:
        line = turned.reshape(-1)
    else:
        lowest = a[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in a.strides)]
        line = as_strided(lowest, (length,), (a.itemsize,))
    if not writeable:  # one type for the inputs that are and those that are not
        line.flags.writeable = False
    return line, place


@functools.lru_cache(maxsize=4096)
def _place(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], int]:
    """Where elements are, and how long the line is. (A call's microsecond goes into this again and again.)"""
    steps = tuple(step // itemsize for step in strides)
    start = sum((1 - size) * step for size, step in zip(shape, steps, strict=True) if step < 0)
    return (start, *steps), 1 + sum((size - 1) * abs(step) for size, step in zip(shape, steps, strict=True))


def aligned(size: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Zeros from a cache line's start on. (NumPy's begin 16 bytes behind one: each load of a register is two.)"""
    a = np.zeros(size + 64 // dtype.itemsize, dtype)
    first = -a.__array_interface__["data"][0] % 64 // dtype.itemsize
    return a[first : first + size]


def padded(columns: int) -> int:
    """Columns of all panels together."""
    rest = columns % WIDE
    return columns - rest + (rest and max(16, 1 << (rest - 1).bit_length()))


# ---- register tiles -------------------------------------------------------------------------------------------------
#
# Element [i, (s, p)] of a is at at + i * row + starts[first + s] + p * step. Calls would move forty arguments: inlined.
# A sum that is not a variable would be in memory.

#: Whether sixteen sums, four factors and one more fit into the registers: AVX2 has sixteen.
_FOURS = REGISTER == 64


def tile(function: Any) -> Any:
    """A function that is part of those that call it, without memory of its own."""
    return njit(_nrt=False, forceinline=True, **OPTIONS)(function)


@tile
def _tile_4x4(segments, starts, first, length, a, at, row, step, b, b_at, b_step, c, c_at, c_step):
    """c[4][4 registers] += a[4][segments, length] b[segments, length][4 registers]."""
    n = lanes(c)
    c0, c1, c2, c3 = c_at, c_at + c_step, c_at + 2 * c_step, c_at + 3 * c_step
    s00, s01 = load(c, c0), load(c, c0 + n)
    s02, s03 = load(c, c0 + 2 * n), load(c, c0 + 3 * n)
    s10, s11 = load(c, c1), load(c, c1 + n)
    s12, s13 = load(c, c1 + 2 * n), load(c, c1 + 3 * n)
    s20, s21 = load(c, c2), load(c, c2 + n)
    s22, s23 = load(c, c2 + 2 * n), load(c, c2 + 3 * n)
    s30, s31 = load(c, c3), load(c, c3 + n)
    s32, s33 = load(c, c3 + 2 * n), load(c, c3 + 3 * n)
    for segment in range(segments):
        i = at + starts[first + segment]
        for _ in range(length):
            b0, b1 = load(b, b_at), load(b, b_at + n)
            b2, b3 = load(b, b_at + 2 * n), load(b, b_at + 3 * n)
            v = every(a, a[np.uintp(i)])
            s00, s01 = v * b0 + s00, v * b1 + s01
            s02, s03 = v * b2 + s02, v * b3 + s03
            v = every(a, a[np.uintp(i + row)])
            s10, s11 = v * b0 + s10, v * b1 + s11
            s12, s13 = v * b2 + s12, v * b3 + s13
            v = every(a, a[np.uintp(i + 2 * row)])
            s20, s21 = v * b0 + s20, v * b1 + s21
            s22, s23 = v * b2 + s22, v * b3 + s23
            v = every(a, a[np.uintp(i + 3 * row)])
            s30, s31 = v * b0 + s30, v * b1 + s31
            s32, s33 = v * b2 + s32, v * b3 + s33
            i += step
            b_at += b_step
    store(c, c0, s00), store(c, c0 + n, s01)
    store(c, c0 + 2 * n, s02), store(c, c0 + 3 * n, s03)
    store(c, c1, s10), store(c, c1 + n, s11)
    store(c, c1 + 2 * n, s12), store(c, c1 + 3 * n, s13)
    store(c, c2, s20), store(c, c2 + n, s21)
    store(c, c2 + 2 * n, s22), store(c, c2 + 3 * n, s23)
    store(c, c3, s30), store(c, c3 + n, s31)
    store(c, c3 + 2 * n, s32), store(c, c3 + 3 * n, s33)


@tile
def _tile_4x2(segments, starts, first, length, a, at, row, step, b, b_at, b_step, c, c_at, c_step):
    """c[4][2 registers] += a[4][segments, length] b[segments, length][2 registers]."""
    n = lanes(c)
    c0, c1, c2, c3 = c_at, c_at + c_step, c_at + 2 * c_step, c_at + 3 * c_step
    s00, s01 = load(c, c0), load(c, c0 + n)
    s10, s11 = load(c, c1), load(c, c1 + n)
    s20, s21 = load(c, c2), load(c, c2 + n)
    s30, s31 = load(c, c3), load(c, c3 + n)
    for segment in range(segments):
        i = at + starts[first + segment]
        for _ in range(length):
            b0, b1 = load(b, b_at), load(b, b_at + n)
            v = every(a, a[np.uintp(i)])
            s00, s01 = v * b0 + s00, v * b1 + s01
            v = every(a, a[np.uintp(i + row)])
            s10, s11 = v * b0 + s10, v * b1 + s11
            v = every(a, a[np.uintp(i + 2 * row)])
            s20, s21 = v * b0 + s20, v * b1 + s21
            v = every(a, a[np.uintp(i + 3 * row)])
            s30, s31 = v * b0 + s30, v * b1 + s31
            i += step
            b_at += b_step
    store(c, c0, s00), store(c, c0 + n, s01)
    store(c, c1, s10), store(c, c1 + n, s11)
    store(c, c2, s20), store(c, c2 + n, s21)
    store(c, c3, s30), store(c, c3 + n, s31)


@tile
def _tile_8x1(segments, starts, first, length, a, at, row, step, b, b_at, b_step, c, c_at, c_step):
    """c[8][1 register] += a[8][segments, length] b[segments, length][1 register]."""
    s0, s1 = load(c, c_at), load(c, c_at + c_step)
    s2, s3 = load(c, c_at + 2 * c_step), load(c, c_at + 3 * c_step)
    s4, s5 = load(c, c_at + 4 * c_step), load(c, c_at + 5 * c_step)
    s6, s7 = load(c, c_at + 6 * c_step), load(c, c_at + 7 * c_step)
    for segment in range(segments):
        i = at + starts[first + segment]
        for _ in range(length):
            b0 = load(b, b_at)
            s0 = every(a, a[np.uintp(i)]) * b0 + s0
            s1 = every(a, a[np.uintp(i + row)]) * b0 + s1
            s2 = every(a, a[np.uintp(i + 2 * row)]) * b0 + s2
            s3 = every(a, a[np.uintp(i + 3 * row)]) * b0 + s3
            s4 = every(a, a[np.uintp(i + 4 * row)]) * b0 + s4
            s5 = every(a, a[np.uintp(i + 5 * row)]) * b0 + s5
            s6 = every(a, a[np.uintp(i + 6 * row)]) * b0 + s6
            s7 = every(a, a[np.uintp(i + 7 * row)]) * b0 + s7
            i += step
            b_at += b_step
    store(c, c_at, s0), store(c, c_at + c_step, s1)
    store(c, c_at + 2 * c_step, s2), store(c, c_at + 3 * c_step, s3)
    store(c, c_at + 4 * c_step, s4), store(c, c_at + 5 * c_step, s5)
    store(c, c_at + 6 * c_step, s6), store(c, c_at + 7 * c_step, s7)


@borrowing
def panel_product(width, m, segments, starts, first, length, a, at, row, step, b, b_at, b_step, c, c_at):
    """c[m][width] += a[m][segments, length] b[segments, length][width], where m is a multiple of 4.

    In panels of 16 columns m is taken as the next multiple of 8.
    """
    n, j = lanes(c), 0
    while j + 4 * n <= width and _FOURS:
        for i in range(0, m, 4):
            _tile_4x4(
                segments, starts, first, length, a, at + i * row, row, step, b, b_at + j, b_step, c,
                c_at + i * width + j, width,
            )  # fmt: skip
        j += 4 * n
    while j + 2 * n <= width:
        for i in range(0, m, 4):
            _tile_4x2(
                segments, starts, first, length, a, at + i * row, row, step, b, b_at + j, b_step, c,
                c_at + i * width + j, width,
            )  # fmt: skip
        j += 2 * n
    if j < width:
        for i in range(0, m, 8):
            _tile_8x1(
                segments, starts, first, length, a, at + i * row, row, step, b, b_at + j, b_step, c,
                c_at + i * width + j, width,
            )  # fmt: skip


# ---- copies ---------------------------------------------------------------------------------------------------------


@inline
def width_of(columns):
    """Columns that the first panel of so many has."""
    return 64 if columns > 32 else 32 if columns > 16 else 16


@borrowing
def copy_line(line, at, step, n, to, to_at):
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
def store_line(sums, at, bias, bias_at, n, relu, line, line_at, step, around):
    """f(sums + bias) to n elements of an array, rounded; ``around`` the caches, where whole registers lie right."""
    if around and step == 1 and n % lanes(sums) == 0 and misaligned(line, line_at) == 0:
        nothing = every(sums, zero(sums))
        for i in range(0, n, lanes(sums)):
            value = load(sums, at + i) + load(bias, bias_at + i)
            if relu:
                value = choose(value <= nothing, nothing, value)
            stream(line, line_at + i, value)
        return
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
