"""Everything that a GPU can say about fastdl, in one run of a few minutes: checks, layers, training; beside PyTorch.

    python bench/gpu.py OUT                       # some 8 minutes; OUT/gpu.json and OUT/gpu.txt
    python bench/gpu.py OUT --quick               # the most important passes, hardly any repetitions
    python bench/gpu.py OUT --minutes 4           # leaves out the least important passes, and says which
    python bench/gpu.py OUT --only 'vgg16/*' --precisions float16 --stages layers
    python bench/gpu.py OUT --dry-run             # no GPU: tiny layers, emulated; times mean nothing

Needs a checkout, NumPy, CuPy and PyTorch with CUDA; bfloat16 also ml_dtypes. fastdl need not be installed or compiled.

1. The machine, and its ceilings: matrix products in each precision, copies.
2. The checks of every CUDA kernel (``--check sample``, ``full`` or ``none``). What fails is not timed.
3. Each pass of each layer of the suite in float16, bfloat16, TF32 and float32, after a comparison with a computed
   tolerance: replays of CUDA graphs on operands that take turns and exceed the second-level cache, in turns with
   cuDNN's (channels-last, autotuned); convolutions with bias and ReLU (and pooling) also in one pass.
4. Training steps of DeepConvNet with and without CUDA graphs, and 20 epochs of MNIST, where that is found.

Ctrl-C ends early; what was measured is in the files. Exit status 1 where something was wrong, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE))

import checkout  # noqa: E402, F401 - before fastdl
import suite  # noqa: E402
from gpu_state import LOST, DeviceLost, State, supervise  # noqa: E402
from networks import words  # noqa: E402

STAGES = ("machine", "checks", "layers", "training")
PRECISIONS = ("float16", "bfloat16", "tf32", "float32")
#: Minutes of a whole run; seconds that what follows the layers gets, and that the checks may take.
MINUTES, RESERVED, CHECKS = 8.0, 75.0, 90.0
EPOCHS = 20
#: Of the cases of a check take one of so many.
SAMPLE, SPARSE = 12, 60


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, metavar="OUT", help="the folder for gpu.json and gpu.txt")
    add("--minutes", type=float, help=f"end after so many (default {MINUTES:g}, with --quick 3)")
    add("--quick", action="store_true", help="few repetitions, and the most important passes alone")
    add("--check", choices=("sample", "full", "none"), default="sample", help="which cases of the checks")
    add("--stages", type=words, default=list(STAGES), help=f"{', '.join(STAGES)} (default: all)")
    add("--only", type=words, default=[], metavar="PATTERN", help="names of layers, such as 'vgg16/conv3_*'")
    add("--precisions", type=words, default=list(PRECISIONS), help=f"{', '.join(PRECISIONS)} (default: all)")
    add("--dry-run", action="store_true", help="without a GPU, emulated: does the script work?")
    add("--json", action="store_true", help="print the record, not the tables")
    for hidden in ("--worker", "--resume"):
        add(hidden, action="store_true", help=argparse.SUPPRESS)
    add("--compile", help=argparse.SUPPRESS)
    options = parser.parse_args(command)
    for name, given, known in (("--stages", options.stages, STAGES), ("--precisions", options.precisions, PRECISIONS)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"{name}: {unknown[0]!r} is none of {', '.join(known)}")
    if options.minutes is None:
        options.minutes = 3.0 if options.quick else MINUTES
    if options.minutes <= 0:
        parser.error("--minutes must be above 0")
    options.precisions = [name for name in PRECISIONS if name in options.precisions]  # float16 first
    return options


BEGIN = time.monotonic()


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.monotonic() - BEGIN:6.1f} s  {text}", file=sys.stderr, flush=True)


class Run:
    """One process's part of a run."""

    def __init__(self, options: argparse.Namespace, place: Any, state: State) -> None:
        self.options, self.place, self.state = options, place, state

    @property
    def backend(self) -> str:
        """The rows that are measured."""
        return "cuda-emulated" if self.place.emulated else "cuda"

    def all(self) -> None:
        """Every stage that was asked for."""
        import gpu_machine
        from gpu_device import STORAGE, missing

        from fastdl.bench.record import Record

        options, state = self.options, self.state
        if state.record is None:
            state.record = Record("gpu", ["gpu.py", *sys.argv[1:]], gpu_machine.describe(self.place))
            assert state.record.machine.gpu is not None
            say(str(state.record.machine.gpu["name"]))
        for precision in list(options.precisions):
            if reason := missing(precision):
                state.note(f"{precision} is left out: {reason}")
                options.precisions.remove(precision)
        if "machine" in options.stages and state.record.peaks is None:
            with state.item("ceilings", self.place.synchronize) as wanted:
                if wanted:
                    state.record.peaks = gpu_machine.ceilings(self.place, options.quick)
                    state.publish()
        if not self.place.emulated:
            with state.item("compilation", self.place.synchronize) as wanted:
                if wanted:
                    storages = list(dict.fromkeys(STORAGE[name] for name in options.precisions))
                    seconds = gpu_machine.compile_all(HERE / "gpu.py", storages, say, state.alive)
                    say(f"kernels compiled in {seconds:.0f} s")
        if "checks" in options.stages and options.check != "none":
            self.checks()
        reserved = 0.0
        if "training" in options.stages:
            reserved = min(RESERVED, 0.4 * 60 * options.minutes)
        if "layers" in options.stages:
            self.layers(reserved)
        if "training" in options.stages:
            self.training()
        if "layers" in options.stages and state.left_out and not options.quick:
            self.layers(8.0)  # with the time that is left
        state.record.complete = not state.left_out

    # ---- checks -----------------------------------------------------------------------------------------------------

    def checks(self) -> None:
        """Op by op, for as long as they may take."""
        from gpu_device import STORAGE

        from fastdl.check import Selection, check
        from fastdl.kernels import registry

        options, state = self.options, self.state
        storages = tuple(dict.fromkeys(STORAGE[name] for name in options.precisions))
        ops = dict.fromkeys(row.op for row in registry.TABLE if row.backend == self.backend)
        if options.only:
            ops = {op: None for op in ops if op in {_kernel_op(layer) for layer in self._layers()}}
        every = 1 if options.check == "full" else SPARSE if options.quick or self.place.emulated else SAMPLE
        end = time.time() + (state.left() if options.check == "full" else min(CHECKS, 0.25 * state.left()))
        skipped = []
        for op, storage in ((op, storage) for op in ops for storage in storages):
            name = f"check {op} {storage}"
            if time.time() > end and name not in state.done:
                skipped.append(f"{op} {storage}")
                continue
            with state.item(name, self.place.synchronize) as wanted:
                if not wanted:
                    continue
                selection = Selection((op,), (storage,), (self.backend,), every=every, full=options.check == "full")
                if not any(True for _ in selection.rows()):
                    continue
                results = check(selection, progress=lambda *_: state.alive())
                failed = [result for result in results if result.status == "failed"]
                for r in failed:
                    state.failing.append([r.op, r.direction, f"{r.backend}/{r.algorithm}", r.dtype])
                    state.note(f"FAILED {r.op} {r.direction} {r.algorithm} {r.dtype}: {r.reason}")
                state.wrong += len(failed)
                passed = sum(result.status == "passed" for result in results)
                more = f", {len(failed)} FAILED" if failed else ""
                say(f"{name}: {passed} rows passed{more}, {sum(r.cases for r in results)} cases")
            if name in state.bad:
                state.note(f"{name} could not be finished: its rows are timed after their comparison alone")
        if skipped:
            state.note(f"not checked for lack of time: {', '.join(skipped)}")

    # ---- layers -----------------------------------------------------------------------------------------------------

    def _layers(self) -> list[suite.Layer]:
        def wanted(layer: suite.Layer) -> bool:
            names, patterns = (layer.name, *layer.aliases), self.options.only
            return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)

        found = [layer for layer in suite.LAYERS if wanted(layer)]
        if not self.place.emulated:
            return found
        if not self.options.only:  # one of each kind
            found = suite.one_of_each(found)
        return [suite.small(layer) for layer in found]

    def layers(self, reserved: float) -> None:
        """Pass after pass, the most important first, until ``reserved`` seconds are left."""
        import gpu_layers

        state, record = self.state, self.state.record
        assert record is not None
        every = gpu_layers.units(self.options.precisions, self._layers())
        if self.options.quick:
            every = every[: max(1, len(every) // 6)]
        failing = {(row[0], row[1], row[2], row[3]) for row in state.failing}
        state.left_out.clear()
        told = time.monotonic()
        for index, unit in enumerate(every):
            if state.left() < reserved and unit.name not in state.done:
                if unit.name not in state.bad:
                    state.left_out.append(unit.name)
                continue
            with state.item(unit.name, self.place.synchronize) as wanted:
                if not wanted:
                    continue
                measured = gpu_layers.measure(unit, self.place, failing, self._note_unit, self.options.quick)
                for measurement in measured:
                    record.measurements.append(measurement)
            self.place.release()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"layers: {index + 1} of {len(every)} passes, {unit.name}")
        if state.left_out:
            say(f"{len(state.left_out)} passes are left out for lack of time")

    def _note_unit(self, text: str) -> None:
        self.state.wrong += "WRONG" in text
        self.state.note(text)

    # ---- training ---------------------------------------------------------------------------------------------------

    def training(self) -> None:
        """Steps of DeepConvNet, and MNIST."""
        if not self.place.emulated:
            return self._training(nullcontext())
        sys.path.insert(0, str(HERE.parent / "tests"))
        try:
            import fake_cupy
        except ImportError as error:
            self.state.note(f"training is left out: the stand-in for CuPy is not here ({error})")
        else:
            self._training(fake_cupy.installed())
        finally:
            sys.path.remove(str(HERE.parent / "tests"))

    def _training(self, context: Any) -> None:
        import gpu_network as net

        state, place, quick = self.state, self.place, self.options.quick
        record = state.record
        assert record is not None
        size = net.TINY if place.emulated else net.QUICK if quick else net.FULL
        precisions = [name for name in self.options.precisions if name in ("float32", "tf32")]
        if "float16" in self.options.precisions or "bfloat16" in self.options.precisions:
            state.note("training in halves is left out: optimizers keep parameters in float32")
        chosen = [who for who in net.participants(place.emulated) if who.precision in precisions]
        if not chosen:
            return
        with context:
            with state.item("steps of deepconvnet", place.synchronize) as wanted:
                if wanted:
                    checked = net.check(place, size)
                    if checked.passed:
                        record.measurements += net.steps(place, size, checked, chosen, self._note_unit)
                        say("steps of deepconvnet are timed")
                    else:
                        self._note_unit(f"WRONG gradients of deepconvnet: {checked}")
            self._mnist(net, chosen, size)

    def _mnist(self, net: Any, chosen: list[Any], size: Any) -> None:
        state, place = self.state, self.place
        record = state.record
        assert record is not None
        epochs, data = (3 if self.options.quick else EPOCHS), net.mnist()
        if data is None:
            return state.note("MNIST is left out: set FASTDL_DATA_DIR to the folder of its files")
        if place.emulated:
            epochs, data = 1, tuple(a[: 2 * size.batch] for a in data)
        # With graphs where there are any, fastdl's first.
        for who in sorted(chosen, key=lambda who: (not who.ours, who.precision)):
            if not who.graph and (who.ours or not place.emulated):
                continue
            name = f"training {who.name} {who.precision}"
            if state.left() < 10 and not place.emulated:
                state.note(f"{name} is left out for lack of time")
                continue
            with state.item(name, place.synchronize) as wanted:
                if wanted:
                    found = net.train(place, who, data, size.batch, epochs)
                    record.measurements.append(found)
                    say(f"{name}, {epochs} epochs: {found.median:.1f} s, {100 * found.settings['accuracy']:.2f}%")


def _kernel_op(layer: suite.Layer) -> str:
    return "gemm" if layer.op == "linear" else layer.op


def work(options: argparse.Namespace) -> int:
    """All of it, in this process."""
    import gpu_device

    options.folder.mkdir(parents=True, exist_ok=True)
    state = State(options.folder, options.resume, say)
    if not state.deadline:
        state.deadline = time.time() + 60 * options.minutes
    status = 0
    try:
        place = gpu_device.Emulation() if options.dry_run else gpu_device.Gpu()
        Run(options, place, state).all()
    except KeyboardInterrupt:
        say("interrupted: what was measured is kept")
        status = 130
    except DeviceLost as error:
        say(f"the device is lost: {error}")
        return LOST
    finally:
        state.save()
        state.publish()
    if state.record is not None:
        print(json.dumps(state.record.to_json()) if options.json else state.text(), end="")
        say(f"{len(state.record.measurements)} measurements in {options.folder}")
    if not options.worker:
        (options.folder / "state.json").unlink(missing_ok=True)
    return status or (1 if state.wrong else 0)


def main(command: Sequence[str] | None = None) -> int:
    """Looks for a GPU, works, and begins again where one is lost."""
    options = arguments(command)
    if options.dry_run:
        return work(options)
    import gpu_machine

    if reason := gpu_machine.missing():
        print(f"There is no GPU to measure here: {reason} (--dry-run tries the script without one).", file=sys.stderr)
        return 2
    if options.compile:
        share, shares, storages = options.compile.split("/")
        gpu_machine.compile_share(int(share), int(shares), storages.split(","))
        return 0
    if options.worker:
        return work(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    return supervise([str(HERE / "gpu.py"), *(sys.argv[1:] if command is None else command)], options.folder, say)


if __name__ == "__main__":
    raise SystemExit(main())
