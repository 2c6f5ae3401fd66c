"""What a run has done so far, in files: it goes on after a kernel has taken the device's context with it.

An illegal access of one kernel ends everything that a process can do on a GPU, and a kernel may never end. So the work
is done in a child process, which notes each item before it begins; the parent starts another one without that item.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_tables

from fastdl._files import replacing
from fastdl.bench.record import Record, load

STATE, RECORD, TEXT = "state.json", "gpu.json", "gpu.txt"
#: Exit status of a process whose device is lost, seconds without news until it is given up, and how often to go on.
LOST, SILENCE, TRIALS = 75, 100, 6
#: Seconds between two writes of the record.
PERIOD = 15


class DeviceLost(Exception):
    """The context is gone: nothing more can be done in this process."""


class State:
    """Items that are done, and what is known about the others. Lives in ``folder``."""

    def __init__(self, folder: Path, resume: bool, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.done: list[str] = []
        self.bad: dict[str, str] = {}
        self.notes: list[str] = []
        self.failing: list[list[str]] = []
        self.left_out: list[str] = []
        self.current = ""
        self.deadline = 0.0  # of time.time
        self.wrong = 0
        self.record: Record | None = None
        self._written = self._told = 0.0
        if resume and (folder / STATE).exists():
            self.__dict__ |= json.loads((folder / STATE).read_text())
            if (folder / RECORD).exists():
                self.record = load(folder / RECORD)

    _KEPT = ("done", "bad", "notes", "failing", "left_out", "current", "deadline", "wrong")

    def note(self, text: str) -> None:
        """Something that the reader of the tables has to know."""
        self.notes.append(text)
        self._say(text)

    def save(self) -> None:
        """Writes what is needed to go on."""
        kept = {name: getattr(self, name) for name in self._KEPT}
        with replacing(self.folder / STATE) as temporary:
            temporary.write_text(json.dumps(kept))

    def publish(self, always: bool = True) -> None:
        """Writes the record and its tables, each whole or not at all."""
        if self.record is None or (not always and time.monotonic() - self._written < PERIOD):
            return
        self.record.save(self.folder / RECORD)
        with replacing(self.folder / TEXT) as temporary:
            temporary.write_text(self.text())
        self._written = time.monotonic()

    def text(self) -> str:
        """The tables."""
        assert self.record is not None
        return gpu_tables.text_of(self.record, list(dict.fromkeys(self.notes)), self.left_out)

    def alive(self) -> None:
        """Tells whoever watches that something happens."""
        if time.monotonic() - self._told > 5 and (self.folder / STATE).exists():
            self._told = time.monotonic()
            (self.folder / STATE).touch()

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.time()

    @contextmanager
    def item(self, name: str, synchronize: Callable[[], None]) -> Iterator[bool]:
        """One piece of work, to be done unless it is False. An error in it is noted, and no more; ``DeviceLost``
        where the device does not answer after it."""
        if name in self.done or name in self.bad:
            yield False
            return
        self.current = name
        self.save()
        try:
            yield True
            synchronize()
            self.done.append(name)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            text = f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.bad[name] = text
            self.wrong += 1
            self.note(f"ERROR {text}")
            try:
                synchronize()
            except Exception:
                self.publish()
                self.save()
                raise DeviceLost(text) from error
        self.current = ""
        self.publish(always=False)


def supervise(command: list[str], folder: Path, say: Callable[[str], None]) -> int:
    """Runs the worker until it has ended by itself; its exit status."""
    state_file = folder / STATE
    state_file.unlink(missing_ok=True)
    status = 1
    for trial in range(TRIALS):
        extra = ["--worker", *(["--resume"] if trial else [])]
        process = subprocess.Popen([sys.executable, *command, *extra])
        try:
            status = _watch(process, state_file)
        except KeyboardInterrupt:  # the worker has had it too
            try:
                status = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                status = 130
            break
        if status in (0, 1, 2, 130):
            break
        if not state_file.exists():
            break
        state: dict[str, Any] = json.loads(state_file.read_text())
        if name := state["current"]:
            reason = {LOST: "the device was lost", -9: "it did not end"}.get(status, f"the process ended with {status}")
            if name not in state["bad"]:
                state["bad"][name] = reason
                state["notes"].append(f"ERROR {name}: {reason}")
                state["wrong"] += 1
            state["current"] = ""
            state_file.write_text(json.dumps(state))
        say(f"going on without {name or 'what was running'}")
    state_file.unlink(missing_ok=True)
    return status


def _watch(process: subprocess.Popen[bytes], state_file: Path) -> int:
    """Waits for the process, and ends it where nothing happens any more."""
    last = time.monotonic()
    seen = None
    while True:
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            now = state_file.stat().st_mtime_ns if state_file.exists() else None
            if now != seen:
                seen, last = now, time.monotonic()
            elif time.monotonic() - last > SILENCE:
                process.kill()
                process.wait()
                return -9
