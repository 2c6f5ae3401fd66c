"""How far a kernel may be from the reference in float64: every tolerance of the project, computed and not chosen.

**Exact.** Where an op only copies and compares, where it rounds once (add, casts), and where every partial sum of
products is an integer (or a multiple of the smallest subnormal) that the accumulator holds, the result must be the
expected value, rounded once to the storage dtype. A tolerance for random data passes a kernel that drops one product
out of thousands; this does not.

**Bounded.** Elsewhere the op's formula is evaluated once more with numbers that carry a bound of the error they may
have picked up (`Number`, running error analysis as in Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd
ed., section 3.3): with unit roundoff u of the compute dtype and eta its smallest subnormal, each operation adds
u |result| + eta to what its operands hand on. The formulas below are those of the contracts, in their order; a fused
multiply-add only leaves roundings out. On top comes one rounding to the storage dtype.

**Sums.** A sum of n terms, in any order, loses at most (n - 1) u sum|terms|; blocks and several accumulators only make
the paths shorter. Rounding errors are not all of one sign: with probability 1 - 2 n exp(-l*l / 2) the loss stays below
l sqrt(n) u sum|terms| (Higham, Mary, *A New Approach to Probabilistic Rounding Error Analysis*, SIAM J. Sci. Comput.
41, 2019, theorem 2.4). `roundings` takes the smaller one, with l so large that all elements of a case together miss it
once in 1e9 cases. A row that documents blocks (`BLOCKS`) is held to them: the path through a block, then the blocks.

**Winograd.** `winograd.py` has the magnitudes and roundings of its transforms.

**Functions.** The kernels' exp, log, tanh and logistic function have the ULP bounds that kernels/_common/vmath.h
states. NumPy holds its own to 4 ULP. Those of CUDA are in its programming guide, and hold for the emulation too, which
calls the C library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..kernels.conv.reference import conv2d_forward
from ..kernels.problem import Problem
from ..kernels.registry import Row
from . import winograd
from .arrays import largest
from .cases import EXACT_VALUES, Case
from .number import Blocks, Error, Number, Precision, computing_in, lost, precision_of

Arrays = dict[str, np.ndarray]

#: Unit roundoff of TF32 (11 significant bits, ties away from zero), and half its smallest subnormal, which is how far a
#: factor may be moved where it is small.
TF32, TF32_ETA = 2.0**-11, 2.0**-137

#: Below this `vdpbf16ps` takes numbers for 0, factors and sums.
FLUSHED = 2.0**-126

#: Largest errors in units in the last place of the result, of the kernels' functions and of NumPy's.
ULPS = {"exp": 1.05, "log": 0.9, "tanh": 2.8, "sigmoid": 2.5}
NUMPY_ULPS = dict.fromkeys(ULPS, 4.0)
#: Of CUDA's functions in each compute dtype (CUDA C++ Programming Guide, "Mathematical Functions").
#: sigmoid is e / (1 + e) or 1 / (1 + e) with e = exp(-|x|): relative to the result, e's error counts at most once, and
#: a sum and a quotient add u each, which is 1 ULP (at most 2 u) together.
CUDA_ULPS = {
    "float32": {"exp": 2.0, "log": 1.0, "tanh": 2.0, "pow": 4.0, "sigmoid": 3.0},
    "float64": {"exp": 1.0, "log": 1.0, "tanh": 2.0, "pow": 2.0, "expm1": 1.0, "sigmoid": 2.0},
}


#: What the contracts of compiled rows say about their sums, (op, direction) -> blocks.
BLOCKS = {
    ("conv2d", "backward_bias"): Blocks(32, 32, True),
    ("global_avg_pool2d", "forward"): Blocks(128, 19, False),  # 8 sums of 16 terms, added in pairs
    ("batch_norm", "forward"): Blocks(128, 20, True),  # 16 sums of 8 terms, one after the other; a subtraction
    ("batch_norm", "backward"): Blocks(128, 20, True),
}
#: What they say about CUDA's rows.
CUDA_BLOCKS = {
    ("global_avg_pool2d", "forward"): Blocks(32, 6, True),  # a chain of four trees of 8 terms
    # 8 to 32 terms: a subtraction, a chain of four trees of 8; the centre is the mean of a quarter or more
    ("batch_norm", "forward"): Blocks(8, 7, True, 3.0),
    ("batch_norm", "backward"): Blocks(8, 9, True),  # a chain of eight trees of 4
}
#: And what their references say.
REFERENCE_BLOCKS = {
    ("batch_norm", "forward"): Blocks(1, 0, True),
    ("batch_norm", "backward"): Blocks(1, 0, True),
}

# ---- sums of products -----------------------------------------------------------------------------------------------


class Habits(NamedTuple):
    """What a row promises beside its formula."""

    numpy: bool  # computes with NumPy's functions
    blocks: Blocks | None  # how it adds up, where its contract says so
    winograd: tuple[int, int] | None = None  # (m, r) of F(m x m, r x r)
    cuda: bool = False  # computes with CUDA's functions
    tf32: bool = False  # rounds factors to TF32, which its reference does not
    rounds: bool = False  # as the reference does, after each step
    flushes: bool = False  # takes subnormal numbers for 0


#: Runs the reference in float64 on other inputs: operand name -> array, in and out.
Reference = Callable[[Arrays], Arrays]


class Call(NamedTuple):
    """What the bounds of one case are computed from."""

    case: Case
    inputs: Arrays  # in float64 (integers as they are), before the call
    expected: Arrays  # of the reference in float64
    reference: Reference
    habits: Habits  # of the row

    @property
    def ulps(self) -> dict[str, float]:
        """Bounds of the functions that the row calls."""
        if self.habits.cuda:
            return CUDA_ULPS[self.problem.compute]
        return NUMPY_ULPS if self.habits.numpy else ULPS

    @property
    def problem(self) -> Problem:
        """The problem, in its own storage dtype."""
        return self.case.problem

    @property
    def precision(self) -> Precision:
        """Of the compute dtype."""
        return computing_in(self.problem.compute)

    def number(self, name: str) -> Number:
        """An input as a number without error."""
        return Number.exact(self.inputs[name], self.precision)

    @property
    def result(self) -> np.ndarray:
        """What is expected of the only output."""
        (expected,) = self.expected.values()
        return expected

    def only(self, number: Number) -> dict[str, Error]:
        """The error of the only output."""
        (name,) = self.expected
        return {name: number.error}

    def magnitudes(self) -> Arrays:
        """sum|terms|: the reference on the absolute values of all floating-point inputs but a mask."""
        kept = ("y", "out") if self.problem.epilogue == "relu_mask" else ()
        return self.reference(
            {k: np.abs(v) if v.dtype == np.float64 and k not in kept else v for k, v in self.inputs.items()}
        )


def _most(call: Call) -> float:
    """The largest finite magnitude among the inputs."""
    return max(float(np.nanmax(np.abs(v), initial=0.0)) for v in _finite(call.inputs))


def _finite(inputs: Arrays) -> list[np.ndarray]:
    return [np.where(np.isfinite(v), v, 0.0) for v in inputs.values() if v.dtype == np.float64]


def _linear(call: Call, terms: int, extra: float = 0.0) -> dict[str, Error]:
    """Sums of ``terms`` products each, and ``extra`` further roundings of the result."""
    (name, expected), *_ = call.expected.items()
    u, eta = call.precision
    tf32, flushes = call.habits.tf32, call.habits.flushes
    # Integers of the grid up to 8 are TF32 numbers too.
    exact = ("integers",) if tf32 else ("integers", "wide") if flushes else EXACT_VALUES
    if call.case.values in exact:
        return {name: extra * (u * np.abs(expected) + eta) if extra else 0.0}
    share = lost(terms, expected.size, u, call.habits.blocks) + (1 + extra) * u  # 1: the products
    if tf32:
        share += 2 * TF32 + TF32 * TF32
        eta += TF32_ETA * _most(call)
    if flushes:  # a factor of each product, and each partial sum
        eta += FLUSHED * (2 * _most(call) + 1)
    return {name: share * call.magnitudes()[name] + (terms + extra) * eta}


def _gemm(call: Call) -> dict[str, Error]:
    return _linear(call, call.problem.shapes[0][1] + (call.problem.epilogue != "none"))


def _winograd(call: Call, m: int, r: int) -> dict[str, Error]:
    """Any values: the transforms' coefficients are no integers. NaN and infinity where a tile holds one."""
    p, inputs = call.problem, call.inputs
    u, eta = call.precision
    source, other = {
        "forward": ("x", "w"), "backward_input": ("dout", "w"), "backward_weight": ("x", "dout")
    }[p.direction]  # fmt: skip
    # What a subnormal intermediate value loses beside u of its magnitude, eta, is u of eta / u.
    total = winograd.magnitudes(p, m, r, *(np.abs(inputs[name]) + eta / u for name in (source, other)))
    (name, expected), *_ = call.expected.items()
    if p.direction == "backward_weight":
        oh, ow = p.grid()
        depth, terms = winograd.roundings(r, m), p.shapes[0][0] * math.ceil(oh / m) * math.ceil(ow / m)
    else:
        k, c = p.shapes[1][:2]
        depth, terms = winograd.roundings(m, r), c if p.direction == "forward" else k // p.groups
    if "b" in inputs:
        total, depth = total + np.abs(inputs["b"])[:, None, None], depth + 1
    error = (lost(terms, expected.size, u) + depth * u) * total + eta
    return {name: np.where(inputs["y"] <= 0, 0.0, error) if "y" in inputs else error}


def _conv2d(call: Call) -> dict[str, Error]:
    p = call.problem
    if p.direction == "forward_pooled":
        return _pooled(call, p._replace(direction="forward"))
    if call.habits.winograd is not None:
        return _winograd(call, *call.habits.winograd)
    if p.direction == "backward_bias":
        n, _, h, w = p.shapes[0]
        return _linear(call, n * h * w)
    k, c, r, s = p.shapes[1]
    if p.direction == "forward":
        return _linear(call, c * r * s + (p.epilogue != "none"))
    if p.direction == "backward_input":
        return _linear(call, k // p.groups * r * s)
    oh, ow = p.grid()
    return _linear(call, p.shapes[0][0] * oh * ow)


def _pooled(call: Call, forward: Problem) -> dict[str, Error]:
    """Of a convolution's output and of its 2x2 windows: the largest value is as wrong as one of the four may be.

    Its index must be right (0), or is open (infinity) where the errors and the rounding to storage allow another one.
    """

    def reference(inputs: Arrays) -> Arrays:
        out = np.empty((len(inputs["x"]), len(inputs["w"]), *forward.grid()))
        conv2d_forward(forward._replace(storage="float64"), inputs["x"], inputs["w"], inputs["b"], out, 1)
        return {"out": out}

    expected = reference(call.inputs)
    plain = call._replace(case=call.case._replace(problem=forward), expected=expected, reference=reference)
    out, (u, eta) = expected["out"], precision_of(forward.storage)
    error = np.broadcast_to(_conv2d(plain)["out"], out.shape)
    values, room = windows(np.minimum(out, largest(forward.storage))), windows(error + u * (np.abs(out) + error) + eta)
    chosen, its = (np.take_along_axis(a, values.argmax(-1)[..., None], -1) for a in (values, room))
    rivals = (~(values + room < chosen - its)).sum(-1)
    return {"out": error, "pooled": windows(error).max(-1), "indices": np.where(rivals > 1, np.inf, 0.0)}


def windows(a: np.ndarray) -> np.ndarray:
    """The 2x2 windows of (N, C, H, W): (N, C, H // 2, W // 2, 4)."""
    high, wide = a.shape[2] // 2, a.shape[3] // 2
    a = a[:, :, : high * 2, : wide * 2].reshape(*a.shape[:2], high, 2, wide, 2)
    return a.transpose(0, 1, 2, 4, 3, 5).reshape(*a.shape[:2], high, wide, 4)


def _taps(call: Call) -> int:
    kh, kw = call.problem.attr("kernel")
    return kh * kw


def _col2im(call: Call) -> dict[str, Error]:
    return _linear(call, _taps(call))


def _max_pool2d(call: Call) -> dict[str, Error]:
    if call.problem.direction == "forward":
        return {"out": 0.0, "indices": 0.0}
    return _linear(call, _taps(call))


def _avg_pool2d(call: Call) -> dict[str, Error]:
    """A sum and a division, or a product with a rounded reciprocal: two more roundings."""
    if call.problem.direction == "forward":
        return _linear(call, _taps(call), 2)
    # Integers are divided before they are summed.
    return _linear(call._replace(case=call.case._replace(values="normal")), _taps(call), 2)


def _global_avg_pool2d(call: Call) -> dict[str, Error]:
    _, _, h, w = call.problem.shapes[0]
    return _linear(call, h * w if call.problem.direction == "forward" else 1, 2)


# ---- normalisation --------------------------------------------------------------------------------------------------


def _about_first_rows(x: np.ndarray, block: int, first: int = 8) -> np.ndarray:
    """By how much squares about the mean of each block's first rows exceed those about its mean, in the mean."""
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)
    more = np.zeros(x.shape[1])
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        more += len(part) * np.square(part[:first].mean(0) - part.mean(0))
    return more / max(len(rows), 1)


def _batch_norm(call: Call) -> dict[str, Error]:
    """The sums of a block run in the compute dtype, the rest of the statistics in float64; each is rounded once.

    The variance is the mean of (x - c)**2, and the blocks are joined by Chan, Golub and LeVeque's update. Inside a
    block an error e of its mean has no effect of first order, as the deviations from the true mean sum to 0: it adds
    e**2. Between blocks it moves the squared distance of their means, at most 2 e std. What is summed in a block are
    squares about c, the mean of its first rows: they are larger by (c - mean)**2, which is taken off afterwards. (With
    f of n rows in c, whichever these are, n (c - mean)**2 is at most n / f - 1 times the squares about the mean.)
    """
    p, wide = call.precision, computing_in("float64")
    x = call.inputs["x"]
    axes = (0, *range(2, x.ndim))
    rows = max(math.prod(x.shape[i] for i in axes), 1)

    def column(v: Number) -> Number:
        return v.take(lambda a: a.reshape((1, -1) + (1,) * (x.ndim - 2)))

    def in_float64(v: Number) -> Number:
        return Number(v.value, v.error, wide)

    def total(v: Number) -> Number:
        return in_float64(v.sum(axes, call.habits.blocks) + Number.exact(0.0, wide))

    def normalised(mean: Number, var: Number) -> Error:
        scale = (in_float64(call.number("gamma")) / (in_float64(var) + call.problem.attr("eps")).sqrt()).to(p)
        return ((call.number("x") - column(mean)) * column(scale) + column(call.number("beta").to(p))).error

    if call.problem.direction == "inference":
        return {"out": normalised(call.number("mean"), call.number("var"))}
    if call.problem.direction == "forward":
        mean = (total(call.number("x")) / rows).to(p)
        centred = call.number("x") - column(Number.exact(mean.value, p))
        var = total(centred * centred) / rows
        blocks = call.habits.blocks
        several = blocks is not None and rows > blocks.terms
        moved = np.square(mean.error) + (2 * mean.error * np.sqrt(np.abs(var.value)) if several else 0.0)
        if blocks is not None:
            if blocks.about is None:
                away = _about_first_rows(x, blocks.terms)
            else:
                away = blocks.about * np.abs(np.asarray(var.value))
            moved = moved + p.u * blocks.depth * away
        var = Number(var.value, var.error + moved, wide).to(p)
        return {"out": normalised(mean, var), "mean": mean.error, "var": var.error}
    variance = in_float64(call.number("var")) + call.problem.attr("eps")
    std = variance.sqrt()
    d, centred = call.number("dout"), call.number("x") - column(call.number("mean"))
    sum_d, sum_dx = total(d), total(d * centred)
    scale = (in_float64(call.number("gamma")) / std).to(p)
    mean_d, slope = (sum_d / rows).to(p), (sum_dx / rows / variance).to(p)
    dx = column(scale) * (d - column(mean_d) - centred * column(slope))
    return {"dx": dx.error, "dgamma": (sum_dx / std).to(p).error, "dbeta": sum_d.to(p).error}


def _window_sum(v: Number, before: int, after: int) -> Number:
    """sum of v[:, j] over c - before <= j <= c + after."""
    zeros = ((0, 0), (before, after), (0, 0), (0, 0))
    padded = v.take(lambda a: np.pad(a, zeros))
    width = before + after + 1
    return padded.take(lambda a: np.lib.stride_tricks.sliding_window_view(a, width, 1)).sum(-1)


def _local_response_norm(call: Call) -> dict[str, Error]:
    attr, p = call.problem.attr, call.precision
    x, size = call.number("x"), attr("size")
    before, after = (size - 1) // 2, size // 2
    factor = Number.rounded(attr("alpha") / size, p)
    s = _window_sum(x * x, before, after) * factor + Number.rounded(attr("k"), p)
    power = s.power(-attr("beta"), call.ulps)
    if call.problem.direction == "forward":
        return {"out": (x * power).error}
    dout = call.number("dout")
    seen = _window_sum(dout * x * power / s, after, before)
    gradient = dout * power - Number.rounded(2 * attr("alpha") * attr("beta") / size, p) * x * seen
    return {"dx": gradient.error}


# ---- one element at a time ------------------------------------------------------------------------------------------


def _exact(call: Call) -> dict[str, Error]:
    return dict.fromkeys(call.expected, 0.0)


def _sigmoid(call: Call) -> dict[str, Error]:
    if call.problem.direction == "forward":
        return call.only(Number.exact(call.result, call.precision).within(call.ulps["sigmoid"]))
    dout, y = call.number("dout"), call.number("y")
    return call.only(dout * y * (1.0 - y))


def _tanh(call: Call) -> dict[str, Error]:
    if call.problem.direction == "forward":
        return call.only(Number.exact(call.result, call.precision).within(call.ulps["tanh"]))
    y = call.number("y")
    return call.only(call.number("dout") * (1.0 - y * y))


def _dropout(call: Call) -> dict[str, Error]:
    """x * (mask * scale) with a scale that is rounded once; exact for scale 1."""
    if call.problem.direction == "mask" or math.frexp(call.problem.attr("scale"))[0] == 0.5:
        return _exact(call)
    scale, p = call.problem.attr("scale"), call.precision
    return call.only(call.number("x") * Number(call.inputs["mask"] * scale, p.u * scale, p))


# ---- losses ---------------------------------------------------------------------------------------------------------


def _softmax(call: Call) -> dict[str, Error]:
    if call.problem.direction == "forward":
        return {"out": _probabilities(call)[0].error}
    dout, y = call.number("dout"), call.number("y")
    return {"dx": (y * (dout - (dout * y).sum(-1, keepdims=True))).error}


def _probabilities(call: Call) -> tuple[Number, Number, Number]:
    """exp(x - max) / sum, the sum, and x - max."""
    x = call.number("x")
    shifted = x - Number.exact(np.max(np.asarray(x.value), -1, keepdims=True, initial=-np.inf), x.precision)
    e = shifted.exp(call.ulps["exp"])
    total = e.sum(-1, keepdims=True)
    return e / total, total, shifted


def _softmax_cross_entropy(call: Call) -> dict[str, Error]:
    labels = call.inputs["labels"]
    if call.problem.direction == "forward":
        probabilities, total, shifted = _probabilities(call)
        own = shifted.take(lambda a: np.take_along_axis(a, labels[:, None], -1))
        return {
            "losses": (total.log(call.ulps["log"]) - own).take(lambda a: a[:, 0]).error,
            "probabilities": probabilities.error,
        }
    one_hot = np.zeros(call.expected["dx"].shape)
    one_hot[np.arange(len(labels)), labels] = 1
    difference = call.number("probabilities") - Number.exact(one_hot, call.precision)
    return {"dx": (difference * call.number("scale")).error}


# ---- optimizers -----------------------------------------------------------------------------------------------------


def _complement(call: Call, beta: float, step: int) -> Number:
    """1 - beta**step in float64, where only CUDA's rows differ from the reference.

    They compute -expm1(step * log(beta)): the logarithm (1 ULP) and the product lose 3 u of step * log(beta), and at
    most that of the result; then comes expm1. The reference loses 2 u of its power (1 ULP) and u of the difference.
    """
    p, value = precision_of("float64"), 1 - beta**step
    if not call.habits.cuda:
        return Number.exact(value, Precision(0.0, 0.0))
    lost_here = (3 + 2 * CUDA_ULPS["float64"]["expm1"]) * value
    return Number(value, p.u * (lost_here + 2 * beta**step + value), p)


def _optimizer(call: Call) -> dict[str, Error]:
    """The formulas of kernels/optim; scalars are worked out in float64 and rounded once."""
    p, attrs = call.precision, dict(call.problem.attrs)
    lr = call.inputs["lr"].item()
    errors: dict[str, Error] = {}

    def real(value: float) -> Number:
        return Number.rounded(value, p)

    for i in range(len(call.problem.shapes)):
        w, g = call.number(f"p{i}"), call.number(f"g{i}")
        states = {name: call.number(f"{name}{i}") for name in "vhm" if f"{name}{i}" in call.inputs}
        if call.problem.op == "sgd":
            w = w - real(lr) * g
        elif call.problem.op == "momentum":
            states["v"] = real(attrs["momentum"]) * states["v"] - real(lr) * g
            w = w + states["v"]
        elif call.problem.op == "nesterov":
            m = attrs["momentum"]
            w = w + real(m * m) * states["v"] - real((1 + m) * lr) * g
            states["v"] = real(m) * states["v"] - real(lr) * g
        elif call.problem.op == "adagrad":
            states["h"] = states["h"] + g * g
            w = w - real(lr) * g / (states["h"].sqrt() + real(attrs["eps"]))
        elif call.problem.op == "rmsprop":
            decay = attrs["decay_rate"]
            states["h"] = real(decay) * states["h"] + real(1 - decay) * g * g
            w = w - real(lr) * g / (states["h"].sqrt() + real(attrs["eps"]))
        else:
            beta1, beta2, step = attrs["beta1"], attrs["beta2"], call.inputs["step"].item()
            rate = (lr * _complement(call, beta2, step).sqrt() / _complement(call, beta1, step)).to(p)
            states["m"] = states["m"] + real(1 - beta1) * (g - states["m"])
            states["v"] = states["v"] + real(1 - beta2) * (g * g - states["v"])
            w = w - rate * states["m"] / (states["v"].sqrt() + real(attrs["eps"]))
        errors |= {f"p{i}": w.error, **{f"{name}{i}": state.error for name, state in states.items()}}
    return errors


def _unscale(call: Call) -> dict[str, Error]:
    """One rounding; and by how much that of 1 / scale to the compute dtype, which is known, has moved the product."""
    by = 1.0 / call.inputs["scale"][0]
    moved = abs(np.float64(by.astype(call.problem.compute)) - by)
    return {name: moved * np.abs(call.inputs.get(name, np.zeros(()))) if moved else 0.0 for name in call.expected}


_BOUNDS: dict[str, Callable[[Call], dict[str, Error]]] = {
    "im2col": _exact,
    "col2im": _col2im,
    "gemm": _gemm,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool2d": _global_avg_pool2d,
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "relu": _exact,
    "relu6": _exact,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "add": _exact,  # one rounding, and float64 is wide enough that rounding twice changes nothing
    "concat": _exact,
    "softmax": _softmax,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "dropout": _dropout,
    "cast": _exact,
    **dict.fromkeys(("quantize", "dequantize", "conv2d_int8", "max_pool2d_int8", "pack_bits", "conv2d_binary"), _exact),
    **dict.fromkeys(("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"), _optimizer),
    "unscale": _unscale,
}


def habits_of(row: Row) -> Habits:
    """What the row's contract promises."""
    numpy = row.backend == "numpy"
    cuda = row.backend.startswith("cuda")
    documented = REFERENCE_BLOCKS if numpy else CUDA_BLOCKS if cuda else BLOCKS
    blocks = documented.get((row.op, row.direction))
    return Habits(
        numpy, blocks, variant(row) if row.is_winograd else None, cuda,
        row.arithmetic == "tf32" and not row.is_emulated, row.arithmetic == "float16_sums", row.algorithm == "dot",
    )  # fmt: skip


def variant(row: Row) -> tuple[int, int]:
    """(m, r) of a row that computes F(m x m, r x r), from its name: ``winograd_4x4_3x3`` is (4, 3)."""
    m, r = (int(part.partition("x")[0]) for part in row.algorithm.split("_")[1:])
    return m, r


def bounds(case: Case, inputs: Arrays, expected: Arrays, reference: Reference, habits: Habits) -> Arrays:
    """For each output the error that each element may have before it is rounded to the dtype of the output.

    0.0 means that nothing may be wrong but that one rounding. NaN and infinity where ``expected`` is not finite.
    """
    with np.errstate(all="ignore"):
        compute = _exact if habits.rounds else _BOUNDS[case.problem.op]
        found = compute(Call(case, inputs, expected, reference, habits))
        return {
            name: np.broadcast_to(np.asarray(error, np.float64), expected[name].shape)
            for name, error in found.items()
            if name in expected
        }
