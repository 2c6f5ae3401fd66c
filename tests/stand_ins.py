"""CUDA rows of ops that have no CUDA kernel yet: the NumPy reference on a device's memory, so that what is above the
kernels can be tested before they are there.

``WAITING`` lists these ops. A kernel that arrives takes its op off the list: a test sees to that.
"""

from __future__ import annotations

import contextlib

import numpy as np

import fake_cupy
from fastdl.kernels import registry

WAITING = {
    "im2col", "col2im", "gemm", "conv2d", "max_pool2d", "avg_pool2d", "global_avg_pool2d", "batch_norm",
    "local_response_norm", "add", "concat", "softmax", "softmax_cross_entropy", "dropout", "cast", "sgd", "momentum",
    "nesterov", "adagrad", "rmsprop", "adam",
}  # fmt: skip


def waiting() -> set[str]:
    """The ops without CUDA kernels, of all directions (but the pooled one, which no other row has to have)."""
    have = {(row.op, row.direction) for row in registry.TABLE if row.backend == "cuda"}
    wanted = {(row.op, row.direction) for row in registry.TABLE if row.direction != "forward_pooled"}
    return {op for op, _ in wanted - have}


def _host(a):
    if isinstance(a, (list, tuple)):
        return [_host(each) for each in a]
    assert not isinstance(a, np.ndarray), "a NumPy array has got to a kernel of a device"
    return a.host if isinstance(a, fake_cupy.ndarray) else a


def _stand_in(reference):
    def kernel(problem, *args):
        arrays = [_host(a) for a in args[:-1]]
        fake_cupy.host_kernel(f"{problem.op}_{problem.direction}", lambda: reference(problem, *arrays, 1))

    return kernel


@contextlib.contextmanager
def installed(monkeypatch):
    """Inside the block the ops that wait have rows of backend "cuda"."""
    have = {(row.op, row.direction) for row in registry.TABLE if row.backend == "cuda"}
    rows = [
        row._replace(backend="cuda", algorithm="stand-in")
        for row in registry.TABLE
        if row.backend == "numpy" and (row.op, row.direction) not in have and row.direction != "forward_pooled"
    ]
    load = registry.load
    with monkeypatch.context() as patch:
        patch.setattr(registry, "TABLE", registry.TABLE + tuple(rows))
        patch.setattr(registry, "load", lambda row: _stand_in(load(row)) if row.algorithm == "stand-in" else load(row))
        registry.choose.cache_clear()
        yield
    registry.choose.cache_clear()
