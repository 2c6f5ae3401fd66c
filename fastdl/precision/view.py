"""A report as rows and columns of text: what the table, the page and the pictures show.

Every cell of a format whose arithmetic is emulated begins with ``MARK``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..bench.breakdown import counted, listed, percent, significant, size
from .formats import FORMATS, Format
from .record import Histogram, Inference, Report, Result, Training

MARK = "~"


class Field(NamedTuple):
    """A cell; ``value`` is what it is sorted by, None for an empty one."""

    text: str
    value: float | str | None


EMPTY = Field("", None)


class Column(NamedTuple):
    """Of the table of formats."""

    header: str
    field: Callable[[Report, Result], Field]
    words: bool = False


def _field(value: float | None, text: Callable[[float], str]) -> Field:
    return EMPTY if value is None else Field(text(value), value)


def accuracy(value: float) -> str:
    """In percent, with as many decimals as 10,000 images give."""
    return f"{100 * value:.2f} %"


def ratio(decibels: float) -> str:
    """A signal-to-noise ratio, without the unit."""
    return "exact" if decibels == math.inf else "not finite" if math.isnan(decibels) else f"{decibels:.1f}"


def factor(value: float) -> str:
    """How many times as long."""
    return f"{significant(value)}×"


def share(value: float) -> str:
    """Nothing for 0."""
    return "0" if value == 0 else percent(value)


def _inferred(text: Callable[[Inference], Field]) -> Callable[[Report, Result], Field]:
    return lambda report, result: EMPTY if result.inference is None else text(result.inference)


def _trained(text: Callable[[Training], Field]) -> Callable[[Report, Result], Field]:
    def field(report: Report, result: Result) -> Field:
        found = result.training
        return EMPTY if found is None or not found.accuracies else text(found)

    return field


def _by(other: Callable[[Report], float | None]) -> Callable[[Report, Result], Field]:
    def field(report: Report, result: Result) -> Field:
        own, beside = report.seconds(result), other(report)
        return EMPTY if own is None or not beside else _field(own / beside, factor)

    return field


def _float32(report: Report) -> float | None:
    single = report.result("float32")
    return None if single is None else report.seconds(single)


def microseconds(seconds: float) -> str:
    """Without the unit."""
    return significant(1e6 * seconds)


_FORMAT = [
    Column("format", lambda _, r: Field(r.name, r.name), True),
    Column("bits", lambda _, r: _field(r.bits, str)),
    Column("sums", lambda _, r: Field(r.sums, r.sums), True),
]
_RUNS = Column("computed by", lambda report, r: Field(computed_by(r), computed_by(r)), True)
_COLUMNS = {
    "infer": [
        *_FORMAT,
        Column("accuracy", _inferred(lambda i: _field(i.accuracy, accuracy))),
        Column("same class as float64", _inferred(lambda i: _field(i.agreement, accuracy))),
        Column("largest difference", _inferred(lambda i: _field(i.largest_difference, lambda v: f"{v:.2g}"))),
        Column("mean difference", _inferred(lambda i: _field(i.mean_difference, lambda v: f"{v:.2g}"))),
        Column("weights", _inferred(lambda i: _field(i.weight_bytes, size))),
        Column("activations", _inferred(lambda i: _field(i.activation_bytes, size))),
        Column("largest step", _inferred(lambda i: _field(i.largest_step_bytes, size))),
        Column("µs an image", _inferred(lambda i: _field(i.time.median if i.time else None, microseconds))),
        Column("±", _inferred(lambda i: _field(i.time.spread if i.time else None, percent))),
        Column("by direct float32", _by(Report.direct_float32)),
        Column("by fastest float32", _by(Report.fastest_float32)),
        _RUNS,
    ],
    "train": [
        *_FORMAT,
        Column("accuracy", _trained(lambda t: _field(t.accuracy, accuracy))),
        Column("± sd", _trained(lambda t: _field(t.deviation if len(t.seeds) > 1 else None, accuracy))),
        Column("trainings", _trained(lambda t: _field(len(t.seeds), str))),
        Column("steps skipped", _trained(lambda t: _field(sum(t.skipped), str))),
        Column("of", _trained(lambda t: _field(sum(t.steps), "{:,}".format))),
        Column("loss scale", _trained(lambda t: _field(t.loss_scale, "{:,g}".format))),
        Column("s a training", _trained(lambda t: _field(t.time.median * t.images, significant))),
        Column("by float32", _by(_float32)),
        _RUNS,
    ],
}


def columns(report: Report) -> list[Column]:
    """Of the table of formats."""
    return _COLUMNS[report.mode]


def row(report: Report, result: Result) -> list[Field]:
    """Of the table of formats. One that did not run says why in its last cell."""
    fields = [marked(result, column.field(report, result)) for column in columns(report)]
    if result.reason:
        fields[-1] = Field(f"not run: {result.reason}" if result.measured is None else f"ended: {result.reason}", None)
    return fields


def marked(result: Result, field: Field) -> Field:
    """With the mark of an emulation, where it is one."""
    return Field(f"{MARK}{field.text}", field.value) if result.emulated and field.text else field


#: Ops whose kernels make the difference; the page has all.
_PRODUCTS = ("conv2d", "gemm")
#: What CPUs have for fewer bits, by the level of a row; the others multiply and add in the dtype of the sums.
_INSTRUCTIONS = {"v4bf16": "vdpbf16ps", "v4vnni": "vpdpbusd", "v4popcnt": "vpopcntd"}


def computed_by(result: Result) -> str:
    """Real instructions or an emulation, and the rows of the registry that computed the products."""
    measured = result.measured
    labels = [k.label for k in measured.kernels if k.op.startswith(_PRODUCTS)] if measured else []
    if not labels:
        return ""
    backends, names, levels = zip(*(f"{label}//".split("/")[:3] for label in labels), strict=True)
    special = [_INSTRUCTIONS[level] for level in dict.fromkeys(levels) if level in _INSTRUCTIONS]
    how = "emulated" if result.emulated else f"real, {listed(special)}" if special else "real"
    where = " ".join(dict.fromkeys(word for word in (*backends, *levels) if word))
    return f"{how} ({where}): {', '.join(dict.fromkeys(names))}"


# ---- layers ---------------------------------------------------------------------------------------------------------


def with_layers(report: Report) -> list[Result]:
    """Those whose layers were compared with float64's."""
    return [r for r in report.ran if r.inference is not None and r.inference.layers]


def with_sensitivity(report: Report) -> list[Result]:
    """Those of which each layer was reduced alone."""
    return [r for r in report.ran if r.inference is not None and r.inference.sensitivity]


def ordered(names: Iterable[Sequence[str]]) -> list[str]:
    """All of them once, in the order of the first that has them."""
    return list(dict.fromkeys(name for some in names for name in some))


# ---- gradients ------------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Gradients of a training, as a format sees them: multiplied by the loss scale, if there is one."""

    result: Result  # whose training it is
    format: Format
    scale: int  # exponent of two
    gradients: list[Histogram]

    @property
    def title(self) -> str:
        """With the scale."""
        return f"{self.format.name}, loss times 2^{self.scale}" if self.scale else self.format.name

    def histogram(self, layer: str, kind: str) -> Histogram | None:
        """That of one of the gradients."""
        return next((h for h in self.gradients if (h.layer, h.kind) == (layer, kind)), None)

    def lost(self, h: Histogram) -> float:
        """Smaller than half of the smallest number: rounded to 0."""
        assert self.format.range is not None
        return h.below(self.format.range.subnormal - 1 - self.scale)

    def rough(self, h: Histogram) -> float:
        """Not lost, and smaller than the smallest number with all its bits."""
        assert self.format.range is not None
        return h.below(self.format.range.normal - self.scale) - self.lost(h)

    def beyond(self, h: Histogram) -> float:
        """Infinite."""
        assert self.format.range is not None
        return h.beyond(self.format.range.top - self.scale)


def limits(report: Report) -> list[Limits]:
    """Of each trained format of 16 bits, without and with the scale of its loss; and of float8, which is not trained
    in, as it would see the gradients of float32."""
    found = []
    for result in report.ran:
        training = result.training
        format = FORMATS[result.name]
        if training is None or not training.gradients_last:
            continue
        if format.bits == 16:
            found.append(Limits(result, format, 0, training.gradients_last))
            if training.loss_scale and training.loss_scale > 1:
                found.append(
                    Limits(result, format, math.floor(math.log2(training.loss_scale)), training.gradients_last)
                )
        elif result.name == "float32":
            eights = [f for f in FORMATS.values() if f.bits == 8 and f.range is not None]
            found += [Limits(result, f, 0, training.gradients_last) for f in eights]
    return found


# ---- sentences ------------------------------------------------------------------------------------------------------


def title(report: Report) -> str:
    """What was measured."""
    verb = "trained" if report.mode == "train" else "run"
    return f"{report.network} on {report.dataset}, {verb} with fewer bits"


def conditions(report: Report) -> str:
    """Images, batch, threads."""
    s = report.settings
    which = "test images" if report.mode == "infer" else "training images"
    text = f"{s['images']:,} {which}, batch {s['batch']}, {counted(s['threads'], 'thread')}"
    return f"{text}; weights: {report.weights}" if report.mode == "infer" else f"{text}; {report.weights}"


def notes(report: Report) -> list[str]:
    """What a reader of the table must know."""
    found = []
    if any(result.emulated for result in report.formats):
        found.append(f"{MARK}: emulated. Its accuracy is what such a machine would give, its time means nothing.")
    if report.mode == "infer":
        direct, fastest = report.direct_float32(), report.fastest_float32()
        if direct and fastest:
            found.append(
                f"float32 takes {microseconds(direct)} µs an image with direct convolutions and "
                f"{microseconds(fastest)} with the fastest there are. Above 1× a format is slower than that."
            )
        found.append("±: from the lower to the upper quartile of the times, by the median.")
    if not report.complete:
        found.append("Interrupted: what is missing was not measured.")
    return found
