"""``fastdl bench``: a network, layer by layer, for all who can run it, in turns.

A turn of a participant is a few passes as a whole, then a few with a clock around each layer; the turns of all
participants alternate, so that a drift of the machine meets all of them. Before that everybody's scores and gradients
are compared: who computes something else is not timed.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._array import float_dtype
from ..layers import Layer
from ..network import Container
from ..profiling import Line, Profile
from . import machine, peak
from .nets import Network, make
from .participants import Agreement, Ours, Sample, Setting, Torch, available, blas_missing
from .record import Check, Measurement, Record
from .torch_peer import NoCounterpart
from .work import Work

GROUPS = {
    "Convolution": "convolution",
    "Affine": "dense",
    "Pooling": "pooling",
    "AveragePooling": "pooling",
    "BatchNormalization": "normalisation",
    "LocalResponseNormalization": "normalisation",
    "Relu": "activation",
    "Relu6": "activation",
    "Sigmoid": "activation",
    "Tanh": "activation",
    "Dropout": "dropout",
    "Residual": "join",
    "Concat": "join",
    "SoftmaxWithLoss": "loss",
}
#: Images of the comparison: results of few tell as much, and the NumPy reference takes its time.
COMPARED = 2
#: A pause before a turn, in which the threads of other libraries stop spinning.
PAUSE = 0.03


class Plan(NamedTuple):
    """What to measure."""

    network: str
    batches: tuple[int, ...] = ()  # none: the network's own
    devices: tuple[str, ...] = ("cpu",)
    backends: tuple[str, ...] = ("cython",)
    dtypes: tuple[str, ...] = ("float32",)
    passes: tuple[str, ...] = ("forward", "backward")
    peers: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    rounds: int = 9  # turns of each participant at most
    seconds: float = 20.0  # for the turns of one participant, roughly; at least two turns

    def settings(self, batch: int) -> list[Setting]:
        """Every combination but of dtypes, ``batch`` where the plan has no batches."""
        return [
            Setting(size, dtype, threads, self.passes)
            for dtype in self.dtypes
            for size in self.batches or (batch,)
            for threads in self.threads
        ]


class Reporter:
    """Is told how far it is; what it says is nobody's business here."""

    def begin(self, text: str, seconds: float) -> None:
        """A comparison starts whose turns will take so long."""

    def advance(self, seconds: float) -> None:
        """So much of that is done."""

    def measured(self, record: Record) -> None:
        """All participants of one setting are done: ``record`` has their measurements."""

    def say(self, text: str) -> None:
        """A sentence for the user."""


class Row(NamedTuple):
    """A line of the table: a layer, and neighbours behind it that its kernel computes."""

    name: str
    layers: tuple[Layer, ...]
    names: tuple[str, ...]


def first_network(plan: Plan) -> Network:
    """That of the first dtype; ``ValueError`` or ``TypeError`` where the plan asks for what cannot be made."""
    for dtype in plan.dtypes:
        float_dtype(dtype, "dtypes")
    return make(plan.network, plan.dtypes[0])


def run(plan: Plan, first: Network, reporter: Reporter, command: Sequence[str]) -> Record:
    """Measures all of ``plan``, whose ``first_network`` is there. Ctrl-C ends it early: the record, with what there is,
    is not ``complete``."""
    here, absent = available(plan.devices, plan.backends, plan.peers)
    described = machine.describe("torch", "numba", "cupy-cuda13x", "cupy-cuda12x")
    if ("fastdl", "cuda") in here:
        described = dataclasses.replace(described, gpu=machine.gpu())
    record = Record("network", list(command), described, absent=absent)
    for name, reason in absent.items():
        reporter.say(f"{name}: {reason}")
    if not here:
        return record
    if ("fastdl", "numpy") in here and (reason := blas_missing()):
        reporter.say(f"fastdl numpy: {reason}")
    record.peaks = peak.measure(plan.threads)
    networks = {plan.dtypes[0]: first}
    try:
        for setting in plan.settings(first.batch):
            if setting.dtype not in networks:
                networks = {setting.dtype: make(plan.network, setting.dtype)}  # one at a time in memory
            _compare(networks[setting.dtype], setting, plan, here, record, reporter)
            reporter.measured(record)
        record.peaks = peak.best(record.peaks, peak.measure(plan.threads))
        record.complete = True
    except KeyboardInterrupt:
        reporter.say("interrupted: what was measured is kept")
    return record


def _compare(
    network: Network,
    setting: Setting,
    plan: Plan,
    here: Sequence[tuple[str, str]],
    record: Record,
    reporter: Reporter,
) -> None:
    """All participants of one setting. An interrupt leaves what was measured in the record."""
    participants: list[Any] = []
    for kind, name in here:
        if name == "cuda" and setting.threads < max(plan.threads):
            continue  # it has none: once is enough
        try:
            participants.append(_participant(kind, name, network, setting))
        except NoCounterpart as error:
            record.absent[f"{kind} {name}"] = str(error)
            reporter.say(f"{kind} {name}: {error}")
    checks: dict[str, Check | None] = {}
    first_calls: dict[str, float] = {}
    agreement = Agreement(min(COMPARED, setting.batch))
    for participant in list(participants):
        check, first_calls[participant.name] = agreement.check(participant)
        checks[participant.name] = check
        if check is not None and not check.passed:
            participants.remove(participant)
            apart = f"{check.difference:.2g} from those of {check.against}"
            reason = f"its results are {apart}, and may be {check.tolerance:.2g}"
            record.absent[participant.name] = reason
            reporter.say(f"{participant.name}: {reason}")
    del agreement  # its results are not in memory while times are taken
    turns = [_Turns(p, plan) for p in participants]
    reporter.begin(_describe(network, setting), sum(t.rounds * t.once for t in turns))
    try:
        for number in range(max((t.rounds for t in turns), default=0)):
            for turn in turns:
                if number < turn.rounds:
                    turn.take()
                    reporter.advance(turn.once)
    finally:
        rows = _rows(network, [p for p in participants if hasattr(p, "lines")])
        for turn in turns:
            if turn.wholes:
                name = turn.participant.name
                record.measurements += _measurements(
                    network, setting, rows, turn, turns[0], checks[name], first_calls[name]
                )


def _participant(kind: str, name: str, network: Network, setting: Setting) -> Any:
    if kind == "torch":
        return Torch(network, setting)
    if name == "cuda":
        from .gpu_participant import OursOnDevice

        return OursOnDevice(network, setting)
    return Ours(name, network, setting)


def _describe(network: Network, setting: Setting) -> str:
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    return f"{network.name}, batch {setting.batch}, {setting.dtype}, {threads}"


class _Turns:
    """A participant and its times."""

    def __init__(self, participant: Any, plan: Plan) -> None:
        self.participant = participant
        self.wholes: dict[str, list[float]] = defaultdict(list)  # pass -> seconds
        self.layers: dict[tuple[int, str], list[float]] = defaultdict(list)
        pair = 0.0
        for _ in range(2):  # the first makes plans, and CUDA graphs
            begin = time.perf_counter()
            participant.whole()
            participant.parts()
            pair = time.perf_counter() - begin
            if pair > 1:
                break
        self.calls = max(1, min(10, int(0.1 / pair)))  # short passes several times in a turn
        self.once = PAUSE + (self.calls + 1) * pair
        self.rounds = max(2, min(plan.rounds, int(plan.seconds / self.once)))

    def take(self) -> None:
        """One turn: the first passes wake threads and caches up and are not counted."""
        time.sleep(PAUSE)
        wholes: list[Sample] = []
        parts: list[Sample] = []
        gc.collect()
        gc.disable()
        try:
            self.participant.whole()
            for _ in range(self.calls):
                wholes.append(self.participant.whole())
            self.participant.parts()
            for _ in range(self.calls):
                parts.append(self.participant.parts())
        finally:
            gc.enable()
        for sample in wholes:
            for (_, name), seconds in sample.items():
                self.wholes[name].append(seconds)
        for sample in parts:
            for (key, name), seconds in sample.items():
                if key is not None:
                    self.layers[key, name].append(seconds)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _rows(network: Network, ours: Sequence[Any]) -> list[Row]:
    """The layers; one that a kernel of the layer before it computes, in a forward pass of any of fastdl's, belongs to
    that one for everybody: times of a row are then times for the same work."""
    names = Profile()
    rows: list[Row] = []
    passes = [p.lines[name] for p in ours for name in ("inference", "forward") if name in p.lines]
    for layer in network.layers():
        name = names.name(layer)
        alone = all(id(layer) in lines for lines in passes) or layer is network.loss
        if alone or not rows:
            rows.append(Row(name, (layer,), (name,)))
        else:
            last = rows[-1]
            rows[-1] = Row(last.name, (*last.layers, layer), (*last.names, name))
    return rows


def _measurements(
    network: Network,
    setting: Setting,
    rows: Sequence[Row],
    turn: _Turns,
    first: _Turns,
    check: Check | None,
    once: float,
) -> list[Measurement]:
    """Of one participant; work and sizes are those that the first one of fastdl's found."""
    found: list[Measurement] = []
    for name in setting.passes:
        if not turn.wholes[name]:
            continue
        whole: Work | None = Work(0.0, 0.0)
        for index, row in enumerate(rows):
            lines = _lines(first, name, row)
            own = _lines(turn, name, row)
            seconds = [
                sum(values)
                for values in zip(
                    *(turn.layers[id(layer), name] for layer in row.layers if turn.layers.get((id(layer), name))),
                    strict=True,
                )
            ]
            work = _work(lines)
            whole = None if whole is None or work is None else whole + work
            if seconds:
                settings = _settings(network, setting, turn, index, row, lines, own)
                found.append(
                    _measurement(
                        f"{network.name}/{row.name}", row, name, setting, turn, seconds, own, work, settings, check
                    )
                )
        settings = {"network": network.name, "batch": setting.batch, "device": turn.participant.device}
        settings |= {"first_call": once, "image": list(network.image)}
        case = _measurement(network.name, None, name, setting, turn, turn.wholes[name], (), whole, settings, check)
        found.append(case)
    return found


def _lines(turn: _Turns, name: str, row: Row) -> list[Line]:
    """What fastdl's participant has seen of the row."""
    lines = getattr(turn.participant, "lines", {}).get(name, {})
    return [lines[id(layer)] for layer in row.layers if id(layer) in lines]


def _work(lines: Sequence[Line]) -> Work | None:
    total = Work(0.0, 0.0)
    for line in lines:
        work = line.work()
        if work is None:
            return None
        total += work
    return total


def _settings(
    network: Network, setting: Setting, turn: _Turns, index: int, row: Row, lines: Sequence[Line], own: Sequence[Line]
) -> dict[str, Any]:
    kernels = [kernel for line in own for kernel in line.kernels if kernel.row.backend == "cython"]
    workspace = max((k.row.workspace(k.problem, k.row.isa, k.threads) for k in kernels), default=None)
    output = next((line.output for line in reversed(lines) if line.output is not None), None)
    return {
        "network": network.name,
        "batch": setting.batch,
        "device": turn.participant.device,
        "index": index,
        "layers": list(row.names),
        "parameter_bytes": sum(
            a.nbytes for layer in row.layers if not isinstance(layer, Container) for a in layer.params.values()
        ),
        "output_bytes": None if output is None else output[1],
        "output_shape": None if output is None else list(output[0]),
        "workspace_bytes": workspace,
    }


def _measurement(
    case: str,
    row: Row | None,
    name: str,
    setting: Setting,
    turn: _Turns,
    seconds: list[float],
    own: Sequence[Line],
    work: Work | None,
    settings: dict[str, Any],
    check: Check | None,
) -> Measurement:
    kernels = dict.fromkeys(
        f"{k.problem.op} {k.problem.direction}: {k.row.label}" for line in own for k in line.kernels
    )
    op = next((k.problem.op for line in own for k in line.kernels), type(row.layers[0]).__name__ if row else "network")
    return Measurement(
        suite="network",
        case=case,
        group="total" if row is None else GROUPS.get(type(row.layers[0]).__name__, "other"),
        op=op,
        direction=name,
        dtype=setting.dtype,
        threads=1 if turn.participant.device == "cuda" else setting.threads,
        participant=turn.participant.name,
        isa=turn.participant.isa,
        seconds=[round(s, 9) for s in seconds],
        kernels=list(kernels),
        flop=None if work is None else work.flop,
        bytes=None if work is None else work.bytes,
        check=check,
        settings=settings,
    )
