"""Checkpoint files: named arrays and one JSON document in an ``.npz`` archive, written whole or not at all; and what
puts a Trainer where one was written."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _device, network
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


class Saved:
    """A checkpoint's content, taken apart and checked before anything of ``trainer`` is changed."""

    def __init__(self, trainer: Any, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.place = {name: document["place"][name] for name in ("current_iter", "current_epoch", "evaluation_due")}
        self.since = {f"_{name}": document["place"][name] for name in ("seconds", "images", "recorded")}
        self.history = list(document["history"])
        self.final_test_acc = document["final_test_acc"]
        self.counters = list(document["counters"])
        self.mixed = (
            None if trainer._mixed is None else {key: document["mixed"][key] for key in trainer._mixed.state_dict()}
        )
        self.generator = random_state_from_json(document["generator"])
        self.numpy_random = random_state_from_json(document["numpy.random"])
        self.lists = {name: arrays[name].tolist() for name in ("train_loss_list", "train_acc_list", "test_acc_list")}
        self.order = arrays.get("order")
        self.params = group("parameter", arrays)
        self.buffers = group("buffer", arrays)
        self.optimizer = dict(document["optimizer"])
        network.check_arrays(self.params, trainer.network.params)
        for state in trainer.optimizer.states:
            found = group(f"optimizer.{state}", arrays)
            if self.optimizer["iter"]:
                network.check_arrays(found, trainer.network.params)
            self.optimizer[state] = found or None
        wanted = set(trainer.optimizer.state_dict())
        if set(self.optimizer) != wanted or len(self.counters) != len(network.counters(trainer._layers())):
            raise KeyError("the states of optimizer or dropout are not those of this training")
        np.random.RandomState().set_state(self.numpy_random)
        np.random.default_rng().bit_generator.state = self.generator

    def restore(self, trainer: Any) -> None:
        """Puts the trainer where the checkpoint was written."""
        layers = trainer._layers()
        for name, param in trainer.network.params.items():
            if _device.is_device(param):
                _device.overwrite(param, self.params[name])
            else:
                param[...] = self.params[name]
        if trainer._device is not None:
            trainer._device.forget()
        network.set_buffers(layers, self.buffers)
        network.set_counters(layers, self.counters)
        trainer.optimizer.load_state_dict(self.optimizer)
        if self.mixed is not None:
            trainer._mixed.load_state_dict(self.mixed)
        trainer._rng.bit_generator.state = self.generator
        np.random.set_state(self.numpy_random)
        trainer.current_iter = self.place["current_iter"]
        trainer.current_epoch = self.place["current_epoch"]
        trainer._evaluation_due = self.place["evaluation_due"]
        for name, value in {**self.since, **self.lists}.items():
            setattr(trainer, name, value)
        trainer._order = self.order
        trainer.history = self.history
        trainer.final_test_acc = self.final_test_acc
        trainer.interrupted = False
