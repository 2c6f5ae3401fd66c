"""How functions run: backend, ISA level, threads, default dtype, inference; and which kernel that chooses.

A setting has a process-wide value and, inside a ``with`` block, a value of its own for the context (this thread, this
asyncio task). A new thread starts with the process-wide values.

===============  ==============================================  ======================  ===========================
setting          process-wide                                    in a context            environment
===============  ==============================================  ======================  ===========================
backend          :func:`set_backend`                             :func:`use_backend`     ``FASTDL_BACKEND``
threads          :func:`set_num_threads`                         :func:`threads`         ``FASTDL_NUM_THREADS``
ISA level        (the CPU's)                                     :func:`isa`             ``FASTDL_ISA``
TF32             :func:`set_tf32`                                :func:`tf32`            ``FASTDL_TF32``
emulation        (off)                                           :func:`emulate`
convolutions     :func:`set_conv_algorithm`                      :func:`conv_algorithm`  ``FASTDL_CONV_ALGORITHM``
default dtype    :func:`set_default_dtype`
inference        (off)                                           :func:`inference`
===============  ==============================================  ======================  ===========================

``FASTDL_LOG=dispatch`` writes each decision of the registry to stderr (the logger is ``fastdl.dispatch``).
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import index
from typing import Any, overload

import numpy as np

from . import _cpus
from ._choice import Choice, Kernel
from .kernels import registry
from .kernels.problem import Problem
from .kernels.registry import KernelError

__all__ = [
    "BACKENDS",
    "Explanation",
    "KernelError",
    "available_backends",
    "conv_algorithm",
    "emulate",
    "explain",
    "get_backend",
    "get_conv_algorithm",
    "get_default_dtype",
    "get_isa",
    "get_num_threads",
    "get_tf32",
    "inference",
    "is_inference",
    "isa",
    "missing",
    "run",
    "set_backend",
    "set_conv_algorithm",
    "set_default_dtype",
    "set_num_threads",
    "set_tf32",
    "tf32",
    "threads",
    "use_backend",
]

#: What :func:`use_backend` takes. ``"auto"`` runs compiled kernels where they are built.
BACKENDS = ("auto", *registry.BACKENDS)


# ---- backend and ISA level ------------------------------------------------------------------------------------------


@functools.cache
def missing(backend: str) -> str:
    """Why ``backend`` cannot run here; empty where it can."""
    if backend == "numba":
        return registry.numba_missing()
    if backend.startswith("cuda"):
        return registry.cuda_missing(backend)
    if backend != "cython":
        return ""
    reason = registry.level_missing(registry.LEVELS[0])
    if not reason:
        return ""
    return f"{reason}: reinstall fastdl where GCC or Clang is found (pip install -v shows what the build says)"


def available_backends() -> tuple[str, ...]:
    """The backends that this installation can run NumPy arrays on, without ``"auto"``."""
    return tuple(name for name in registry.HOST_BACKENDS if not missing(name))


def _checked_backend(name: str, what: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, BACKENDS))}, not {name!r}")
    if reason := missing(name):
        raise KernelError(f"{what} {name!r} cannot run: {reason}")
    return name


def _checked_algorithm(name: str, what: str) -> str:
    if name not in registry.CONV_ALGORITHMS:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, registry.CONV_ALGORITHMS))}, not {name!r}")
    return name


_ndarray = np.ndarray


def _environment_switch(name: str) -> bool:
    text = os.environ.get(name, "0")
    if text not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, not {text!r}")
    return text == "1"


_process_choice = Choice(
    _checked_backend(os.environ.get("FASTDL_BACKEND", "auto").lower(), "FASTDL_BACKEND"),
    registry.environment_cap(),
    _checked_algorithm(os.environ.get("FASTDL_CONV_ALGORITHM", "auto").lower(), "FASTDL_CONV_ALGORITHM"),
    "tf32" if _environment_switch("FASTDL_TF32") else "",
)
_choice: ContextVar[Choice | None] = ContextVar("fastdl.choice", default=None)


def current() -> Choice:
    """Backend and ISA cap that a call made now would use."""
    return _choice.get() or _process_choice


def choice_for(a: Any) -> Choice:
    """What a call made now on the array ``a`` would use: CuPy arrays run on their device, whatever is set for NumPy's.

    Raises ``KernelError`` where a backend of NumPy arrays was asked for, or another device is current.
    """
    if type(a) is _ndarray:
        return _choice.get() or _process_choice
    from . import _device

    return _device.choice(a, current())


def get_backend() -> str:
    """The backend in use: a name that :func:`use_backend` takes."""
    return current().backend


def set_backend(name: str) -> None:
    """Sets the process-wide backend, a name that :func:`use_backend` takes.

    Raises ``ValueError`` for another name and ``KernelError`` for a backend that is not built.
    """
    global _process_choice
    _process_choice = _process_choice.replace(backend=_checked_backend(name, "backend"))


class use_backend:
    """Sets the backend of this context; as a context manager, until the end of the block.

    ::

        with fastdl.use_backend("numpy"):
            ...
        fastdl.use_backend("numpy")  # for the rest of this thread

    ``name`` is ``"auto"`` (compiled kernels where they are built, with a ``RuntimeWarning`` where an operation has
    none), ``"cython"``, ``"numba"`` or ``"numpy"`` (the reference: readable and slow) for NumPy arrays. CuPy arrays run
    on ``"cuda"``, with ``"auto"`` too. ``"cuda-emulated"`` runs CUDA's kernels on NumPy arrays, slowly: a proof. Raises
    ``ValueError`` for another name and ``KernelError`` for a backend that cannot run here, both at once.
    :func:`fastdl.backend.set_backend` sets the backend of threads that start later.
    """

    def __init__(self, name: str) -> None:
        _checked_backend(name, "backend")
        self._name = name
        self._before = [_choice.get()]
        self._called = True  # and not entered yet
        _choice.set(current().replace(backend=name))

    def __enter__(self) -> None:
        if self._called:
            self._called = False
        else:
            self._before.append(_choice.get())
        _choice.set(current().replace(backend=self._name))

    def __exit__(self, *exception: object) -> None:
        _choice.set(self._before.pop())


def get_isa() -> str:
    """The highest ISA level that dispatch may choose in this context."""
    return current().cap


@contextmanager
def isa(level: str) -> Iterator[None]:
    """Caps the ISA level of compiled kernels inside the block: ``"baseline"``, ``"v3"`` (AVX2) or ``"v4"`` (AVX-512).

    A level that this CPU or build lacks caps nothing. Raises ``ValueError`` for another name.
    """
    if level not in registry.LEVELS:
        raise ValueError(f"the ISA level must be one of {', '.join(registry.LEVELS)}, not {level!r}")
    token = _choice.set(current().replace(cap=level))
    try:
        yield
    finally:
        _choice.reset(token)


def get_conv_algorithm() -> str:
    """How convolutions are computed in this context: a name that :func:`set_conv_algorithm` takes."""
    return current().conv


def set_conv_algorithm(name: str) -> None:
    """Sets how convolutions are computed, process-wide; a surrounding :func:`conv_algorithm` block keeps its own.

    ``"auto"`` is the algorithm that a fixed cost model expects to be the fastest, ``"direct"`` that without Winograd's
    (every product is computed, and on small integers the result is exact), ``"winograd"`` Winograd's wherever it can
    run: 3x3 and 5x5 filters of stride 1. Its float32 results may differ from the direct ones in the last two or three
    of their 24 bits; ``fastdl check`` shows the bound. A result that is exactly 0 because every product is may come out
    as 1e-9, so that a ReLU's mask and the ties of max pooling can differ. Raises ``ValueError`` for another name.
    """
    global _process_choice
    _process_choice = _process_choice.replace(conv=_checked_algorithm(name, "the convolution algorithm"))


@contextmanager
def conv_algorithm(name: str) -> Iterator[None]:
    """Sets how convolutions are computed inside the block, for this context only."""
    token = _choice.set(current().replace(conv=_checked_algorithm(name, "the convolution algorithm")))
    try:
        yield
    finally:
        _choice.reset(token)


def get_tf32() -> bool:
    """Whether float32 products may be TF32's in this context: see :func:`set_tf32`."""
    return current().arithmetic.endswith("tf32")


def set_tf32(allowed: bool) -> None:
    """Lets the tensor cores of a GPU multiply float32 matrices, process-wide; off at first.

    Convolutions and matrix products then round each float32 factor to TF32, 11 significant bits instead of 24, and sum
    in float32: the precision of float16 with the range of float32. The CPU's kernels have no TF32, but can
    :func:`emulate` it. A surrounding :func:`tf32` block keeps its own.
    """
    global _process_choice
    _process_choice = _process_choice.replace(arithmetic="tf32" if allowed else "")


@contextmanager
def tf32(allowed: bool = True) -> Iterator[None]:
    """Allows TF32 inside the block (or forbids it), for this context only: see :func:`set_tf32`."""
    token = _choice.set(current().replace(arithmetic="tf32" if allowed else ""))
    try:
        yield
    finally:
        _choice.reset(token)


@contextmanager
def emulate(arithmetic: str) -> Iterator[None]:
    """Inside the block convolutions and matrix products show what another arithmetic makes of them; for this context.

    ``"tf32"`` rounds both factors of float32 products to TF32 (11 significant bits) and sums in float32, as tensor
    cores do, in all directions. ``"float16_sums"`` rounds each product and each partial sum of float16 arrays to
    float16, in forward passes: small terms are lost to large sums, and what is beyond 65,504 becomes an infinity.
    Arrays of other dtypes, and all other operations, are computed as ever. It runs on the compiled kernels and the
    reference, slowly, and its kernels say so: ``cython/emulated_tf32/v4``. On a GPU ``"tf32"`` is the real one. Raises
    ``ValueError`` for another name; calls on a backend without such kernels raise ``KernelError``.
    """
    if arithmetic not in registry.EMULATIONS:
        raise ValueError(f"{', '.join(registry.EMULATIONS)} can be emulated, not {arithmetic!r}")
    token = _choice.set(current().replace(arithmetic=f"emulated_{arithmetic}"))
    try:
        yield
    finally:
        _choice.reset(token)


# ---- threads --------------------------------------------------------------------------------------------------------


def _checked_threads(n: int, what: str) -> int:
    try:
        count = index(n)
    except TypeError:
        raise TypeError(f"{what} must be an int, not {n!r}") from None
    if count < 1 or isinstance(n, bool):
        raise ValueError(f"{what} must be at least 1, not {n!r}")
    return count


def _environment_threads() -> int:
    text = os.environ.get("FASTDL_NUM_THREADS", "").strip()
    if not text:
        return _cpus.available()
    try:
        count = int(text)
    except ValueError:
        raise ValueError(f"FASTDL_NUM_THREADS must be an int of at least 1, not {text!r}") from None
    return _checked_threads(count, "FASTDL_NUM_THREADS")


_process_threads = _environment_threads()
_threads: ContextVar[int] = ContextVar("fastdl.threads", default=0)


def get_num_threads() -> int:
    """Number of threads that a call made now may use. The results do not depend on it, bit for bit."""
    return _threads.get() or _process_threads


def set_num_threads(n: int) -> None:
    """Sets the process-wide number of threads; a surrounding :func:`threads` block keeps its own.

    The default is ``FASTDL_NUM_THREADS``, or the CPUs that affinity and control group grant to this process.
    """
    global _process_threads
    _process_threads = _checked_threads(n, "the number of threads")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Sets the number of threads inside the block, for this context only."""
    token = _threads.set(_checked_threads(n, "the number of threads"))
    try:
        yield
    finally:
        _threads.reset(token)


# ---- default dtype, inference ---------------------------------------------------------------------------------------

_default_dtype: np.dtype[Any] | None = None


def set_default_dtype(dtype: Any) -> None:
    """Sets the dtype of parameters that fastdl creates, and of results whose inputs are all integers.

    ``dtype`` is float32, float64, float16 or bfloat16 (the last needs the package ml_dtypes), as a name or a dtype, or
    None for the default: float64 parameters (the book's), and NumPy's float64 for the result of integers. Arrays that
    are already floating-point keep their dtype: a result has ``numpy.result_type(x, w)``.
    """
    global _default_dtype
    if dtype is not None:
        from ._array import float_dtype

        dtype = float_dtype(dtype, "the default dtype")
    _default_dtype = dtype


def get_default_dtype() -> np.dtype[Any] | None:
    """What :func:`set_default_dtype` has set; None at first."""
    return _default_dtype


_inference: ContextVar[bool] = ContextVar("fastdl.inference", default=False)


@contextmanager
def inference() -> Iterator[None]:
    """Inside the block layers keep nothing for a backward pass. It does not change what they compute."""
    token = _inference.set(True)
    try:
        yield
    finally:
        _inference.reset(token)


def is_inference() -> bool:
    """Whether this context is inside :func:`inference`."""
    return _inference.get()


# ---- dispatch -------------------------------------------------------------------------------------------------------

_warned: set[tuple[str, ...]] = set()


def _warn_once(key: tuple[str, ...], message: str) -> None:
    if key in _warned:
        return
    _warned.add(key)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastdl":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _choose(problem: Problem, choice: Choice) -> tuple[registry.Row, Kernel, str]:
    """Row, its function, and why it is a fallback (or nothing)."""
    backend, cap, conv, arithmetic = choice.backend, choice.cap, choice.conv, choice.arithmetic
    if backend != "auto":
        try:
            return *registry.choose(problem, backend, cap, conv, arithmetic), ""
        except ImportError as error:
            raise KernelError(f"{backend} kernels of {problem.op} cannot be loaded: {error}") from error
        except KernelError as error:
            if choice.device is None:
                raise
            reasons = [
                why for row, why in registry.candidates(problem, "cuda", cap, conv, arithmetic) if row.backend == "cuda"
            ]
            declared = registry.left_out(problem.op, problem.direction, problem.storage, "cuda")
            why = declared or "; ".join(dict.fromkeys(reasons)) or "it has none yet"
            raise KernelError(
                f"no CUDA kernel runs {problem.op} {problem.direction} on {problem.storage} ({why}): move the arrays "
                f"with fastdl.to_device(array, 'cpu')"
            ) from error
    fallback = ""
    for name in ("cython", "numba"):
        reason = missing(name)
        if not reason:
            try:
                return *registry.choose(problem, name, cap, conv, arithmetic), fallback
            except (KernelError, ImportError) as error:
                reason = str(error)
        fallback = fallback or reason
    return *registry.choose(problem, "numpy", cap, conv, arithmetic), fallback


def kernel(problem: Problem, choice: Choice | None = None) -> Kernel:
    """The function that runs ``problem``: ``kernel(problem)(problem, *arrays, threads)``.

    Raises ``KernelError`` where nothing does. With backend ``"auto"`` Numba's kernel stands in for a compiled one that
    is missing, or the NumPy reference where Numba is not installed, and a ``RuntimeWarning`` says so once.
    """
    if choice is None:
        choice = current()
    if choice.backend == "cuda" and choice.device is None:
        raise KernelError(
            "the backend in use is 'cuda', which takes CuPy arrays, and these are NumPy's: move them with "
            "fastdl.to_device(array, 'cuda'), or use 'auto'"
        )
    row, function, fallback = _choose(problem, choice)
    if fallback:
        what = "its Numba kernels" if row.backend == "numba" else "its slow NumPy reference"
        if missing("cython"):
            _warn_once(("cython", row.backend), f"fastdl runs on {what}: {fallback}")
        else:
            op = (problem.op, problem.direction)
            _warn_once((*op, problem.storage), f"fastdl runs {' '.join(op)} on {what}: {fallback}")
    return function if choice.log is None else choice.log.observed(function, row, choice, fallback)


def row(problem: Problem, choice: Choice) -> registry.Row:
    """The row whose function :func:`kernel` gives."""
    return _choose(problem, choice)[0]


def run(problem: Problem, *args: Any) -> None:
    """Runs ``problem`` with the current settings; ``args`` are the arrays that the contract of its op lists.

    It runs where the first of them is.
    """
    first: Any = args[0] if args else None
    if type(first) is list:
        first = first[0] if first else None
    kernel(problem, choice_for(first))(problem, *args, get_num_threads())


# ---- explain --------------------------------------------------------------------------------------------------------


class Explanation:
    """The kernels that ran inside a ``with`` block and why they did: ``str()`` is the text, ``problems`` the list."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._texts: dict[tuple[Problem, str], list[Any]] = {}

    def observed(self, function: Kernel, row: registry.Row, choice: Choice, fallback: str) -> Kernel:
        """``function`` that writes its calls down."""
        record = self._record

        def recorded(problem: Problem, *args: Any) -> None:
            record(problem, row, choice, fallback)
            function(problem, *args)

        return recorded

    def _record(self, problem: Problem, row: registry.Row, choice: Choice, fallback: str) -> None:
        self.problems.append(problem)
        entry = self._texts.setdefault((problem, row.label), [0, row, choice, fallback])
        entry[0] += 1

    def kernels(self) -> list[tuple[Problem, str, int]]:
        """(problem, label of the row that ran, calls), in the order of the first calls."""
        return [(problem, label, entry[0]) for (problem, label), entry in self._texts.items()]

    def __enter__(self) -> Explanation:
        now = current()
        self._token = _choice.set(Choice(now.backend, now.cap, now.conv, now.arithmetic, log=self))
        return self

    def __exit__(self, *exception: object) -> None:
        _choice.reset(self._token)

    def __str__(self) -> str:
        texts = []
        for (problem, _), (count, row, choice, fallback) in self._texts.items():
            text = _text(problem, row, choice, fallback)
            if count > 1:
                first, _, rest = text.partition("\n")
                text = f"{first}, {count} calls\n{rest}"
            texts.append(text)
        return "\n".join(texts) or "no kernel ran"

    __repr__ = __str__


def _text(problem: Problem, row: registry.Row, choice: Choice, fallback: str) -> str:
    text = registry.explain(problem, row.backend, choice.cap, choice.conv, choice.arithmetic)
    return f"{text}\n  fallback to {row.backend}: {fallback}" if fallback else text


@overload
def explain() -> Explanation: ...
@overload
def explain(call: Problem | str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> str: ...
def explain(call: Problem | str | Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Explanation | str:
    """Says which kernel runs a call and why the others do not.

    ::

        print(fastdl.explain(fastdl.functional.conv2d, x, w, stride=2))
        print(fastdl.explain("conv2d", x, w, stride=2))  # a name of fastdl.functional
        print(fastdl.explain(net.predict, x))  # every kernel of the call, which is made
        with fastdl.explain() as log:
            net.gradient(x, t)
        print(log)

    A :class:`Problem` is explained without being run. Raises ``KernelError`` where no kernel can run it.
    """
    if call is None:
        return Explanation()
    if isinstance(call, Problem):
        choice = current()
        row, _, fallback = _choose(call, choice)
        return _text(call, row, choice, fallback)
    if isinstance(call, str):
        from . import functional

        if call not in functional.__all__:
            raise ValueError(f"fastdl.functional has no {call!r}; it has {', '.join(functional.__all__)}")
        call = getattr(functional, call)
    if not callable(call):
        raise TypeError(f"explain takes a function, the name of one in fastdl.functional or a Problem, not {call!r}")
    with Explanation() as log:
        call(*args, **kwargs)
    return str(log)


def _configure_log(text: str) -> None:
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name != "dispatch":
            raise ValueError(f"FASTDL_LOG must be 'dispatch' or empty, not {name!r}")
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger = logging.getLogger("fastdl.dispatch")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


_configure_log(os.environ.get("FASTDL_LOG", ""))
