"""Error bounds of the functions in vmath.h, read from its opening comment, and the precision of each storage dtype."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import fastdl.kernels

#: ("exp", "f32") -> units in the last place
ULPS = {
    (name, suffix): float(bound)
    for name, suffix, bound in re.findall(
        r"fd_(\w+)_(f32|f64)\s+([\d.]+) ULP",
        (Path(fastdl.kernels.__file__).parent / "_common" / "vmath.h").read_text(),
    )
}
assert {name for name, _ in ULPS} == {"exp", "log", "tanh", "sigmoid"} and len(ULPS) == 8

#: dtype -> (bits of the significand, exponent of the smallest subnormal)
FORMATS = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}
#: Largest relative error of one rounding.
U = {name: 2.0**-bits for name, (bits, _) in FORMATS.items()}
#: The smallest subnormal number: at most half of it is lost by one rounding of a subnormal result.
ETA = {name: 2.0**smallest for name, (_, smallest) in FORMATS.items()}


def relative(name: str, compute: str) -> float:
    """Largest relative error of a function of vmath.h in that dtype: an ULP is at most 2 U of the result."""
    return 2 * U[compute] * ULPS[name, {"float32": "f32", "float64": "f64"}[compute]]


def ulps(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance of finite values from ``exact`` (a wider dtype) in units in the last place of the exact values."""
    bits, smallest = FORMATS[actual.dtype.name]
    _, exponent = np.frexp(exact)  # |exact| in [2**(exponent - 1), 2**exponent)
    unit = np.ldexp(np.ones_like(exact), np.maximum(exponent - bits, smallest))
    return np.abs(actual.astype(exact.dtype) - exact) / unit
