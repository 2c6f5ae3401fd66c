"""Single layers, pass by pass, for pytest-benchmark: fastdl's backends beside PyTorch.

    pytest bench/test_ops.py                                          # one layer of each kind: a few minutes
    pytest bench/test_ops.py -k 'vgg16 and forward'                   # all that match; --bench-all: all that there are
    pytest bench/test_ops.py --benchmark-columns median,iqr,rounds --benchmark-json out.json

A table is a pass of a layer of ``suite``, a line of it a participant, compared before it is timed (``calls``). Calls on
``--bench-backends cuda`` end when the device is done. ``bench/layers.py`` times the same calls in turns and prints
ratios, ``bench/gpu.py`` has PyTorch on a GPU; this is for comparing runs with pytest-benchmark's own tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import suite
from calls import Prepared, Ran, Settings, applies
from layers import peers_of
from peers.torch_ops import FORMATTED, spread
from timed import HAS_TORCH, HOST, Options, backend_of, describe, latest, ours, time_it

pytest.importorskip("pytest_benchmark")


LAYERS = {layer.name: layer for layer in suite.LAYERS}


def cases(options: Options) -> Iterator[tuple[str, tuple[str, str], str]]:
    """Group, layer and pass, participant."""
    layers = [layer for layer in suite.LAYERS if applies(layer, options.dtype)]
    for layer in layers if options.every else suite.one_of_each(layers):
        for direction in layer.directions:
            group = f"{layer.op} {direction} {layer.name} {options.dtype}"
            for participant in (*map(ours, options.backends), *_peers(layer)):
                yield group, (layer.name, direction), participant


def _peers(layer: suite.Layer) -> tuple[str, ...]:
    if not HAS_TORCH:
        return ()
    if layer.group == "optimizer":
        return "torch", "torch fused"
    return ("torch channels_last", "torch nchw") if layer.op in FORMATTED else ("torch",)


class Pass:
    """A pass of a layer, and what was found out about its participants so far."""

    def __init__(self, name: str, direction: str, options: Options) -> None:
        self.layer = suite.small(LAYERS[name]) if options.tiny else LAYERS[name]
        self._prepared = Prepared(self.layer, direction, options.dtype)
        self._threads = options.threads
        self._ours: dict[str, Ran] = {}
        self._peers: dict[str, Ran] | None = None

    def ours(self, backend: str) -> tuple[Ran, Callable[[], AbstractContextManager[Any]]]:
        """fastdl's call, compared, and in which context it is made."""
        settings = Settings(self._threads, backend=backend)
        if backend not in self._ours:
            self._ours[backend] = self._prepared.ours(settings)
        return self._ours[backend], settings.context

    def peer(self, name: str) -> Ran | None:
        """PyTorch's call, compared; None where it has no such kernel."""
        if self._peers is None:
            self.ours(HOST)  # which tells the problem
            self._peers = dict(peers_of(self._prepared, self._threads, print))
        return self._peers.get(name)


prepared = latest(Pass)


def test_op(benchmark: Any, options: Options, group: str, case: tuple[str, str], participant: str) -> None:
    """One participant on one pass."""
    name, direction = case
    backend = backend_of(participant)
    found = prepared(name, direction, options)
    ran, context = found.ours(backend) if backend else (found.peer(participant), spread)
    if ran is None:
        pytest.skip(f"PyTorch has no kernel for this in {options.dtype}")
    work = found.ours(HOST)[0].work
    layer = found.layer
    about = {"layer": name, "kind": layer.group, "op": layer.op, "direction": direction, "batch": layer.shape[0]}
    describe(benchmark, options, group, participant, work, ran.kernels, ran.check, **about)
    with context():
        time_it(benchmark, options, ran.call)
