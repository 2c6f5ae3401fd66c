"""From a layer of the suite to calls: its arrays, fastdl's call, PyTorch's, and the comparison of their results.

Both get the same values. fastdl gets channels-last memory, which is what its functions return; PyTorch is measured in
channels-last and in NCHW memory. fastdl's outputs come from its pool, warm after the first call; PyTorch allocates its
outputs at each call, and for large ones the system has to clear fresh pages: that is what its users get, too.

Results are compared with the same function in float64 without Winograd's algorithm, element by element, within the
error that ``fastdl.check.tolerances`` computes for the row that ran: on a part of the images (channels, filters) that
has about ``COMPARED`` elements, the first and the last among them; ``fastdl check`` compares everything. A peer may be
``PEER_SLACK`` times as far off: it rounds in its own order, and a wrong formula is wrong by more than that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import numpy as np
from suite import Layer

import fastdl
from fastdl import backend, optim, to_device
from fastdl import functional as F
from fastdl._array import empty
from fastdl.bench import work
from fastdl.bench.record import Check
from fastdl.bench.timing import synchronised
from fastdl.check.arrays import is_float
from fastdl.check.cases import Case
from fastdl.check.runner import Failure, compare
from fastdl.check.tolerances import Habits, bounds, habits_of, windows
from fastdl.functional._conv import fused_conv2d, fused_conv2d_pool
from fastdl.functional._pointwise import mask_of_state
from fastdl.kernels import registry
from fastdl.kernels.problem import COMPUTE, Problem

Arrays = dict[str, Any]

PEER_SLACK = 8.0
#: Here a peer starts from the logits, and adds the rounding of its own probabilities.
CROSS_ENTROPY_SLACK = 64.0
#: PyTorch keeps intermediate sums of some float16 operations in float16, whose roundoff is 2**13 of
#: float32's: a slack of 8 becomes that. bfloat16's is 2**16 of it.
HALF_SLACK = {"float16": 2.0**10, "bfloat16": 2.0**13}
COMPARED = 2**18
#: Passes of a convolution with what follows it: bias and ReLU; and pooling by 2x2 windows.
FUSED = ("forward_relu", "forward_relu_pool")
#: Seed and step of a dropout's mask.
MASK = (1, 0)


def applies(layer: Layer, dtype: str) -> bool:
    """Whether the layer has a case in ``dtype``."""
    if layer.op == "cast":
        return layer.options["source"] == dtype
    return dtype in ("float32", "float64") if layer.group == "optimizer" else dtype in COMPUTE


# ---- operands -------------------------------------------------------------------------------------------------------


class Draw:
    """Random values in host memory."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def image(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Normal values in an array as a layer hands it on: from a cache line's start on (as PyTorch's are too; NumPy's
        begin 16 bytes behind one), four dimensions in channels-last memory."""
        values = self._rng.standard_normal(shape, dtype=np.float64 if dtype == "float64" else np.float32)
        to = empty(shape, np.dtype(dtype), "nhwc" if len(shape) == 4 else "nchw")
        to[...] = values
        return to

    def parameter(self, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Any:
        """Normal values times ``scale`` in C order."""
        return (self._rng.standard_normal(shape) * scale).astype(dtype)

    def factors(self, count: int, dtype: str) -> Any:
        """Values from 0.5 to 1.5."""
        return self._rng.uniform(0.5, 1.5, count).astype(dtype)

    def labels(self, count: int, classes: int) -> Any:
        """Class numbers."""
        return self._rng.integers(0, classes, count)

    def state(self, seed: int, step: int) -> Any:
        """What a dropout's mask is drawn from, where a device wants it in its memory; None here."""
        return None


def operands(layer: Layer, direction: str, dtype: str, draw: Draw | None = None) -> Arrays:
    """The arrays that the pass reads, named as in the contract of its op; values that earlier passes make are made by
    fastdl."""
    draw = draw or Draw()
    found: Arrays = {}
    if layer.group == "optimizer":
        for i, shape in enumerate(layer.options["parameters"]):
            found[f"p{i}"] = draw.parameter(shape, dtype)
            found[f"g{i}"] = draw.parameter(shape, dtype)
        return found
    if layer.op == "concat":
        n, _, h, w = layer.shape
        return {f"x{i}": draw.image((n, c, h, w), dtype) for i, c in enumerate(layer.options["parts"])}
    if layer.op == "add":
        return {"a": draw.image(layer.shape, dtype), "b": draw.image(layer.shape, dtype)}
    x = draw.image(layer.shape, dtype)
    if layer.op == "softmax_cross_entropy":
        labels = draw.labels(layer.shape[0], layer.shape[1])
        if direction == "forward":
            return {"x": x, "labels": labels}
        scale = np.array([1 / layer.shape[0]], COMPUTE[dtype])
        return {"x": x, "probabilities": F.softmax_cross_entropy(x, labels)[1], "labels": labels, "scale": scale}
    found["x"] = x
    if layer.op in ("conv2d", "linear"):
        fan_in = math.prod(layer.weight[1:]) if layer.op == "conv2d" else layer.weight[0]
        found["w"] = draw.parameter(layer.weight, dtype, 1 / math.sqrt(fan_in))
    if direction in FUSED:
        found["b"] = draw.parameter(layer.weight[:1], dtype)
    if layer.op == "batch_norm":
        gamma, beta = draw.factors(layer.shape[1], dtype), draw.parameter(layer.shape[1:2], dtype)
        found |= {"gamma": gamma, "beta": beta}
        if direction != "forward":
            _, found["mean"], found["var"] = F.batch_norm(x, gamma, beta)
    if layer.op == "dropout" and (state := draw.state(*MASK)) is not None:
        found["state"] = state
    if direction.startswith("backward"):
        found["dout"] = draw.image(layer.out_shape, dtype)
        if layer.op == "max_pool2d":
            found["indices"] = F.max_pool2d(x, **layer.options, return_indices=True)[1]
        elif layer.op == "relu":
            found["y"] = F.relu(x)
    return found


# ---- fastdl ---------------------------------------------------------------------------------------------------------

Ours = Callable[[Arrays, dict[str, Any]], Arrays]


def _conv2d_backward(name: str, index: int) -> Ours:
    def run(o: Arrays, options: dict[str, Any]) -> Arrays:
        return {f"d{name}": F.conv2d_backward(o["dout"], o["x"], o["w"], **options, need=(name,))[index]}

    return run


def _linear_backward(name: str, index: int) -> Ours:
    def run(o: Arrays, options: dict[str, Any]) -> Arrays:
        return {f"d{name}": F.linear_backward(o["dout"], o["x"], o["w"], need=(name,))[index]}

    return run


def _batch_norm(o: Arrays, options: dict[str, Any]) -> Arrays:
    return dict(zip(("out", "mean", "var"), F.batch_norm(o["x"], o["gamma"], o["beta"]), strict=True))


def _batch_norm_backward(o: Arrays, options: dict[str, Any]) -> Arrays:
    found = F.batch_norm_backward(o["dout"], o["x"], o["gamma"], o["mean"], o["var"])
    return dict(zip(("dx", "dgamma", "dbeta"), found, strict=True))


def _conv2d_relu(o: Arrays, options: dict[str, Any]) -> Arrays:
    return {"out": fused_conv2d(o["x"], o["w"], o["b"], *_geometry(options), None, True)}


def _conv2d_relu_pool(o: Arrays, options: dict[str, Any]) -> Arrays:
    """As ``fastdl.layers`` computes it: in one pass where a kernel can."""
    found = fused_conv2d_pool(o["x"], o["w"], o["b"], *_geometry(options), True)
    if found is not None:
        return {"out": found[0], "pooled": found[1]}
    out = _conv2d_relu(o, options)["out"]
    return {"out": out, "pooled": F.max_pool2d(out, size=2, stride=2, return_indices=True)[0]}


def _geometry(options: dict[str, Any]) -> tuple[Any, ...]:
    return options["stride"], options["pad"], 1, options["groups"]


def _dropout(o: Arrays, options: dict[str, Any]) -> Arrays:
    shape, ratio = o["x"].shape, options["ratio"]
    mask = mask_of_state(shape, ratio, o["state"]) if "state" in o else F.dropout_mask(shape, ratio, *MASK)
    return {"out": F.dropout(o["x"], mask, 1 / (1 - ratio))}


def _cross_entropy(o: Arrays, options: dict[str, Any]) -> Arrays:
    return dict(zip(("loss", "probabilities"), F.softmax_cross_entropy(o["x"], o["labels"]), strict=True))


def _cross_entropy_backward(o: Arrays, options: dict[str, Any]) -> Arrays:
    return {"dx": F.softmax_cross_entropy_backward(o["probabilities"], o["labels"], dtype=o["x"].dtype)}


OURS: dict[tuple[str, str], Ours] = {
    ("conv2d", "forward"): lambda o, options: {"out": F.conv2d(o["x"], o["w"], **options)},
    ("conv2d", "forward_relu"): _conv2d_relu,
    ("conv2d", "forward_relu_pool"): _conv2d_relu_pool,
    ("conv2d", "backward_input"): _conv2d_backward("x", 0),
    ("conv2d", "backward_weight"): _conv2d_backward("w", 1),
    ("linear", "forward"): lambda o, options: {"out": F.linear(o["x"], o["w"])},
    ("linear", "backward_input"): _linear_backward("x", 0),
    ("linear", "backward_weight"): _linear_backward("w", 1),
    ("max_pool2d", "forward"): lambda o, options: {"out": F.max_pool2d(o["x"], **options, return_indices=True)[0]},
    ("max_pool2d", "backward"): lambda o, options: {
        "dx": F.max_pool2d_backward(o["dout"], o["x"].shape, **options, indices=o["indices"])
    },
    ("avg_pool2d", "forward"): lambda o, options: {"out": F.avg_pool2d(o["x"], **options)},
    ("avg_pool2d", "backward"): lambda o, options: {"dx": F.avg_pool2d_backward(o["dout"], o["x"].shape, **options)},
    ("global_avg_pool2d", "forward"): lambda o, options: {"out": F.global_avg_pool2d(o["x"])},
    ("global_avg_pool2d", "backward"): lambda o, options: {"dx": F.global_avg_pool2d_backward(o["dout"], o["x"].shape)},
    ("batch_norm", "forward"): _batch_norm,
    ("batch_norm", "inference"): lambda o, options: {
        "out": F.batch_norm_inference(o["x"], o["gamma"], o["beta"], o["mean"], o["var"])
    },
    ("batch_norm", "backward"): _batch_norm_backward,
    ("local_response_norm", "forward"): lambda o, options: {"out": F.local_response_norm(o["x"], **options)},
    ("local_response_norm", "backward"): lambda o, options: {
        "dx": F.local_response_norm_backward(o["dout"], o["x"], **options)
    },
    ("relu", "forward"): lambda o, options: {"out": F.relu(o["x"])},
    ("relu", "backward"): lambda o, options: {"dx": F.relu_backward(o["dout"], o["y"])},
    ("add", "forward"): lambda o, options: {"out": F.add(o["a"], o["b"])},
    ("concat", "forward"): lambda o, options: {"out": F.concat(list(o.values()))},
    ("cast", "forward"): lambda o, options: {"out": F.cast(o["x"], options["target"])},
    ("dropout", "forward"): _dropout,
    ("softmax_cross_entropy", "forward"): _cross_entropy,
    ("softmax_cross_entropy", "backward"): _cross_entropy_backward,
}


class Settings(NamedTuple):
    """How fastdl runs a call."""

    threads: int
    conv: str = "auto"
    isa: str = registry.LEVELS[-1]
    backend: str = "cython"

    @property
    def name(self) -> str:
        """Of the participant: what differs from the defaults."""
        used = "" if self.backend == "cython" else self.backend
        isa = "" if self.isa == registry.LEVELS[-1] else self.isa
        return "/".join(filter(None, ("fastdl", used, "" if self.conv == "auto" else self.conv, isa)))

    @property
    def level(self) -> str:
        """The ISA level that runs under this cap here."""
        if self.backend != "cython":
            return "any"
        usable = [isa for isa in registry.available_levels() if registry.LEVELS.index(isa) <= self._cap]
        return usable[-1] if usable else "any"

    @property
    def _cap(self) -> int:
        return min(registry.LEVELS.index(self.isa), registry.LEVELS.index(backend.get_isa()))

    def context(self) -> AbstractContextManager[Any]:
        """In which the calls are made."""
        stack = ExitStack()
        if self.backend != "cython" or registry.available_levels():  # no silent fallback to the slow reference
            stack.enter_context(backend.use_backend(self.backend))
        stack.enter_context(backend.threads(self.threads))
        stack.enter_context(backend.conv_algorithm(self.conv))
        stack.enter_context(backend.isa(registry.LEVELS[self._cap]))
        return stack


class Ran(NamedTuple):
    """What the first call of a participant showed."""

    call: Callable[[], Any]
    check: Check
    kernels: tuple[str, ...] = ()
    problem: Problem | None = None
    work: work.Work | None = None
    first: float | None = None  # seconds of the first call, which compiles or loads kernels and allocates


class Prepared:
    """One pass of a layer, with its arrays."""

    against = "fastdl in float64, direct"

    def __init__(self, layer: Layer, direction: str, dtype: str, given: Arrays | None = None) -> None:
        self.layer, self.direction, self.dtype = layer, direction, dtype
        self.operands = operands(layer, direction, dtype) if given is None else given
        self._expected: Arrays | None = None
        self._inputs: Arrays = {}
        self._bounds: dict[Habits, Mapping[str, Any]] = {}
        self._problem: Problem | None = None
        self._axes, self._further = _separable(layer, direction), _further(layer, direction)

    # -- participants --

    def ours(self, settings: Settings) -> Ran:
        """fastdl's first call, compared with the expectation. On ``"cuda"`` a call ends when the device is done."""
        if settings.backend == "cuda":
            call, outputs_of = self._on_device()
        else:
            call, outputs_of = calls_of(self.layer, self.direction, self.operands)
        with settings.context(), fastdl.explain() as log:
            begin = time.perf_counter()
            outputs = outputs_of(call())
            first = time.perf_counter() - begin
        outputs = {name: to_device(a, "cpu") for name, a in outputs.items()}
        return self.ran(call, outputs, log.kernels(), first)

    def _on_device(self) -> tuple[Callable[[], Any], Callable[[Any], Arrays]]:
        given = {name: to_device(a, "cuda") for name, a in self.operands.items()}
        if self.layer.op == "dropout":
            given["state"] = to_device(np.array(MASK, np.uint64), "cuda")
        made = (
            steps(self.layer, given) if self.layer.group == "optimizer" else calls_of(self.layer, self.direction, given)
        )
        return synchronised(made[0]), made[1]

    def ran(self, call: Callable[[], Any], outputs: Arrays, kernels: list[tuple[Problem, str, int]], first: float):
        """What fastdl's first call showed, in so many seconds; its outputs are compared."""
        row = self.knows(kernels)
        check = self._check(outputs, habits_of(row), 1.0)
        return Ran(call, check, tuple(work.names(kernels)), self._problem, work.total(kernels), first)

    def knows(self, kernels: list[tuple[Problem, str, int]]) -> registry.Row:
        """Of the kernels that ran, the row that does what the op is named after; its problem is that of this pass."""
        problem, label = _main(kernels, self.layer.op)
        self._problem = problem
        return next(r for r in registry.TABLE if (r.op, r.direction, r.label) == (problem.op, problem.direction, label))

    def peer(self, call: Callable[[], Any], outputs_of: Callable[[Any], Arrays], tf32: bool = False) -> Ran:
        """A peer's first call, compared with the expectation; after ``ours``."""
        assert self._problem is not None
        reference = next(r for r in registry.TABLE if r[:3] == (self._problem.op, self._problem.direction, "numpy"))
        habits = habits_of(reference)._replace(blocks=None, tf32=tf32)
        slack = CROSS_ENTROPY_SLACK if self._problem.op == "softmax_cross_entropy" else PEER_SLACK
        slack *= HALF_SLACK.get(self.dtype, 1.0)
        outputs = outputs_of(call())
        if "dropped" in outputs:
            return Ran(call, self._kept(outputs["dropped"]))
        return Ran(call, self._check(outputs, habits, slack))

    # -- comparison --

    def _part(self, name: str, a: np.ndarray) -> np.ndarray:
        """What is compared of an operand or output."""
        axis = self._axes.get("param" if self.layer.group == "optimizer" else name)
        every = max(b.size for b in self.operands.values())
        if axis is not None and not (name == "b" and self.direction in FUSED):
            size = a.shape[axis]
            count = max(2, int(size * COMPARED / every))
            a = a if count >= size else _spread(a, axis, count)
        second = self._further.get(name)
        if second is None or second >= a.ndim:
            return a
        # What the cut above leaves of the largest array; a gradient of filters is a sum over all its images.
        images = self.layer.shape[0]
        taken = 1.0 if self.direction == "backward_weight" else max(2, int(images * COMPARED / every)) / images
        size = a.shape[second]
        count = max(2, int(size * COMPARED / (every * min(taken, 1.0))))
        return a if count >= size else _spread(a, second, count)

    def _kept(self, values: np.ndarray) -> Check:
        """Dropout with a mask of the peer's own: what remains is right, and as much as it should be."""
        ratio, x = self.layer.options["ratio"], self.operands["x"]
        kept = values != 0
        compare(values[kept], _wide(x[kept]) / (1 - ratio), np.zeros(()), "out")
        return Check(
            abs(kept.mean() - (1 - ratio)), 6 * math.sqrt(ratio * (1 - ratio) / x.size), "the share that is kept"
        )

    def _reference(self, inputs: Arrays) -> Arrays:
        with backend.conv_algorithm("direct"), np.errstate(all="ignore"):
            call, outputs_of = calls_of(self.layer, self.direction, inputs)
            return outputs_of(call())

    def _expectation(self) -> Arrays:
        if self._expected is None:
            part = {name: self._part(name, a) for name, a in self.operands.items()}
            self._inputs = {name: _wide(a) for name, a in part.items()}
            if self.layer.op == "cast":  # its own dtypes: exact
                self._expected = {"out": self._inputs["x"]}
            elif self.layer.op == "softmax_cross_entropy" and self.direction == "forward":
                self._expected = _losses(self._inputs["x"], self._inputs["labels"])
            else:
                self._expected = self._reference(self._inputs)
        return self._expected

    def _bound(self, habits: Habits) -> Mapping[str, Any]:
        if habits not in self._bounds:
            assert self._problem is not None
            problem = self._problem
            if problem.op == "conv2d":  # of the part that is compared
                problem = problem._replace(shapes=(self._inputs["x"].shape, self._inputs["w"].shape))
            case = Case("", problem, (), "normal", ())
            inputs = self._inputs | _state(self.layer, self._inputs)
            found = dict(bounds(case, inputs, self._expectation(), self._reference, habits))
            if "losses" in found:  # F returns their mean, summed in float64
                found["loss"] = np.asarray(found["losses"].mean())
            if "pooled" in self._expectation():
                found["pooled"] = windows(np.broadcast_to(found["out"], self._expectation()["out"].shape)).max(-1)
            self._bounds[habits] = found
        return self._bounds[habits]

    def _check(self, outputs: Arrays, habits: Habits, slack: float) -> Check:
        """The worst element of all outputs; ``Failure`` where it is wrong."""
        expected = self._expectation()
        allowed = self._bound(habits)
        worst = Check(0.0, 0.0, self.against)
        ratio = -1.0
        for name, values in outputs.items():
            if name not in allowed:
                continue
            part = self._part(name, np.asarray(values))
            deviation = compare(part, expected[name], slack * np.asarray(allowed[name]), name)
            if deviation.ratio > ratio:
                ratio, worst = deviation.ratio, Check(deviation.error, deviation.tolerance, self.against)
        if ratio < 0:
            raise Failure(f"{', '.join(outputs)}: nothing of this was compared")
        return worst


#: Ops that do the same in each channel of (N, C, H, W).
CHANNELWISE = ("max_pool2d", "avg_pool2d", "global_avg_pool2d", "relu", "add", "cast")


def _further(layer: Layer, direction: str) -> dict[str, int]:
    """A second axis of that kind, where two whole images are much to compare."""
    if layer.op in CHANNELWISE:
        return dict.fromkeys(("x", "dout", "y", "indices", "a", "b", "out", "dx"), 1)
    if layer.op == "linear":
        return {"forward": {"w": 1, "out": 1}, "backward_input": {"x": 1, "w": 0, "dx": 1}}.get(direction, {})
    if layer.op != "conv2d" or layer.options["groups"] > 1:
        return {}
    if direction.startswith("backward"):
        return dict.fromkeys(("x", "w", "dw", "dx"), 1)
    return {"w": 0, "b": 0, "out": 1, "pooled": 1}


def _spread(a: np.ndarray, axis: int, count: int) -> np.ndarray:
    """``count`` entries along ``axis``, the first and the last among them."""
    return a.take(np.linspace(0, a.shape[axis] - 1, count).astype(int), axis)


def _separable(layer: Layer, direction: str) -> dict[str, int]:
    """An axis of each operand and output along which they belong together, entry by entry; {} where there is none."""
    if layer.group == "optimizer":
        return {"param": 0}
    if layer.op == "batch_norm":
        return {"x": 1, "dout": 1, "out": 1, "dx": 1} | dict.fromkeys(
            ("gamma", "beta", "mean", "var", "dgamma", "dbeta"), 0
        )
    if layer.op in ("softmax_cross_entropy", "dropout"):  # a mean over the rows; a mask of the whole
        return {}
    if direction == "backward_weight":
        if layer.op == "linear":
            return {"dout": 1, "w": 1, "dw": 1}
        return {"dout": 1, "w": 0, "dw": 0} if layer.options["groups"] == 1 else {}
    parts = [f"x{i}" for i in range(len(layer.options.get("parts", ())))]
    return dict.fromkeys(("x", "dout", "y", "indices", "a", "b", "out", "pooled", "dx", *parts), 0)


def _wide(a: Any) -> Any:
    return a.astype(np.float64, order="K") if is_float(a.dtype) else a


def _main(kernels: list[tuple[Problem, str, int]], op: str) -> tuple[Problem, str]:
    """The kernel that does what the op is named after."""
    wanted = "gemm" if op == "linear" else op
    for problem, label, _ in kernels:
        if problem.op == wanted and problem.direction != "mask":
            return problem, label
    raise LookupError(f"no kernel of {wanted} ran")


def _losses(x: np.ndarray, labels: np.ndarray) -> Arrays:
    shifted = x - x.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1)
    losses = np.log(total) - shifted[np.arange(len(labels)), labels]
    return {"losses": losses, "loss": np.asarray(losses.mean()), "probabilities": e / total[:, None]}


# ---- optimizers -----------------------------------------------------------------------------------------------------

LR = 1e-3
KINDS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.SGD(LR),
    "momentum": lambda: optim.Momentum(LR),
    "adam": lambda: optim.Adam(LR),
}


def calls_of(layer: Layer, direction: str, given: Arrays) -> tuple[Callable[[], Any], Callable[[Any], Arrays]]:
    """fastdl's call of a pass, and its outputs by name from what it returns. Optimizers step on copies."""
    if layer.group == "optimizer":
        return steps(layer, {name: a.copy() if name.startswith("p") else a for name, a in given.items()})
    run, options = OURS[layer.op, direction], layer.options
    return lambda: run(given, options), lambda result: result


def steps(layer: Layer, given: Arrays) -> tuple[Callable[[], Any], Callable[[Any], Arrays]]:
    """Steps on the parameters themselves."""
    params = {name: a for name, a in given.items() if name.startswith("p")}
    grads = {name: given["g" + name[1:]] for name in params}
    optimizer = KINDS[layer.op]()
    return lambda: optimizer.update(params, grads), lambda _: {name: to_device(a, "cpu") for name, a in params.items()}


def _state(layer: Layer, inputs: Arrays) -> Arrays:
    """What the bounds of an optimizer's first step need beside parameters and gradients."""
    if layer.group != "optimizer":
        return {}
    found: Arrays = {"lr": np.array([LR]), "step": np.array([1])}
    for name in KINDS[layer.op]().states:
        found |= {name + key[1:]: np.zeros_like(a) for key, a in inputs.items() if key.startswith("p")}
    return found
