"""Cases of gemm and conv2d."""

from __future__ import annotations

from ...kernels.geometry import window_grid
from ..arrays import ORDERS
from ..cases import Argument, Axes, Maker, Operand, numbers
from .axes import (
    DILATIONS,
    EDGES,
    ORDER_AXIS,
    OUT_ORDERS,
    PADS,
    SIZES,
    STRIDES,
    AxisValues,
    Made,
    ToProblem,
    pads_of,
    pair_of,
)

SUM_VALUES = ("normal", "integers", "wide", "special", "subnormal")


def _bias(make: Maker, a: Axes, size: int) -> Operand | None:
    """The bias that an epilogue adds; in the storage or in the compute dtype."""
    if a["epilogue"] == "none":
        return None
    dtype = make.storage if a["bias"] == "storage" else make.compute
    values = {"integers": "integers:8", "wide": "integers:8"}.get(a["values"], "normal:1")
    if a["values"] == "subnormal":
        values = "subnormal:50" if dtype == make.storage else "constant:0"
    return make.input("b", (size,), values, dtype=dtype)


def gemm_axes(direction: str) -> AxisValues:
    """The axes of gemm."""
    return {
        "values": SUM_VALUES,
        "m": ("5", "0", "1", "6", "12", "13", "15", "29"),
        "k": ("17", "0", "1", "3", "64", "257", "600"),
        "n": ("33", "0", *EDGES),
        "epilogue": ("none", "bias", "bias_relu"),
        "bias": ("storage", "compute"),
        "b_order": ORDERS,
        **ORDER_AXIS,
    }


def gemm(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of gemm."""
    m, k, n = int(a["m"]), int(a["k"]), int(a["n"])
    if a["epilogue"] == "none" and a["bias"] != "storage":
        return None
    left, right = make.products(k + 1, a["values"])
    arguments = (
        make.input("a", (m, k), left, a["order"]),
        make.input("w", (k, n), right, a["b_order"]),
        _bias(make, a, n),
        make.output("out", (m, n), a["out_order"]),
    )
    return problem(((m, k), (k, n)), epilogue=a["epilogue"]), arguments, ("a", "w")


def conv_axes(direction: str) -> AxisValues:
    """The axes of conv2d."""
    if direction == "backward_bias":
        return {"values": SUM_VALUES, "size": SIZES, "channels": EDGES, "bias": ("storage", "compute"), **ORDER_AXIS}
    bias = {"bias": ("storage", "compute")}
    own: dict[str, AxisValues] = {
        "forward": {"epilogue": ("none", "bias", "bias_relu"), **bias},
        "forward_pooled": {
            "kernel": ("3x3", "5x5"),
            "epilogue": ("bias_relu",),
            **bias,
            "out": ("yes", "no"),
            "indices": ("yes", "no"),
        },
        "backward_input": {"epilogue": ("none", "relu_mask")},
    }
    axes = {
        "values": SUM_VALUES,
        "size": SIZES,
        # input x output channels of one group
        "channels": ("3x8", "1x1", "8x3", "15x16", "16x17", "17x31", "31x15", "32x33", "33x32", "64x1", "1x65", "65x5"),
        "kernel": ("3x3", "1x1", "2x3", "3x1", "1x4", "5x4"),
        "stride": STRIDES,
        "pads": PADS,
        "dilation": DILATIONS,
        # groups; "depth": one channel in each; "depth2": and two that come out of it
        "groups": ("1", "2", "3", "depth", "depth2"),
        **own.get(direction, {}),
        "w_order": ORDERS if direction != "backward_weight" else OUT_ORDERS,
        **ORDER_AXIS,
    }
    if direction == "forward_pooled":  # its rows take no others
        del axes["stride"], axes["dilation"]
    return axes


def conv(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of conv2d."""
    n, h, w = numbers(a["size"])
    values = a["values"]
    if direction == "backward_bias":
        c = int(a["channels"])
        dtype = make.storage if a["bias"] == "storage" else make.compute
        fill, _ = make.products(n * h * w, values)
        shape = (n, c, h, w)
        arguments: tuple[Argument, ...] = (
            make.input("dout", shape, fill, a["order"]),
            make.output("db", (c,), a["out_order"], dtype),
        )
        return problem((shape,)), arguments, ("dout",)
    c, k = numbers(a["channels"])
    if a["groups"].startswith("depth"):
        groups, c, k = c, c, c * (2 if a["groups"] == "depth2" else 1)
    else:
        groups = int(a["groups"])
        c, k = c * groups, k * groups
    kernel, stride, pads, dilation = (
        pair_of(a["kernel"]),
        pair_of(a.get("stride", "1x1")),
        pads_of(a["pads"]),
        pair_of(a.get("dilation", "1x1")),
    )
    oh, ow = window_grid((h, w), kernel, stride, pads, dilation)
    x, weight, out = (n, c, h, w), (k, c // groups, *kernel), (n, k, oh, ow)
    taps = kernel[0] * kernel[1]
    p = problem(
        (x, weight), pads=pads, stride=stride, dilation=dilation, groups=groups, epilogue=a.get("epilogue", "none")
    )
    if direction == "forward":
        if a["epilogue"] == "none" and a["bias"] != "storage":
            return None
        left, right = make.products(c // groups * taps + 1, values)
        if values == "special" and any(pads):  # the contract leaves 0 * inf at the border to the kernel: w is finite
            left, right = "rare:1", "normal:1"
        arguments = (
            make.input("x", x, left, a["order"]),
            make.input("w", weight, right, a["w_order"]),
            _bias(make, a, k),
            make.output("out", out, a["out_order"]),
        )
    elif direction == "forward_pooled":
        if min(oh, ow) < 2 or kernel not in ((3, 3), (5, 5)):
            return None
        left, right = make.products(c // groups * taps + 1, values)
        if values == "special":
            left, right = "rare:1", "normal:1"
        windows = (n, k, oh // 2, ow // 2)
        arguments = (
            make.input("x", x, left, a["order"]),
            make.input("w", weight, right, a["w_order"]),
            _bias(make, a, k),
            make.output("out", out, a["out_order"]) if a["out"] == "yes" else None,
            make.output("pooled", windows, make.rng.choice(OUT_ORDERS)),
            make.output("indices", windows, make.rng.choice(OUT_ORDERS), "uint8") if a["indices"] == "yes" else None,
        )
    elif direction == "backward_input":
        left, right = make.products(k // groups * taps, values)
        if values == "special":  # as above
            left, right = "rare:1", "normal:1"
        arguments = (
            make.input("dout", out, left, a["order"]),
            make.input("w", weight, right, a["w_order"]),
            make.input("y", x, "special:1" if values == "special" else "integers:1", a["order"])
            if a["epilogue"] == "relu_mask"
            else None,
            make.output("x", x, a["out_order"]),
        )
    else:
        left, right = make.products(n * oh * ow, values)
        if values == "special" and any(pads):
            left, right = "normal:1", "rare:1"
        arguments = (
            make.input("dout", out, left, a["order"]),
            make.input("x", x, right, a["out_order"]),
            make.output("w", weight, a["w_order"]),
        )
    listed = {
        "forward": ("x", "w"),
        "forward_pooled": ("x", "w"),
        "backward_input": ("dout", "w"),
        "backward_weight": ("dout", "x"),
    }
    return p, arguments, listed[direction]
