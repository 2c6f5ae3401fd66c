"""What of a script's ``common`` package fastdl stands in for, and how it finds out whether it may.

A class or function is replaced only if it is the book's as far as can be seen from outside: defined in that module,
with the signatures that fastdl's has, no other methods or attributes, and the same numbers from a probe. Everything
else stays as it is.
"""

from __future__ import annotations

import inspect
import types
from typing import Any, NamedTuple

import numpy as np

from .. import backend, optim
from . import columns, functions, layers, probes
from .probes import Found, Probe
from .report import Report


class Candidate(NamedTuple):
    """Ours, and the probe that both must pass alike."""

    ours: Any
    probe: Probe


CANDIDATES: dict[str, dict[str, Candidate]] = {
    "common.layers": {
        "Relu": Candidate(layers.Relu, probes.relu),
        "Sigmoid": Candidate(layers.Sigmoid, probes.sigmoid),
        "Affine": Candidate(layers.Affine, probes.affine),
        "SoftmaxWithLoss": Candidate(layers.SoftmaxWithLoss, probes.softmax_with_loss),
        "Dropout": Candidate(layers.Dropout, probes.dropout),
        "BatchNormalization": Candidate(layers.BatchNormalization, probes.batch_normalization),
        "Convolution": Candidate(layers.Convolution, probes.convolution),
        "Pooling": Candidate(layers.Pooling, probes.pooling),
    },
    "common.functions": {
        name: Candidate(getattr(functions, name), probes.function) for name in ("sigmoid", "relu", "softmax")
    },
    "common.util": {
        "im2col": Candidate(columns.im2col, probes.im2col),
        "col2im": Candidate(columns.col2im, probes.col2im),
    },
    "common.optimizer": {
        name: Candidate(getattr(optim, name), probes.optimizer)
        for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")
    },
}

#: Modules of the book whose code only calls the others.
CALLERS = ("common.gradient", "common.trainer", "common.multi_layer_net", "common.multi_layer_net_extend")
CALLER = "fastdl has nothing in its place; what it calls is fastdl's"

#: How far two results may be apart: sums in another order.
RELATIVE, ABSOLUTE = {"float64": 1e-9, "float32": 1e-5}, {"float64": 1e-12, "float32": 1e-7}


class Outcome(NamedTuple):
    """What became of one name; ``reason`` says why it was left."""

    module: str
    name: str
    replaced: bool
    reason: str


def replace(module: types.ModuleType, name: str, report: Report | None) -> list[tuple[Outcome, Any]]:
    """Puts fastdl's classes and functions into ``module``, which is the script's ``name``; with clocks for ``report``.

    Returns each outcome with what was there before.
    """
    candidates = CANDIDATES.get(name, {})
    outcomes = []
    for attribute, theirs in vars(module).items():
        own = inspect.isclass(theirs) or inspect.isfunction(theirs)
        if own and theirs.__module__ == module.__name__ and attribute not in candidates:
            outcomes.append((Outcome(name, attribute, False, CALLER), theirs))
    for attribute, candidate in candidates.items():
        theirs = module.__dict__.get(attribute)
        if theirs is None:
            continue
        reason = why_not(theirs, candidate, module.__name__)
        if not reason:
            ours = candidate.ours
            setattr(module, attribute, report.timed(ours, theirs) if report and inspect.isclass(ours) else ours)
        outcomes.append((Outcome(name, attribute, not reason, reason), theirs))
    return outcomes


def why_not(theirs: Any, candidate: Candidate, module: str) -> str:
    """Why ``theirs`` stays; empty where fastdl's may stand in for it."""
    if theirs is candidate.ours:
        return "it is fastdl's already"
    if getattr(theirs, "__module__", None) != module:
        return f"it is defined elsewhere, in {getattr(theirs, '__module__', 'no module')}"
    return _other_signature(theirs, candidate.ours) or _other_numbers(theirs, candidate)


# ---- from outside ---------------------------------------------------------------------------------------------------


def _other_signature(theirs: Any, ours: Any) -> str:
    if inspect.isclass(theirs) != inspect.isclass(ours):
        return "it is no class" if inspect.isclass(ours) else "it is no function"
    if not inspect.isclass(theirs):
        return _other_parameters(theirs, ours, "")
    if theirs.__bases__ != (object,):
        return f"it derives from {', '.join(base.__name__ for base in theirs.__bases__)}"
    for name, value in vars(theirs).items():
        if name.startswith("__") and name != "__init__":
            if name not in ("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__firstlineno__",
                            "__static_attributes__", "__annotations__"):  # fmt: skip
                return f"it has {name}"
            continue
        if not inspect.isfunction(value):
            return f"it has an attribute {name}"
        if not callable(getattr(ours, name, None)):
            return f"it has a method {name}"
        if reason := _other_parameters(value, getattr(ours, name), f"{name}"):
            return reason
    return ""


def _other_parameters(theirs: Any, ours: Any, name: str) -> str:
    """Ours may have more parameters, which keep their defaults."""
    mine, own = inspect.signature(ours), inspect.signature(theirs)
    positional = [p for p in mine.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    wanted = [(p.name, p.default, p.kind) for p in own.parameters.values()]
    shared = [(p.name, p.default, p.kind) for p in positional[: len(wanted)]]
    more = positional[len(wanted) :]
    if shared != wanted or any(p.default is p.empty for p in more):
        return f"its parameters are {name}{own}"
    return ""


# ---- by its numbers -------------------------------------------------------------------------------------------------


def _other_numbers(theirs: Any, candidate: Candidate) -> str:
    state, dtype = np.random.get_state(), layers.compute_dtype()
    layers.set_compute_dtype(np.float64)
    try:
        with np.errstate(all="ignore"), backend.explain():  # which keeps probes out of the script's own explanation
            np.random.seed(0)
            try:
                expected = candidate.probe(theirs)
            except Exception as error:
                return f"it does not take the probe ({type(error).__name__}: {error})"
            np.random.seed(0)
            found = candidate.probe(candidate.ours)
        return _difference(expected, found)
    finally:
        np.random.set_state(state)
        layers.set_compute_dtype(dtype)


def _difference(expected: Found, found: Found) -> str:
    for name, value in expected.items():
        if not _same(value, found.get(name)):
            return f"its numbers are others ({name})"
    return ""


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) and not isinstance(a, (float, np.floating)):
        return bool(np.array_equal(a, b))
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.name not in RELATIVE:
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a, b, RELATIVE[a.dtype.name], ABSOLUTE[a.dtype.name], equal_nan=True))
