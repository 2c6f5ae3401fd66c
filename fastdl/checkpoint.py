"""Checkpoint files: named arrays and one JSON document in an ``.npz`` archive, written whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .data.pickles import ArrayFileError, load_arrays, save_arrays

FORMAT = "fastdl checkpoint"
VERSION = 1
_DOCUMENT = "document"


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or belongs to a training with other settings."""


def save_checkpoint(path: str | os.PathLike, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes numeric ``arrays`` and ``document``, which JSON can express, to exactly ``path``.

    A file that is there stays as it was until the new one is complete. Raises ``TypeError`` for arrays or values that
    cannot be written, ``OSError`` where writing fails.
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, **document})
    save_arrays(path, {_DOCUMENT: np.frombuffer(text.encode(), np.uint8), **arrays})


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(document, arrays) of the checkpoint at ``path``.

    Raises ``CheckpointError`` naming the file where it is damaged or something else, ``OSError`` where it cannot be
    read.
    """
    name = os.fspath(path)
    try:
        arrays = load_arrays(path)
    except ArrayFileError as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from error
    text = arrays.pop(_DOCUMENT, None)
    if text is None or text.dtype != np.uint8:
        raise CheckpointError(f"{name} holds arrays, but is no checkpoint of a training")
    try:
        document = json.loads(text.tobytes())
    except ValueError as error:
        raise CheckpointError(f"{name} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{name} holds arrays, but is no checkpoint of a training")
    if document.get("version") != VERSION:
        raise CheckpointError(f"{name} is a checkpoint of version {document.get('version')}, and not of {VERSION}")
    return document, arrays


def grouped(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``arrays`` under names that begin with ``prefix`` and a dot."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def group(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What :func:`grouped` was given, out of all arrays."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def random_state_to_json(state: Any) -> Any:
    """A state of ``numpy.random`` (dicts, numbers, arrays of integers) as JSON can express it."""
    if isinstance(state, Mapping):
        return {key: random_state_to_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.str, "values": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def random_state_from_json(state: Any) -> Any:
    """The inverse of :func:`random_state_to_json`."""
    if not isinstance(state, dict):
        return state
    if set(state) == {"dtype", "values"}:
        return np.array(state["values"], state["dtype"])
    return {key: random_state_from_json(value) for key, value in state.items()}


def fingerprint(x: np.ndarray, t: np.ndarray) -> str:
    """A number that tells training sets apart: from the labels and up to 256 evenly spaced images."""
    checksum = zlib.crc32(t.tobytes())
    for image in x[:: max(1, len(x) // 256)]:
        checksum = zlib.crc32(image.tobytes(), checksum)
    return f"{x.shape} {x.dtype} {t.shape} {t.dtype} {checksum:08x}"


def differences(mine: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """What differs between two dicts of settings, in words."""
    return [
        f"{name} is {mine.get(name)!r} here and {stored.get(name)!r} in the checkpoint"
        for name in sorted({*mine, *stored})
        if mine.get(name) != stored.get(name)
    ]
