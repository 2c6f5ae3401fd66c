"""One DeepConvNet training step, batch 100, Adam: fastdl against book-style NumPy, and PyTorch where it is installed.

    python bench/step.py [--threads 2] [--rounds 15] [--dtype float32] [--json FILE]

Each participant lives in a process of its own (in a shared one, the large arrays of the book's code change how malloc
serves PyTorch, and with it PyTorch's time by a third), all at once, and steps when it is told to: the rounds are
interleaved. In each round a participant does one step to warm up and three that are timed, as in a training loop.
Before that, the gradients of fastdl and of the book-style code are compared on one batch, dropout off.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
BOOK, FASTDL = "book-style NumPy, float64", "fastdl"
TORCH = ("PyTorch NCHW, float32", "PyTorch channels_last, float32")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of every participant (default 2)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of three timed steps (default 15)")
    parser.add_argument("--batch", type=int, default=100, help="images in a batch (default 100)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="of fastdl's parameters")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    parser.add_argument("--participant", help=argparse.SUPPRESS)  # this process is one of them
    return parser.parse_args()


def gradient_difference(dtype: str, x, t) -> float:
    """Largest difference of a gradient, relative to that gradient's largest element, dropout switched off in both."""
    import numpy as np
    from peers.book_numpy import BookDeepConvNet, initial_params

    from fastdl.layers import Dropout
    from fastdl.models import DeepConvNet

    params = initial_params()
    expected = BookDeepConvNet(params=params, dropout_ratio=0.0).gradient(x, t)
    net = DeepConvNet(dtype=dtype, seed=0)
    for name, value in params.items():
        net.params[name][...] = value
    dropouts = [layer for layer in net.layers if isinstance(layer, Dropout)]
    assert len(dropouts) == 2
    for layer in dropouts:
        layer.dropout_ratio = 0.0
    got = net.gradient(x, t)
    return max(float(np.abs(got[name] - g).max() / np.abs(g).max()) for name, g in expected.items())


def stepper(participant: str, options: argparse.Namespace, x, t) -> Callable[[], object]:
    """A function that does one training step."""
    if participant == BOOK:
        from peers.book_numpy import BookAdam, BookDeepConvNet

        book, book_adam = BookDeepConvNet(), BookAdam()
        return lambda: book_adam.update(book.params, book.gradient(x, t))
    if participant in TORCH:
        import torch
        from peers.torch_net import TorchDeepConvNet

        torch.set_num_threads(options.threads)
        peer = TorchDeepConvNet(channels_last="channels_last" in participant)
        return lambda: peer.step(x, t)
    import fastdl
    from fastdl.models import DeepConvNet
    from fastdl.optim import Adam

    fastdl.set_num_threads(options.threads)
    net, adam = DeepConvNet(dtype=options.dtype, seed=0), Adam(0.001)
    return lambda: adam.update(net.params, net.gradient(x, t))


def batch(size: int):
    """Random images (size, 1, 28, 28) and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random((size, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, size)


def serve(options: argparse.Namespace) -> None:
    """Does a few steps for each line that comes in, and answers with their times."""
    step = stepper(options.participant, options, *batch(options.batch))
    for _ in range(3):
        step()  # the first calls load and allocate
    print("ready", flush=True)
    for _ in sys.stdin:
        step()
        times = [time.perf_counter()]
        for _ in range(3):
            step()
            times.append(time.perf_counter())
        print(*(end - start for start, end in itertools.pairwise(times)), flush=True)


def main() -> int:
    """Compares, times, prints; 1 where the participants disagree."""
    options = arguments()
    sys.path.insert(0, str(HERE))
    if options.participant:
        serve(options)
        return 0
    difference = gradient_difference(options.dtype, *batch(options.batch))
    # float32 through eight layers and sums of up to 78,400 products; in float64 only the order of sums differs
    bound = 5e-4 if options.dtype == "float32" else 1e-10
    if not difference < bound:
        print(f"the gradients differ by {difference:.1e} of their largest element, more than {bound}", file=sys.stderr)
        return 1

    ours = f"{FASTDL}, {options.dtype}"
    names = [BOOK, ours, *(TORCH if importlib.util.find_spec("torch") else ())]
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads)
    )
    command = [sys.executable, __file__, "--threads", str(options.threads), "--batch", str(options.batch)]
    processes = {
        name: subprocess.Popen(
            [*command, "--dtype", options.dtype, "--participant", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in names
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in names}
    for process in processes.values():
        if process.stdout.readline().strip() != "ready":
            return 1
    for _ in range(options.rounds):
        for name, process in processes.items():
            time.sleep(0.1)  # the threads of the one before may still spin, waiting for more work
            process.stdin.write("step\n")
            process.stdin.flush()
            times[name] += map(float, process.stdout.readline().split())
    for process in processes.values():
        process.stdin.close()
        process.wait()
    report(options, times, difference)
    return 0


def report(options: argparse.Namespace, times: dict[str, list[float]], difference: float) -> None:
    """The table, and the record where one was asked for."""
    from rich.console import Console
    from rich.table import Table

    base = statistics.median(times[BOOK])
    table = Table(title=f"One training step, batch {options.batch}, {options.threads} threads")
    for heading in ("", "median ms", "quartiles ms", "times faster than the book"):
        table.add_column(heading, justify="right" if heading else "left")
    record = {"batch": options.batch, "threads": options.threads, "gradient_difference": difference, "steps": {}}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        table.add_row(name, f"{median * 1e3:.1f}", f"{low * 1e3:.1f} - {high * 1e3:.1f}", f"{base / median:.1f}")
        record["steps"][name] = {"seconds": values, "median": median, "ratio": base / median}
    Console().print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
