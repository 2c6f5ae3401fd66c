"""What the laboratory is asked for, and what is known before any work starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend, optim
from ..bench import machine
from ..bench.breakdown import counted
from ..data import Dataset, load_dataset
from ..layers import BinaryAffine, BinaryConvolution
from ..models import Model
from ..models.catalog import NETWORKS
from ..network import leaves, sequence
from ..train import Trainer
from .binarization import binarize
from .formats import BINARY, BOOK, INFER, TRAIN, Format, chosen, missing
from .record import Report, Result

#: Images of the data sets.
IMAGE = (1, 28, 28)
#: Networks that take them.
NETS = tuple(name for name, known in NETWORKS.items() if math.prod(known.image) == math.prod(IMAGE))
#: The weights of the book's experiment, below the folder of the data.
BOOK_WEIGHTS = Path("book", "deep_convnet_params_2022.pkl")
BOOK_HALF = "book-half"
PRESETS = (BOOK_HALF,)


@dataclass(frozen=True)
class Plan:
    """``images``, ``epochs`` None: all of them, as many as suit the data."""

    network: str = "deepconvnet"
    dataset: str = "digits"
    mode: str = INFER
    formats: tuple[str, ...] = ("all",)
    weights: Path | None = None
    data_dir: Path | None = None
    seeds: int = 3
    epochs: int | None = None
    images: int | None = None
    batch: int = 100
    lr: float = 0.001
    sensitivity: bool = True
    rounds: int = 9
    preset: str = ""

    @property
    def wanted_epochs(self) -> int:
        """Those of a training."""
        return (3 if self.dataset == "mnist" else 20) if self.epochs is None else self.epochs

    @property
    def train_batch(self) -> int:
        """Images of a step."""
        return self.batch if self.dataset == "mnist" else min(self.batch, 50)


class Reporter:
    """What a run tells; override what is of interest."""

    def begin(self, text: str, count: int, unit: str = "images") -> None:
        """Work on so many of them begins."""

    def advance(self, count: int) -> None:
        """So many of them are done."""

    def measured(self, report: Report) -> None:
        """A part of the work is in the report."""

    def say(self, text: str) -> None:
        """Something went another way than was asked for."""


@dataclass
class Bench:
    """What is there before the work starts: data, a network with the weights of the user, formats that can run."""

    plan: Plan
    data: Dataset
    net: Model  # float64; binary where the weights are those of a binary network
    formats: list[Format]
    report: Report
    reporter: Reporter
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def tests(self) -> tuple[np.ndarray, np.ndarray]:
        """Test images and labels."""
        n = self.plan.images if self.plan.mode == INFER else None
        return self.data.x_test[:n], self.data.t_test[:n]

    @property
    def trainings(self) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels."""
        n = self.plan.images if self.plan.mode == TRAIN else None
        return self.data.x_train[:n], self.data.t_train[:n]

    def build(self, format: Format, seed: int) -> Model:
        """A network to be trained in ``format``."""
        return build(self.plan, "float64" if format.name == "float64" else "float32", seed, format.kind == BINARY)

    def trainer(self, net: Model, format: Format, seed: int, epochs: int, **more: Any) -> Trainer:
        """That trains ``net`` in ``format``; run it in the format's context.

        The learning rate falls to 0: at a constant one the accuracy hangs on the last few steps.
        """
        (x, t), (x_test, t_test) = self.trainings, self.tests
        more = {"evaluate_sample_num_per_epoch": 1000, "mini_batch_size": self.plan.train_batch, **more}
        if format.precision:
            more["precision"] = format.precision
        return Trainer(
            net, x, t, x_test, t_test, epochs=epochs, optimizer="Adam", optimizer_param={"lr": self.plan.lr},
            verbose=False, seed=seed, schedule=optim.cosine(self.plan.lr, epochs), **more,
        )  # fmt: skip


def book_half(plan: Plan) -> Plan:
    """The book's own experiment: trained weights in float64, then weights and images rounded to float16 in the same
    arrays; and beside it what kernels that store float16 make of them.

    Raises ``FileNotFoundError`` where no weights are given and the folder of the data has none.
    """
    weights = plan.weights
    if weights is None:
        folder = plan.data_dir or Path(os.environ.get("FASTDL_DATA_DIR") or os.curdir)
        weights = folder / BOOK_WEIGHTS
        if not weights.exists():
            raise FileNotFoundError(
                f"the book's experiment needs the book's weights, and there is no {weights}: --weights FILE says where "
                f"they are"
            )
    images = None if plan.images is None else plan.images // 100 * 100  # the book's accuracy counts whole batches
    if images == 0:
        raise ValueError(f"the book counts batches of 100 images, and there are to be {plan.images}")
    formats = ("float64", BOOK.name, "float32", "float16") if plan.formats == ("all",) else plan.formats
    return replace(
        plan, dataset="mnist", mode=INFER, formats=formats, weights=weights, images=images, batch=100,
        sensitivity=False,
    )  # fmt: skip


def build(plan: Plan, dtype: str, seed: int, binary: bool = False) -> Model:
    """The network of the plan with new weights."""
    net = NETWORKS[plan.network].build(dtype=dtype, seed=seed)
    return binarize(net) if binary else net


def prepare(plan: Plan, command: list[str], reporter: Reporter) -> Bench:
    """Everything that can go wrong before the work starts: ``ValueError``, ``OSError``; formats that cannot run here
    are said, and left out."""
    if plan.network not in NETS:
        wrong = (
            f"takes images of {NETWORKS[plan.network].image}, and the data sets have {IMAGE}"
            if plan.network in NETWORKS
            else "is not known"
        )
        raise ValueError(f"the network {plan.network!r} {wrong}: take one of {', '.join(NETS)}")
    wanted = chosen(plan.formats)
    flat = len(NETWORKS[plan.network].image) == 1
    data = load_dataset(plan.dataset, flatten=flat, dtype=np.float32, data_dir=plan.data_dir)
    net, described = _weights(plan)
    available = len(data.x_test if plan.mode == INFER else data.x_train)
    settings = {
        "images": min(plan.images or available, available),
        "batch": plan.batch,
        "epochs": plan.wanted_epochs,
        "lr": plan.lr,
        "seeds": plan.seeds,
        "threads": backend.get_num_threads(),
        "backend": backend.get_backend(),
        "isa": backend.get_isa(),
        "preset": plan.preset,
    }
    report = Report(plan.mode, plan.network, plan.dataset, described, settings, command, machine.describe("ml_dtypes"))
    found = Bench(plan, data, net, [], report, reporter)
    is_binary = plan.weights is not None and _is_binary(net)
    for format in wanted:
        result = Result(*format[:6])
        report.formats.append(result)
        found.results[format.name] = result
        result.reason = _odd(plan, format, is_binary) or missing(format, plan.mode, lambda f: _try(found, f))
        if result.reason:
            reporter.say(f"{format.name}: {result.reason}")
        else:
            found.formats.append(format)
    if not found.formats:
        reasons = "; ".join(dict.fromkeys(r.reason for r in report.formats))
        raise ValueError(f"none of the formats can be run: {reasons}")
    return found


def _weights(plan: Plan) -> tuple[Model, str]:
    """The network in float64 with the weights of the plan, or those it starts from; and what they are."""
    if plan.mode == TRAIN or plan.weights is None:
        adam = f"{counted(plan.wanted_epochs, 'epoch')} of Adam, lr {plan.lr:g}"
        return build(plan, "float64", 0), adam if plan.mode == TRAIN else f"trained here in float32, {adam}, seed 0"
    net = build(plan, "float64", 0)
    try:
        net.load_params(plan.weights)
    except ValueError as error:
        net = _binary_weights(plan, error)
    return net, os.fspath(plan.weights)


def _binary_weights(plan: Plan, error: ValueError) -> Model:
    """Of a network that was trained binary; ``error`` where they do not fit that either."""
    try:
        net = build(plan, "float64", 0, binary=True)
        assert plan.weights is not None
        net.load_params(plan.weights)
    except (ValueError, TypeError):
        raise error from None
    return net


def _is_binary(net: Model) -> bool:
    return any(isinstance(layer, BinaryAffine | BinaryConvolution) for layer in leaves(sequence(net)))


def _odd(plan: Plan, format: Format, is_binary: bool) -> str:
    """Why the format has no part in such an experiment."""
    if plan.mode == TRAIN:
        return ""
    if format.kind == BINARY and not is_binary:
        return "a network must be trained binary: --train does, and so do --weights of a binary network"
    if is_binary and format.kind != BINARY and format.name != "float64":
        return "these weights are those of a binary network"
    return ""


def _try(bench: Bench, format: Format) -> None:
    """One prediction, or one step of training, on two images."""
    plan = bench.plan
    if plan.mode == INFER:
        few = bench.data.x_test[:2]
        with backend.inference():
            format.network(bench.net, few).predict(format.images(few))
        return
    net = bench.build(format, 0)
    trainer = bench.trainer(net, format, 0, 1, mini_batch_size=2)
    trainer.train_step()
