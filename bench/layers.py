"""Single layers, every pass: fastdl against PyTorch, in one run.

    python bench/layers.py                                        # the whole suite in float32
    python bench/layers.py --only 'vgg16/*' --passes forward --threads 1,2
    python bench/layers.py --class '3x3 s1' --conv auto,direct --isa v3 --json direct.json
    python bench/layers.py --backends cython,numba --conv auto,direct --no-peers
    python bench/layers.py --quick --class pool                   # does it work?

The machine's peak is measured first. Then for each pass of each layer: all results are compared, and all participants
timed in turns (fastdl.bench.timing). "ratio" is the time of PyTorch's better memory format by fastdl's: above 1 fastdl
is faster. Ctrl-C ends early and keeps what was measured. Exit status 1 where a result was wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import suite
from calls import Prepared, Ran, Settings, applies
from networks import words
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tables import layer_table, summary_tables

from fastdl.backend import missing
from fastdl.bench import machine, peak
from fastdl.bench.record import Measurement, Peaks, Record
from fastdl.bench.timing import Participant, Turns, interleave
from fastdl.check.runner import Failure
from fastdl.kernels import registry

QUICK = Turns(rounds=2, seconds=0.002, most=2, pause=0.002, warm=0)
#: For the estimate: shares of the peaks that a typical call reaches, and seconds that arrays and comparison take.
TYPICAL, PREPARATION = 0.5, 0.8


class Pass(NamedTuple):
    """One line of the table."""

    layer: suite.Layer
    direction: str
    dtype: str
    threads: int


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--suite", type=words, default=[], help=f"networks: {', '.join(suite.NETWORKS)}, memory (default: all)")
    add("--only", type=words, default=[], metavar="PATTERN", help="names of layers, such as 'vgg16/conv3_*'")
    add("--class", type=words, default=[], metavar="PATTERN", dest="groups", help=", ".join(suite.GROUPS))
    add("--passes", type=words, default=[], help=f"{', '.join(suite.PASSES)} (default: all)")
    add("--dtypes", type=words, default=["float32"], help="float32, float64, float16 (default float32)")
    add("--threads", type=words, default=["2"], help="thread counts of every participant (default 2)")
    add("--isa", type=words, default=[registry.LEVELS[-1]], help="highest ISA levels of fastdl's kernels")
    add("--conv", type=words, default=["auto"], help="convolution algorithms of fastdl: auto, direct, winograd")
    add("--backends", type=words, default=["cython"], help="of fastdl: cython, numba, or both (default cython)")
    add("--rounds", type=int, default=Turns().rounds, help="turns of each participant (default %(default)s)")
    add("--no-peers", action="store_true", help="fastdl alone")
    add("--quick", action="store_true", help="hardly any repetitions: to see that it works, not for figures")
    add("--json", type=Path, metavar="FILE", help="write the record here")
    options = parser.parse_args(command)
    try:
        options.threads = [int(count) for count in options.threads]
    except ValueError:
        parser.error("--threads takes numbers, such as 1,2")
    if min(options.threads, default=0) < 1 or options.rounds < 1:
        parser.error("--threads and --rounds are at least 1")
    for name, given, known in (
        ("--passes", options.passes, suite.PASSES),
        ("--dtypes", options.dtypes, ("float32", "float64", "float16")),
        ("--isa", options.isa, registry.LEVELS),
        ("--conv", options.conv, registry.CONV_ALGORITHMS),
        ("--backends", options.backends, ("cython", "numba")),
    ):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"{name}: {unknown[0]!r} is none of {', '.join(known)}")
    for name in options.backends:
        if name != "cython" and (reason := missing(name)):
            parser.error(reason)
    options.passes_selected = list(select(options))
    if not options.passes_selected:
        parser.error("no layer matches")
    return options


def select(options: argparse.Namespace) -> Iterator[Pass]:
    """The passes that the command line asks for."""

    def any_matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
        return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)

    for dtype in options.dtypes:
        for layer in suite.LAYERS:
            names = (layer.name, *layer.aliases)
            networks = [name.partition("/")[0] for name in names]
            if not (any_matches(networks, options.suite) and any_matches(names, options.only)):
                continue
            if not any_matches([layer.group], options.groups) or not applies(layer, dtype):
                continue
            for direction in layer.directions:
                if direction in (options.passes or suite.PASSES):
                    for threads in options.threads:
                        yield Pass(layer, direction, dtype, threads)


def estimate(passes: Sequence[Pass], peaks: Peaks | None, participants: int, turns: Turns) -> float:
    """Seconds that the run will take, roughly."""
    total = 0.0
    for layer, _, dtype, threads in passes:
        once = 1e-4
        if peaks is not None:
            isa = registry.available_levels()[-1]
            gflops, nbytes = peaks.gflops(isa, dtype, threads) or 1.0, 4 * layer.elements
            gbps = peaks.gbps(nbytes, threads) or 1.0
            once = (2 * layer.macs / gflops + nbytes / gbps) / TYPICAL / 1e9
        total += PREPARATION + participants * turns.estimate(once)
    return total


def settings_of(options: argparse.Namespace, threads: int) -> list[Settings]:
    """fastdl's participants: the compiled kernels in all settings, and Numba's, which have but one."""
    found = []
    if "cython" in options.backends:
        found += [Settings(threads, conv, isa) for isa in options.isa for conv in options.conv]
    if "numba" in options.backends:
        found.append(Settings(threads, backend="numba"))
    return found


def measure(
    each: Pass, settings: Sequence[Settings], turns: Turns, peers: bool, say: Callable[[str], Any]
) -> list[Measurement]:
    """All participants of one pass. An interrupt comes out as KeyboardInterrupt, with the times in its argument."""
    layer, direction, dtype, threads = each
    prepared = Prepared(layer, direction, dtype)
    ran: dict[str, tuple[Ran, str]] = {}
    participants = []
    for setting in settings:
        found = prepared.ours(setting)
        ran[setting.name] = found, setting.level
        participants.append(Participant(setting.name, found.call, setting.context))
    first = next(iter(ran.values()))[0]
    if peers:
        from peers.torch_ops import spread

        for name, found in peers_of(prepared, threads, say):
            ran[name] = found, registry.available_levels()[-1] if registry.available_levels() else "any"
            participants.append(Participant(name, found.call, spread))
    times: dict[str, list[float]] = {}
    interrupted = False
    try:
        interleave(participants, turns, times)
    except KeyboardInterrupt:
        interrupted = True
    assert first.problem is not None and first.work is not None
    fields = {key: _plain(value) for key, value in first.problem._asdict().items()}
    measurements = [
        Measurement(
            suite="layers",
            case=layer.name,
            group=layer.group,
            op=layer.op,
            direction=direction,
            dtype=dtype,
            threads=threads,
            participant=name,
            isa=isa,
            seconds=times[name],
            kernels=list(found.kernels),
            problem=fields,
            flop=float(first.work.flop),
            bytes=float(first.work.bytes),
            check=found.check,
            settings={"aliases": list(layer.aliases), "batch": layer.shape[0]}
            | ({} if found.first is None else {"first_call": found.first}),
        )
        for name, (found, isa) in ran.items()
        if times.get(name)
    ]
    if interrupted:
        raise KeyboardInterrupt(measurements if len(measurements) == len(participants) else [])
    return measurements


def peers_of(prepared: Prepared, threads: int, say: Callable[[str], Any]) -> Iterator[tuple[str, Ran]]:
    """PyTorch's ways that work, after their comparison with what fastdl computed; a word about the others."""
    from peers import torch_ops

    torch_ops.set_threads(threads)
    candidates = torch_ops.peers(prepared.layer, prepared.direction, prepared.operands)
    while True:
        try:
            name, call, outputs_of = next(candidates)
            found = prepared.peer(call, outputs_of)
        except StopIteration:
            return
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            say(f"{prepared.layer.name} {prepared.direction} {prepared.dtype}: PyTorch has no such kernel")
            continue
        yield name, found


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def run(options: argparse.Namespace, console: Console) -> tuple[Record, int]:
    """Measures what the command line asks for; the record, and how many passes were wrong."""
    turns = QUICK if options.quick else Turns(rounds=options.rounds)
    peers = not options.no_peers and importlib.util.find_spec("torch") is not None
    if not peers and not options.no_peers:
        console.print("PyTorch is not installed: fastdl is measured alone", style="yellow")
    record = Record("layers", [Path(sys.argv[0]).name, *sys.argv[1:]], machine.describe("torch"))
    record.peaks = peak.measure(options.threads, quick=options.quick)
    wrong, begin = 0, time.monotonic()
    passes = options.passes_selected
    kinds = len(settings_of(options, 1)) + 2 * peers
    expected = estimate(passes, record.peaks, kinds, turns)
    console.print(f"{len(passes)} passes of layers, about {expected / 60:.1f} minutes", highlight=False)
    columns = (TextColumn("{task.description:44s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(passes))
        try:
            for each in passes:
                bar.update(task, description=f"{each.layer.name} {each.direction} {each.dtype}"[:44])
                try:
                    settings = settings_of(options, each.threads)
                    record.measurements += measure(each, settings, turns, peers, bar.console.print)
                except Failure as error:
                    wrong += 1
                    bar.console.print(
                        f"[bold red]wrong[/] {each.layer.name} {each.direction} {each.dtype}: {escape(str(error))}"
                    )
                bar.advance(task)
            record.complete = True
        except KeyboardInterrupt as interrupt:
            record.measurements += interrupt.args[0] if interrupt.args else []
            bar.console.print(f"interrupted: {len(record.measurements)} measurements are kept", style="yellow")
    console.print(f"{time.monotonic() - begin:.0f} s", highlight=False)
    return record, wrong


def main(command: Sequence[str] | None = None) -> int:
    """Measures, prints, writes."""
    options = arguments(command)
    errors = Console(stderr=True)
    record, wrong = run(options, errors)
    if options.json is not None and record.measurements:
        try:
            record.save(options.json)
        except OSError as error:
            errors.print(f"{options.json} could not be written: {error}", style="bold red")
            return 2
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 220)
    for table in (layer_table(record), *summary_tables(record)):
        console.print(table)
    if wrong:
        errors.print(f"{wrong} passes gave a wrong result and were not timed", style="bold red")
    return 1 if wrong else 0 if record.complete else 130


if __name__ == "__main__":
    raise SystemExit(main())
