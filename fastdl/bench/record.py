"""The one schema of benchmark files: JSON, version 1.

A file is one object. Its fields are those of the dataclasses below (an optional one may be null), with::

    {"schema": "fastdl-bench", "version": 1, "created": ..., "suite": ..., "command": [...], "complete": true,
     "machine": {...}, "peaks": {...}, "absent": {...}, "measurements": [{...}, ...]}

and in each measurement, beside its own fields, figures derived from them so that other programs need not::

    median, lower_quartile, upper_quartile    of "seconds"
    gflops, gbps                              flop and bytes by the median, in 1e9 each second; null without a count
    percent_of_peak                           gflops by the peak of its ISA level, compute dtype and threads
    percent_of_triad                          gbps by the triad's at as many bytes and as many threads

On a GPU the ISA level is "cuda", the threads are 1, the peak of a dtype is that of PyTorch's matrix products ("tf32" is
one), and the place of the triad is taken by copies on the device (``Triad.isa``), whose rates count both arrays.

``load`` checks all of it: unknown and missing fields, types, and that the derived figures follow from the others. Units
are seconds, bytes, floating-point operations. Fields may be added in a new version, or with a default that files need
not have (``Machine.gpu``, ``Record.absent``, ``Triad.isa``); what a field means never changes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._files import replacing
from ..kernels.problem import COMPUTE
from .stats import Summary, summary

SCHEMA, VERSION = "fastdl-bench", 1
#: The ISA level of what runs on a GPU.
CUDA = "cuda"


class RecordError(ValueError):
    """A file that is no record: where, and what is wrong there."""


@dataclass(frozen=True)
class Machine:
    """Where and with what it was measured."""

    cpu: str
    architecture: str
    features: list[str]  # of the CPU, those that matter here
    cpus: int  # of the machine
    affinity: int  # that the process may run on
    cgroup_cpus: float | None  # that the control group grants
    memory: int | None  # bytes
    caches: dict[str, int]  # "L1d", "L2", ... -> bytes, as the first CPU sees them
    governor: str | None  # of the CPU's frequency
    load: list[float]  # 1, 5, 15 minutes, when the measurement began
    system: str
    versions: dict[str, str]  # python, numpy, fastdl, and peers that were loaded
    build: dict[str, str] | None  # compiler and threading of the extensions
    revision: str | None  # of the source tree, with "+" where it was changed
    gpu: dict[str, Any] | None = None  # name, multiprocessors, clocks, memory, driver, ...: where one was measured


@dataclass(frozen=True)
class FmaPeak:
    """Multiply-adds in registers."""

    isa: str
    dtype: str
    threads: int
    gflops: list[float]  # of each repetition; the peak is the best

    @property
    def best(self) -> float:
        """What percentages are of."""
        return max(self.gflops)


@dataclass(frozen=True)
class Triad:
    """a = b + s * c; rates count three arrays."""

    bytes: int  # of the three arrays together
    threads: int
    gbps: list[float]  # of each repetition, with plain stores
    streaming_gbps: list[float]  # with stores around the caches
    isa: str = ""  # "cuda": copies on a GPU. Files that know no CPU beside it may leave that out

    @property
    def rate(self) -> float:
        """The median of the better kind of store: what percentages are of."""
        return max(summary(self.gbps).median, summary(self.streaming_gbps).median)


@dataclass(frozen=True)
class Peaks:
    """What the machine did at most when it was measured."""

    fma: list[FmaPeak]
    triad: list[Triad]
    core_to_core: float | None  # seconds for one way of a cache line

    def gflops(self, isa: str, dtype: str, threads: int) -> float | None:
        """The peak for sums in the compute dtype of ``dtype``; None where it was not measured."""
        compute = dtype if isa == CUDA else COMPUTE.get(dtype, dtype)
        found = [p.best for p in self.fma if (p.isa, p.dtype, p.threads) == (isa, compute, threads)]
        return max(found, default=None)

    def triads(self, isa: str, threads: int) -> list[Triad]:
        """Those of the device that has this ISA level, from the smallest to the largest."""
        cuda = isa == CUDA and any(t.isa == CUDA for t in self.triad)
        return sorted((t for t in self.triad if (t.threads, t.isa == CUDA) == (threads, cuda)), key=lambda t: t.bytes)

    def gbps(self, nbytes: float, threads: int, isa: str = "") -> float | None:
        """The triad's rate at ``nbytes``, interpolated between the sizes on a logarithmic scale."""
        points = [(t.bytes, t.rate) for t in self.triads(isa, threads)]
        if not points or nbytes <= 0:
            return None
        if nbytes <= points[0][0]:
            return points[0][1]
        for (low, slow), (high, fast) in itertools.pairwise(points):
            if nbytes <= high:
                share = math.log(nbytes / low) / math.log(high / low)
                return slow + share * (fast - slow)
        return points[-1][1]


@dataclass(frozen=True)
class Check:
    """The comparison before the timing: the worst element."""

    difference: float
    tolerance: float
    against: str

    @property
    def passed(self) -> bool:
        """Whether the results were equal as far as they must be."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Memory:
    """Of a process of its own, in bytes."""

    idle: int  # resident before the first call: libraries, network, one batch
    peak: int  # the most that was resident during the calls

    @property
    def over_idle(self) -> int:
        """What the calls needed."""
        return self.peak - self.idle


@dataclass(frozen=True)
class Measurement:
    """One participant on one case."""

    suite: str  # "layers", "networks", ...
    case: str  # "vgg16/conv3_2"
    group: str  # of cases, for means: "3x3 s1"
    op: str  # "conv2d", "training_step"
    direction: str  # "forward", "backward_input", ...: the pass
    dtype: str
    threads: int
    participant: str  # "fastdl", "fastdl/direct", "torch channels_last", "torch nchw", "book numpy"
    isa: str  # the level that the participant may use at most
    seconds: list[float]  # every timed call, in order
    kernels: list[str] = field(default_factory=list)  # "op direction: row" of each kernel that ran, where known
    problem: dict[str, Any] | None = None  # the fields of the kernel's Problem
    flop: float | None = None  # of one call
    bytes: float | None = None  # read and written at least, by one call
    check: Check | None = None
    memory: Memory | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # what else the case is: batch size, optimizer, ...

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What participants of one comparison have in common."""
        return self.suite, self.case, self.direction, self.dtype, self.threads

    @property
    def summary(self) -> Summary:
        """Median and quartiles."""
        return summary(self.seconds)

    @property
    def median(self) -> float:
        """Of the times."""
        return self.summary.median

    def figures(self, peaks: Peaks | None) -> dict[str, float | None]:
        """The derived figures of the schema."""
        median, lower, upper = self.summary
        gflops = None if self.flop is None else self.flop / median / 1e9
        gbps = None if self.bytes is None else self.bytes / median / 1e9
        peak = None if peaks is None else peaks.gflops(self.isa, self.dtype, self.threads)
        triad = None if peaks is None or self.bytes is None else peaks.gbps(self.bytes, self.threads, self.isa)
        return {
            "median": median,
            "lower_quartile": lower,
            "upper_quartile": upper,
            "gflops": gflops,
            "gbps": gbps,
            "percent_of_peak": None if gflops is None or not peak else 100 * gflops / peak,
            "percent_of_triad": None if gbps is None or not triad else 100 * gbps / triad,
        }


@dataclass
class Record:
    """A benchmark file."""

    suite: str
    command: list[str]
    machine: Machine
    peaks: Peaks | None = None
    measurements: list[Measurement] = field(default_factory=list)
    complete: bool = False  # False where it was interrupted
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    absent: dict[str, str] = field(default_factory=dict)  # participant -> one sentence: why it is not there

    def to_json(self) -> dict[str, Any]:
        """As JSON can express it."""
        own = dataclasses.asdict(self)
        if self.machine.gpu is None:
            del own["machine"]["gpu"]
        if not self.absent:
            del own["absent"]
        for entry in own["peaks"]["triad"] if own["peaks"] else ():
            if not entry["isa"]:
                del entry["isa"]
        for entry, measurement in zip(own["measurements"], self.measurements, strict=True):
            entry |= measurement.figures(self.peaks)
        return {"schema": SCHEMA, "version": VERSION, **own}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file, whole or not at all."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(_text(self.to_json()))


def _text(data: dict[str, Any]) -> str:
    """JSON with a line for each entry and each measurement: a third of the size of an indented one."""

    def compact(value: Any) -> str:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))

    entries = ",\n".join(map(compact, data["measurements"]))
    lines = [f"{json.dumps(key)}: {compact(value)}" for key, value in data.items() if key != "measurements"]
    return "{\n" + ",\n".join([*lines, f'"measurements": [\n{entries}\n]']) + "\n}\n"


def from_json(data: Any) -> Record:
    """The record in parsed JSON; ``RecordError`` where it is none."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise RecordError(f'this is no benchmark record: "schema" must be "{SCHEMA}"')
    if data.get("version") != VERSION:
        raise RecordError(f"this is a record of version {data.get('version')!r}; version {VERSION} can be read")
    body = {key: value for key, value in data.items() if key not in ("schema", "version")}
    figures = []
    if isinstance(body.get("measurements"), list):
        names = _FIGURES
        figures = [{n: e[n] for n in names if n in e} if isinstance(e, dict) else {} for e in body["measurements"]]
        body["measurements"] = [
            {key: value for key, value in entry.items() if key not in names} if isinstance(entry, dict) else entry
            for entry in body["measurements"]
        ]
    record: Record = decode(Record, body, "")
    for name, reason in record.absent.items():
        if not reason.strip():
            raise RecordError(f"absent.{name} must say why {name} is absent")
    for index, (measurement, given) in enumerate(zip(record.measurements, figures, strict=True)):
        _verify(measurement, given, record.peaks, f"measurements[{index}]")
    return record


def load(path: str | os.PathLike) -> Record:
    """Reads and checks a file; ``RecordError`` where it is no record, ``OSError`` where it cannot be read."""
    data = Path(path).read_bytes()
    try:
        return from_json(json.loads(data))
    except RecordError as error:
        raise RecordError(f"{os.fspath(path)}: {error}") from None
    except ValueError as error:
        raise RecordError(f"{os.fspath(path)}: this is no benchmark record, and no JSON: {error}") from None


# ---- validation -----------------------------------------------------------------------------------------------------

_FIGURES = (
    "median",
    "lower_quartile",
    "upper_quartile",
    "gflops",
    "gbps",
    "percent_of_peak",
    "percent_of_triad",
)


def _verify(measurement: Measurement, given: Mapping[str, Any], peaks: Peaks | None, at: str) -> None:
    if not measurement.seconds or min(measurement.seconds) <= 0:
        raise RecordError(f"{at}.seconds must hold times above 0")
    if measurement.threads < 1:
        raise RecordError(f"{at}.threads must be at least 1")
    for name, value in measurement.figures(peaks).items():
        if name not in given:
            raise RecordError(f"{at}.{name} is missing")
        found = given[name]
        if (value is None) != (found is None):
            raise RecordError(f"{at}.{name} is {found!r} and should be {value!r}")
        if value is not None and not (isinstance(found, (int, float)) and math.isclose(value, found, rel_tol=1e-9)):
            raise RecordError(f"{at}.{name} is {found!r}, and {value!r} follows from the other fields")


def decode(kind: Any, value: Any, at: str) -> Any:
    """``value`` as ``kind``: a dataclass of this module, a list, a dict, an optional or a plain type."""
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, at)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None:
            return None
        return decode(next(a for a in arguments if a is not type(None)), value, at)
    if origin is list:
        if not isinstance(value, list):
            raise RecordError(f"{at} must be a list, not {value!r}")
        return [decode(arguments[0], item, f"{at}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{at} must be an object, not {value!r}")
        return {key: decode(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecordError(f"{at} must be of type {kind.__name__}, not {value!r}")
    return value


def _decode_fields(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{at or 'the record'} must be an object, not {value!r}")
    hints = typing.get_type_hints(kind)
    prefix = f"{at}." if at else ""
    if unknown := sorted(set(value) - set(hints)):
        raise RecordError(f"{prefix}{unknown[0]} is no field of {kind.__name__}")
    given = {name: hint for name, hint in hints.items() if name in value or (kind, name) not in _ADDED}
    if missing := [name for name in given if name not in value]:
        raise RecordError(f"{prefix}{missing[0]} is missing")
    return kind(**{name: decode(hint, value[name], prefix + name) for name, hint in given.items()})


#: Fields that earlier files of this version do not have.
_ADDED = {(Machine, "gpu"), (Record, "absent"), (Triad, "isa")}
