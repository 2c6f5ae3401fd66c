"""The options of ``fastdl precision``. This loads nothing but typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AnyBackend, DataFolder, DataSet, DataSetOption, Preset


def compare_formats(
    network: Annotated[
        str, typer.Argument(metavar="NET", help="deepconvnet, simpleconvnet, lenet or mlp.", show_default=True)
    ] = "deepconvnet",
    dataset: DataSetOption = DataSet.digits,
    data_dir: DataFolder = None,
    formats: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="float64, float32, tf32, bfloat16, float16, float16_sums, float8_e4m3fn, float8_e5m2, int8, binary; "
            "float16_rounded, which is the book's; all.",
            rich_help_panel="What",
        ),
    ] = "all",
    train: Annotated[
        bool,
        typer.Option(
            "--train/--infer",
            help="Train the network in each format, or run a trained one in each.",
            rich_help_panel="What",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Trained weights for --infer: an .npz file of fastdl, or the book's .pkl. Without: the network is "
            "trained in float32 first.",
            rich_help_panel="What",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="book-half: the book's own experiment, on MNIST with the book's weights of 2022 (or --weights): "
            "accuracy in float64, with weights and images rounded to float16 inside float64 arrays, and with "
            "kernels that store float16.",
            rich_help_panel="What",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings in each format: --train.", rich_help_panel="How")] = 3,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Times that a training sees each image. Default: 20 for digits, 3 for MNIST.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float, typer.Option(min=0.0, help="Learning rate of Adam, at first; it falls to 0.", rich_help_panel="How")
    ] = 0.001,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Only the first N test images; with --train the first N training images.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Images that are run, and timed, at once.", rich_help_panel="How")
    ] = 100,
    rounds: Annotated[
        int, typer.Option(min=2, help="Turns of each format when times are taken.", rich_help_panel="How")
    ] = 9,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; no number but the times depends on it. Default: the CPUs of this process.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        AnyBackend, typer.Option(help="auto: compiled kernels where they are built.", rich_help_panel="How")
    ] = AnyBackend.auto,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity/--no-sensitivity",
            help="With --infer: also reduce one layer at a time, the others in float32.",
            rich_help_panel="How",
        ),
    ] = True,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the report, for programs.", rich_help_panel="Output", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page with pictures and tables.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the pictures as PNG and SVG.", rich_help_panel="Output", show_default=False
        ),
    ] = None,
) -> None:
    """What do fewer bits cost, and what do they bring: a network in every format that fastdl has kernels for.

    --infer runs a trained network over the test images; --train trains it in each format, from several seeds.

    It reports accuracy, agreement with float64, noise of each layer, bytes, and time beside two kinds of float32.

    Cells that begin with ~ are emulated: no instruction of this CPU computes so, and their times mean nothing.

    Ctrl-C ends early and keeps what was measured.

    [bold]fastdl precision deepconvnet --dataset mnist --formats all --html bits.html[/bold]

    [bold]fastdl precision deepconvnet --dataset mnist --formats float32,float16,bfloat16 --train --seeds 3[/bold]

    [bold]fastdl precision --preset book-half[/bold]
    """
    from . import precision as command

    plan = command.plan(
        network=network,
        dataset=dataset.value,
        mode="train" if train else "infer",
        formats=formats,
        weights=weights,
        data_dir=data_dir,
        seeds=seeds,
        epochs=epochs,
        images=images,
        batch=batch,
        lr=lr,
        sensitivity=sensitivity,
        rounds=rounds,
        preset="" if preset is None else preset.value,
    )
    command.run(plan, backend.value, threads, json, html, pictures)
