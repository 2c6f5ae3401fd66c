"""A network trained in each format, seed by seed: accuracy, time, skipped steps, and how large gradients are."""

from __future__ import annotations

import functools

from .. import backend
from ..train import Progress, Trainer
from . import measure
from .formats import Format
from .inference import guarded
from .plan import Bench, Reporter
from .record import Kernel, Result, Training

#: Images whose gradients are looked at.
LOOKED_AT = 100


class Steps(Progress):
    """Hands the progress of a training on."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def step(self, trainer: Trainer, loss: float) -> None:
        """See ``Progress``."""
        self.reporter.advance(trainer.batch_size)


def run(bench: Bench) -> None:
    """Fills the results of ``bench``, one training after the other, seed by seed: an interrupt leaves what there is."""
    for seed in range(bench.plan.seeds):
        for format in list(bench.formats):
            if guarded(bench, format, functools.partial(_train, bench, seed)):
                bench.reporter.measured(bench.report)
            else:
                bench.formats.remove(format)


def _train(bench: Bench, seed: int, format: Format) -> None:
    result: Result = bench.results[format.name]
    (x, t), epochs = bench.trainings, bench.plan.wanted_epochs
    bench.reporter.begin(f"{format.name}: training {seed + 1} of {bench.plan.seeds}", epochs * len(x))
    net = bench.build(format, seed)
    found = result.training or Training(images=epochs * len(x))
    first = measure.gradients(net, x[:LOOKED_AT], t[:LOOKED_AT]) if not found.seeds else []
    with format.context():
        if not found.seeds:
            found.kernels = _kernels(bench, format)
        trainer = bench.trainer(net, format, seed, epochs, progress=Steps(bench.reporter))
        trainer.train()
    if first:
        found.gradients_first = first
        found.gradients_last = measure.gradients(net, x[:LOOKED_AT], t[:LOOKED_AT])
        found.loss_scale = trainer.loss_scale
    found.seeds.append(seed)
    found.accuracies.append(float(trainer.final_test_acc or 0.0))
    found.seconds.append(sum(record["seconds"] for record in trainer.history))
    found.steps.append(trainer.current_iter)
    found.skipped.append(trainer.skipped_steps)
    result.training = found


def _kernels(bench: Bench, format: Format) -> list[Kernel]:
    """Of one step of a network of its own."""
    trainer = bench.trainer(bench.build(format, 0), format, 0, 1)
    with backend.explain() as log:
        trainer.train_step()
    every = [(problem.op, f"{problem.op} {problem.direction}", label) for problem, label, _ in log.kernels()]
    return [Kernel(*found) for found in dict.fromkeys(every)]
