"""The layer suite for pytest-benchmark: ``pytest bench/ --benchmark-json OUT``, grouped by layer and pass.

    pytest bench/ -k 'vgg16 and forward' --benchmark-columns median,iqr,rounds

``bench/layers.py`` times the same calls in turns and prints ratios; this is for comparing runs with pytest-benchmark's
own tools. The normal test run (``pytest``) does not collect it.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import suite
from calls import Prepared, Settings, applies
from layers import peers_of

pytest.importorskip("pytest_benchmark")

PASSES = [(layer, direction) for layer in suite.LAYERS for direction in layer.directions]


@functools.lru_cache(maxsize=1)
def prepared(layer: suite.Layer, direction: str, dtype: str, threads: int) -> dict[str, Any]:
    """Participant -> (call, context), compared; of the last pass only, as arrays are large."""
    case = Prepared(layer, direction, dtype)
    settings = Settings(threads)
    found: dict[str, tuple[Callable[[], Any], Callable[[], AbstractContextManager]]] = {
        settings.name: (case.ours(settings).call, settings.context)
    }
    if importlib.util.find_spec("torch") is not None:
        for name, ran in peers_of(case, threads, print):
            found[name] = ran.call, nullcontext
    return found


def _participants(layer: suite.Layer) -> tuple[str, ...]:
    from peers.torch_ops import FORMATTED

    if layer.group == "optimizer":
        return "fastdl", "torch", "torch fused"
    return ("fastdl", "torch channels_last", "torch nchw") if layer.op in FORMATTED else ("fastdl", "torch")


@pytest.mark.parametrize(
    ("layer", "direction", "participant"),
    [
        pytest.param(layer, direction, participant, id=f"{layer.name} {direction} {participant}")
        for layer, direction in PASSES
        for participant in _participants(layer)
    ],
)
def test_layer(benchmark, request, layer, direction, participant):
    """One participant on one pass."""
    option = request.config.getoption
    dtype, threads = option("--bench-dtype"), option("--bench-threads")
    if not applies(layer, dtype):
        pytest.skip(f"no case in {dtype}")
    if participant.startswith("torch"):
        pytest.importorskip("torch")
    found = prepared(layer, direction, dtype, threads)
    if participant not in found:
        pytest.skip(f"PyTorch has no kernel for this in {dtype}")
    call, context = found[participant]
    benchmark.group = f"{layer.name} {direction}"
    benchmark.extra_info.update(group=layer.group, op=layer.op, dtype=dtype, threads=threads, participant=participant)
    time.sleep(0.03)  # the threads of another library may still spin
    with context():
        benchmark.pedantic(call, rounds=option("--bench-rounds"), warmup_rounds=1)
