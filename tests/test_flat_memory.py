"""Memory stays flat while a network trains: that of the process, the arena, the pool of outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fastdl.kernels import registry

#: Every kind of layer, small. Arguments: steps before and between the two looks.
TRAINING = """
import gc, json, sys
import numpy as np
import fastdl
from fastdl.initializers import he
from fastdl.kernels import registry
from fastdl.layers import *
from fastdl.models import Model
from fastdl.network import Concat, Residual, named_params
from fastdl.optim import Adam

warm_up, steps = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)

class Net(Model):
    def __init__(self):
        super().__init__("float32")
        def w(*shape):
            return he(shape, dtype="float32", rng=rng)
        def zeros(n):
            return np.zeros(n, np.float32)
        self.layers = [
            Convolution(w(8, 3, 3, 3), zeros(8), 1, 1),
            BatchNormalization(np.ones(8, np.float32), zeros(8), per_channel=True),
            Relu(), Pooling(2, 2),
            Residual([Convolution(w(8, 8, 3, 3), zeros(8), 1, 1), Relu()]), Concat([[Relu()], Pooling(3, 3, 1, 1)]),
            Convolution(w(16, 16, 3, 3), zeros(16), 2, 1), Tanh(), LocalResponseNormalization(), AveragePooling(2, 2),
            Convolution(w(16, 1, 3, 3), zeros(16), 1, 1, groups=16), Convolution(w(16, 16, 1, 1), zeros(16)), Sigmoid(),
            Affine(w(64, 20), zeros(20)), Relu(), Dropout(0.5, seed=1), Affine(w(20, 10), zeros(10)),
        ]
        self.last_layer = SoftmaxWithLoss()
        self.params = named_params(self.layers)

net, optimizer = Net(), Adam(lr=1e-3)
x, t = rng.standard_normal((30, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 30)
compiled = bool(registry.available_levels())
if compiled:
    from fastdl.kernels._common import _runtime

def train(count):
    for i in range(count):
        n = 8 + (count - 1 - i) % 9  # batches of several sizes, the last one always of 8
        optimizer.update(net.params, net.gradient(x[:n], t[:n]))

def look():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    pool = _runtime.pool_stats() if compiled else {}
    return {"rss": pages * 4096, "arena": _runtime.arena_reserved() if compiled else 0, **pool}

with fastdl.threads(2):
    train(warm_up)
    before = look()
    train(steps)
    print(json.dumps([before, look()]))
"""


def looks(warm_up: int, steps: int) -> list[dict[str, int]]:
    """Bytes after ``warm_up`` steps, and after ``steps`` more."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(warm_up), str(steps)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's account of memory")
@pytest.mark.parametrize(
    ("warm_up", "steps"), [(300, 600), pytest.param(2000, 10_000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_memory_of_a_training_is_flat(warm_up, steps):
    before, after = looks(warm_up, steps)
    # A leak of an activation or a gradient (2 KB and more) in each step shows in the short run, one of 100 bytes in the
    # long one. (Malloc itself is not quite flat: 0.1 MB in 20,000 steps.)
    assert after["rss"] - before["rss"] < 2**20
    assert after["arena"] == before["arena"]
    if registry.available_levels():
        assert before["arena"] > 0
        assert before["peak"] > 0
        assert (after["live"], after["peak"]) == (before["live"], before["peak"])
        assert after["cached"] <= before["cached"]
