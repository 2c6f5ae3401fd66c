"""A trained network in each format: accuracy, agreement with float64, noise of layers, bytes, time; and what happens
where one layer alone is reduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .. import backend
from ..bench.timing import Participant, Turns, interleave
from ..models import Model
from . import measure
from .formats import BINARY, BOOK, FORMATS, QUANTIZED, Format
from .plan import Bench
from .record import Inference, Reduced

#: Images whose outputs are compared layer by layer; from the training set, those that calibrate integers.
SAMPLE, CALIBRATION = 256, 512
#: Seconds that the turns of one format may take, roughly: emulations are slow, and what they take means nothing.
LONGEST = 10.0
DIRECT = "float32 direct"


def run(bench: Bench) -> None:
    """Fills the results of ``bench``, one measurement after the other: an interrupt leaves what there is.

    A format that fails has a ``reason`` then, and the others go on.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # that is what is looked for
        _run(bench)


def _run(bench: Bench) -> None:
    x, t = bench.tests
    if bench.plan.weights is None:
        _train(bench)
    double = FORMATS["float64"]
    bench.reporter.begin("float64: the scores to compare with", len(x))
    wanted = measure.scores(bench.net, double, x, bench.plan.batch, bench.reporter.advance)
    networks: dict[str, Model] = {}
    for format in bench.formats:
        if guarded(bench, format, lambda f: _score(bench, f, networks, wanted, t)):
            bench.reporter.measured(bench.report)
    _time(bench, networks)
    if bench.plan.sensitivity:
        _sensitivity(bench, networks, wanted, t)


def _train(bench: Bench) -> None:
    """Where no weights were given: in float32, and then in ``bench.net``."""
    from .training import Steps

    single = FORMATS["float32"]
    net = bench.build(single, 0)
    (x, _), epochs = bench.trainings, bench.plan.wanted_epochs
    bench.reporter.begin("training in float32", epochs * len(x))
    trainer = bench.trainer(net, single, 0, epochs, progress=Steps(bench.reporter))
    trainer.train()
    bench.net = net.astype("float64")


def guarded(bench: Bench, format: Format, work: Callable[[Format], None]) -> bool:
    """Whether ``work(format)`` came to its end; its error is the format's, and nobody else's."""
    try:
        work(format)
    except (ArithmeticError, AttributeError, ImportError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        result = bench.results[format.name]
        result.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        bench.reporter.say(f"{format.name}: {result.reason}")
        return False
    return True


def _score(bench: Bench, format: Format, networks: dict[str, Model], wanted: np.ndarray, t: np.ndarray) -> None:
    x, _ = bench.tests
    net = format.network(bench.net, bench.data.x_train[:CALIBRATION])
    profile = measure.profiled(net, format, x[: bench.plan.batch])
    found = wanted
    if format.name != "float64":
        bench.reporter.begin(f"{format.name}: accuracy", len(x))
        found = measure.scores(net, format, x, bench.plan.batch, bench.reporter.advance)
    named = measure.classes(found)
    finite = np.isfinite(found).all(axis=1)
    off = np.abs(found[finite] - wanted[finite])
    total, largest = measure.activation_bytes(net, format, x[:1])
    result = Inference(
        right=int(np.count_nonzero(named == t)),
        same=int(np.count_nonzero(named == measure.classes(wanted))),
        images=len(x),
        not_finite=int(np.count_nonzero(~finite)),
        largest_difference=float(off.max(initial=0.0)),
        mean_difference=float(off.mean()) if off.size else 0.0,
        weight_bytes=measure.weight_bytes(net),
        activation_bytes=total,
        largest_step_bytes=largest,
        kernels=measure.kernels(profile),
    )
    if format.name != "float64":
        sample = x[:SAMPLE]
        bench.reporter.begin(f"{format.name}: layers", len(sample))
        formats = FORMATS["float64"], format
        result.layers = measure.signals(bench.net, net, formats, sample, bench.reporter.advance)
    bench.results[format.name].inference = result
    networks[format.name] = net


# ---- time -----------------------------------------------------------------------------------------------------------


def _time(bench: Bench, networks: dict[str, Model]) -> None:
    """All formats in turns, and float32 with direct convolutions beside them."""
    x = bench.tests[0][: bench.plan.batch]
    participants = [_participant(name, FORMATS[name], net, x) for name, net in networks.items()]
    if "float32" in networks:
        direct = _participant("float32", FORMATS["float32"], networks["float32"], x)
        participants.append(Participant(DIRECT, direct.call, lambda: backend.conv_algorithm("direct")))
    times: dict[str, list[float]] = {}
    rounds = {p.name: bench.plan.rounds for p in participants}
    bench.reporter.begin("time", bench.plan.rounds * len(participants), "turns")
    try:
        with backend.inference():
            for number in range(bench.plan.rounds):
                for p in participants:
                    if number < rounds[p.name]:
                        interleave([p], Turns(rounds=1), times)
                        rounds[p.name] = min(bench.plan.rounds, max(2, int(LONGEST / (2 * times[p.name][0]))))
                    bench.reporter.advance(1)
    finally:
        for name, seconds in times.items():
            per_image = [s / len(x) for s in seconds]
            if name == DIRECT:
                bench.report.direct_seconds = per_image
            elif (result := bench.results[name].inference) is not None:
                result.seconds = per_image
    bench.reporter.measured(bench.report)


def _participant(name: str, format: Format, net: Model, x: np.ndarray) -> Participant:
    images = format.images(x)
    return Participant(name, lambda: net.predict(images), format.context)


# ---- one layer at a time --------------------------------------------------------------------------------------------


def can_reduce(format: Format) -> bool:
    """Whether one layer of a float32 network can be in it."""
    return format.significand < 24 and format.kind != BINARY and format.name != BOOK.name


def _sensitivity(bench: Bench, networks: Mapping[str, Model], wanted: np.ndarray, t: np.ndarray) -> None:
    formats = [f for f in bench.formats if can_reduce(f) and bench.results[f.name].inference is not None]
    for format in formats:
        if guarded(bench, format, lambda f: _reduce(bench, f, networks[f.name], wanted, t)):
            bench.reporter.measured(bench.report)


def _reduce(bench: Bench, format: Format, own: Model, wanted: np.ndarray, t: np.ndarray) -> None:
    """``own`` is the network that is in the format as a whole."""
    x, _ = bench.tests
    single, result = FORMATS["float32"], bench.results[format.name].inference
    net = single.network(bench.net, x)
    weighted = {name: layer for name, layer in measure.named_layers(net).items() if getattr(layer, "parameters", ())}
    bench.reporter.begin(f"{format.name}: one layer at a time", len(weighted) * len(x))
    assert result is not None
    for name, layer in weighted.items():
        alone = (
            measure.on_bytes(layer, measure.named_layers(own)[name])
            if format.kind == QUANTIZED
            else measure.reduced(layer, format)
        )
        with alone:
            found = measure.scores(net, single, x, bench.plan.batch, bench.reporter.advance)
        right = int(np.count_nonzero(measure.classes(found) == t))
        result.sensitivity.append(Reduced(name, right / len(x), *measure.noise(wanted, found)))
