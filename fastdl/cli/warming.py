"""``fastdl warmup``: what a network needs of Numba's kernels, compiled before it is needed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from .errors import UserError

BATCH = 100


def run(models: Sequence[str], dtypes: Sequence[str], as_json: bool) -> None:
    """Trains each network for a step and predicts once, in each dtype, on Numba's kernels."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .. import backend
    from ..backend import Explanation

    if reason := backend.missing("numba"):
        raise UserError(reason)
    from ..kernels._common import jit

    class Advancing(Explanation):
        """Counts the calls of kernels as they come."""

        def __init__(self, advance: Callable[[], None]) -> None:
            super().__init__()
            self._advance = advance

        def _record(self, *call: Any) -> None:
            super()._record(*call)
            self._advance()

    errors = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description:24s}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found = []
    with Progress(*columns, console=errors, transient=True, disable=as_json or not errors.is_terminal) as bar:
        for model in models:
            for dtype in dtypes:
                with backend.use_backend("numpy"), backend.explain() as calls:  # how many there are
                    _work(model, dtype, 1)
                task = bar.add_task(f"{model} {dtype}", total=len(calls.problems))
                before, begin = jit.statistics(), time.perf_counter()
                with backend.use_backend("numba"), Advancing(lambda task=task: bar.advance(task)):  # type: ignore[misc]
                    _work(model, dtype, BATCH)
                seconds = time.perf_counter() - begin
                compiled, loaded = (b - a for a, b in zip(before, jit.statistics(), strict=True))
                found.append(
                    {"model": model, "dtype": dtype, "compiled": compiled, "loaded": loaded, "seconds": seconds}
                )
    if as_json:
        print(json.dumps({"folder": str(jit.cache_folder()), "networks": found}, indent=1))
        return
    for entry in found:
        print(
            f"{entry['model']} {entry['dtype']}: {entry['compiled']} kernels compiled, {entry['loaded']} loaded "
            f"in {entry['seconds']:.1f} s"
        )
    print(f"they are kept in {jit.cache_folder()}")


def _work(model: str, dtype: str, batch: int) -> None:
    """A training step and a prediction of a new network."""
    import numpy as np

    from .. import backend
    from ..models.catalog import NETWORKS
    from ..optim import Adam

    build, image, *_ = NETWORKS[model]
    network = build(dtype=dtype, seed=0)
    x, t = np.zeros((batch, *image), dtype), np.zeros(batch, np.int64)
    Adam().update(network.params, network.gradient(x, t))
    with backend.inference():
        network.predict(x)
