"""DeepConvNet on a GPU: training steps with and without CUDA graphs, and a training of 20 epochs, beside PyTorch's."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gpu_device import Place
from networks import NETWORKS, Network, distance, tolerance, without_dropout, without_randomness
from peers.torch_net import BUILDERS, TorchNet

import fastdl
from fastdl import backend
from fastdl.bench import work
from fastdl.bench.record import CUDA, Check, Measurement
from fastdl.optim import Adam
from fastdl.train import Trainer

NAME = "deepconvnet"
CHECKED = "check of gradients"
ROOT = Path(__file__).parent.parent


class Size(NamedTuple):
    """How much is trained."""

    batch: int
    images: int  # that random batches are taken from: more than one epoch of the steps that are timed
    steps: int  # of one timed block
    blocks: int
    small: int  # images of the comparison


FULL, QUICK, TINY = Size(100, 60000, 40, 9, 100), Size(100, 60000, 20, 3, 100), Size(2, 16, 1, 1, 2)


class Participant(NamedTuple):
    """Somebody who trains."""

    name: str
    precision: str
    graph: bool

    @property
    def ours(self) -> bool:
        """Whether that is fastdl."""
        return self.name.startswith("fastdl")


def participants(emulated: bool) -> list[Participant]:
    """Those whose steps are timed. fastdl's optimizers keep parameters in float32, so there are no halves."""
    found = []
    for precision in ("float32", "tf32"):
        found += [Participant("fastdl", precision, False), Participant("fastdl/graph", precision, True)]
        found.append(Participant("torch channels_last", precision, False))
        if not emulated:
            found.append(Participant("torch channels_last graph", precision, True))
    return found


# ---- who trains -----------------------------------------------------------------------------------------------------


class OurTraining:
    """A Trainer's."""

    def __init__(self, who: Participant, data: tuple[Any, ...], batch: int, epochs: int, place: Place, report: bool):
        self._precision, (x, t, x_test, t_test) = who.precision, data
        with backend.tf32(who.precision == "tf32"):
            self.trainer = Trainer(
                NETWORKS[NAME].build(dtype="float32"), x, t, x_test, t_test, epochs=epochs, mini_batch_size=batch,
                optimizer="Adam", optimizer_param={"lr": 0.001}, verbose=False, seed=0, device="cuda",
                graph=who.graph, evaluate_sample_num_per_epoch=None if report else min(batch, len(x)),
            )  # fmt: skip

    @property
    def reason(self) -> str:
        """Why its steps are no graph."""
        return self.trainer.graph_reason

    def steps(self, count: int) -> None:
        """So many; returns when they are done."""
        with backend.tf32(self._precision == "tf32"):
            for _ in range(count):
                self.trainer.train_step()
            self.trainer._read_losses()

    def train(self) -> float:
        """All epochs; the accuracy at the end."""
        with backend.tf32(self._precision == "tf32"):
            self.trainer.train()
        return float(self.trainer.test_acc_list[-1])


class TorchTraining:
    """The same loop with PyTorch: data on the device, batches in a random order, losses that stay there."""

    reason = ""

    def __init__(self, who: Participant, data: tuple[Any, ...], batch: int, epochs: int, place: Place, report: bool):
        torch = self._torch = place.torch
        self._who, self._place, self._batch, self._epochs = who, place, batch, epochs
        self._net = TorchNet(BUILDERS[NAME], True, "float32", 0, place.torch_device, capturable=who.graph)
        types = (torch.float32, torch.int64) * 2
        self._x, self._t, self._x_test, self._t_test = (
            torch.as_tensor(np.ascontiguousarray(a)).to(place.torch_device, dtype)
            for a, dtype in zip(data, types, strict=True)
        )
        self._x, self._x_test = (
            a.contiguous(memory_format=torch.channels_last) for a in (self._x, self._x_test)
        )  # fmt: skip
        self._order = torch.randperm(len(self._x), device=place.torch_device)
        self._next = 0
        self._rows = self._order[:batch].clone()
        self._graph: Any = None
        self.losses: list[Any] = []
        if who.graph:
            self._capture()

    def _step(self) -> Any:
        x, t = self._x.index_select(0, self._rows), self._t.index_select(0, self._rows)
        return self._net.unread_step(x, t)

    def _capture(self) -> None:
        cuda = self._torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with self._place.theirs(self._who.precision), cuda.stream(stream):
            for _ in range(3):
                self._step()
        cuda.current_stream().wait_stream(stream)
        self._graph = cuda.CUDAGraph()
        with self._place.theirs(self._who.precision), cuda.graph(self._graph):
            self._loss = self._step()

    def steps(self, count: int) -> None:
        with self._place.theirs(self._who.precision):
            for _ in range(count):
                if self._next + self._batch > len(self._x):
                    self._order = self._torch.randperm(len(self._x), device=self._place.torch_device)
                    self._next = 0
                self._rows.copy_(self._order[self._next : self._next + self._batch])
                self._next += self._batch
                if self._graph is None:
                    self.losses.append(self._step())
                else:
                    self._graph.replay()
                    self.losses.append(self._loss.clone())
            self._place.synchronize()
        self.losses.clear()

    def train(self) -> float:
        accuracy = 0.0
        for _ in range(self._epochs):
            self.steps(len(self._x) // self._batch)
            self._accuracy(self._x, self._t)
            accuracy = self._accuracy(self._x_test, self._t_test)
        return accuracy

    def _accuracy(self, x: Any, t: Any) -> float:
        """Read once, as fastdl's."""
        torch, net = self._torch, self._net.net
        net.eval()
        right = torch.zeros((), dtype=torch.int64, device=self._place.torch_device)
        with torch.inference_mode(), self._place.theirs(self._who.precision):
            for start in range(0, len(x), self._batch):
                part = slice(start, start + self._batch)
                right += (net(x[part]).argmax(1) == t[part]).sum()
        return int(right) / len(x)


def training(who: Participant, data: tuple[Any, ...], batch: int, epochs: int, place: Place, report: bool) -> Any:
    """Whoever ``who`` is, before the first step."""
    kind: Any = OurTraining if who.ours else TorchTraining
    return kind(who, data, batch, epochs, place, report)


# ---- comparison -----------------------------------------------------------------------------------------------------


def check(place: Place, size: Size) -> Check:
    """Gradients in float64 on the device, dropout off, against PyTorch's."""
    network: Network = NETWORKS[NAME]._replace(small=size.small)
    x, t = random_data(size.small)[:2]
    ours = without_randomness(network)
    theirs = TorchNet(BUILDERS[NAME], True, "float64", 0, place.torch_device)
    theirs.load(ours.params)
    without_dropout(theirs.net)
    with place.theirs("float32", autotune=False):
        expected = theirs.gradient(x, t)
    ours.to("cuda")
    found = ours.gradient(fastdl.to_device(x.astype(np.float64), "cuda"), fastdl.to_device(t, "cuda"))
    host = {name: fastdl.to_device(a, "cpu") for name, a in found.items()}
    allowed = tolerance(network, "training_step", "fastdl", "float64")
    return Check(distance(host, expected), allowed, "PyTorch in float64")


def random_data(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels of the sizes of MNIST's; the test set is their begin."""
    rng = np.random.default_rng(0)
    x = rng.random((count, 1, 28, 28), dtype=np.float32)
    t = rng.integers(0, 10, count)
    return x, t, x[:100], t[:100]


def mnist() -> tuple[np.ndarray, ...] | None:
    """The data, where they are: in FASTDL_DATA_DIR, or in ``shared/data`` in or beside the checkout."""
    from fastdl.data.mnist import load_mnist

    places = [os.environ.get("FASTDL_DATA_DIR"), ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    for place in places:
        if place:
            try:
                (x, t), (x_test, t_test) = load_mnist(flatten=False, data_dir=place)
            except (FileNotFoundError, ValueError):
                continue
            return x, t, x_test, t_test
    return None


# ---- times ----------------------------------------------------------------------------------------------------------


def _work_of(place: Place, size: Size) -> tuple[work.Work, list[str]]:
    """What the kernels of one step do."""
    net, adam = NETWORKS[NAME].build(dtype="float32").to("cuda"), Adam(0.001)
    x, t = (fastdl.to_device(a, "cuda") for a in random_data(size.batch)[:2])
    with fastdl.explain() as log:
        adam.update(net.params, net.unread_loss_and_gradient(x, t)[1])
    return work.total(log.kernels()), work.names(log.kernels())


def _measurement(who: Participant, op: str, seconds: list[float], checked: Check | None, **settings: Any) -> Any:
    return Measurement(
        suite="networks", case=NAME, group=NAME, op=op, direction="step", dtype=who.precision, threads=1,
        participant=who.name, isa=CUDA, seconds=seconds, check=checked, settings=settings,
    )  # fmt: skip


def steps(
    place: Place, size: Size, checked: Check, chosen: list[Participant], say: Callable[[str], None]
) -> Iterator[Measurement]:
    """The times of a step, in turns."""
    data = random_data(size.images)
    running: dict[Participant, Any] = {}
    for who in chosen:
        try:
            running[who] = training(who, data, size.batch, 10**6, place, False)
            running[who].steps(5)
        except Exception as error:
            running.pop(who, None)
            say(f"step {who.name} {who.precision}: left out: {' '.join(str(error).split())[:200]}")
        else:
            if who.graph and (reason := running[who].reason):
                say(f"step {who.name} {who.precision}: no graph: {reason}")
    times: dict[Participant, list[float]] = {who: [] for who in running}
    for _ in range(size.blocks):
        for who, each in running.items():
            begin = time.perf_counter()
            each.steps(size.steps)
            times[who].append((time.perf_counter() - begin) / size.steps)
    total, kernels = _work_of(place, size)
    for who, seconds in times.items():
        found = _measurement(
            who, "training_step", seconds, checked if who.ours else None, batch=size.batch, optimizer="adam",
            graph=who.graph, timed="emulated" if place.emulated else "wall clock",
        )  # fmt: skip
        yield dataclasses.replace(found, flop=total.flop, bytes=total.bytes, kernels=kernels if who.ours else [])


def train(place: Place, who: Participant, data: tuple[Any, ...], batch: int, epochs: int) -> Measurement:
    """The time of a training with its evaluations, from the first step on; what a graph needs counts, data do not."""
    with place.theirs(who.precision):
        ready = training(who, data, batch, epochs, place, True)
        place.synchronize()
        begin = time.perf_counter()
        accuracy = ready.train()
        place.synchronize()
    return _measurement(
        who, "training", [time.perf_counter() - begin], None, batch=batch, epochs=epochs, accuracy=accuracy,
        graph=who.graph, timed="emulated" if place.emulated else "wall clock",
    )  # fmt: skip
