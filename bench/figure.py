"""The README's picture: the time of a training step beside its peers, and a training run on MNIST.

    python bench/figure.py STEP.json METRICS.json OUT.png

STEP.json comes from ``bench/step.py --json``, METRICS.json from ``fastdl train --output``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

OURS, PEERS = "#d1495b", "#8d99ae"


def steps(axes, record: dict) -> None:
    """Bars of the median times, the fastest at the bottom, each with its ratio to the book's."""
    items = sorted(record["steps"].items(), key=lambda item: -item[1]["median"])
    names = [name for name, _ in items]
    medians = [entry["median"] * 1e3 for _, entry in items]
    colors = [OURS if name.startswith("fastdl") else PEERS for name in names]
    axes.barh(names, medians, color=colors)
    for place, (_, entry) in enumerate(items):
        axes.text(entry["median"] * 1e3, place, f"  {entry['median'] * 1e3:.0f} ms, {entry['ratio']:.1f}×", va="center")
    axes.set_xlim(0, max(medians) * 1.3)
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds for {record['batch']} images, {record['threads']} threads (median)")
    axes.set_title("One training step of DeepConvNet")


def curve(axes, metrics: dict) -> None:
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
    parser.add_argument("step", type=Path)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), width_ratios=[1.35, 1], layout="constrained")
    steps(left, json.loads(options.step.read_text()))
    curve(right, json.loads(options.metrics.read_text()))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    temporary = options.out.with_suffix(".part.png")
    figure.savefig(temporary, dpi=130)
    os.replace(temporary, options.out)


if __name__ == "__main__":
    main()
