"""``dataset.mnist.load_mnist`` where the script's own download fails."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from ..data import load_mnist

#: load_mnist's arguments, which a script's own must have.
ARGUMENTS = ("normalize", "flatten", "one_hot_label")


def offline(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """``theirs``; where it cannot get the files, what ``fastdl.data`` finds in ``FASTDL_DATA_DIR`` or its cache."""

    @functools.wraps(theirs)
    def load(*args: Any, **kwargs: Any) -> Any:
        try:
            return theirs(*args, **kwargs)
        except OSError as error:  # urllib's errors are OSErrors
            try:
                return _as_the_book(*args, **kwargs)
            except OSError:
                raise error from None

    return load


def _as_the_book(normalize: bool = True, flatten: bool = True, one_hot_label: bool = False) -> Any:
    """float32 images in 0 ... 1 or uint8, uint8 labels or float64 one-hot."""
    found = load_mnist(normalize, flatten, one_hot_label, download=False)
    if one_hot_label:
        return tuple((x, t.astype(float)) for x, t in found)
    return found


def why_not(theirs: Any, module: types.ModuleType) -> str:
    """Why ``theirs`` stays as it is."""
    if not inspect.isfunction(theirs) or theirs.__module__ != module.__name__:
        return "it is not defined there as a function"
    if tuple(inspect.signature(theirs).parameters) != ARGUMENTS:
        return f"its parameters are {inspect.signature(theirs)}"
    return ""
