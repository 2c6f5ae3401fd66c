"""The schema of the laboratory's files: JSON, version 1.

A file is one object with the fields of ``Report``, and those of the dataclasses below inside it::

    {"schema": "fastdl-precision", "version": 1, "mode": "infer", "network": ..., "machine": {...}, ...,
     "formats": [{"name": "float16", "reason": "", "inference": {...}, "training": null, ...}, ...]}

and under ``"summary"``, derived from the rest so that other programs need not, for each format that ran its accuracy
(of all seeds), its standard deviation, and the median of its seconds for an image. ``load`` checks all of it.

Units are seconds, bytes, images. ``signal`` and ``noise`` are sums of squares: of what float64 gives, and of what is
off from that; 10 log10 of their ratio is the signal-to-noise ratio in decibels. Noise is null where a value is infinite
or no number.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._files import replacing
from ..bench.record import Machine, RecordError, decode
from ..bench.stats import Summary, summary

SCHEMA, VERSION = "fastdl-precision", 1

__all__ = ["Histogram", "Inference", "Kernel", "RecordError", "Reduced", "Report", "Result", "Signal", "Training"]


def decibels(signal: float, noise: float | None) -> float:
    """The signal-to-noise ratio; infinite without noise, NaN without a signal or with a value that is not finite."""
    if noise is None or signal == 0:
        return math.nan
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


@dataclass(frozen=True)
class Signal:
    """The output of a layer, beside that of float64."""

    layer: str
    kind: str  # its class
    signal: float
    noise: float | None

    @property
    def ratio(self) -> float:
        """In decibels: see ``decibels``."""
        return decibels(self.signal, self.noise)


@dataclass(frozen=True)
class Reduced:
    """The network in float32 with this one layer in the format."""

    layer: str
    accuracy: float
    signal: float  # of the scores
    noise: float | None

    @property
    def ratio(self) -> float:
        """Of the scores, in decibels: see ``decibels``."""
        return decibels(self.signal, self.noise)


@dataclass(frozen=True)
class Kernel:
    """A row of the registry that ran in a layer."""

    layer: str
    op: str
    label: str


@dataclass
class Inference:
    """A trained network in a format, on the test images."""

    right: int  # images whose class is their label's
    same: int  # images whose class is float64's
    images: int
    not_finite: int  # images with a score that is infinite or no number: a NaN is no class
    largest_difference: float  # of a score from float64's, among images with finite scores
    mean_difference: float
    weight_bytes: int  # parameters and running statistics
    activation_bytes: int  # of one image: everything that kernels write
    largest_step_bytes: int  # of one image: the largest input of a kernel together with its output
    kernels: list[Kernel]
    layers: list[Signal] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # for an image, each timed call
    sensitivity: list[Reduced] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """The share of images whose class is their label's."""
        return self.right / self.images

    @property
    def deviation(self) -> float:
        """The standard error of the accuracy, were the images drawn at random."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)

    @property
    def agreement(self) -> float:
        """The share of images whose class is float64's."""
        return self.same / self.images

    @property
    def time(self) -> Summary | None:
        """Of an image; None before it was measured."""
        return summary(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Histogram:
    """Gradients by magnitude: ``counts[k]`` values lie in [2 ** (first + k), 2 ** (first + k + 1))."""

    layer: str
    kind: str  # "activation": by the layer's output; or the name of a parameter
    first: int
    counts: list[int]
    zeros: int
    not_finite: int

    @property
    def nonzero(self) -> int:
        """Finite values other than 0."""
        return sum(self.counts)

    def below(self, exponent: int) -> float:
        """The share of the values other than 0 that are smaller than 2 ** exponent."""
        return sum(self.counts[: max(0, exponent - self.first)]) / max(1, self.nonzero)

    def beyond(self, exponent: int) -> float:
        """The share of the values other than 0 that are 2 ** exponent or larger."""
        return sum(self.counts[max(0, exponent - self.first) :]) / max(1, self.nonzero)


@dataclass
class Training:
    """A network trained in a format, once for each seed; the entries of the lists are those of the seeds."""

    seeds: list[int] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)  # on the test images, at the end
    seconds: list[float] = field(default_factory=list)  # of training, without evaluation
    steps: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)  # steps whose gradients overflowed
    images: int = 0  # of a training, all epochs
    loss_scale: float | None = None  # at the end of the first seed's; None where there is none
    kernels: list[Kernel] = field(default_factory=list)  # of a step of the first seed
    #: Of the first seed, in float32 at the weights it starts from and at those it ends with.
    gradients_first: list[Histogram] = field(default_factory=list)
    gradients_last: list[Histogram] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds (of a sample: n - 1); 0 for one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def time(self) -> Summary:
        """Of one image in training, over the seeds."""
        return summary([seconds / self.images for seconds in self.seconds])


@dataclass
class Result:
    """A format."""

    name: str
    title: str
    kind: str
    bits: int
    significand: int
    sums: str
    reason: str = ""  # why it did not run, or not to its end
    inference: Inference | None = None
    training: Training | None = None

    @property
    def emulated(self) -> bool:
        """Whether its times say nothing."""
        return self.kind == "emulated"

    @property
    def measured(self) -> Inference | Training | None:
        """What there is."""
        return self.inference or (self.training if self.training and self.training.accuracies else None)


@dataclass
class Report:
    """A file."""

    mode: str  # "infer" or "train"
    network: str
    dataset: str
    weights: str  # the file, or how they were trained
    settings: dict[str, Any]  # images, batch, threads, backend, epochs, seeds, ...
    command: list[str]
    machine: Machine
    formats: list[Result] = field(default_factory=list)
    #: Beside the formats: seconds for an image in float32 with direct convolutions, without Winograd's.
    direct_seconds: list[float] = field(default_factory=list)
    complete: bool = False  # False where it was interrupted
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def result(self, name: str) -> Result | None:
        """That of the format with this name, if it ran."""
        return next((r for r in self.formats if r.name == name and r.measured is not None), None)

    @property
    def ran(self) -> list[Result]:
        """Those that have something to show."""
        return [r for r in self.formats if r.measured is not None]

    def seconds(self, result: Result) -> float | None:
        """The median for an image; None where it was not measured."""
        measured = result.measured
        time = None if measured is None else measured.time
        return None if time is None else time.median

    def direct_float32(self) -> float | None:
        """The median seconds of an image in float32 with direct convolutions."""
        return summary(self.direct_seconds).median if self.direct_seconds else None

    def fastest_float32(self) -> float | None:
        """Seconds of an image with the fastest float32 there is: what runs by default, or direct convolutions."""
        single = self.result("float32")
        found = [self.direct_float32(), None if single is None else self.seconds(single)]
        return min((s for s in found if s is not None), default=None)

    def summary(self) -> list[dict[str, Any]]:
        """What follows from the rest."""
        found = []
        for result in self.ran:
            measured = result.measured
            assert measured is not None
            entry = {"format": result.name, "emulated": result.emulated, "accuracy": measured.accuracy}
            found.append(entry | {"deviation": measured.deviation, "median_seconds": self.seconds(result)})
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON can express it."""
        own = dataclasses.asdict(self)
        if self.machine.gpu is None:
            del own["machine"]["gpu"]
        return {"schema": SCHEMA, "version": VERSION, **own, "summary": self.summary()}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file, whole or not at all."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_json(), allow_nan=False, indent=1) + "\n")


def from_json(data: Any) -> Report:
    """The report in parsed JSON; ``RecordError`` where it is none."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise RecordError(f'this is no report of fastdl precision: "schema" must be "{SCHEMA}"')
    if data.get("version") != VERSION:
        raise RecordError(f"this is a report of version {data.get('version')!r}; version {VERSION} can be read")
    body = {key: value for key, value in data.items() if key not in ("schema", "version", "summary")}
    report: Report = decode(Report, body, "")
    for result in report.formats:
        _check(result)
    if report.summary() != data.get("summary"):
        raise RecordError('"summary" is not what follows from the other fields')
    return report


def _check(result: Result) -> None:
    at = f"the format {result.name}"
    if result.inference is not None and not 0 < result.inference.images >= result.inference.right:
        raise RecordError(f"{at} has {result.inference.right} images right of {result.inference.images}")
    if (t := result.training) is not None:
        counts = {len(t.seeds), len(t.accuracies), len(t.seconds), len(t.steps), len(t.skipped)}
        if len(counts) != 1 or t.images < 1:
            raise RecordError(f"{at} has lists of different lengths, or no images")


def load(path: str | os.PathLike) -> Report:
    """Reads and checks a file; ``RecordError`` where it is no report, ``OSError`` where it cannot be read."""
    try:
        return from_json(json.loads(Path(path).read_bytes()))
    except RecordError as error:
        raise RecordError(f"{os.fspath(path)}: {error}") from None
    except ValueError as error:
        raise RecordError(f"{os.fspath(path)}: this is no report, and no JSON: {error}") from None
