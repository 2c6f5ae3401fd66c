"""The import hook: ``common.layers`` gets fastdl's classes when it has run, before anybody copies its names."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

Ready = Callable[[types.ModuleType, str], None]


class Finder(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and calls ``ready(module, name)`` when a module of ``names`` has run."""

    def __init__(self, names: frozenset[str], ready: Ready) -> None:
        self._names, self._ready = names, ready

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of the next finder that has one, with a loader around its own."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._ready)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any, ready: Ready) -> None:
        self._inner, self._ready = inner, ready

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        module: types.ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        # The module belongs to its own loader: source lines in tracebacks, reload, pickles.
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        self._ready(module, module.__name__)
