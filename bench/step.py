"""Whole networks: one training step (forward, loss, backward, Adam) and inference, fastdl against its peers.

    python bench/step.py                                      # DeepConvNet, batch 100: also book-style NumPy
    python bench/step.py --net alexnet,vgg16 --threads 2 --json nets.json
    python bench/step.py --backends cython,numba --modes training_step,first_step

Each participant lives in a process of its own (in a shared one, the large arrays of the book's code change how malloc
serves PyTorch, and with it PyTorch's time by a third), all at once, and steps when it is told to: the rounds are
interleaved. In each round a participant does one step to warm up and some that are timed, as in a training loop. Before
that, another process compares gradients (in float64) and scores on a small batch, dropout off.

The mode "first_step" is a new process each time, from its start to the end of its first training step: imports, the
network, and Numba's kernels, either compiled (no folder of them is there) or loaded.

Memory is that of the process: resident before the first step (libraries, network, one batch), and the most until the
last one. Ctrl-C ends early and keeps what was measured.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from networks import (
    BOOK,
    MODES,
    NETWORKS,
    Network,
    batch,
    distance,
    tolerance,
    without_dropout,
    without_randomness,
    words,
)

HERE = Path(__file__).parent
OURS, NUMBA = "fastdl", "fastdl/numba"
TORCH = ("torch nchw", "torch channels_last")
FIRST = "first_step"


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--net", type=words, default=["deepconvnet"], help=f"{', '.join(NETWORKS)} (default deepconvnet)")
    add("--modes", type=words, default=list(MODES), help=f"{', '.join(MODES)} (default), {FIRST}")
    add("--backends", type=words, default=["cython"], help="of fastdl: cython, numba, or both (default cython)")
    add("--threads", type=int, default=2, help="threads of every participant (default 2)")
    add("--rounds", type=int, help="turns of each participant (default: 5 to 15, as the network is large)")
    add("--batch", type=int, help="images in a batch (default: 100 for DeepConvNet, 16 for the others)")
    add(
        "--dtype", default="float32", choices=["float32", "float64"], help="of fastdl and PyTorch; the book has float64"
    )
    add("--json", type=Path, metavar="FILE", help="write the record here")
    add("--participant", help=argparse.SUPPRESS)  # this process is one of them, or the one that compares
    options = parser.parse_args(command)
    choices = (
        ("--net", options.net, NETWORKS),
        ("--modes", options.modes, (*MODES, FIRST)),
        ("--backends", options.backends, ("cython", "numba")),
    )
    for name, given, known in choices:
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"{name}: {unknown[0]!r} is none of {', '.join(known)}")
    if options.threads < 1 or (options.rounds or 1) < 1 or (options.batch or 1) < 1:
        parser.error("--threads, --rounds and --batch are at least 1")
    return options


# ---- in the process of a participant --------------------------------------------------------------------------------


def compare(name: str, dtype: str, backends: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each participant and mode the largest difference from fastdl, relative to the largest element; dropout off.

    Gradients are compared in float64: in float32 a rounding now and then puts a ReLU or a maximum on the other side,
    and a gradient that depends on it is then another one (1% of the largest in one image of VGG-16). Scores do not jump
    there and are compared in the dtype of the measurement.
    """
    network = NETWORKS[name]
    x, t = batch(network, network.small, "float64")
    ours = without_randomness(network)
    gradient = ours.gradient(x, t)
    found: dict[str, dict[str, float]] = {}
    if network.book:
        from peers.book_numpy import BookDeepConvNet

        book = BookDeepConvNet(params=dict(ours.params), dropout_ratio=0.0)
        found[BOOK] = {"training_step": distance(book.gradient(x, t), gradient)}
    if "numba" in backends:
        from fastdl.backend import use_backend

        with use_backend("numba"):
            found[NUMBA] = {"training_step": distance(ours.gradient(x, t), gradient)}
    for participant in TORCH if importlib.util.find_spec("torch") else ():
        peer = _peer(name, participant, "float64", ours.params)
        found[participant] = {"training_step": distance(peer.gradient(x, t), gradient)}
    del gradient
    if network.book:
        found[BOOK]["inference"] = distance({"": book.predict(x)}, {"": ours.predict(x)})
    ours.cast(dtype)
    scores = {"": ours.predict(x)}
    if "numba" in backends:
        with use_backend("numba"):
            found[NUMBA]["inference"] = distance({"": ours.predict(x)}, scores)
    for participant in TORCH if importlib.util.find_spec("torch") else ():
        found[participant]["inference"] = distance(
            {"": _peer(name, participant, dtype, ours.params).predict(x)}, scores
        )
    return found


def _peer(name: str, participant: str, dtype: str, params: dict[str, Any]) -> Any:
    """PyTorch's network with these parameters and without dropout."""
    from peers.torch_net import BUILDERS, TorchNet

    peer = TorchNet(BUILDERS[name], "channels_last" in participant, dtype)
    peer.load(params)
    without_dropout(peer.net)
    return peer


def stepper(name: str, participant: str, mode: str, options: argparse.Namespace) -> Callable[[], object]:
    """A function that does it once."""
    network = NETWORKS[name]
    x, t = batch(network, options.batch or network.batch, "float32" if participant == BOOK else options.dtype)
    if participant == BOOK:
        from peers.book_numpy import BookAdam, BookDeepConvNet

        book, book_adam = BookDeepConvNet(), BookAdam()
        if mode == "inference":
            return lambda: book.predict(x)
        return lambda: book_adam.update(book.params, book.gradient(x, t))
    if participant in TORCH:
        import torch
        from peers.torch_net import BUILDERS, TorchNet

        torch.set_num_threads(options.threads)
        peer = TorchNet(BUILDERS[name], "channels_last" in participant, options.dtype)
        return (lambda: peer.predict(x)) if mode == "inference" else (lambda: peer.step(x, t))
    import fastdl
    from fastdl.optim import Adam

    wanted = "numba" if participant == NUMBA else "cython"
    if wanted == "numba" or not fastdl.backend.missing("cython"):
        fastdl.backend.set_backend(wanted)  # a kernel that is missing is an error and not a slow reference
    fastdl.set_num_threads(options.threads)
    net, adam = network.build(dtype=options.dtype), Adam(0.001)
    if mode == "training_step":
        return lambda: adam.update(net.params, net.gradient(x, t))

    def predict() -> object:
        with fastdl.inference():
            return net.predict(x)

    return predict


def resident(name: str = "VmRSS") -> int | None:
    """Bytes of this process: now, or with ``VmHWM`` the most so far; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _settle() -> int | None:
    """Resident bytes after what building the network has left behind is given back; from here on the most counts."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts from here
    except (AttributeError, OSError):
        return None
    return resident()


def serve(options: argparse.Namespace) -> None:
    """Answers each line with a line of JSON: "work" with kernels and counts, "memory", a number with so many times."""
    if options.participant == "compare":
        print(json.dumps(compare(options.net[0], options.dtype, options.backends)), flush=True)
        return
    if options.modes[0] == FIRST:
        stepper(options.net[0], options.participant, "training_step", options)()
        print(json.dumps("ready"), flush=True)
        return
    step = stepper(options.net[0], options.participant, options.modes[0], options)
    idle = _settle()
    for _ in range(2):
        step()  # the first calls load and allocate
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "memory":
            answer: Any = None if idle is None else {"idle": idle, "peak": resident("VmHWM")}
        elif command == "work":
            answer = _work(step)
        else:
            step()
            times = [time.perf_counter()]
            for _ in range(int(command)):
                step()
                times.append(time.perf_counter())
            answer = [end - start for start, end in itertools.pairwise(times)]
        print(json.dumps(answer), flush=True)


def _work(step: Callable[[], object]) -> dict[str, Any]:
    """What fastdl's kernels did in one step."""
    import fastdl
    from fastdl.bench import work

    with fastdl.explain() as log:
        step()
    total = work.total(log.kernels())
    return {"flop": total.flop, "bytes": total.bytes, "kernels": work.names(log.kernels())}


# ---- in the process that measures -----------------------------------------------------------------------------------


class Process:
    """A participant's."""

    def __init__(self, name: str, participant: str, mode: str, options: argparse.Namespace, **settings: str) -> None:
        command = [sys.executable, str(HERE / "step.py"), "--net", name, "--participant", participant, "--modes", mode]
        command += ["--threads", str(options.threads), "--dtype", options.dtype]
        command += ["--batch", str(options.batch or NETWORKS[name].batch), "--backends", ",".join(options.backends)]
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
        self.participant = participant
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | limits | settings,
            start_new_session=True,  # Ctrl-C is for the process that measures
        )

    def read(self) -> Any:
        """The next answer; RuntimeError where the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.participant} has ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, command: str) -> Any:
        """Sends a line, waits for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def participants(network: Network, backends: Sequence[str]) -> list[str]:
    """Those that this installation has."""
    ours = [{"cython": OURS, "numba": NUMBA}[backend] for backend in backends]
    return [*([BOOK] if network.book else []), *ours, *(TORCH if importlib.util.find_spec("torch") else ())]


def measure_first(name: str, options: argparse.Namespace, record: Any, bar: Any) -> None:
    """Appends the times of first steps, each in a new process."""
    from fastdl.bench.record import Measurement

    rounds = options.rounds or 3
    kinds = [(NUMBA, "compiling"), (NUMBA, "loading")] if "numba" in options.backends else []
    kinds += [(OURS, "")] if "cython" in options.backends else []
    task = bar.add_task(f"{name} {FIRST}", total=rounds * len(kinds))
    times: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:  # "loading" finds what "compiling" has left there
                for kind in kinds:
                    begin = time.perf_counter()
                    process = Process(name, kind[0], FIRST, options, FASTDL_CACHE_DIR=folder)
                    try:
                        process.read()
                        times.setdefault(kind, []).append(time.perf_counter() - begin)
                    finally:
                        process.close()
                    bar.advance(task)
    finally:
        for (participant, kernels), seconds in times.items():
            record.measurements.append(
                Measurement(
                    suite="networks",
                    case=name,
                    group=name,
                    op=FIRST,
                    direction="step",
                    dtype=options.dtype,
                    threads=options.threads,
                    participant=f"{participant} {kernels}".strip(),
                    isa="any",
                    seconds=seconds,
                    settings={"batch": options.batch or NETWORKS[name].batch, "optimizer": "adam"},
                )
            )


def measure(name: str, mode: str, options: argparse.Namespace, checks: dict, record: Any, bar: Any) -> None:
    """Appends the measurements of one network and mode, as far as it comes."""
    from fastdl.bench.record import Check, Measurement, Memory
    from fastdl.kernels import registry

    network = NETWORKS[name]
    rounds = options.rounds or network.rounds
    task = bar.add_task(f"{name} {mode}", total=rounds)
    processes: list[Process] = []
    times: dict[str, list[float]] = {}
    memory: dict[str, Any] = {}
    work: dict[str, dict[str, Any]] = {}
    try:
        for participant in participants(
            network, options.backends
        ):  # one builds after the other: the largest take gigabytes
            processes.append(Process(name, participant, mode, options))
            processes[-1].read()
        for process in processes:
            memory[process.participant] = process.ask("memory")
            if process.participant in (OURS, NUMBA):
                work[process.participant] = process.ask("work")
        for _ in range(rounds):
            for process in processes:
                time.sleep(0.1)  # the threads of the one before may still spin, waiting for more work
                times.setdefault(process.participant, []).extend(process.ask("3"))
            bar.advance(task)
        for process in processes:
            memory[process.participant] = process.ask("memory")
    finally:
        for process in processes:
            process.close()
        levels = registry.available_levels()
        for participant, seconds in times.items():
            check = checks.get(participant, {}).get(mode)
            done = work.get(participant) or next(iter(work.values()), {})
            used = memory.get(participant)
            record.measurements.append(
                Measurement(
                    suite="networks",
                    case=name,
                    group=name,
                    op=mode,
                    direction="step" if mode == "training_step" else "forward",
                    dtype="float64" if participant == BOOK else options.dtype,
                    threads=options.threads,
                    participant=participant,
                    isa=levels[-1] if levels and participant != NUMBA else "any",
                    seconds=seconds,
                    kernels=done.get("kernels", []) if participant in work else [],
                    flop=done.get("flop"),
                    bytes=done.get("bytes"),
                    check=None
                    if check is None
                    else Check(check, tolerance(network, mode, participant, options.dtype), OURS),
                    memory=None if used is None else Memory(**used),
                    settings={"batch": options.batch or network.batch}
                    | ({"optimizer": "adam"} if mode == "training_step" else {}),
                )
            )


def table(record: Any) -> Any:
    """A line for each participant; ratios to the slowest participant and to PyTorch's better format."""
    from rich.table import Table

    found = Table(title=f"{record.machine.cpu}, {record.created}", box=None, header_style="bold", pad_edge=False)
    for column in ("network", "mode", "participant", "dtype"):
        found.add_column(column, no_wrap=True)
    for column in ("ms", "spread", "images/s", "to book", "to PyTorch", "MiB over idle"):
        found.add_column(column, justify="right", no_wrap=True)
    for m in record.measurements:
        beside = [o for o in record.measurements if (o.case, o.op) == (m.case, m.op)]
        book = next((o.median for o in beside if o.participant == BOOK), None)
        torch = min((o.median for o in beside if o.participant in TORCH), default=None)
        found.add_row(
            m.case,
            m.op,
            m.participant,
            m.dtype,
            f"{1e3 * m.median:.1f}",
            f"{100 * m.summary.spread:.0f}%",
            f"{m.settings['batch'] / m.median:,.0f}",
            "" if book is None else f"{book / m.median:.1f}",
            "" if torch is None else f"{torch / m.median:.2f}",
            "" if m.memory is None else f"{m.memory.over_idle / 2**20:,.0f}",
        )
    return found


def main(command: Sequence[str] | None = None) -> int:
    """Compares, times, prints; 1 where the participants disagree."""
    options = arguments(command)
    if options.participant:
        serve(options)
        return 0
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fastdl.bench import machine, peak
    from fastdl.bench.record import Record

    errors = Console(stderr=True, highlight=False)
    record = Record("networks", ["step.py", *(sys.argv[1:] if command is None else command)], machine.describe("torch"))
    record.peaks = peak.measure([options.threads])
    columns = (TextColumn("{task.description:32s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status = 0
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        try:
            for name in options.net:
                comparing = Process(name, "compare", options.modes[0], options)
                try:
                    checks = comparing.read()
                finally:
                    comparing.close()
                wrong = False
                for participant, mode in itertools.product(checks, MODES):
                    difference = checks[participant][mode]
                    bound = tolerance(NETWORKS[name], mode, participant, options.dtype)
                    if not difference <= bound:
                        wrong = True
                        errors.print(f"{name} {mode}: {participant} differs by {difference:.1e}, more than {bound:.1e}")
                if wrong:
                    status = 1
                    continue
                for mode in options.modes:
                    if mode == FIRST:
                        measure_first(name, options, record, bar)
                    else:
                        measure(name, mode, options, checks, record, bar)
            record.complete = status == 0
        except KeyboardInterrupt:
            errors.print(f"interrupted: {len(record.measurements)} measurements are kept", style="yellow")
            status = 130
        except RuntimeError as error:
            errors.print(str(error), style="bold red")
            status = 1
    if record.measurements:
        Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table(record))
        if options.json:
            record.save(options.json)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
