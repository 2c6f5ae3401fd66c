"""The CUDA kernels on a GPU: ``pytest -m gpu``. The matrix is that of every other backend.

Without the option these tests are left out; with it and without a device they fail, for then nothing was tested.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import backend, check, models, optim
from fastdl.check.arrays import dtype_missing
from fastdl.kernels import registry
from fastdl.train import Trainer

pytestmark = pytest.mark.gpu

ROWS = [(row, dtype) for row in registry.TABLE if row.backend == "cuda" for dtype in row.storage]


@pytest.fixture(autouse=True)
def device():
    """CuPy, or the reason why there is none as a failure."""
    if reason := backend.missing("cuda"):
        pytest.fail(f"no GPU test can run: {reason}")
    import cupy

    return cupy


@pytest.mark.parametrize(("row", "dtype"), ROWS, ids=[f"{r.op}-{r.direction}-{r.label}-{d}" for r, d in ROWS])
def test_a_row_on_the_device(row, dtype):
    if reason := dtype_missing(dtype):
        pytest.skip(reason)
    (result,) = check.check(check.Selection(dtypes=(dtype,)), table=[row])
    assert result.status == "passed", result.reason


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("graph", [False, True])
def test_training_gives_the_numbers_of_the_host(dtype, graph, rng):
    """Two epochs on random images, with every layer of DeepConvNet; dropout draws the same masks."""
    x, t = rng.random((60, 1, 28, 28)).astype(dtype), rng.integers(0, 10, 60)
    nets = []
    for place in ("cpu", "cuda"):
        fastdl.set_default_dtype(dtype)
        np.random.seed(5)
        net = models.DeepConvNet(seed=3)
        options = {} if place == "cpu" else {"device": place, "graph": graph}
        trainer = Trainer(
            net, x, t, x, t, epochs=2, mini_batch_size=10, optimizer="SGD", optimizer_param={"lr": 0.01},
            verbose=False, seed=1, **options,
        )  # fmt: skip
        trainer.train()
        nets.append((net, trainer))
    (host, first), (there, second) = nets
    # Twelve steps; Adam's would divide by gradients that are all rounding.
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    assert np.allclose(first.train_loss_list, second.train_loss_list, rtol=tolerance)
    for name, value in host.params.items():
        assert np.allclose(value, fastdl.to_device(there.params[name], "cpu"), rtol=tolerance, atol=tolerance), name


def test_a_step_does_not_wait_for_the_device(device):
    """A gradient and an update are queued while the stream still works on something else."""
    np.random.seed(1)
    fastdl.set_default_dtype("float32")
    net = models.SimpleConvNet().to("cuda")
    x = fastdl.to_device(np.random.rand(100, 1, 28, 28).astype(np.float32), "cuda")
    t = fastdl.to_device(np.arange(100) % 10, "cuda")
    step = optim.Adam(lr=1e-3)
    for _ in range(3):
        step.update(net.params, net.gradient(x, t))
    stream = device.cuda.get_current_stream()
    busy = device.zeros(1 << 28, np.float32)
    stream.synchronize()
    for _ in range(50):
        busy += 1
    step.update(net.params, net.gradient(x, t))
    assert not stream.done, "the step has waited for the device"
