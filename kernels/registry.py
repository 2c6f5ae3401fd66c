"""The one table: op x direction x backend -> implementation, and the choice among its rows.

Plain data. Nothing compiled is imported until a row is called; :func:`explain` says which row runs and why the
others do not.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from .problem import Problem

#: x86-64 psABI levels, lowest first: any CPU; AVX2 + FMA + F16C; AVX-512 F, BW, CD, DQ, VL. Elsewhere only the first.
LEVELS = ("baseline", "v3", "v4")
#: Instructions beyond a level that some kernels are compiled for, as modules of their own: level and CPU feature.
FEATURES = {
    "v4bf16": ("v4", "avx512_bf16"),
    "v4vnni": ("v4", "avx512_vnni"),
    "v4popcnt": ("v4", "avx512_vpopcntdq"),
}
#: Of NumPy arrays, and of CuPy arrays: "cuda-emulated" runs the CUDA kernels on a CPU, to prove them where no GPU is.
HOST_BACKENDS = ("numpy", "cython", "numba")
CUDA_BACKENDS = ("cuda", "cuda-emulated")
BACKENDS = (*HOST_BACKENDS, *CUDA_BACKENDS)
#: How convolutions may be computed: by the cheapest row, without Winograd's, or by Winograd's wherever one is eligible.
CONV_ALGORITHMS = ("auto", "direct", "winograd")

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_log = logging.getLogger("fastdl.dispatch")


class Row(NamedTuple):
    """One implementation of one direction of one op."""

    op: str
    direction: str
    backend: str
    algorithm: str
    isa: str  # a member of LEVELS or of FEATURES, or "any"
    storage: tuple[str, ...]
    eligible: Callable[[Problem], bool | str]  # True, or the reason why not
    cost: Callable[[Problem, str], float]  # (problem, isa) -> rough ns on one thread; compared within backend and level
    workspace: Callable[[Problem, str, int], int]  # (problem, isa, threads) -> bytes of scratch, at most
    target: str  # "module:function"

    @property
    def label(self) -> str:
        """``backend/algorithm/isa``, as ``explain`` and the tables print it."""
        return f"{self.backend}/{self.algorithm}" + ("" if self.isa == "any" else f"/{self.isa}")

    @property
    def level(self) -> str:
        """The ISA level that the row needs, whatever features beyond it."""
        return FEATURES.get(self.isa, (self.isa,))[0]

    @property
    def is_winograd(self) -> bool:
        """Whether the row computes with transformed tiles: fewer products, and larger rounding errors."""
        return self.algorithm.startswith("winograd")

    @property
    def is_tf32(self) -> bool:
        """Whether float32 factors are rounded to TF32: 11 significant bits instead of 24."""
        return self.algorithm.endswith("_tf32")


class KernelError(RuntimeError):
    """No row of the table can run the problem under the current settings."""


class Gap(NamedTuple):
    """Kernels that backends are without on purpose: the table has no rows for them. An empty field stands for all."""

    reason: str
    backends: tuple[str, ...]
    ops: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()

    def covers(self, op: str, direction: str, storage: str, backend: str) -> bool:
        """Whether it is one of these kernels."""
        fields = ((self.backends, backend), (self.ops, op), (self.directions, direction), (self.storage, storage))
        return all(not some or name in some for some, name in fields)


#: What backends are without although another one has it. ``fastdl check`` shows these as "left out"; a kernel that is
#: neither there nor named here is "missing", which fails.
LEFT_OUT: tuple[Gap, ...] = (
    Gap("rounding by chance is an experiment that runs on a CPU", CUDA_BACKENDS, ("cast",), ("stochastic",)),
    Gap(
        "bytes and bits are computed on a CPU",
        CUDA_BACKENDS,
        ("quantize", "dequantize", "conv2d_int8", "max_pool2d_int8", "pack_bits", "conv2d_binary"),
    ),
    Gap("bytes are pooled by the compiled kernels", ("numba",), ("max_pool2d_int8",)),
)


def left_out(op: str, direction: str, storage: str, backend: str) -> str:
    """Why ``backend`` is without this kernel on purpose; empty where it is not."""
    return next((gap.reason for gap in LEFT_OUT if gap.covers(op, direction, storage, backend)), "")


def _always(problem: Problem) -> bool:
    return True


def _free(problem: Problem, isa: str) -> float:
    return 0.0


def _no_workspace(problem: Problem, isa: str, threads: int) -> int:
    return 0


def _lazy(target: str, *first: Any) -> Callable[..., Any]:
    """``target`` ("module:function", below this package), looked up at its first call and called with ``first`` and
    what the caller gives."""

    def call(*args: Any) -> Any:
        module, name = target.split(":")
        return getattr(importlib.import_module(module, __package__), name)(*first, *args)

    return call


def _reference(folder: str, op: str, direction: str, storage: tuple[str, ...] = _FLOATS) -> Row:
    name = f"{op}_{direction}"
    return Row(
        op, direction, "numpy", "reference", "any", storage, _always, _free, _no_workspace,
        f"{__package__}.{folder}.reference:{name}",
    )  # fmt: skip


def _kept(op: str, direction: str, storage: tuple[str, ...], backend: str) -> tuple[str, ...]:
    """The storage dtypes that ``backend`` is not without."""
    return tuple(name for name in storage if not left_out(op, direction, name, backend))


def _numba(folder: str, op: str, direction: str, storage: tuple[str, ...] = _FLOATS) -> list[Row]:
    """The row of a Numba kernel; none where it is left out in every storage dtype."""
    target = f"{__package__}.{folder}._numba:{op}_{direction}"
    kept = _kept(op, direction, storage, "numba")
    return [Row(op, direction, "numba", "loops", "any", kept, _always, _free, _no_workspace, target)] if kept else []


def _cuda(
    folder: str,
    op: str,
    direction: str,
    algorithm: str,
    storage: tuple[str, ...] = _FLOATS,
    eligible: Callable[[Problem], bool | str] = _always,
    cost: Callable[[Problem, str], float] = _free,
    suffix: str = "",
) -> list[Row]:
    """The rows of a CUDA kernel: on a device, and on a CPU; none where it is left out in every storage dtype."""
    target = f"{__package__}.{folder}._cuda:{op}_{direction}{suffix}"
    return [
        Row(op, direction, backend, algorithm, "any", kept, eligible, cost, _no_workspace, target)
        for backend in CUDA_BACKENDS
        if (kept := _kept(op, direction, storage, backend))
    ]


def _cuda_tf32(folder: str, op: str, directions: str, algorithm: str) -> list[Row]:
    """The rows beside those of ``algorithm`` whose float32 products are TF32's: preferred where they are allowed."""
    return [
        row
        for direction in directions.split()
        for row in _cuda(
            folder, op, direction, f"{algorithm}_tf32", ("float32",), cost=lambda problem, isa: -0.5, suffix="_tf32"
        )
    ]


def _rows(
    folder: str,
    op: str,
    directions: str,
    algorithm: str,
    *,
    suffix: str = "",
    storage: tuple[str, ...] = _FLOATS,
    levels: tuple[str, ...] = LEVELS,
    own: bool = False,
    eligible: Callable[[Problem], bool | str] = _always,
    cost: Callable[[Problem, str], float] = _free,
    workspace: Callable[[Problem, str, int], int] = _no_workspace,
) -> list[Row]:
    """The rows of one algorithm at each ISA level, after the reference and those of the other backends where ``folder``
    is the op's own. (What ``LEFT_OUT`` names gets none.)

    ``folder`` is that of the op (``own`` where that lies in another's), or ``"conv.winograd"`` for an algorithm that
    has a folder of its own in there.
    Functions are called ``<op>_<direction><suffix>``.
    """
    rows = []
    package = f"{__package__}.{folder}"
    for direction in directions.split():
        name = f"{op}_{direction}"
        if own or "." not in folder:
            rows.append(_reference(folder, op, direction, storage))
            rows += _numba(folder, op, direction, storage)
            rows += _cuda(folder, op, direction, algorithm, storage)
        rows += [
            Row(op, direction, "cython", algorithm, isa, storage, eligible, cost, workspace,
                f"{package}._cython_{isa}:{name}{suffix}")
            for isa in levels
        ]  # fmt: skip
    return rows


_CONV = "forward backward_input backward_weight"


def _conv_rows(
    folder: str, directions: str, name: str = "", *variant: int, storage: tuple[str, ...] = _FLOATS
) -> list[Row]:
    """The rows of a convolution algorithm with a folder of its own, or of its ``variant`` called ``name``."""
    plan = f".conv.{folder}.plan:"
    suffix = name and f"_{name}"
    return _rows(
        f"conv.{folder}", "conv2d", directions, folder + suffix, suffix=suffix, storage=storage,
        eligible=_lazy(plan + "eligible", *variant), cost=_lazy(plan + "cost", *variant),
        workspace=_lazy(plan + "workspace", *variant),
    )  # fmt: skip


def _of_words(name: str, op: str, storage: str, feature: str) -> list[Row]:
    """The rows of a convolution over words that is an op of its own, in a folder of ``conv``."""
    plan = f".conv.{name}.plan:"
    return _rows(
        f"conv.{name}", op, "forward", "words", storage=(storage,), levels=(*LEVELS, feature), own=True,
        cost=_lazy(plan + "cost"), workspace=_lazy(plan + "workspace"),
    )  # fmt: skip


def _dot_rows(op: str, directions: str) -> list[Row]:
    """The rows of dot products of bfloat16 pairs."""
    plan = ".conv.dot.plan:"
    return _rows(
        "conv.dot", op, directions, "dot", storage=("bfloat16",), levels=("v4bf16",),
        eligible=_lazy(plan + "eligible"), cost=_lazy(plan + "cost"), workspace=_lazy(plan + "workspace"),
    )  # fmt: skip


TABLE: tuple[Row, ...] = tuple(
    row
    for rows in (
        _rows("im2col", "im2col", "forward", "gather"),
        _rows("im2col", "col2im", "forward", "gather"),
        _rows("gemm", "gemm", "forward", "blocked", cost=_lazy(".gemm.plan:cost"),
              workspace=_lazy(".gemm.plan:workspace")),
        _dot_rows("gemm", "forward"),
        _cuda_tf32("gemm", "gemm", "forward", "blocked"),
        _rows("conv", "conv2d", _CONV, "implicit_gemm", cost=_lazy(".conv.plan:cost"),
              workspace=_lazy(".conv.plan:workspace")),
        _cuda_tf32("conv", "conv2d", _CONV, "implicit_gemm"),
        _conv_rows("direct", _CONV),
        _dot_rows("conv2d", "forward backward_input"),
        _of_words("int8", "conv2d_int8", "uint8", "v4vnni"),
        _of_words("binary", "conv2d_binary", "uint32", "v4popcnt"),
        _conv_rows("pointwise", _CONV, storage=("float32", "float64")),
        _conv_rows("small_channel", _CONV),
        _conv_rows("depthwise", _CONV),
        [_reference("conv", "conv2d", "forward_pooled"), *_numba("conv", "conv2d", "forward_pooled"),
         *_cuda("conv", "conv2d", "forward_pooled", "two_passes")],
        *(_cuda("conv.depthwise", "conv2d", direction, "depthwise", eligible=_lazy(".conv.depthwise._cuda:eligible"),
                cost=_lazy(".conv.depthwise._cuda:cost")) for direction in _CONV.split()),
        _cuda("conv.small_channel", "conv2d", "forward", "small_channel",
              eligible=_lazy(".conv.small_channel._cuda:eligible"), cost=_lazy(".conv.small_channel._cuda:cost")),
        *(_conv_rows("winograd", f"{_CONV} forward_pooled", name, i)
          for i, name in enumerate(("4x4_3x3", "2x2_3x3", "2x2_5x5"))),
        _rows("conv", "conv2d", "backward_bias", "blocked_sum", workspace=_lazy(".conv.plan:workspace")),
        _rows("pool", "max_pool2d", "forward backward", "gather", workspace=_lazy(".pool:workspace")),
        _rows("pool", "avg_pool2d", "forward backward", "gather", workspace=_lazy(".pool:workspace")),
        _rows("pool", "global_avg_pool2d", "forward backward", "blocked_sum", workspace=_lazy(".pool:workspace")),
        _rows("norm", "batch_norm", "forward inference backward", "blocked_sum",
              workspace=_lazy(".norm:workspace")),
        _rows("norm", "local_response_norm", "forward backward", "rows", workspace=_lazy(".norm:workspace")),
        _rows("activation", "relu", "forward backward", "elementwise"),
        _rows("activation", "relu6", "forward backward", "elementwise"),
        _rows("activation", "sigmoid", "forward backward", "elementwise"),
        _rows("activation", "tanh", "forward backward", "elementwise"),
        _rows("join", "add", "forward", "elementwise"),
        _rows("join", "concat", "forward", "copy", workspace=_lazy(".join:workspace")),
        _rows("loss", "softmax", "forward backward", "rows", workspace=_lazy(".loss:workspace")),
        _rows("loss", "softmax_cross_entropy", "forward backward", "rows", workspace=_lazy(".loss:workspace")),
        _rows("dropout", "dropout", "mask forward", "philox"),
        _rows("cast", "cast", "forward", "elementwise"),
        _rows("quantize", "quantize", "forward", "elementwise"),
        _rows("quantize", "dequantize", "forward", "elementwise"),
        _rows("pool.bytes", "max_pool2d_int8", "forward", "rows", storage=("uint8",), own=True),
        _rows("bits", "pack_bits", "forward", "words", workspace=_lazy(".bits:workspace")),
        _rows("cast", "cast", "stochastic", "philox", storage=("float16", "bfloat16")),
        _rows("optim", "sgd", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "momentum", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "nesterov", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "adagrad", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "rmsprop", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "adam", "step", "elementwise", storage=("float32", "float64"),
              workspace=_lazy(".optim:workspace")),
        _rows("optim", "unscale", "step", "elementwise", workspace=_lazy(".optim:workspace")),
    )
    for row in rows
)  # fmt: skip


@functools.cache
def level_missing(isa: str) -> str:
    """Why rows of this ISA level cannot run here; empty where they can."""
    if isa == "any":
        return ""
    if importlib.util.find_spec("._common._runtime", __package__) is None:
        return "the compiled kernels were not built"
    from ._common import _runtime

    if importlib.util.find_spec(f".gemm._cython_{isa}", __package__) is None:
        return f"the {isa} kernels were not built (this compiler or processor family has no such level)"
    if LEVELS.index(isa) > LEVELS.index(_runtime.cpu_level()):
        return f"this CPU stops at level {_runtime.cpu_level()}"
    return ""


@functools.cache
def feature_missing(isa: str, target: str) -> str:
    """Why the row of a member of FEATURES with this target cannot run here; empty where it can."""
    level, feature = FEATURES[isa]
    if reason := level_missing(level):
        return reason
    from ._common import _runtime

    if not _runtime.cpu_has(feature):
        return f"this CPU has no {feature}"
    if importlib.util.find_spec(target.partition(":")[0]) is None:
        return f"this kernel was not built: the compiler has no {feature}"
    return ""


@functools.cache
def numba_missing() -> str:
    """Why Numba's rows cannot run here; empty where they can."""
    return "" if importlib.util.find_spec("numba") else 'Numba is not installed: pip install "fastdl[numba]"'


@functools.cache
def cuda_missing(backend: str) -> str:
    """Why the rows of "cuda" or "cuda-emulated" cannot run here; empty where they can."""
    from ._common import cuda

    return cuda.missing(backend == "cuda-emulated")


def row_missing(row: Row) -> str:
    """Why this row cannot run here; empty where it can."""
    if row.backend.startswith("cuda"):
        return cuda_missing(row.backend)
    if row.backend == "numba":
        return numba_missing()
    return feature_missing(row.isa, row.target) if row.isa in FEATURES else level_missing(row.isa)


def available_levels() -> tuple[str, ...]:
    """The ISA levels that are built and that this CPU has, lowest first."""
    return tuple(isa for isa in LEVELS if not level_missing(isa))


def environment_cap() -> str:
    """The highest level that dispatch may choose: ``FASTDL_ISA``, or no cap."""
    cap = os.environ.get("FASTDL_ISA", LEVELS[-1]).lower()
    if cap not in LEVELS:
        raise ValueError(f"FASTDL_ISA must be one of {', '.join(LEVELS)}, not {cap!r}")
    return cap


def candidates(
    problem: Problem, backend: str, cap: str, conv: str = "auto", tf32: bool = False
) -> list[tuple[Row, str]]:
    """Every row of the problem's op and direction with the reason why it is not chosen ("" for the one that is).

    ``conv`` is one of ``CONV_ALGORITHMS``; ``tf32`` allows rows that round float32 factors to TF32.
    """
    best: Row | None = None
    verdicts: list[tuple[Row, str]] = []
    for row in TABLE:
        if row.op != problem.op or row.direction != problem.direction:
            continue
        if row.backend != backend:
            reason = f"the backend in use is {backend}"
        elif row.isa != "any" and LEVELS.index(row.level) > LEVELS.index(cap):
            reason = f"the ISA level is capped at {cap}"
        elif missing := row_missing(row):
            reason = missing
        elif problem.storage not in row.storage:
            reason = f"it stores {', '.join(row.storage)}, not {problem.storage}"
        elif conv == "direct" and row.is_winograd:
            reason = "the convolution algorithm is set to direct"
        elif row.is_tf32 and not tf32:
            reason = "TF32 is off"
        else:
            verdict = row.eligible(problem)
            reason = "" if verdict is True else str(verdict)
        verdicts.append((row, reason))
        if not reason and (best is None or _preference(row, problem, conv) < _preference(best, problem, conv)):
            best = row
    return [
        (row, reason or ("" if row is best else f"{best.label} is preferred"))  # type: ignore[union-attr]
        for row, reason in verdicts
    ]


def _preference(row: Row, problem: Problem, conv: str) -> tuple[int, bool, float]:
    level = -LEVELS.index(row.level) if row.isa != "any" else 0
    return (level, conv == "winograd" and not row.is_winograd, row.cost(problem, row.isa))


def load(row: Row) -> Callable[..., Any]:
    """The function that a row names."""
    module, name = row.target.split(":")
    return getattr(importlib.import_module(module), name)


@functools.lru_cache(maxsize=4096)
def choose(
    problem: Problem, backend: str, cap: str, conv: str = "auto", tf32: bool = False
) -> tuple[Row, Callable[..., Any]]:
    """The row that runs ``problem`` and its function; ``KernelError`` with every row's reason where there is none."""
    verdicts = candidates(problem, backend, cap, conv, tf32)
    for row, reason in verdicts:
        if not reason:
            _log.info("%s %s %s %s -> %s", problem.op, problem.direction, problem.shapes, problem.storage, row.label)
            return row, load(row)
    if not verdicts:
        raise KernelError(f"there is no op {problem.op!r} with a direction {problem.direction!r}")
    reasons = "\n".join(f"  {row.label}: {reason}" for row, reason in verdicts)
    if why := left_out(problem.op, problem.direction, problem.storage, backend):
        reasons += f"\n  {backend} is without it: {why}"
    raise KernelError(f"no kernel runs {problem.op} {problem.direction} on {problem.storage}:\n{reasons}")


def explain(problem: Problem, backend: str, cap: str, conv: str = "auto", tf32: bool = False) -> str:
    """Which kernel runs ``problem`` and why the others do not, one line each."""
    lines = [f"{problem.op} {problem.direction} {problem.shapes} {problem.storage}"]
    for row, reason in candidates(problem, backend, cap, conv, tf32):
        lines.append(f"  {'->' if not reason else '  '} {row.label:32s} {reason or 'runs'}")
    return "\n".join(lines)
