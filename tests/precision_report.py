"""Reports of the precision laboratory, made up: what shows them is tested without a measurement."""

from __future__ import annotations

from fastdl.precision.formats import FORMATS
from fastdl.precision.record import Histogram, Inference, Kernel, Reduced, Report, Result, Signal, Training
from network_record import MACHINE

LAYERS = ("conv1", "relu1", "affine1")
SETTINGS = {
    "images": 200, "batch": 50, "epochs": 2, "lr": 0.001, "seeds": 2, "threads": 2, "backend": "auto", "isa": "v4",
    "preset": "",
}  # fmt: skip


def inference(number: int, name: str) -> Inference:
    """Numbers that differ from format to format."""
    bits = FORMATS[name].bits
    return Inference(
        right=190 - number, same=200 - number, images=200, not_finite=0, largest_difference=0.1 * number,
        mean_difference=0.01 * number, weight_bytes=1000 * bits, activation_bytes=100 * bits,
        largest_step_bytes=60 * bits, kernels=[Kernel("conv1", "conv2d", "cython/direct/v4")],
        layers=[Signal(layer, "Convolution", 4.0, None if name == "float16_sums" else 4.0 * number / 10**number)
                for layer in LAYERS if number],
        seconds=[1e-5 * (number + 1), 1.2e-5 * (number + 1), 1.1e-5 * (number + 1)],
        sensitivity=[Reduced(layer, 0.9, 2.0, 0.002) for layer in ("conv1", "affine1")] if bits < 32 else [],
    )  # fmt: skip


def training(number: int, name: str) -> Training:
    """The same."""
    histograms = [
        Histogram("conv1", "activation", -30, [1, 2, 4, 8, 16, 8, 4], 57, 0),
        Histogram("conv1", "W", -12, [3, 3, 3], 0, 0),
        Histogram("affine1", "activation", -8, [5, 5], 0, 0),
    ]
    return Training(
        seeds=[0, 1], accuracies=[0.9 - 0.01 * number, 0.92 - 0.01 * number], seconds=[2.0 + number, 2.2 + number],
        steps=[16, 16], skipped=[2, 1] if name == "float16" else [0, 0], images=400,
        loss_scale=1024.0 if name == "float16" else None, kernels=[Kernel("gemm", "gemm forward", "cython/blocked/v4")],
        gradients_first=histograms, gradients_last=histograms,
    )  # fmt: skip


def report(mode: str = "infer", names: tuple[str, ...] = ("float64", "float32", "float16", "float16_sums")) -> Report:
    """Of these formats, and of int8, which did not run."""
    found = Report(mode, "lenet", "digits", "weights.npz", SETTINGS, ["fastdl", "precision", "lenet"], MACHINE)
    for number, name in enumerate(names):
        result = Result(*FORMATS[name][:6])
        if mode == "infer":
            result.inference = inference(number, name)
        else:
            result.training = training(number, name)
        found.formats.append(result)
    found.formats.append(Result(*FORMATS["int8"][:6], "this machine has no integers"))
    found.direct_seconds = [3e-5, 3.1e-5, 3.2e-5] if mode == "infer" else []
    found.complete, found.created = True, "2026-07-01T00:00:00+00:00"
    return found
