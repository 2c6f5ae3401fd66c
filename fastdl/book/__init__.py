"""The scripts of *Deep Learning from Scratch*, as they are, on fastdl's kernels.

In a notebook::

    import fastdl.book
    fastdl.book.install()                  # before the book's modules are imported
    from common.layers import *            # the reader's own file; its classes are fastdl's now

``fastdl run SCRIPT`` does the same for a script. What is replaced, and what was left and why, is in ``outcomes()``.
Nothing in the reader's folder changes.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from ..profiling import paused
from . import mnist
from .hook import Finder
from .layers import compute_dtype, set_compute_dtype
from .replace import CALLERS, CANDIDATES, Outcome, replace
from .report import Report

__all__ = ["Outcome", "Report", "compute_dtype", "install", "outcomes", "set_compute_dtype", "uninstall", "without"]

_DATA = "dataset.mnist"
_finder: Finder | None = None
_report: Report | None = None
_outcomes: list[Outcome] = []
_before: list[tuple[types.ModuleType, str, Any]] = []  # module, name, what was there


def install(report: Report | None = None) -> None:
    """From now on the book's ``common.layers``, ``common.util`` and ``common.optimizer`` run on fastdl.

    ``dataset.mnist`` then needs no network where ``FASTDL_DATA_DIR`` has the files.

    Modules that are imported already get the replacements as well, but not the names that others have copied from them.
    With a ``report`` there are clocks around the classes (``fastdl run --report``).
    """
    global _finder, _report
    if _finder is not None:
        return
    _finder, _report = Finder(_names(), _ready), report
    sys.meta_path.insert(0, _finder)
    for name in _names() & set(sys.modules):
        _ready(sys.modules[name], name)


def uninstall() -> None:
    """Puts everything back. Layers that exist already stay what they are."""
    global _finder, _report
    if _finder is None:
        return
    sys.meta_path.remove(_finder)
    _finder = _report = None
    while _before:
        module, name, value = _before.pop()
        setattr(module, name, value)
    _outcomes.clear()


def outcomes() -> list[Outcome]:
    """Every name that was looked at since ``install``."""
    return list(_outcomes)


@contextlib.contextmanager
def without() -> Iterator[None]:
    """The book's modules as they were, also where one has copied a function of another: for comparisons."""
    theirs = {id(getattr(module, name)): value for module, name, value in _before}
    swapped = [
        (vars(module), name, value)
        for module in [sys.modules[name] for name in _names() & set(sys.modules)]
        for name, value in vars(module).items()
        if id(value) in theirs
    ]
    for names, name, value in swapped:
        names[name] = theirs[id(value)]
    try:
        yield
    finally:
        for names, name, value in swapped:
            names[name] = value


def _names() -> frozenset[str]:
    return frozenset((*CANDIDATES, *CALLERS, _DATA))


def _ready(module: types.ModuleType, name: str) -> None:
    if name == _DATA:
        _offline(module)
        return
    with paused():
        found = replace(module, name, _report)
    for outcome, theirs in found:
        _outcomes.append(outcome)
        if outcome.replaced:
            _before.append((module, outcome.name, theirs))


def _offline(module: types.ModuleType) -> None:
    theirs = module.__dict__.get("load_mnist")
    if theirs is None:
        return
    reason = mnist.why_not(theirs, module)
    if not reason:
        _before.append((module, "load_mnist", theirs))
        module.load_mnist = mnist.offline(theirs)  # type: ignore[attr-defined]
    _outcomes.append(Outcome(_DATA, "load_mnist", not reason, reason or ""))
