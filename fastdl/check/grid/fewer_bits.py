"""Cases of the ops on bytes and on bits: all are exact."""

from __future__ import annotations

import numpy as np

from ...kernels.geometry import window_grid
from ...kernels.problem import Problem
from ..arrays import ORDERS
from ..cases import Argument, Axes, Maker, Operand, numbers, seed_of
from .axes import (
    DILATIONS,
    EDGES,
    ORDER_AXIS,
    PADS,
    SIZES,
    STRIDES,
    AxisValues,
    Made,
    ToProblem,
    pair_of,
    window_of,
)

_CHANNELS = ("3x8", "1x1", "8x3", "15x16", "16x17", "31x33", "64x1", "33x65", "130x5")
_KERNELS = ("3x3", "1x1", "2x3", "3x1", "5x4")


def quantize_axes(direction: str) -> AxisValues:
    """The axes of quantize and dequantize."""
    return {
        "values": ("normal:50", "integers:300", "special:20"),
        "shape": ("3x65", "0x4", "7", "2x17x5x3", "1x1x1x1", "3000"),
        "scale": ("0.5", "1.0", "0.037", "3.0"),
        "zero": ("0", "128", "255"),
        **ORDER_AXIS,
    }


def quantize(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of quantize."""
    shape = numbers(a["shape"])
    arguments = (
        make.input("x", shape, a["values"], a["order"]),
        make.input("scale", (1,), f"list:{a['scale']}", dtype="float32"),
        make.input("zero", (1,), f"list:{a['zero']}", dtype="int32"),
        make.output("out", shape, a["out_order"], "uint8"),
    )
    return problem((shape,)), arguments, ("x",)


def dequantize(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of dequantize."""
    shape = numbers(a["shape"])
    arguments = (
        make.input("x", shape, "natural:256", a["order"], "uint8"),
        make.input("scale", (1,), f"list:{a['scale']}", dtype="float32"),
        make.input("zero", (1,), f"list:{a['zero']}", dtype="int32"),
        make.output("out", shape, a["out_order"]),
    )
    return problem((shape,)), arguments, ("x",)


def words_axes(op: str) -> AxisValues:
    """The axes that the convolutions over words share."""
    return {
        "size": SIZES,
        "channels": _CHANNELS,  # input x output channels of one group
        "kernel": _KERNELS,
        "stride": STRIDES,
        "pads": PADS,
        "dilation": DILATIONS,
        "groups": ("1", "2", "3"),
        "w_order": ORDERS,
        "scale": ("normal:0.001", "constant:1", "normal:0.05"),
        **ORDER_AXIS,
    }


def int8_axes(direction: str) -> AxisValues:
    """The axes of conv2d_int8."""
    own = {"epilogue": ("none", "bias", "bias_relu"), "out": ("uint8", "float32"), "zero": ("0", "128", "255")}
    return {**own, "out_zero": ("0", "7", "128"), **words_axes("conv2d_int8")}


def binary_axes(direction: str) -> AxisValues:
    """The axes of conv2d_binary."""
    return {"scaled": ("yes", "no"), **words_axes("conv2d_binary")}


def _geometry(a: Axes) -> tuple[dict[str, object], tuple[int, ...], tuple[int, int]]:
    """Fields of Problem, the output's grid behind (N, K), and channels and filters of all groups."""
    _, h, w = numbers(a["size"])
    kernel, stride, pads, dilation = window_of(a)
    c, k = numbers(a["channels"])
    groups = int(a["groups"])
    grid = window_grid((h, w), kernel, stride, pads, dilation)
    fields: dict[str, object] = {"pads": pads, "stride": stride, "dilation": dilation, "groups": groups}
    return fields, grid, (c * groups, k * groups)


def conv_int8(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of conv2d_int8."""
    n, h, w = numbers(a["size"])
    fields, grid, (c, k) = _geometry(a)
    x, weight = (n, c, h, w), (k, c // int(a["groups"]), *pair_of(a["kernel"]))
    bias: Argument = None
    if a["epilogue"] != "none":
        bias = make.input("bias", (k,), "integers:100000", dtype="int32")
    arguments = (
        make.input("x", x, "natural:256", a["order"]),
        make.input("w", weight, "integers:127", a["w_order"], "int8"),
        bias,
        make.input("scale", (k,), a["scale"], dtype="float32"),
        make.input("zeros", (2,), f"list:{a['zero']};{a['out_zero']}", "nchw", "int32"),
        make.output("out", (n, k, *grid), a["out_order"], a["out"]),
    )
    return problem((x, weight), epilogue=a["epilogue"], attrs={"out": a["out"]}, **fields), arguments, ("x", "w")


def conv_binary(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of conv2d_binary."""
    n, h, w = numbers(a["size"])
    fields, grid, (c, k) = _geometry(a)
    groups = int(a["groups"])
    words = -(-(c // groups) // 32)
    x, weight = (n, words * groups, h, w), (k, words, *pair_of(a["kernel"]))
    scale = make.input("scale", (k,), a["scale"], dtype="float32") if a["scaled"] == "yes" else None
    arguments = (
        make.input("x", x, "from words", a["order"]),
        make.input("w", weight, "from words", a["w_order"]),
        scale,
        make.output("out", (n, k, *grid), a["out_order"], "float32"),
    )
    return problem((x, weight), attrs={"channels": c // groups}, **fields), arguments, ("x", "w")


def words(problem: Problem, operand: Operand, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Random bits, 0 beyond the channels of a group."""
    rng = np.random.default_rng(seed_of(f"{operand.name} {operand.shape}"))
    found = rng.integers(0, 2**32, operand.shape, np.uint32)
    per_group = problem.shapes[1][1]
    if rest := problem.attr("channels") % 32:
        found[:, per_group - 1 :: per_group] &= np.uint32((1 << rest) - 1)
    return found


def pack_axes(direction: str) -> AxisValues:
    """The axes of pack_bits."""
    return {
        "values": ("normal:1", "special:1", "integers:1"),
        "size": (*SIZES, "1x2x600", ""),
        "channels": EDGES,
        "groups": ("1", "2", "3"),
        "threshold": ("no", "integers:1", "normal:1"),
        **ORDER_AXIS,
    }


def pack(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of pack_bits."""
    n, *image = numbers(a["size"]) or (5,)
    groups, channels = int(a["groups"]), int(a["channels"])
    shape, words = (n, groups * channels, *image), -(-channels // 32)
    threshold: Argument = None
    if a["threshold"] != "no":
        threshold = make.input("threshold", shape[1:2], a["threshold"], dtype="float32")
    arguments = (
        make.input("x", shape, a["values"], a["order"]),
        threshold,
        make.output("out", (n, groups * words, *image), a["out_order"], "uint32"),
    )
    return problem((shape,), groups=groups), arguments, ("x",)


def byte_windows(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of max_pool2d_int8."""
    n, h, w = numbers(a["size"])
    c = int(a["channels"])
    kernel, stride, pads, dilation = window_of(a)
    ceil_mode = a["ceil_mode"] == "yes"
    grid = window_grid((h, w), kernel, stride, pads, dilation, ceil_mode)
    fields = {"pads": pads, "stride": stride, "dilation": dilation}
    arguments = (
        make.input("x", (n, c, h, w), "natural:256", a["order"]),
        make.output("out", (n, c, *grid), a["out_order"]),
    )
    return problem(((n, c, h, w),), attrs={"kernel": kernel, "ceil_mode": ceil_mode}, **fields), arguments, ("x",)


def byte_window_axes(direction: str) -> AxisValues:
    """The axes of max_pool2d_int8."""
    return {
        "size": SIZES,
        "channels": EDGES,
        "kernel": ("2x2", "1x1", "3x2", "5x3"),
        "stride": STRIDES,
        "pads": PADS,
        "dilation": DILATIONS,
        "ceil_mode": ("no", "yes"),
        **ORDER_AXIS,
    }
