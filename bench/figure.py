"""The README's picture: the time of a training step beside its peers, and a training run on MNIST.

    python bench/figure.py RECORD.json METRICS.json OUT.png

RECORD.json comes from ``bench/step.py --json``, METRICS.json from ``fastdl train --output``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from fastdl.bench.record import Record, load

OURS, PEERS = "#d1495b", "#8d99ae"
CASE, MODE, BASE = "deepconvnet", "training_step", "book numpy"


def bars(record: Record) -> list[tuple[str, float, float]]:
    """(label, milliseconds, how many times faster than the book's code), the slowest first."""
    found = [m for m in record.measurements if (m.case, m.op) == (CASE, MODE)]
    base = next((m.median for m in found if m.participant == BASE), None)
    if base is None:
        raise SystemExit(f"the record has no {MODE} of {CASE} by {BASE}")
    found.sort(key=lambda m: -m.median)
    return [(f"{m.participant}, {m.dtype}", 1e3 * m.median, base / m.median) for m in found]


def steps(axes: Any, record: Record) -> None:
    """Bars of the median times, the fastest at the bottom, each with its ratio to the book's."""
    found = bars(record)
    axes.barh(
        [label for label, _, _ in found],
        [milliseconds for _, milliseconds, _ in found],
        color=[OURS if label.startswith("fastdl") else PEERS for label, _, _ in found],
    )
    for place, (_, milliseconds, ratio) in enumerate(found):
        axes.text(milliseconds, place, f"  {milliseconds:.0f} ms, {ratio:.1f}×", va="center")
    first = next(m for m in record.measurements if (m.case, m.op) == (CASE, MODE))
    axes.set_xlim(0, 1.3 * max(milliseconds for _, milliseconds, _ in found))
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds for {first.settings['batch']} images, {first.threads} threads (median)")
    axes.set_title("One training step of DeepConvNet")


def curve(axes: Any, metrics: dict[str, Any]) -> None:
    """Accuracy on the test images after each epoch."""
    epochs = metrics["epochs"]
    axes.plot([e["epoch"] for e in epochs], [100 * e["test_accuracy"] for e in epochs], "o-", color=OURS, markersize=4)
    seconds = sum(e["seconds"] for e in epochs)
    best = max(e["test_accuracy"] for e in epochs)
    axes.axhline(100 * best, color=PEERS, linewidth=0.8, linestyle="--")
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"MNIST: {100 * best:.2f}% at best, {seconds / 60:.1f} min of training")


def main() -> None:
    """Draws both and writes the file, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), width_ratios=[1.35, 1], layout="constrained")
    steps(left, load(options.record))
    curve(right, json.loads(options.metrics.read_text()))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    temporary = options.out.with_suffix(".part.png")
    figure.savefig(temporary, dpi=130)
    os.replace(temporary, options.out)


if __name__ == "__main__":
    main()
