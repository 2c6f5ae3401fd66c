"""Scripts in the book's style, as they are: plain Python, ``fastdl run`` and ``fastdl run --dtype float32``.

    python bench/book.py                                          # every script, two threads
    python bench/book.py --scripts deepconvnet --rounds 12 --json scripts.json

The scripts are those of tests/reader, in a copy of that folder with MNIST where a reader has it. All participants run
at once, each in its process, and are stopped but for the one whose turn it is: the turns are interleaved. A turn is the
time of some training steps as the script's own "train loss" lines tell it, so that everything between them counts:
batches, gradients, the optimizer, the loss once more where the script wants it, accuracies where its epochs are short.
The losses are compared as far as both have come, in float32 the first ten. "start-up" is a script that imports the
book's modules and ends.

Needs MNIST: FASTDL_DATA_DIR, or where ``fastdl train`` has put it. Ctrl-C ends early and keeps what was measured.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from networks import words

READER = Path(__file__).parent.parent / "tests" / "reader"
PLAIN, OURS = "python", "fastdl run"
LOSS = re.compile(rb"^train loss:(.*)$")
STARTUP = "start-up"
START = "import os, sys\nsys.path.append(os.pardir)\nfrom common.layers import *\nfrom common.optimizer import *\n"
#: The largest relative difference of two losses. In float64 only the order of sums differs. In float32 a loss is good
#: to 1e-7 at first, and a training parts from another as fast as it would after any other change of the last digits.
TOLERANCE = {"float64": 1e-9, "float32": 1e-2}
FLOAT32_LOSSES = 10


class Script(NamedTuple):
    """A script that prints one loss each step, and never ends with these arguments."""

    path: str
    arguments: tuple[str, ...]
    steps: int  # of plain Python in a turn
    more: int  # as many times the steps of the others


SCRIPTS = {
    "deepconvnet": Script("ch08/train_deepnet.py", ("1000000",), 3, 8),
    "simpleconvnet": Script("ch07/train_convnet.py", ("100000",), 8, 6),
    "two_layer_net": Script("ch05/train_neuralnet.py", ("1000000",), 600, 1),
    "optimizers": Script("ch06/optimizer_compare_mnist.py", ("1000000",), 30, 1),
    "batch_norm": Script("ch06/batch_norm_test.py", ("1000000",), 100, 1),
    "dropout": Script("ch06/overfit_dropout.py", ("1000000",), 21, 1),
}


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--scripts", type=words, default=[*SCRIPTS, STARTUP], help=f"{', '.join(SCRIPTS)}, {STARTUP} (default all)")
    add("--dtypes", type=words, default=list(TOLERANCE), help="float64, float32 (default both)")
    add("--threads", type=int, default=2, help="threads of every participant (default 2)")
    add("--rounds", type=int, default=9, help="turns of each participant (default 9)")
    add("--json", type=Path, help="write the record here")
    options = parser.parse_args(command)
    if unknown := set(options.scripts) - {*SCRIPTS, STARTUP}:
        parser.error(f"there is no script {', '.join(sorted(unknown))}")
    if unknown := set(options.dtypes) - set(TOLERANCE):
        parser.error(f"scripts run in float64 and float32, not in {', '.join(sorted(unknown))}")
    return options


def copy_of_the_folder(to: Path) -> Path:
    """The reader's folder, with MNIST as its ``load_mnist`` keeps it."""
    import numpy as np

    from fastdl.data import load_mnist

    folder = Path(shutil.copytree(READER, to / "reader", ignore=shutil.ignore_patterns("__pycache__")))
    (x, t), (x_test, t_test) = load_mnist(normalize=False, flatten=True)
    np.savez(folder / "dataset/mnist.npz", train_img=x, train_label=t, test_img=x_test, test_label=t_test)
    (folder / "ch08/start.py").write_text(START)
    return folder


def command(participant: tuple[str, str], script: Path, options: argparse.Namespace) -> list[str]:
    """How it is started, in the script's folder."""
    name, dtype = participant
    if name == PLAIN:
        return [sys.executable, script.name]
    own = ["--dtype", dtype, "--threads", str(options.threads)]
    return [sys.executable, "-m", "fastdl", "run", *own, script.name]


def environment(options: argparse.Namespace) -> dict[str, str]:
    """With the threads that BLAS may use, and no buffer for what is printed."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    return os.environ | limits | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}


class Process:
    """A script that runs while it is its turn."""

    def __init__(self, participant: tuple[str, str], script: Path, extra: Sequence[str], options: Any) -> None:
        self.name = f"{script.name} under {' '.join(participant)}"
        self.losses: list[float] = []
        self._rest = b""
        self._process = subprocess.Popen(
            [*command(participant, script, options), *extra],
            cwd=script.parent,
            env=environment(options),
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the process that measures
        )
        self._lines = selectors.DefaultSelector()
        self._lines.register(self._process.stdout, selectors.EVENT_READ)

    def next(self) -> float:
        """Waits for the next loss; when it came."""
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                if found := LOSS.match(line):
                    self.losses.extend(float(text) for text in found[1].split())
                    return time.perf_counter()
            self._lines.select()
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                raise RuntimeError(f"{self.name} has ended with status {self._process.wait()}")
            self._rest += read

    def turn(self, steps: int) -> float:
        """Seconds of a step, the mean of so many, after half as many that are not timed.

        A process that was stopped begins with its threads on one core: SimpleConvNet took 23 ms a step without those
        first ones, 15.5 with them and where it is never stopped.
        """
        self.go()
        for _ in range(1 + steps // 2):  # the first may lie in the pipe
            begin = self.next()
        for _ in range(steps):
            end = self.next()
        self.stop()
        return (end - begin) / steps

    def go(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._lines.close()
        self._process.stdout.close()


def participants(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and dtype."""
    return [(PLAIN, "float64"), *((OURS, dtype) for dtype in options.dtypes)]


def measure(name: str, folder: Path, options: argparse.Namespace, record: Any, bar: Any) -> None:
    """Appends the measurements of one script, as far as it comes."""
    script = SCRIPTS[name]
    task = bar.add_task(name, total=options.rounds)
    processes: dict[tuple[str, str], Process] = {}
    times: dict[tuple[str, str], list[float]] = {}
    try:
        for participant in participants(options):
            processes[participant] = Process(participant, folder / script.path, script.arguments, options)
            for _ in range(3):
                processes[participant].next()  # libraries, data, the first accuracies
            processes[participant].stop()
        for _ in range(options.rounds):
            for participant, process in processes.items():
                steps = script.steps * (1 if participant[0] == PLAIN else script.more)
                times.setdefault(participant, []).append(process.turn(steps))
            bar.advance(task)
    finally:
        for process in processes.values():
            process.close()
        expected = processes[PLAIN, "float64"].losses if processes else []
        for participant, seconds in times.items():
            many = FLOAT32_LOSSES if participant[1] == "float32" else len(expected)
            apart = difference(processes[participant].losses[:many], expected)
            append(record, name, participant, seconds, apart, options)


def difference(found: list[float], expected: list[float]) -> float:
    """The largest relative one of two losses, as far as both go."""
    return max((abs(a - b) / abs(b) for a, b in zip(found, expected, strict=False)), default=0.0)


def start_up(folder: Path, options: argparse.Namespace, record: Any, bar: Any) -> None:
    """Seconds of a whole process that only imports."""
    task = bar.add_task(STARTUP, total=options.rounds)
    times: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(options.rounds):
            for participant in participants(options):
                script = folder / "ch08/start.py"
                begin = time.perf_counter()
                subprocess.run(
                    command(participant, script, options), cwd=script.parent, env=environment(options), check=True
                )
                times.setdefault(participant, []).append(time.perf_counter() - begin)
            bar.advance(task)
    finally:
        for participant, seconds in times.items():
            append(record, STARTUP, participant, seconds, None, options)


def append(
    record: Any, case: str, participant: tuple[str, str], seconds: list[float], apart: float | None, options: Any
) -> None:
    """One measurement."""
    from fastdl.bench.record import Check, Measurement
    from fastdl.kernels import registry

    name, dtype = participant
    levels = registry.available_levels()
    started = case == STARTUP
    record.measurements.append(
        Measurement(
            suite="scripts",
            case=case,
            group="scripts",
            op="start" if started else "script_step",
            direction="start" if started else "step",
            dtype=dtype,
            threads=options.threads,
            participant=name,
            isa=levels[-1] if levels and name == OURS else "any",
            seconds=seconds,
            check=None if name == PLAIN or apart is None else Check(apart, TOLERANCE[dtype], PLAIN),
            settings={} if started else {"script": SCRIPTS[case].path},
        )
    )


def table(record: Any) -> Any:
    """A line for each participant."""
    from rich.table import Table

    found = Table(title=f"{record.machine.cpu}, {record.created}", box=None, header_style="bold", pad_edge=False)
    for column in ("script", "participant", "dtype"):
        found.add_column(column, no_wrap=True)
    for column in ("ms", "spread", "to python", "losses apart"):
        found.add_column(column, justify="right", no_wrap=True)
    for m in record.measurements:
        plain = next((o.median for o in record.measurements if o.case == m.case and o.participant == PLAIN), None)
        ratio = "" if plain is None else f"{plain / m.median:.3g}"
        if m.case == STARTUP and plain is not None:
            ratio = f"{1e3 * (m.median - plain):+.0f} ms"
        apart = "" if m.check is None else f"{m.check.difference:.1e}" + ("" if m.check.passed else " FAILED")
        found.add_row(
            m.case, m.participant, m.dtype, f"{1e3 * m.median:.2f}", f"{100 * m.summary.spread:.0f}%", ratio, apart
        )
    return found


def main(command: Sequence[str] | None = None) -> int:
    """Runs, compares, prints; 1 where losses differ."""
    options = arguments(command)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fastdl.bench import machine
    from fastdl.bench.record import Record

    errors = Console(stderr=True, highlight=False)
    record = Record("scripts", ["book.py", *(sys.argv[1:] if command is None else command)], machine.describe())
    columns = (TextColumn("{task.description:16s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status = 0
    with (
        tempfile.TemporaryDirectory() as place,
        Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar,
    ):
        try:
            folder = copy_of_the_folder(Path(place))
            for name in options.scripts:
                if name == STARTUP:
                    start_up(folder, options, record, bar)
                else:
                    measure(name, folder, options, record, bar)
            record.complete = True
        except KeyboardInterrupt:
            errors.print(f"interrupted: {len(record.measurements)} measurements are kept", style="yellow")
            status = 130
        except (RuntimeError, OSError) as error:
            errors.print(str(error), style="bold red")
            status = 1
    if record.measurements:
        Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table(record))
        if options.json:
            record.save(options.json)
    return status or int(any(m.check is not None and not m.check.passed for m in record.measurements))


if __name__ == "__main__":
    raise SystemExit(main())
