"""Networks for pytest-benchmark: inference, the passes of training, whole steps; fastdl's backends beside PyTorch.

    pytest bench/test_nets.py                                         # three networks: a few minutes
    pytest bench/test_nets.py -k 'resnet18 and training_step'         # all that match; --bench-all: all that there are

The networks are those of ``fastdl.models.catalog``, in its batches. A table is a pass of a network, a line of it a
participant. All get the same weights and images; their scores and gradients are compared before they are timed
(``fastdl.bench.participants``). Calls on ``--bench-backends cuda`` end when the device is done. ``fastdl bench`` shows
the layers of a network, ``bench/step.py`` has each participant in a process of its own, with its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from timed import HAS_TORCH, HOST, Options, backend_of, describe, latest, ours, time_it

import fastdl
from fastdl.bench import work
from fastdl.bench.breakdown import DIRECTIONS
from fastdl.bench.nets import make
from fastdl.bench.participants import Agreement, Ours, Runner, Setting, Torch
from fastdl.bench.record import Check
from fastdl.bench.timing import synchronised
from fastdl.models.catalog import NETWORKS
from fastdl.optim import Adam

pytest.importorskip("pytest_benchmark")

FEW, TINY = ("lenet", "deepconvnet", "alexnet"), ("lenet", "deepconvnet")
STEP = "training_step"
#: Images of the comparison, and of a batch that is not timed.
COMPARED = 2
TORCH = "torch cpu"


def cases(options: Options) -> Iterator[tuple[str, tuple[str, str], str]]:
    """Group, network and pass, participant."""
    peers = (TORCH,) if HAS_TORCH else ()
    for name in NETWORKS if options.every else TINY if options.tiny else FEW:
        for direction in (*DIRECTIONS, *([] if options.dtype == "float16" else [STEP])):  # optimizers have no halves
            group = f"network {name} batch {_batch(name, options)} {options.dtype} {direction}"
            for participant in (*map(ours, options.backends), *peers):
                yield group, (name, direction), participant


def _batch(name: str, options: Options) -> int:
    return COMPARED if options.tiny else NETWORKS[name].batch


class Contest:
    """A network, and who runs it."""

    def __init__(self, name: str, options: Options) -> None:
        self._name, self._dtype = name, options.dtype
        self._network = make(name, options.dtype)
        self._setting = Setting(_batch(name, options), options.dtype, options.threads, DIRECTIONS)
        self._agreement = Agreement(COMPARED)
        self._runners: dict[str, tuple[Runner, Check | None]] = {}
        self._totals: dict[str, work.Work] = {}
        self.runner(ours(HOST))  # the others are compared with it

    def runner(self, participant: str) -> tuple[Runner, Check | None]:
        """Compared, but for the first; the test fails where it computes something else."""
        if participant not in self._runners:
            made = self._make(participant)
            check, _ = self._agreement.check(made)
            self._runners[participant] = made, check
        check = self._runners[participant][1]
        if check is not None and not check.passed:
            pytest.fail(f"{check.difference:.2g} from {check.against}, and may be {check.tolerance:.2g}")
        return self._runners[participant]

    def _make(self, participant: str) -> Runner:
        backend, network = backend_of(participant), self._network
        if not backend:
            return Torch(network, self._setting)
        if backend == "cuda":
            network = make(self._name, self._dtype)
            network.net.to("cuda")
        return Ours(backend, network, self._setting)

    def work(self, direction: str) -> work.Work:
        """Of a pass, whoever computes it."""
        if direction not in self._totals:
            self._totals[direction] = work.total(kernels(self.runner(ours(HOST))[0], direction))
        return self._totals[direction]


contest = latest(Contest)


def context_of(runner: Runner, direction: str) -> ExitStack:
    """In which the pass is made. It leaves running statistics as they were: who comes later is compared too."""
    stack = ExitStack()
    stack.enter_context(runner.network.kept_statistics())
    stack.enter_context(runner.context())
    if direction == "inference":
        stack.enter_context(runner.inference())
    return stack


def call_of(runner: Runner, direction: str) -> tuple[Callable[..., Any], Callable[[], Any] | None]:
    """The call that is timed; and what comes before it each time and may return its arguments."""
    done: Callable[..., Any] = synchronised if runner.device == "cuda" else lambda call: call
    forward = done(runner.forward)

    def to_the_loss() -> tuple[tuple[Any], dict[str, Any]]:
        runner.clear()
        return (forward(),), {}

    if direction == "backward":
        return done(runner.backward), to_the_loss
    if direction == "forward":
        return forward, runner.clear
    return done(runner.predict if direction == "inference" else training_step(runner)), None


def training_step(runner: Runner) -> Callable[[], Any]:
    """Forward, backward, Adam, at a rate of 0: the work is the same, and the weights stay those that were compared."""
    if isinstance(runner, Torch):
        import torch

        theirs = torch.optim.Adam(runner.peer.all_parameters(), lr=0.0, fused=True)

        def update(grads: None) -> None:
            theirs.step()
    else:
        adam, params = Adam(lr=0.0), runner.network.net.params

        def update(grads: Any) -> None:
            adam.update(params, grads)

    def step() -> None:
        runner.clear()
        update(runner.backward(runner.forward()))

    return step


def kernels(runner: Runner, direction: str) -> list[Any]:
    """Those of fastdl in one call."""
    call, before = call_of(runner, direction)
    with context_of(runner, direction):
        arguments = (before and before()) or ((), {})
        with fastdl.explain() as log:
            call(*arguments[0])
    return log.kernels()


def test_net(benchmark: Any, options: Options, group: str, case: tuple[str, str], participant: str) -> None:
    """One participant on one pass."""
    name, direction = case
    backend_of(participant)
    found = contest(name, options)
    runner, check = found.runner(participant)
    ran = work.names(kernels(runner, direction)) if isinstance(runner, Ours) else []
    about = {"network": name, "direction": direction, "batch": _batch(name, options), "device": runner.device}
    describe(benchmark, options, group, participant, found.work(direction), ran, check, **about)
    call, setup = call_of(runner, direction)
    with context_of(runner, direction):
        time_it(benchmark, options, call, setup)
