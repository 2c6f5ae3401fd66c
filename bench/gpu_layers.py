"""The layers of the suite on a GPU: which passes, in which order, and how one is compared and timed."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import suite
from calls import FUSED, OURS, Prepared, Ran, applies, operands, steps
from gpu_device import STORAGE, Call, DeviceDraw, Place, Recorded, interleaved
from peers import torch_ops

import fastdl
from fastdl.backend import KernelError, missing, use_backend
from fastdl.bench.record import CUDA, Measurement
from fastdl.check.runner import Failure

Arrays = dict[str, Any]

#: In the order of the tables.
PRECISIONS = ("float16", "bfloat16", "tf32", "float32")
#: Operations whose float32 products may be TF32's.
PRODUCTS = ("conv2d", "linear")
#: Convolutions that 2x2 pooling follows.
POOLED = ("deepconvnet/conv2", "deepconvnet/conv4", "deepconvnet/conv6",
          "vgg16/conv1_2", "vgg16/conv2_2", "vgg16/conv3_2", "vgg16/conv4_2", "vgg16/conv5_1")  # fmt: skip
REPEATS, SECONDS = 7, 0.003

THREE_CALLS, CUDNN_FUSED = "torch three calls", "torch cudnn fused"


class Unit(NamedTuple):
    """One pass of a layer in one storage dtype, which may be two precisions."""

    layer: suite.Layer
    direction: str
    precisions: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.layer.name} {self.direction} {'+'.join(self.precisions)}"


def directions(layer: suite.Layer) -> tuple[str, ...]:
    """The passes of a layer, its fused ones among them."""
    if layer.op != "conv2d":
        return layer.directions
    return (*layer.directions, FUSED[0], *([FUSED[1]] if layer.name in POOLED else []))


def units(precisions: Sequence[str], layers: Sequence[suite.Layer] = suite.LAYERS) -> list[Unit]:
    """Every pass of these layers, the most important first: of each class its largest layers before its others,
    DeepConvNet's with the first; float32 and float16 before bfloat16; single operations before fused ones."""
    by_group: dict[str, list[suite.Layer]] = defaultdict(list)
    for layer in layers:
        by_group[layer.group].append(layer)
    place: dict[str, float] = {}
    for group in by_group.values():
        group.sort(key=lambda layer: -(1 + len(layer.aliases)) * (layer.macs or layer.elements))
        place |= {layer.name: float(i) for i, layer in enumerate(group)}
    ordered: list[tuple[float, Unit]] = []
    for layer in layers:
        importance = 1.0 if layer.name.startswith("deepconvnet/") else place[layer.name]
        for direction in directions(layer):
            for storage in dict.fromkeys(STORAGE[name] for name in precisions):
                if not applies(layer, storage):
                    continue
                found = tuple(
                    name for name in precisions
                    if STORAGE[name] == storage and (name != "tf32" or layer.op in PRODUCTS)
                )  # fmt: skip
                if found:
                    later = 3.0 * (direction in FUSED) + 5.0 * (storage == "bfloat16")
                    ordered.append((importance + later, Unit(layer, direction, found)))
    return [unit for _, unit in sorted(ordered, key=lambda pair: pair[0])]


# ---- one pass -------------------------------------------------------------------------------------------------------


class Case(Prepared):
    """One pass, with its operands in a place and copies of them on the host. Products are compared with PyTorch's in
    float64, the rest with fastdl's reference."""

    def __init__(self, unit: Unit, place: Place) -> None:
        self.place = place
        storage = STORAGE[unit.precisions[0]]
        draw = DeviceDraw(place)
        with place.ours(storage):
            given = operands(unit.layer, unit.direction, storage, draw)
        host = {name: fastdl.to_device(a, "cpu") for name, a in given.items()}
        super().__init__(unit.layer, unit.direction, storage, host)
        if unit.layer.op in PRODUCTS:
            self.against = "PyTorch in float64"
        self._magnitudes: Arrays | None = None
        self._beside: Arrays = {}  # what PyTorch does not get
        self.tensors: Arrays = {}
        for name, a in given.items():
            tensor = draw.tensor_of(a)
            if name in ("state", "scale"):
                self._beside[name] = a
            else:
                self.tensors[name] = place.tensor(host[name]) if tensor is None else tensor

    def sets(self) -> list[Arrays]:
        """The operands and copies of them, so many that calls in turns find nothing in the cache."""
        size = sum(t.numel() * t.element_size() for t in self.tensors.values())
        size += int(math.prod(self.layer.out_shape)) * np.dtype(np.float16).itemsize
        more = self.place.sets(size) - 1
        return [self.tensors, *({name: t.detach().clone() for name, t in self.tensors.items()} for _ in range(more))]

    def call_on(self, tensors: Arrays) -> Call:
        """fastdl's call on a set; its result are arrays by name."""
        given = {name: self.place.array(t) for name, t in tensors.items()} | self._beside
        if self.layer.group == "optimizer":
            return steps(self.layer, given)[0]
        run, options = OURS[self.layer.op, self.direction], self.layer.options
        return lambda: run(given, options)

    def first(self, precision: str) -> Ran:
        """fastdl's first call, compared."""
        fresh = {name: t.detach().clone() for name, t in self.tensors.items()}
        call = self.call_on(fresh)
        with self.place.ours(precision), fastdl.explain() as log:
            begin = time.perf_counter()
            result = call()
            self.place.synchronize()
            seconds = time.perf_counter() - begin
        if self.layer.group == "optimizer":
            outputs = {name: self.place.numpy(t) for name, t in fresh.items() if name.startswith("p")}
        else:
            outputs = {name: fastdl.to_device(a, "cpu") for name, a in result.items() if a is not None}
        return self.ran(call, outputs, log.kernels(), seconds)

    def rows(self, precision: str) -> list[tuple[str, str, str, str]]:
        """(op, direction, label, dtype) of the kernels that run."""
        with self.place.ours(precision), fastdl.explain() as log:
            self.call_on({name: t.detach().clone() for name, t in self.tensors.items()})()
        return [(problem.op, problem.direction, label, problem.storage) for problem, label, _ in log.kernels()]

    # -- PyTorch --

    def makers(self) -> dict[str, tuple[Callable[[Arrays], Call], Callable[[Any], Arrays]]]:
        """PyTorch's ways: from a set to a call, and from what it returns to arrays by name."""
        layer = self.layer
        if layer.group == "optimizer":
            return {"torch fused": (self._stepper, lambda params: params)}
        ways: dict[str, Any] = {"torch channels_last": torch_ops.CALLS[layer.op, self.direction]}
        if self.direction in FUSED:
            ways = {THREE_CALLS: torch_ops.CALLS[layer.op, self.direction]}
            if not self.place.emulated:
                ways[CUDNN_FUSED] = torch_ops.cudnn_relu if self.direction == FUSED[0] else torch_ops.cudnn_relu_pool
        return {name: (self._maker(way), self._namer(way)) for name, way in ways.items()}

    def _formatted(self, tensors: Arrays) -> Arrays:
        last = self.place.torch.channels_last
        return {name: t.contiguous(memory_format=last) if t.dim() == 4 else t for name, t in tensors.items()}

    def _maker(self, way: Any) -> Callable[[Arrays], Call]:
        torch, options = self.place.torch, self.layer.options

        def make(tensors: Arrays) -> Call:
            with torch.no_grad():
                call, _ = way(torch, self._formatted(tensors), options)
            return torch_ops.without_graph(torch, call)

        return make

    def _namer(self, way: Any) -> Callable[[Any], Arrays]:
        torch = self.place.torch
        with torch.no_grad():
            names = way(torch, self._formatted(self.tensors), self.layer.options)[1]
        return torch_ops.namer(names, self.place.numpy)

    def _stepper(self, tensors: Arrays) -> Call:
        copies = {name: t.detach().clone() for name, t in tensors.items()}
        capturable = self.layer.op == "adam" and not self.place.emulated
        step, params = torch_ops.optimizer(self.layer, copies, fused=True, capturable=capturable)

        def call() -> Arrays:
            step()
            return {}

        call.params = params  # type: ignore[attr-defined]
        return call

    def theirs(self, name: str, precision: str) -> Ran:
        """PyTorch's first call, compared; after ``first``."""
        make, outputs_of = self.makers()[name]
        with self.place.theirs(precision):
            call = make(self.tensors)
            if self.layer.group == "optimizer":
                params = call.params  # type: ignore[attr-defined]
                return self.peer(call, lambda _: {key: self.place.numpy(p) for key, p in params.items()})
            return self.peer(call, outputs_of, precision == "tf32" and self.layer.op in PRODUCTS)

    # -- the expectation --

    def _reference(self, inputs: Arrays) -> Arrays:
        """Of products the first call is the expectation, and all later ones are for their sums of magnitudes."""
        if self.layer.op not in PRODUCTS:
            host = inputs if "state" not in inputs else {k: v for k, v in inputs.items() if k != "state"}
            with use_backend("numpy" if missing("cython") else "cython"):
                return super()._reference(host)
        if self._magnitudes is not None:
            return self._magnitudes
        torch = self.place.torch
        tensors = {name: self.place.tensor(np.ascontiguousarray(a)) for name, a in inputs.items()}
        with self.place.theirs("float32", autotune=False), torch.no_grad():
            direction = FUSED[0] if self.direction == FUSED[1] else self.direction
            call, names = torch_ops.CALLS[self.layer.op, direction](torch, tensors, self.layer.options)
            found = {names[0]: call()}
            if self.direction == FUSED[1]:
                found["pooled"] = torch.nn.functional.max_pool2d(found["out"], 2, 2)
        result = {name: self.place.numpy(t) for name, t in found.items()}
        if self._expected is not None:
            self._magnitudes = result
        return result


def measure(
    unit: Unit, place: Place, failing: Collection[tuple[str, str, str, str]], say: Callable[[str], None], quick: bool
) -> Iterator[Measurement]:
    """The measurements of a unit; ``say`` hears what is left out, and ``failing`` are the rows (op, direction, label,
    dtype) that fail checks."""
    try:
        case = Case(unit, place)
    except KernelError as error:
        return say(f"{unit.name}: no kernel: {_short(error)}")
    sets = case.sets()
    for precision in unit.precisions:
        yield from _measure(unit, case, sets, precision, place, failing, say, quick)


def _measure(
    unit: Unit,
    case: Case,
    sets: list[Arrays],
    precision: str,
    place: Place,
    failing: Collection[tuple[str, str, str, str]],
    say: Callable[[str], None],
    quick: bool,
) -> Iterator[Measurement]:
    layer, direction = unit.layer, unit.direction
    name = f"{layer.name} {direction} {precision}"
    try:
        wrong = [row for row in case.rows(precision) if row in failing]
        if wrong:
            return say(f"{name}: not timed: {' '.join(wrong[0])} fails its checks")
        ran: dict[str, Ran] = {"fastdl": case.first(precision)}
    except KernelError as error:
        return say(f"{name}: no kernel: {_short(error)}")
    except Failure as error:
        return say(f"{name}: WRONG, not timed: {error}")
    recorded: dict[str, Recorded] = {}
    makers = case.makers()
    for peer in makers:
        try:
            ran[peer] = case.theirs(peer, precision)
        except (Failure, RuntimeError, NotImplementedError) as error:
            say(f"{name}: {peer} is left out: {_short(error)}")
    for participant in ran:
        if participant == "fastdl":
            calls = [case.call_on(tensors) for tensors in sets]
            recorded[participant] = place.record_ours(calls, precision)
        else:
            make = makers[participant][0]
            recorded[participant] = place.record_theirs([_bound(make, tensors) for tensors in sets], precision)
    times = interleaved(recorded, 1 if place.emulated else 3 if quick else REPEATS, 0 if place.emulated else SECONDS)
    ours = ran["fastdl"]
    assert ours.problem is not None and ours.work is not None
    for participant, found in ran.items():
        reason = recorded[participant].reason
        if reason and not place.emulated:
            say(f"{name}: {participant} is launched call by call: {reason}")
        yield Measurement(
            suite="gpu",
            case=layer.name,
            group=layer.group,
            op=layer.op,
            direction=direction,
            dtype=precision,
            threads=1,
            participant=participant,
            isa=CUDA,
            seconds=[max(seconds, 1e-9) for seconds in times[participant]],
            kernels=list(found.kernels),
            problem={key: _plain(value) for key, value in ours.problem._asdict().items()},
            flop=float(ours.work.flop),
            bytes=float(ours.work.bytes),
            check=found.check,
            settings={
                "aliases": list(layer.aliases),
                "batch": layer.shape[0],
                "shape": list(layer.shape),
                "weight": list(layer.weight),
                "timed": "emulated" if place.emulated else "launches" if reason else "graph",
                "sets": len(sets),
            },
        )


def _bound(make: Callable[[Arrays], Call], tensors: Arrays) -> Callable[[], Call]:
    return lambda: make(tensors)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _short(error: Exception) -> str:
    text = str(error).partition(":\n")[0] if isinstance(error, KernelError) else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
