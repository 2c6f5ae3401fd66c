"""Large layers in every format that has kernels: bfloat16, float16, bytes and bits against float32, in one run.

    python bench/formats.py                                   # every layer
    python bench/formats.py --only 'conv 512*' --rounds 9 --json formats.json
    python bench/formats.py --no-peers --threads 1

Operands are small integers, so that every format computes the same numbers: all results are compared with float32's,
rounded once, bit for bit, and then timed in turns. "direct" is the time of our direct float32 convolution (or of our
float32 matrix product) by that of the format, "fastest" that of our fastest float32 row, "PyTorch" that of PyTorch in
the same format, channels_last. Bytes are those of image, weights and result; the peak is that of a process that does
nothing else, above one that does nothing. Bytes and bits are measured twice: on operands that are packed already, as
between the layers of such a network, and from float32. Exit status 1 where a result was wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import fastdl
import fastdl.functional as F
from fastdl import backend
from fastdl._array import empty
from fastdl._files import replacing
from fastdl.bench import machine
from fastdl.bench.stats import geometric_mean, summary
from fastdl.bench.timing import Participant, Turns, interleave

#: Name, (N, C, H, W), filters, size, stride, pad; a matrix product has its M as W and one filter tap.
LAYERS: dict[str, tuple[tuple[int, int, int, int], int, int, int, int]] = {
    "conv 64, 224": ((4, 64, 224, 224), 64, 3, 1, 1),
    "conv 256, 56": ((8, 256, 56, 56), 256, 3, 1, 1),
    "conv 512, 14": ((16, 512, 14, 14), 512, 3, 1, 1),
    "conv 384, 13": ((16, 384, 13, 13), 384, 3, 1, 1),
    "conv 96, 27, 5x5": ((16, 96, 27, 27), 256, 5, 1, 2),
    "conv 128, 56, stride 2": ((16, 128, 56, 56), 128, 3, 2, 1),
    "gemm 1024": ((1, 1024, 1, 1024), 1024, 1, 1, 0),
    "gemm 2048": ((1, 2048, 1, 2048), 2048, 1, 1, 0),
    "gemm 4096": ((1, 4096, 1, 4096), 4096, 1, 1, 0),
}
FLOATS = ("float32", "bfloat16", "float16")
#: Whether the system tells the peak of a process.
CAN_TELL = Path("/proc/self/clear_refs").exists()


class Format(NamedTuple):
    """A participant: its call, what the call must give, the setting of convolutions, and the bytes it touches."""

    name: str
    call: Callable[[], Any]
    expected: np.ndarray
    conv: str = "auto"
    nbytes: int = 0


def array(shape: tuple[int, ...], dtype: Any, values: np.ndarray | None = None) -> np.ndarray:
    """In channels-last memory where it has four axes."""
    a = empty(shape, np.dtype(dtype), "nhwc" if len(shape) == 4 else "nchw")
    if values is not None:
        a[...] = values
    return a


class Case:
    """One layer with its operands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.x_shape, k, size, self.stride, self.pad = LAYERS[name]
        self.is_gemm = name.startswith("gemm")
        self.w_shape = (k, self.x_shape[1], size, size)
        rng = np.random.default_rng(0)
        self.x = rng.integers(0, 4, self.x_shape).astype(np.float32)
        self.w = rng.integers(-3, 4, self.w_shape).astype(np.float32)
        self.signs = rng.choice(np.float32([-1, 1]), self.x_shape), rng.choice(np.float32([-1, 1]), self.w_shape)

    def _operands(self, x: np.ndarray, w: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """As a convolution or as a matrix product takes them."""
        if self.is_gemm:
            return np.ascontiguousarray(x[0, :, 0].T, dtype), np.ascontiguousarray(w[:, :, 0, 0].T, dtype)
        return array(self.x_shape, dtype, x), w.astype(dtype)

    def floating(self, dtype: str, conv: str, given: tuple[np.ndarray, np.ndarray] | None = None) -> Format:
        """One of the floating-point storages, on this kernel family."""
        x, w = self._operands(*(given or (self.x, self.w)), np.float32)
        with backend.conv_algorithm("direct"):
            expected = self._float(x, w)().astype(F.cast(np.zeros(1), dtype).dtype)
        x, w = F.cast(x, dtype), F.cast(w, dtype)
        name = {"auto": dtype, "direct": f"{dtype} direct"}[conv]
        return Format(name, self._float(x, w), expected, conv, x.nbytes + w.nbytes + expected.nbytes)

    def _float(self, x: np.ndarray, w: np.ndarray) -> Callable[[], np.ndarray]:
        if self.is_gemm:
            return lambda: F.linear(x, w)
        return lambda: F.conv2d(x, w, stride=self.stride, pad=self.pad)

    def bytes(self) -> Iterator[Format]:
        """int8: from bytes to bytes, and from float32 to float32."""
        x, w = self._operands(self.x, self.w, np.float32)
        with backend.conv_algorithm("direct"):
            exact = self._float(x, w)()
        step = float(2 ** max(0, np.ceil(np.log2(np.abs(exact).max() / 127))))
        scale, ones = (np.full(self.w_shape[0], v, np.float32) for v in (1 / step, 1))
        q = F.quantize(x, 1.0)
        if self.is_gemm:
            weights: np.ndarray = np.ascontiguousarray(w.T, np.int8).T
        else:
            weights = array(self.w_shape, np.int8, w)
        wanted = np.clip(np.rint(exact / step) + 128, 0, 255).astype(np.uint8)
        run = self._int8(weights)
        size = q.nbytes + weights.nbytes + wanted.nbytes
        yield Format("int8", lambda: run(q, scale, 128, "uint8"), wanted, nbytes=size)
        yield Format("int8 from float32", lambda: run(F.quantize(x, 1.0), ones, 0, "float32"), exact)

    def _int8(self, w: np.ndarray) -> Callable[..., np.ndarray]:
        def run(q: np.ndarray, scale: np.ndarray, zero: int, dtype: Any) -> np.ndarray:
            if self.is_gemm:
                return F.linear_int8(q, w, None, scale, out_zero=zero, dtype=dtype)
            return F.conv2d_int8(
                q, w, None, scale, out_zero=zero, dtype=dtype, stride=self.stride, pad=self.pad
            )  # fmt: skip

        return run

    def bits(self) -> Iterator[Format]:
        """One bit: from packed signs, and from float32."""
        x, w = self._operands(*self.signs, np.float32)
        with backend.conv_algorithm("direct"):
            exact = self._float(x, w)()
        channels = self.x_shape[1]
        packed, weights = F.pack_bits(x), F.pack_bits(np.ascontiguousarray(w.T) if self.is_gemm else w)

        def run(signs: np.ndarray) -> np.ndarray:
            if self.is_gemm:
                return F.linear_binary(signs, weights, channels)
            return F.conv2d_binary(signs, weights, channels, stride=self.stride, pad=self.pad)

        size = packed.nbytes + weights.nbytes + exact.nbytes
        yield Format("1 bit", lambda: run(packed), exact, nbytes=size)
        yield Format("1 bit from float32", lambda: run(F.pack_bits(x)), exact)

    def ours(self) -> Iterator[Format]:
        """All participants of fastdl."""
        for dtype in FLOATS:
            for conv in ("direct", "auto") if not self.is_gemm else ("auto",):
                yield self.floating(dtype, conv)
        yield from self.bytes()
        yield from self.bits()

    def peers(self) -> Iterator[Format]:
        """PyTorch in the same floating-point storages."""
        import torch

        for dtype in ("float32", "bfloat16"):
            x, w = self._operands(self.x, self.w, np.float32)
            with backend.conv_algorithm("direct"):
                expected = self._float(x, w)().astype(F.cast(np.zeros(1), dtype).dtype)
            kind = getattr(torch, dtype)
            tx, tw = torch.from_numpy(x).to(kind), torch.from_numpy(w).to(kind)
            if not self.is_gemm:
                tx, tw = (t.contiguous(memory_format=torch.channels_last) for t in (tx, tw))
            yield Format(f"PyTorch {dtype}", self._torch(torch, tx, tw), expected)

    def _torch(self, torch: Any, x: Any, w: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                return x @ w if self.is_gemm else torch.conv2d(x, w, None, self.stride, self.pad)

        return run


def as_array(result: Any) -> np.ndarray:
    """Of either library."""
    return result if isinstance(result, np.ndarray) else result.float().numpy()


def same(result: np.ndarray, expected: np.ndarray) -> bool:
    """Whether every element is what it should be."""
    return result.shape == expected.shape and bool((result.astype(np.float32) == expected.astype(np.float32)).all())


def context(conv: str, threads: int) -> Callable[[], AbstractContextManager[Any]]:
    """In which a participant runs."""

    def enter() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(backend.threads(threads))
        stack.enter_context(backend.conv_algorithm(conv))
        return stack

    return enter


def kernel_of(form: Format, threads: int) -> str:
    """The row that does the product."""
    with context(form.conv, threads)(), fastdl.explain() as log:
        form.call()
    products = ("conv2d", "gemm", "conv2d_int8", "conv2d_binary")
    return next((label for problem, label, _ in log.kernels() if problem.op in products), "")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One layer: a dict for each participant, and a word for each that was wrong."""
    case = Case(name)
    forms = list(case.ours())
    if options.peers:
        import torch

        torch.set_num_threads(options.threads)
        forms += case.peers()
    kernels, right = {}, []
    for form in forms:
        ours = not form.name.startswith("PyTorch")
        with context(form.conv, options.threads)():
            found = as_array(form.call())
        # Winograd's float32 may be wrong in the last bits; the storage is rounded after that.
        loose = ours and "winograd" in (kernels.setdefault(form.name, kernel_of(form, options.threads)))
        fits = np.allclose(found.astype(np.float32), form.expected.astype(np.float32), rtol=1e-2, atol=1e-2)
        if same(found, form.expected) or (loose and fits):
            right.append(form)
        else:
            yield {"layer": name, "format": form.name, "wrong": True}
    times: dict[str, list[float]] = {}
    interleave(
        [
            Participant(f.name, f.call, _nothing if f.name.startswith("PyTorch") else context(f.conv, options.threads))
            for f in right
        ],
        Turns(rounds=options.rounds),
        times,
    )
    for form in right:
        middle = summary(times[form.name])
        yield {
            "layer": name, "format": form.name, "kernel": kernels.get(form.name, "oneDNN"), "seconds": times[form.name],
            "median": middle.median, "spread": middle.spread, "bytes": form.nbytes,
        }  # fmt: skip


def peak_of(name: str, form: str) -> int:
    """Bytes that a process that computes this alone has at most, above one that has imported everything."""
    command = [sys.executable, __file__, "--peak-of", name, form]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def most() -> int:
    """Bytes of this process at its peak so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def print_peak(name: str, form: str) -> None:
    """In a process of its own: operands of this format, the call once, and the peak of resident memory above that
    before."""
    shape, k, size, stride, pad = LAYERS[name]
    rng = np.random.default_rng(0)
    small = np.zeros((1, 32, 8, 8), np.float32)
    F.conv2d(F.cast(small, form), F.cast(np.zeros((32, 32, 3, 3), np.float32), form), pad=1)  # loads the kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = most()
    x = array(shape, F.cast(np.zeros(1), form).dtype)
    for image in x:
        image[...] = rng.integers(0, 4, image.shape)
    w = F.cast(rng.integers(-3, 4, (k, shape[1], size, size)).astype(np.float32), form)
    with backend.conv_algorithm("direct"):
        F.conv2d(x, w, stride=stride, pad=pad)
    print(most() - before)


def ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Adds to each row how much faster it is than our float32 and than PyTorch in its format."""
    for row in rows:
        beside = {r["format"]: r["median"] for r in rows if r["layer"] == row["layer"] and "median" in r}
        if "median" not in row:
            continue
        fastest = min(v for name, v in beside.items() if name in ("float32", "float32 direct"))
        row["direct"] = beside.get("float32 direct", beside["float32"]) / row["median"]
        row["fastest"] = fastest / row["median"]
        peer = beside.get(f"PyTorch {row['format'].partition(' ')[0]}")
        row["torch"] = peer / row["median"] if peer and not row["format"].startswith("PyTorch") else None


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each participant."""
    found = Table("layer", "format", "kernel", box=None)
    for title in ("ms", "spread", "direct", "fastest", "PyTorch", "MB", "peak MB"):
        found.add_column(title, justify="right")
    last = ""
    for row in rows:
        if row.get("wrong"):
            found.add_row(row["layer"], row["format"], "WRONG")
            continue
        number = [
            f"{row['median'] * 1e3:.3f}", f"{row['spread']:.0%}", f"{row['direct']:.2f}x", f"{row['fastest']:.2f}x",
            f"{row['torch']:.2f}x" if row["torch"] else "", f"{row['bytes'] / 1e6:.1f}" if row["bytes"] else "",
            f"{row['peak'] / 1e6:.0f}" if row.get("peak") is not None else "",
        ]  # fmt: skip
        found.add_row(row["layer"] if row["layer"] != last else "", row["format"], row["kernel"], *number)
        last = row["layer"]
    return found


def means(rows: Sequence[dict[str, Any]]) -> Table:
    """Geometric means over convolutions and over matrix products."""
    found = Table("geometric mean", "format", box=None)
    for title in ("direct", "fastest", "PyTorch"):
        found.add_column(title, justify="right")
    for kind in ("conv", "gemm"):
        names = dict.fromkeys(r["format"] for r in rows if r["layer"].startswith(kind) and "median" in r)
        for name in names:
            these = [r for r in rows if r["layer"].startswith(kind) and r["format"] == name]
            torch = [r["torch"] for r in these if r["torch"]]
            found.add_row(
                kind, name, f"{geometric_mean(r['direct'] for r in these):.2f}x",
                f"{geometric_mean(r['fastest'] for r in these):.2f}x",
                f"{geometric_mean(torch):.2f}x" if torch else "",
            )  # fmt: skip
    return found


def main(command: Sequence[str] | None = None) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each participant (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="of every participant (default 2)")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(command)
    if options.peak_of:
        print_peak(*options.peak_of)
        return 0
    errors = Console(stderr=True)
    options.peers = not options.no_peers and importlib.util.find_spec("torch") is not None
    if not options.peers and not options.no_peers:
        errors.print("PyTorch is not installed: fastdl is measured alone", style="yellow")
    if not (chosen := [name for name in LAYERS if fnmatch.fnmatchcase(name, options.only)]):
        parser.error(f"no layer matches {options.only!r}")
    rows: list[dict[str, Any]] = []
    for name in chosen:
        with errors.status(name):
            rows += measure(name, options)
            for row in rows:
                if (
                    CAN_TELL
                    and row["layer"] == name
                    and row["format"] in [f"{f} direct" for f in FLOATS]
                    and "median" in row
                ):
                    row["peak"] = peak_of(name, row["format"].partition(" ")[0])
    ratios(rows)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table(rows))
    console.print(means(rows))
    if options.json is not None:
        record = {"machine": machine.describe("torch"), "threads": options.threads, "rows": rows}
        with replacing(options.json) as path:
            path.write_text(json.dumps(record, indent=1, default=str))
    return 1 if any(row.get("wrong") for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
