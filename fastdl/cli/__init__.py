"""The command line: ``fastdl info``, ``check``, ``train``, ``compare``, ``run`` and ``warmup``.

This module declares options and loads nothing but typer; what a command needs is imported when it runs. Mistakes of
the user (``UserError``) end as one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import Failed, Interrupted, UserError
from .laboratory import compare_formats
from .options import (
    AnyBackend,
    Backend,
    DataFolder,
    DataSet,
    DataSetOption,
    Dtype,
    Isa,
    Method,
    Net,
    Precision,
    Schedule,
    TrainDtype,
)

app = typer.Typer(
    name="fastdl",
    help="Fast layers for hand-written convolutional networks on NumPy arrays.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from .. import __version__

        print(f"fastdl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fast layers for hand-written convolutional networks on NumPy arrays.

    [bold]fastdl train[/bold] trains a deep network on handwritten digits in less than a minute; [bold]fastdl
    info[/bold] says what this installation and machine can do; [bold]fastdl check[/bold] proves it.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


JSON = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


@app.command()
def info(json: JSON = False) -> None:
    """Say what this installation can do here: CPU, ISA levels, threads, backends, versions, data."""
    from . import machine as command

    command.run(json)


@app.command()
def check(
    op: Annotated[
        list[str] | None,
        typer.Option(metavar="OP", help="Only this op, such as conv2d. May be repeated. Default: all."),
    ] = None,
    dtype: Annotated[list[Dtype] | None, typer.Option(help="Only this storage dtype. May be repeated.")] = None,
    backend: Annotated[list[Backend] | None, typer.Option(help="Only this backend. May be repeated.")] = None,
    isa: Annotated[list[Isa] | None, typer.Option(help="Only compiled kernels of this level. May be repeated.")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Every triple of sizes, strides, memory orders, ... and not every pair: minutes, not seconds.",
        ),
    ] = False,
    light: Annotated[
        bool,
        typer.Option("--light", help="Without the few large convolutions that take an emulation most of its time."),
    ] = False,
    fuzz: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="So many random cases (sizes, strides, pads, groups, memory layouts, ...) in the place of the grid.",
            show_default=False,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the random cases.")] = 0,
    case: Annotated[
        str, typer.Option(metavar="ID", help="Only this case: an id as a failure prints it.", show_default=False)
    ] = "",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Run nothing: compile every CUDA kernel with NVRTC for every architecture, and show its registers.",
        ),
    ] = False,
    json: JSON = False,
) -> None:
    """Run every kernel on this machine against the NumPy reference in float64.

    Prints a row for each op, backend, algorithm, dtype and ISA level, with the worst error that was seen and the
    tolerance of that element. Exit code 1 where a kernel fails or has no case.
    """
    if compile:
        if full or light or fuzz or case or backend or isa:
            raise UserError("--compile goes with --op, --dtype and --json only")
        from . import compiling

        return compiling.run(tuple(op or ()), tuple(d.value for d in dtype or ()), json)
    from . import checking as command

    command.run(
        ops=tuple(op or ()),
        dtypes=tuple(d.value for d in dtype or ()),
        backends=tuple(b.value for b in backend or ()),
        isas=tuple(i.value for i in isa or ()),
        full=full,
        light=light,
        fuzz=fuzz,
        seed=seed,
        case=case,
        as_json=json,
    )


@app.command()
def train(
    dataset: DataSetOption = DataSet.digits,
    data_dir: DataFolder = None,
    model: Annotated[Net, typer.Option(help="The network to train.", rich_help_panel="What")] = Net.deepconvnet,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Times that each image is seen. Default: 30 for digits, 20 for MNIST.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images in one step. Default: 50 for digits, 100 for MNIST.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[Method, typer.Option(help="How gradients become steps.", rich_help_panel="How")] = Method.adam,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate.", rich_help_panel="How")] = 0.001,
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="How the rate goes. cosine: from --lr down to 0 after --epochs, as half a wave.",
            rich_help_panel="How",
        ),
    ] = Schedule.constant,
    weight_decay: Annotated[
        float, typer.Option(min=0.0, help="L2 penalty: this times W is added to W's gradient.", rich_help_panel="How")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights, dropout and the order of the images.", rich_help_panel="How")
    ] = 0,
    dtype: Annotated[
        TrainDtype, typer.Option(help="Of images, parameters and computation.", rich_help_panel="How")
    ] = TrainDtype.float32,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="float16, bfloat16: run layers in 16 bits and update parameters of --dtype; gradients that overflow "
            "cost a step. binary: weights and activations of one bit, but in the first and the last layer, with batch "
            "normalisation in front. Default: that of --dtype.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    loss_scale: Annotated[
        str | None,
        typer.Option(
            metavar="SCALE",
            help="With 16 bits: dynamic, a number or none (a GPU takes none). Default: dynamic for float16, none for "
            "bfloat16.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    stochastic_rounding: Annotated[
        bool,
        typer.Option(
            "--stochastic-rounding",
            help="With 16 bits: round the weights up or down at random, the nearer the likelier.",
            rich_help_panel="How",
        ),
    ] = False,
    backend: Annotated[
        AnyBackend, typer.Option(help="auto: compiled kernels where they are built.", rich_help_panel="How")
    ] = AnyBackend.auto,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; the result does not depend on it. Default: the CPUs this process may use.",
            rich_help_panel="How",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(metavar="DEVICE", help="cpu, cuda (the first GPU) or cuda:N (that GPU).", rich_help_panel="How"),
    ] = "cpu",
    graph: Annotated[
        bool,
        typer.Option("--graph/--no-graph", help="On a GPU, replay steps as CUDA graphs.", rich_help_panel="How"),
    ] = True,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32",
            help="On a GPU, multiply float32 numbers on its tensor cores, rounded to TF32 (11 bits of 24).",
            rich_help_panel="How",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for metrics.json, params.npz, curve.png and a checkpoint after each epoch. Those of an "
            "earlier training there are replaced. Default: nothing is written.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --output DIR.", rich_help_panel="Output")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result only.", rich_help_panel="Output")
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the metrics as JSON on stdout and nothing else.", rich_help_panel="Output"),
    ] = False,
) -> None:
    """Train a network on handwritten digits.

    Without options: DeepConvNet on the digits inside the package, to 98% and more on digits it has not seen, in less
    than a minute. Ctrl-C stops after the current step; with --output the training can go on later.
    """
    from . import training as command

    usual_epochs, usual_batch = {DataSet.digits: (30, 50), DataSet.mnist: (20, 100)}[dataset]
    command.run(
        command.Options(
            dataset=dataset.value,
            data_dir=data_dir,
            model=model.value,
            epochs=usual_epochs if epochs is None else epochs,
            batch_size=batch_size or usual_batch,
            optimizer=optimizer.value,
            lr=lr,
            schedule=schedule.value,
            weight_decay=weight_decay,
            seed=seed,
            dtype=dtype.value,
            precision=None if precision is None else precision.value,
            loss_scale=loss_scale,
            stochastic_rounding=stochastic_rounding,
            backend=backend.value,
            threads=threads,
            device=device,
            graph=graph,
            tf32=tf32,
            output=output,
            resume=resume,
            quiet=quiet,
            as_json=json,
        )
    )


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", show_default=False, help="The record to compare with.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", show_default=False, help="The record to judge.")],
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", min=0.0, help="Smaller changes are none, whatever the noise.")
    ] = 5.0,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="That all intervals of the ratios together are right.")
    ] = 0.95,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only cases like 'alexnet/conv*'. May be repeated.", show_default=False),
    ] = None,
    json: JSON = False,
) -> None:
    """Say what has become slower or faster between two records of a benchmark.

    Exit code 1 where something is slower, beyond the threshold and the noise; 0 otherwise. Times of the same case,
    pass, dtype, threads, participant and batch are compared. For example, before and after a change:

    [bold]fastdl bench alexnet --json old.json[/bold]

    [bold]fastdl bench alexnet --json new.json[/bold]

    [bold]fastdl compare old.json new.json --only 'alexnet/conv*' --threshold 3[/bold]
    """
    from . import comparing as command

    command.run(old, new, confidence, threshold, only or (), json)


@app.command()
def warmup(
    model: Annotated[
        list[Net] | None, typer.Option(help="Only this network. May be repeated. Default: all.", show_default=False)
    ] = None,
    dtype: Annotated[
        list[TrainDtype] | None,
        typer.Option(help="Only this dtype. May be repeated. Default: float32.", show_default=False),
    ] = None,
    json: JSON = False,
) -> None:
    """Compile the Numba kernels that a network needs, and keep them on disk.

    Without this they are compiled one by one when they are first called, which makes the first step of a first
    training slow. FASTDL_CACHE_DIR names another folder than the user's cache.
    """
    from . import warming as command

    command.run([m.value for m in model or Net], [d.value for d in dtype or (TrainDtype.float32,)], json)


# Options behind the script are the script's.
@app.command(name="run", context_settings={"allow_interspersed_args": False})
def run_script(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", show_default=False, help="The Python script to run.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", show_default=False, help="What the script gets.")
    ] = None,
    dtype: Annotated[
        TrainDtype, typer.Option(help="What layers compute in; the script's own arrays keep their dtypes.")
    ] = TrainDtype.float64,
    backend: Annotated[AnyBackend, typer.Option(help="Kernels to use.")] = AnyBackend.auto,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; the result does not depend on it.", show_default=False)
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Say at the end what was replaced, and where the time went (on stderr).")
    ] = False,
) -> None:
    """Run a script of the book, as it is, on fast layers.

    The script runs as it would from its own folder. The classes of its common.layers, common.optimizer and common.util
    are replaced where they are the book's and give the same numbers; what the reader has changed stays.
    """
    from . import running as command

    command.run(script, arguments or [], dtype.value, backend.value, threads, report)


@app.command()
def bench(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            show_default=False,
            help="alexnet, vgg16, googlenet, resnet50, deepconvnet, ... or your own: MODULE:FUNCTION, a function that "
            "takes a dtype and returns a network (and the shape of an image).",
        ),
    ],
    batch: Annotated[
        str, typer.Option(metavar="N,N", help="Images in a batch. Default: the network's.", show_default=False)
    ] = "",
    devices: Annotated[str, typer.Option(metavar="NAME,NAME", help="cpu, cuda.")] = "cpu",
    backends: Annotated[str, typer.Option(metavar="NAME,NAME", help="On the CPU: cython, numba, numpy.")] = "cython",
    dtypes: Annotated[str, typer.Option(metavar="NAME,NAME", help="float32, float64, float16, bfloat16.")] = "float32",
    passes: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="inference, and those of training: forward, backward."),
    ] = "forward,backward",
    peers: Annotated[
        str, typer.Option(metavar="NAME", help="Who else: torch, where it is installed.", show_default=False)
    ] = "",
    threads: Annotated[
        str, typer.Option(metavar="N,N", help="Threads of everybody. Default: fastdl's.", show_default=False)
    ] = "",
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each participant, at most.")] = 9,
    seconds: Annotated[float, typer.Option(min=0, help="For the turns of one participant, roughly.")] = 20.0,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the record, for programs.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with pictures and tables.", show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the pictures as PNG and SVG.", show_default=False)
    ] = None,
) -> None:
    """Where does the time go: a network, layer by layer, for all who can run it.

    All participants take turns. Their results are compared before. A device or package that is not here is a column
    that says so. Ctrl-C ends early and keeps what was measured.

    fastdl bench alexnet --batch 16 --backends cython,numpy --peers torch --html alexnet.html
    """
    from . import benchmarks as command

    plan = command.plan(network, batch, devices, backends, dtypes, passes, peers, threads, rounds, seconds)
    command.run(plan, json, html, pictures)


app.command(name="precision")(compare_formats)


@app.command(name="profile", context_settings={"allow_interspersed_args": False})
def profile_script(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", show_default=False, help="The Python script to run.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", show_default=False, help="What the script gets.")
    ] = None,
    dtype: Annotated[
        TrainDtype, typer.Option(help="What the layers of a script of the book compute in.")
    ] = TrainDtype.float64,
    backend: Annotated[AnyBackend, typer.Option(help="Kernels to use.")] = AnyBackend.auto,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; the result does not depend on it.", show_default=False)
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a timeline for ui.perfetto.dev or chrome://tracing.", show_default=False
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as JSON.", show_default=False)
    ] = None,
) -> None:
    """Run a script, and say where its time went: every layer and kernel of fastdl on a clock.

    The script runs as with fastdl run; the table goes to stderr. In a program of your own:
    with fastdl.profile() as p: ...; print(p).
    """
    from . import profiling as command

    command.run(script, arguments or [], dtype.value, backend.value, threads, trace, json)


def _usage_error() -> type[Exception]:
    """click's base class for mistakes on the command line: typer has a copy of click inside, or an own dependency."""
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code: 0, 1 (a failure), 2 (a mistake of the user), 130 (Ctrl-C)."""
    code: Any = 0
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="fastdl", standalone_mode=False)
        if code == 130:  # what newer typers make of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        code = _complain(str(error))
    except Failed as error:
        print(f"fastdl: error: {error}", file=sys.stderr)
        code = 1
    except Interrupted as stop:
        print(f"fastdl: {stop}", file=sys.stderr)
        code = 130
    except (typer.Abort, KeyboardInterrupt):
        print("fastdl: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain about that at exit once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if not isinstance(error, _usage_error()):
            raise
        code = _complain(error.format_message())  # type: ignore[attr-defined]
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    print(f"fastdl: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
