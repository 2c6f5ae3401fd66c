"""Single convolutions, all three passes: fastdl against PyTorch (channels-last memory, its faster format), float32.

    python bench/conv.py [--threads 2] [--rounds 9] [--isa v4] [LAYER ...]

Both results are compared before anything is timed. In each round each of the two does one call to warm up and three
that are timed, after a pause in which the other's threads stop spinning.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import fastdl
from fastdl import backend
from fastdl import functional as F

#: name: N, C, H, W, K, filter, stride, pad
LAYERS = {
    "deepconvnet1": (100, 1, 28, 28, 16, 3, 1, 1),
    "deepconvnet2": (100, 16, 28, 28, 16, 3, 1, 1),
    "deepconvnet3": (100, 16, 14, 14, 32, 3, 1, 1),
    "deepconvnet4": (100, 32, 14, 14, 32, 3, 1, 2),
    "deepconvnet5": (100, 32, 8, 8, 64, 3, 1, 1),
    "deepconvnet6": (100, 64, 8, 8, 64, 3, 1, 1),
    "alexnet1": (16, 3, 227, 227, 96, 11, 4, 0),
    "alexnet2": (16, 96, 27, 27, 256, 5, 1, 2),
    "alexnet3": (16, 256, 13, 13, 384, 3, 1, 1),
    "resnet 3x3 s2": (16, 128, 56, 56, 128, 3, 2, 1),
    "resnet 1x1": (16, 256, 56, 56, 64, 1, 1, 0),
}


def channels_last(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random float32 values of shape (N, C, H, W) in the memory of (N, H, W, C)."""
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c), dtype=np.float32).transpose(0, 3, 1, 2)


def passes(name: str):
    """(pass, multiply-adds, fastdl's call, PyTorch's call) of a layer."""
    n, c, h, w, k, size, stride, pad = LAYERS[name]
    rng = np.random.default_rng(0)
    x = channels_last(rng, n, c, h, w)
    weight = rng.standard_normal((k, c, size, size), dtype=np.float32) / math.sqrt(c * size * size)
    out = F.conv2d(x, weight, stride=stride, pad=pad)
    dout = channels_last(rng, *out.shape)
    tx, tout = torch.from_numpy(x), torch.from_numpy(dout)
    tw = torch.from_numpy(weight).to(memory_format=torch.channels_last)
    geometry = {"stride": stride, "pad": pad}

    def torch_backward(*mask: bool):
        return torch.ops.aten.convolution_backward(
            tout, tx, tw, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, list(mask)
        )

    work = out.size * c * size * size
    yield (
        "forward",
        work,
        lambda: F.conv2d(x, weight, **geometry),
        lambda: torch.nn.functional.conv2d(tx, tw, stride=stride, padding=pad),
    )
    if c > 3:  # nobody needs the gradient by the image
        yield (
            "backward_input",
            work,
            lambda: F.conv2d_backward(dout, x, weight, need=("x",), **geometry)[0],
            lambda: torch_backward(True, False, False)[0],
        )
    yield (
        "backward_weight",
        work,
        lambda: F.conv2d_backward(dout, x, weight, need=("w",), **geometry)[1],
        lambda: torch_backward(False, True, False)[1],
    )


def main() -> None:
    """Compares, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", metavar="LAYER", help=", ".join(LAYERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--isa", default=backend.get_isa(), help="highest ISA level of fastdl's kernels")
    options = parser.parse_args()
    fastdl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    table = Table(title=f"float32, {options.threads} threads, ISA level up to {options.isa}")
    for heading in ("layer", "pass", "fastdl GFLOP/s", "PyTorch GFLOP/s", "ratio", "difference"):
        table.add_column(heading, justify="left" if heading in ("layer", "pass") else "right")
    ratios = []
    with backend.isa(options.isa), torch.no_grad():
        for name in options.layers or LAYERS:
            for direction, work, ours, peer in passes(name):
                mine, theirs = ours(), peer().numpy()
                difference = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
                assert difference < 1e-4, (name, direction, difference)
                times: dict[str, list[float]] = {"ours": [], "peer": []}
                for _ in range(options.rounds):
                    for label, call in (("ours", ours), ("peer", peer)):
                        time.sleep(0.02)
                        call()
                        for _ in range(3):
                            start = time.perf_counter()
                            call()
                            times[label].append(time.perf_counter() - start)
                a, b = (statistics.median(times[label]) for label in ("ours", "peer"))
                ratios.append(b / a)
                speed = (f"{2e-9 * work / seconds:.0f}" for seconds in (a, b))
                table.add_row(name, direction, *speed, f"{b / a:.2f}", f"{difference:.0e}")
    Console().print(table)
    print(f"geometric mean of the ratios (above 1: fastdl is faster): {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
