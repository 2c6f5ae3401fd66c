"""Pictures of a training. Importing this imports nothing; matplotlib is loaded when one is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._files import replacing


def save_curve(history: Sequence[Mapping[str, Any]], path: str | os.PathLike, title: str = "") -> None:
    """Draws loss and accuracies of each epoch (``Trainer.history``) into the PNG file ``path``, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    path = Path(path)
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    loss.plot(epochs, [record["train_loss"] for record in history], "o-", markersize=4, color="tab:red")
    loss.set(xlabel="epoch", ylabel="mean training loss (cross entropy)", title="Loss", ylim=(0, None))
    for name, style, label in (("train_accuracy", "o--", "training"), ("test_accuracy", "s-", "test")):
        values = [record[name] for record in history]
        text = f"{label}: {values[-1]:.2%} at the end, {max(values):.2%} at best" if values else label
        accuracy.plot(epochs, values, style, markersize=4, label=text)
    shown = [record[name] for record in history for name in ("train_accuracy", "test_accuracy")]
    bottom = max(0.0, min(shown, default=0.0) - 0.02)
    accuracy.set(xlabel="epoch", ylabel="share of images recognised", title="Accuracy", ylim=(bottom, 1.002))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    accuracy.legend(loc="lower right")
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
