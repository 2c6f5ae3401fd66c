"""The calls of PyTorch that a layer of the suite is measured against. Imports it only when used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
#: A name, the call, and its result as arrays under the names of ``calls``.
Peer = tuple[str, Callable[[], Any], Callable[[Any], Arrays]]

#: Operations on images, which PyTorch does differently in its two memory formats.
FORMATTED = ("conv2d", "max_pool2d", "avg_pool2d", "global_avg_pool2d", "batch_norm", "local_response_norm", "concat")


#: Threads of PyTorch's OpenMP in this process, in the order of their creation.
_team: list[int] = []


def set_threads(threads: int) -> None:
    """Lets PyTorch compute with so many threads, and finds out which they are."""
    import torch

    def tasks() -> set[int]:
        folder = Path("/proc/self/task")
        return {int(task.name) for task in folder.iterdir()} if folder.is_dir() else set()

    before = tasks()
    torch.set_num_threads(threads)
    torch.ones(1 << 20).add_(1)  # the threads start with the first work that is worth it
    _team.extend(sorted(tasks() - before))


@contextmanager
def spread() -> Iterator[None]:
    """Puts each of PyTorch's threads on a CPU of its own, where the system can.

    On a virtual machine a CPU that has been idle counts as preempted, and Linux wakes a sleeping thread on the CPU of
    whoever wakes it: two OpenMP threads then take turns on one CPU for a whole series (a convolution of 0.15 ms took
    8). fastdl's own threads move apart by themselves.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    own, *others = sorted(allowed)
    if not others:
        yield
        return
    for i, task in enumerate(_team):  # one of them is no OpenMP thread: none may end up beside the calling thread
        os.sched_setaffinity(task, {others[i % len(others)]})
    os.sched_setaffinity(0, {own})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def peers(layer: Any, direction: str, operands: Arrays) -> Iterator[Peer]:
    """PyTorch's ways to do this pass of a layer; an operation or dtype that it lacks shows when it is called."""
    import torch

    if layer.group == "optimizer":
        for name, fused in (("torch", False), ("torch fused", True)):
            copies = {key: torch.from_numpy(a.copy()) for key, a in operands.items()}
            step, params = optimizer(layer, copies, fused=fused)
            yield name, step, lambda _, params=params: {k: p.detach().numpy().copy() for k, p in params.items()}
        return
    for name, nchw in (
        (("torch channels_last", False), ("torch nchw", True)) if layer.op in FORMATTED else (("torch", False),)
    ):
        tensors = {key: _tensor(torch, a, nchw) for key, a in operands.items()}
        with torch.no_grad():
            call, names = CALLS[layer.op, direction](torch, tensors, layer.options)
        yield name, without_graph(torch, call), namer(names, lambda tensor: tensor.numpy())


def _tensor(torch: Any, a: np.ndarray, nchw: bool) -> Any:
    """Sharing a's memory, or a copy of it in NCHW order; a filter is in the order of the images."""
    if a.ndim != 4:
        return torch.from_numpy(a)
    tensor = torch.from_numpy(np.ascontiguousarray(a) if nchw else a)
    return tensor if nchw else tensor.contiguous(memory_format=torch.channels_last)


def without_graph(torch: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call in ``no_grad``."""

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def namer(names: tuple[str, ...], to_numpy: Callable[[Any], np.ndarray]) -> Callable[[Any], Arrays]:
    """From what a call returns to arrays by name."""

    def outputs_of(result: Any) -> Arrays:
        parts = result if isinstance(result, (tuple, list)) else (result,)
        return {name: to_numpy(part.detach()) for name, part in zip(names, parts, strict=False) if name}

    return outputs_of


# ---- one function for each pass: the call, and the names of what it returns ("" is not compared) --------------------

Made = tuple[Callable[[], Any], tuple[str, ...]]


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _conv2d(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.nn.functional.conv2d(t["x"], t["w"], None, o["stride"], o["pad"], 1, o["groups"]), ("out",)


def _conv2d_relu(torch: Any, t: Arrays, o: Arrays) -> Made:
    """Three kernels: the convolution, its bias, the ReLU."""
    conv2d = torch.nn.functional.conv2d
    return lambda: conv2d(t["x"], t["w"], t["b"], o["stride"], o["pad"], 1, o["groups"]).relu_(), ("out",)


def _conv2d_relu_pool(torch: Any, t: Arrays, o: Arrays) -> Made:
    conv, _ = _conv2d_relu(torch, t, o)
    pool = torch.ops.aten.max_pool2d_with_indices
    return lambda: pool(conv(), [2, 2], [2, 2]), ("pooled",)


def cudnn_relu(torch: Any, t: Arrays, o: Arrays) -> Made:
    """cuDNN's own fusion of the three; CUDA only."""
    fused, stride, pad = torch.cudnn_convolution_relu, _pair(o["stride"]), _pair(o["pad"])
    return lambda: fused(t["x"], t["w"], t["b"], stride, pad, [1, 1], o["groups"]), ("out",)


def cudnn_relu_pool(torch: Any, t: Arrays, o: Arrays) -> Made:
    """The same, and pooling."""
    conv, _ = cudnn_relu(torch, t, o)
    pool = torch.ops.aten.max_pool2d_with_indices
    return lambda: pool(conv(), [2, 2], [2, 2]), ("pooled",)


def _conv2d_backward(*mask: bool) -> Callable[..., Made]:
    def make(torch: Any, t: Arrays, o: Arrays) -> Made:
        backward, index = torch.ops.aten.convolution_backward, mask.index(True)
        stride, pad = _pair(o["stride"]), _pair(o["pad"])
        return lambda: backward(
            t["dout"], t["x"], t["w"], None, stride, pad, [1, 1], False, [0, 0], o["groups"], list(mask)
        )[index], (("dx", "dw", "db")[index],)

    return make


def _linear(torch: Any, t: Arrays, o: Arrays) -> Made:
    weight = t["w"].t().contiguous()  # PyTorch keeps (out, in)
    return lambda: torch.nn.functional.linear(t["x"], weight), ("out",)


def _linear_backward_input(torch: Any, t: Arrays, o: Arrays) -> Made:
    weight = t["w"].t().contiguous()
    return lambda: t["dout"] @ weight, ("dx",)


def _linear_backward_weight(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: (t["dout"].t() @ t["x"]).t(), ("dw",)


def _max_pool2d(torch: Any, t: Arrays, o: Arrays) -> Made:
    forward = torch.ops.aten.max_pool2d_with_indices
    geometry = (_pair(o["size"]), _pair(o["stride"]), _pair(o["pad"]), [1, 1], o["ceil_mode"])
    return lambda: forward(t["x"], *geometry), ("out",)


def _max_pool2d_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    geometry = (_pair(o["size"]), _pair(o["stride"]), _pair(o["pad"]), [1, 1], o["ceil_mode"])
    indices = torch.ops.aten.max_pool2d_with_indices(t["x"], *geometry)[1]
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return lambda: backward(t["dout"], t["x"], *geometry, indices), ("dx",)


def _avg_pool2d(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.nn.functional.avg_pool2d(t["x"], o["size"], o["stride"]), ("out",)


def _avg_pool2d_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    backward = torch.ops.aten.avg_pool2d_backward
    geometry = (_pair(o["size"]), _pair(o["stride"]), [0, 0], False, True, None)
    return lambda: backward(t["dout"], t["x"], *geometry), ("dx",)


def _global_avg_pool2d(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.nn.functional.adaptive_avg_pool2d(t["x"], 1), ("out",)


def _global_avg_pool2d_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    x = t["x"].detach().requires_grad_()
    with torch.enable_grad():
        out = torch.nn.functional.adaptive_avg_pool2d(x, 1)
    return lambda: torch.autograd.grad(out, x, t["dout"], retain_graph=True), ("dx",)


def _batch_norm(torch: Any, t: Arrays, o: Arrays) -> Made:
    running = [torch.zeros_like(t["gamma"]), torch.ones_like(t["gamma"])]
    forward = torch.ops.aten.native_batch_norm
    return lambda: forward(t["x"], t["gamma"], t["beta"], *running, True, 0.1, 1e-5), ("out",)


def _batch_norm_inference(torch: Any, t: Arrays, o: Arrays) -> Made:
    norm = torch.nn.functional.batch_norm
    mean, var = t["mean"].to(t["x"].dtype), t["var"].to(t["x"].dtype)  # one dtype for all, as in a net in float16
    return lambda: norm(t["x"], mean, var, t["gamma"], t["beta"], False, 0.0, 1e-5), ("out",)


def _batch_norm_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    forward, backward = torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward
    _, mean, scale = forward(t["x"], t["gamma"], t["beta"], None, None, True, 0.1, 1e-5)
    saved = (t["gamma"], None, None, mean, scale, True, 1e-5, [True, True, True])
    return lambda: backward(t["dout"], t["x"], *saved), ("dx", "dgamma", "dbeta")


def _local_response_norm(torch: Any, t: Arrays, o: Arrays) -> Made:
    norm = torch.nn.functional.local_response_norm
    return lambda: norm(t["x"], o["size"], o["alpha"], o["beta"], o["k"]), ("out",)


def _local_response_norm_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    x = t["x"].detach().requires_grad_()
    with torch.enable_grad():
        out = torch.nn.functional.local_response_norm(x, o["size"], o["alpha"], o["beta"], o["k"])
    return lambda: torch.autograd.grad(out, x, t["dout"], retain_graph=True), ("dx",)


def _relu(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.relu(t["x"]), ("out",)


def _relu_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.ops.aten.threshold_backward(t["dout"], t["y"], 0), ("dx",)


def _add(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: t["a"] + t["b"], ("out",)


def _concat(torch: Any, t: Arrays, o: Arrays) -> Made:
    parts = list(t.values())
    return lambda: torch.cat(parts, 1), ("out",)


def _cast(torch: Any, t: Arrays, o: Arrays) -> Made:
    dtype = getattr(torch, o["target"])
    return lambda: t["x"].to(dtype), ("out",)


def _dropout(torch: Any, t: Arrays, o: Arrays) -> Made:
    """Its mask is its own; ``calls`` compares what remains."""
    return lambda: torch.dropout(t["x"], o["ratio"], True), ("dropped",)


def _cross_entropy(torch: Any, t: Arrays, o: Arrays) -> Made:
    return lambda: torch.nn.functional.cross_entropy(t["x"], t["labels"]), ("loss",)


def _cross_entropy_backward(torch: Any, t: Arrays, o: Arrays) -> Made:
    x = t["x"].detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(x, t["labels"])
    return lambda: torch.autograd.grad(loss, x, retain_graph=True), ("dx",)


CALLS: dict[tuple[str, str], Callable[[Any, Arrays, Arrays], Made]] = {
    ("conv2d", "forward"): _conv2d,
    ("conv2d", "forward_relu"): _conv2d_relu,
    ("conv2d", "forward_relu_pool"): _conv2d_relu_pool,
    ("conv2d", "backward_input"): _conv2d_backward(True, False, False),
    ("conv2d", "backward_weight"): _conv2d_backward(False, True, False),
    ("linear", "forward"): _linear,
    ("linear", "backward_input"): _linear_backward_input,
    ("linear", "backward_weight"): _linear_backward_weight,
    ("max_pool2d", "forward"): _max_pool2d,
    ("max_pool2d", "backward"): _max_pool2d_backward,
    ("avg_pool2d", "forward"): _avg_pool2d,
    ("avg_pool2d", "backward"): _avg_pool2d_backward,
    ("global_avg_pool2d", "forward"): _global_avg_pool2d,
    ("global_avg_pool2d", "backward"): _global_avg_pool2d_backward,
    ("batch_norm", "forward"): _batch_norm,
    ("batch_norm", "inference"): _batch_norm_inference,
    ("batch_norm", "backward"): _batch_norm_backward,
    ("local_response_norm", "forward"): _local_response_norm,
    ("local_response_norm", "backward"): _local_response_norm_backward,
    ("relu", "forward"): _relu,
    ("relu", "backward"): _relu_backward,
    ("add", "forward"): _add,
    ("concat", "forward"): _concat,
    ("cast", "forward"): _cast,
    ("dropout", "forward"): _dropout,
    ("softmax_cross_entropy", "forward"): _cross_entropy,
    ("softmax_cross_entropy", "backward"): _cross_entropy_backward,
}


def optimizer(
    layer: Any, tensors: Arrays, *, fused: bool, capturable: bool = False
) -> tuple[Callable[[], Any], Arrays]:
    """Steps on parameters with gradients that stay, and the parameters. ``capturable``: in a CUDA graph.

    eps of Adam stands beside the corrected root here and beside the uncorrected one in fastdl: in the first step,
    which is compared, 1e-7 there is this much here.
    """
    import torch

    params = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name.startswith("p")}
    for name, param in params.items():
        param.grad = tensors["g" + name[1:]]
    values = list(params.values())
    if layer.op == "adam":
        eps = 1e-7 / (1 - 0.999) ** 0.5
        found: Any = torch.optim.Adam(values, lr=1e-3, eps=eps, fused=fused or None, capturable=capturable)
    else:
        momentum = 0.9 if layer.op == "momentum" else 0.0
        found = torch.optim.SGD(values, lr=1e-3, momentum=momentum, fused=fused or None)
    return found.step, params
