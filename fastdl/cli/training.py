"""``fastdl train``: a network on handwritten digits."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._files import replacing
from .errors import Failed, Interrupted, UserError, user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from ..train import Trainer


class Options(NamedTuple):
    """What the command line asks for."""

    dataset: str
    data_dir: Path | None
    model: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    schedule: str
    weight_decay: float
    seed: int
    dtype: str
    precision: str | None
    loss_scale: str | None
    stochastic_rounding: bool
    backend: str
    threads: int | None
    device: str
    graph: bool
    tf32: bool
    output: Path | None
    resume: bool
    quiet: bool
    as_json: bool

    def settings(self) -> dict[str, Any]:
        """Those that say what was computed, for ``metrics.json``."""
        machine = ("data_dir", "threads", "output", "resume", "quiet", "as_json")
        return {name: value for name, value in self._asdict().items() if name not in machine}


def run(options: Options) -> None:
    """Trains, reports, and writes the files of ``--output``."""
    if not (math.isfinite(options.lr) and math.isfinite(options.weight_decay)):
        raise UserError("--lr and --weight-decay must be finite numbers")
    if options.tf32 and (options.device == "cpu" or options.dtype != "float32"):
        raise UserError("--tf32 goes with --device cuda and --dtype float32: nothing else has TF32")
    if options.data_dir is not None and options.dataset != "mnist":
        raise UserError("--data-dir is for --dataset mnist: the digits are inside the package")
    if options.resume and options.output is None:
        raise UserError("--resume needs --output DIR, the folder of the training that is to go on")
    with user_errors(ValueError, RuntimeError, ImportError):
        from .. import backend
    with ExitStack() as stack:
        with user_errors(ValueError, RuntimeError):
            if options.backend != "auto":
                stack.enter_context(backend.use_backend(options.backend))
            if options.threads is not None:
                stack.enter_context(backend.threads(options.threads))
            if options.tf32:
                stack.enter_context(backend.tf32())
        _train(options)


def _train(options: Options) -> None:
    from .. import backend, optim
    from ..data import load_dataset
    from ..models.catalog import NETWORKS
    from ..precision.binarization import binarize
    from ..train import NonFiniteError, Trainer

    with user_errors(OSError, ValueError):
        data = load_dataset(options.dataset, dtype=options.dtype, data_dir=options.data_dir)
    if options.output is not None:
        with user_errors(OSError):
            options.output.mkdir(parents=True, exist_ok=True)
            if not os.access(options.output, os.W_OK):
                raise UserError(f"{options.output} cannot be written to")
    network = NETWORKS[options.model].build(dtype=options.dtype, seed=options.seed)
    report = _Report(options)
    with user_errors(ValueError, TypeError, RuntimeError, MemoryError):
        if options.precision == "binary":
            network = binarize(network)
        trainer = Trainer(
            network,
            data.x_train,
            data.t_train,
            data.x_test,
            data.t_test,
            epochs=options.epochs,
            mini_batch_size=options.batch_size,
            optimizer=options.optimizer,
            optimizer_param={"lr": options.lr},
            schedule=optim.cosine(options.lr, options.epochs) if options.schedule == "cosine" else None,
            weight_decay=options.weight_decay,
            verbose=False,
            seed=options.seed,
            output=options.output,
            progress=report.progress(),
            settings={"dataset": options.dataset, **_rate(options)},
            device=options.device,
            graph=options.graph,
            precision=options.precision,
            loss_scale=_loss_scale(options.loss_scale),
            stochastic_rounding=options.stochastic_rounding,
        )
    if options.resume:
        assert trainer.checkpoint_path is not None
        if not trainer.checkpoint_path.exists():
            raise UserError(f"there is no training to go on with: {trainer.checkpoint_path} does not exist")
        with user_errors(OSError, ValueError):
            trainer.resume(trainer.checkpoint_path)
    report.begin(trainer, len(data.x_train), len(data.x_test))
    try:
        with user_errors(OSError, backend.KernelError, MemoryError), report.warnings():  # a full disk, a full GPU
            trainer.train()
    except KeyboardInterrupt:
        report.save(trainer)
        raise Interrupted(_how_to_go_on(options, trainer)) from None
    except NonFiniteError as error:
        raise Failed(str(error)) from error
    with user_errors(OSError):
        report.save(trainer)
    report.end(trainer)


def _rate(options: Options) -> dict[str, str]:
    """What a checkpoint has to know of a schedule, which hangs on the number of epochs."""
    return {"schedule": f"cosine from {options.lr:g} over {options.epochs}"} if options.schedule == "cosine" else {}


def _loss_scale(text: str | None) -> float | str | None:
    if text is None or text == "dynamic":
        return text or "auto"
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--loss-scale is dynamic, a number or none, not {text!r}") from None


def _how_to_go_on(options: Options, trainer: Trainer) -> str:
    done = f"interrupted after {trainer.current_iter} of {trainer.max_iter} steps"
    path = trainer.checkpoint_path
    if path is None:
        return f"{done}; nothing was saved (--output DIR keeps checkpoints)"
    if not path.exists():
        return f"{done}, before there was anything to save"
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return f"{done}; go on with: {shlex.join(['fastdl', *arguments, '--resume'])}"


class _Report:
    """What the user sees of a training, and the files that it leaves."""

    def __init__(self, options: Options) -> None:
        from rich.console import Console

        self.options = options
        self.console: Console = Console(highlight=False, stderr=options.as_json)
        self.errors: Console = Console(stderr=True)
        self.kernels: list[dict[str, Any]] = []
        self._silent = options.quiet or options.as_json

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def progress(self) -> Any:
        """The Trainer's listener."""
        from ..train import Progress

        report = self

        class Listener(Progress):
            """Hands everything on to the report."""

            def start(self, trainer: Trainer) -> None:
                report._start(trainer)

            def step(self, trainer: Trainer, loss: float) -> None:
                report._step(trainer, loss)

            def epoch(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
                report._epoch(record)
                report._mark = time.perf_counter()  # evaluation is no training

            def finish(self, trainer: Trainer) -> None:
                report._finish()

        return Listener()

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Inside the block warnings are lines of this command's."""
        before = warnings.showwarning

        def show(message: Warning | str, *arguments: Any, **more: Any) -> None:
            self.errors.print(f"fastdl: {message}", soft_wrap=True, markup=False)

        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = before

    def begin(self, trainer: Trainer, training: int, test: int) -> None:
        """Says what is about to happen."""
        o = self.options
        if self._silent:
            return
        weights = sum(p.size for p in trainer.network.params.values())
        kind = o.dtype if o.precision is None else f"{o.dtype}, computed in {o.precision}"
        if o.precision == "binary":
            kind = f"{o.dtype}, {sum(trainer.network.params[name].size for name in trainer.binary_weights):,} binary"
        self.console.print(
            f"[bold]{type(trainer.network).__name__}[/] ({weights:,} parameters, {kind}) on {o.dataset}: "
            f"{training:,} training images, {test:,} to test; {o.epochs} epochs, batches of {o.batch_size}, "
            f"{o.optimizer} with lr {o.lr:g}"
            + (", cosine" if o.schedule == "cosine" else "")
            + (f", on {trainer.network.device}" if o.device != "cpu" else ""),
            soft_wrap=True,
        )
        if trainer.current_iter:
            self.console.print(f"going on after step {trainer.current_iter} of {trainer.max_iter}")
        self.console.print(
            f"[bold]{'epoch':>5}  {'loss':>8}  {'training':>8}  {'test':>8}  {'seconds':>8}  {'images/s':>8}[/]"
        )
        for record in trainer.history:
            self._epoch(record)

    def _start(self, trainer: Trainer) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from .. import backend

        self._mark = time.perf_counter()
        self._seconds = 0.0
        self._steps = 0
        shown = not self._silent and sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[rate]:,.0f} images/s  loss {task.fields[loss]:.4f}{task.fields[skipped]}"),
            TimeRemainingColumn(),
            # On one terminal the lines of the epochs must pass through the bar, or they end up inside it.
            console=self.console if sys.stdout.isatty() else self.errors,
            transient=True,
            disable=not shown,
        )
        self._task = self._bar.add_task(
            "",
            total=trainer.max_iter,
            completed=trainer.current_iter,
            epoch=1,
            epochs=trainer.epochs,
            rate=0.0,
            loss=0.0,
            skipped=_skipped(trainer),
        )
        self._bar.start()
        # The kernels of one step are those of every step: only the size of an epoch's last batch is another one.
        self._log: Any = backend.explain()
        self._log.__enter__()

    def _step(self, trainer: Trainer, loss: float) -> None:
        if self._log is not None:
            self._close_log()
        now = time.perf_counter()
        self._steps += 1
        self._seconds += now - self._mark
        self._mark = now
        if not self._bar.disable:
            self._bar.update(
                self._task,
                completed=trainer.current_iter,
                epoch=min(trainer.current_epoch + 1, trainer.epochs),
                rate=self._steps * trainer.batch_size / self._seconds,
                loss=loss,
                skipped=_skipped(trainer),
            )

    def _close_log(self) -> None:
        self._log.__exit__(None, None, None)
        totals: Counter[tuple[str, str, str, str]] = Counter()
        for problem, label, count in self._log.kernels():
            totals[problem.op, problem.direction, problem.storage, label] += count
        self._log = None
        self.kernels = [
            {"op": op, "direction": direction, "dtype": dtype, "kernel": label, "calls_per_step": count}
            for (op, direction, dtype, label), count in totals.items()
        ]

    def _epoch(self, record: Mapping[str, Any]) -> None:
        if self._silent:
            return
        self.console.print(
            f"{record['epoch']:5d}  {record['train_loss']:8.4f}  {record['train_accuracy']:8.2%}  "
            f"{record['test_accuracy']:8.2%}  {record['seconds']:8.2f}  {record['images_per_second']:8,.0f}"
        )

    def _finish(self) -> None:
        if self._log is not None:
            self._log.__exit__(None, None, None)
            self._log = None
        self._bar.stop()

    # ---- afterwards -------------------------------------------------------------------------------------------------

    def metrics(self, trainer: Trainer) -> dict[str, Any]:
        """What goes into ``metrics.json``."""
        from .. import __version__, backend

        history = trainer.history
        seconds = sum(record["seconds"] for record in history)
        images = sum(record["seconds"] * record["images_per_second"] for record in history)
        return {
            "settings": {
                **self.options.settings(),
                "threads": backend.get_num_threads(),
                "isa": backend.get_isa(),
                "fastdl": __version__,
            },
            "epochs": history,
            "finished": trainer.current_iter >= trainer.max_iter,
            "test_accuracy": trainer.final_test_acc,
            "best_test_accuracy": max((record["test_accuracy"] for record in history), default=None),
            "seconds": seconds,
            "images_per_second": images / seconds if seconds else None,
            "skipped_steps": trainer.skipped_steps,
            "loss_scale": trainer.loss_scale,
            "graph": trainer.graph_reason if trainer.graph_reason else "used",
            "kernels": self.kernels,
        }

    def save(self, trainer: Trainer) -> None:
        """Writes the files of ``--output``; of an interrupted training the checkpoint has the parameters."""
        folder = self.options.output
        if folder is None:
            return
        with replacing(folder / "metrics.json") as temporary:
            temporary.write_text(json.dumps(self.metrics(trainer), indent=1) + "\n")
        if not trainer.interrupted:
            trainer.network.save_params(folder / "params.npz")
        if trainer.history:
            from .. import figures

            o = self.options
            name = type(trainer.network).__name__
            title = f"{name} on {o.dataset}: {o.optimizer}, lr {o.lr:g}, batches of {o.batch_size}"
            figures.save_curve(trainer.history, folder / "curve.png", title)

    def end(self, trainer: Trainer) -> None:
        """The result."""
        metrics = self.metrics(trainer)
        if self.options.as_json:
            print(json.dumps(metrics, indent=1))
            return
        if self.kernels and not self.options.quiet:
            self._print_kernels()
        rate = metrics["images_per_second"]
        accuracy = metrics["test_accuracy"]
        text = f"test accuracy [bold]{accuracy:.2%}[/]"
        if rate:
            text += f", {rate:,.0f} images/s in training, {metrics['seconds']:.1f} s"
        text += _skipped(trainer).replace("  ", "; ")
        if self.options.output is not None:
            text += f"; metrics.json, params.npz and curve.png are in {self.options.output}"
        self.console.print(text, soft_wrap=True)

    def _print_kernels(self) -> None:
        from rich.table import Table

        table = Table(box=None, header_style="bold", title="kernels of one step", title_justify="left", pad_edge=False)
        for name in ("op", "direction", "kernel", "calls"):
            table.add_column(name, justify="right" if name == "calls" else "left", no_wrap=True)
        for kernel in self.kernels:
            table.add_row(kernel["op"], kernel["direction"], kernel["kernel"], str(kernel["calls_per_step"]))
        self.console.print(table)


def _skipped(trainer: Trainer) -> str:
    """What the steps that were left out are worth saying."""
    if trainer.loss_scale is None:
        return ""
    return f"  {trainer.skipped_steps} steps skipped, loss scale {trainer.loss_scale:g}"
