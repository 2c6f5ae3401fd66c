"""``pytest bench/``: what it runs and records, and calls on a device, which end when the device is done."""

from __future__ import annotations

import pytest

from fastdl import to_device
from fastdl.bench import nets, participants, timing
from fastdl.bench.participants import Agreement, Ours, Setting
from fastdl.models import DeepConvNet

# ---- on a device ----------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(cupy, monkeypatch):
    """How many kernels had been launched each time that somebody waited for the device."""
    import fake_cupy

    found = []
    monkeypatch.setattr(cupy.cuda.Device, "synchronize", lambda self: found.append(len(fake_cupy.state.launches)))
    return found


def test_a_call_waits_for_its_device_at_its_end(waits):
    log = []

    def call(*args):
        log.append((args, len(waits)))
        return "out"

    assert timing.synchronised(call)(1, 2) == "out"
    assert log == [((1, 2), 0)] and len(waits) == 1


@pytest.mark.parametrize("name", ["deepconvnet/pool1", "memory/dropout_deepconvnet", "memory/adam_deepconvnet"])
def test_layers_on_a_device(bench, waits, name):
    import calls
    import fake_cupy
    import suite

    (layer,) = (layer for layer in suite.LAYERS if layer.name == name)
    for direction in layer.directions:
        waits.clear()
        ran = calls.Prepared(suite.small(layer), direction, "float32").ours(calls.Settings(1, backend="cuda"))
        assert ran.check.passed and all("cuda" in kernel for kernel in ran.kernels)
        assert waits == [len(fake_cupy.state.launches)], "it has waited for all of its kernels, once"
        with calls.Settings(1, backend="cuda").context():
            ran.call()
        assert len(waits) == 2 and waits[1] == len(fake_cupy.state.launches) > waits[0]


def test_a_network_on_a_device_agrees_with_the_host(cupy):
    param = {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}

    def network():
        net = DeepConvNet((1, 8, 8), *[param] * 6, hidden_size=6, output_size=5, dtype="float32", seed=1)
        return nets.Network("deep", net, (1, 8, 8), 2)

    there = network()
    there.net.to("cuda")
    setting = Setting(2, "float32", 1, participants.PASSES)
    host, device = Ours("numpy", network(), setting), Ours("cuda", there, setting)
    agreement = Agreement(2)
    assert agreement.check(host)[0] is None
    check, seconds = agreement.check(device)
    assert check.passed and check.difference > 0 and check.against == "fastdl numpy" and seconds > 0
    assert device.device == "cuda" and isinstance(device.x, cupy.ndarray)
    with device.context():
        with device.inference():
            scores = device.predict()
        grads = device.backward(device.forward())
    assert to_device(scores, "cpu").shape == (2, 5)
    assert grads.keys() == there.net.params.keys() and all(isinstance(g, cupy.ndarray) for g in grads.values())
