"""Cases of im2col, col2im and pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...kernels.geometry import Pair, window_grid
from ...kernels.problem import Problem
from ..cases import Axes, Maker, Operand, numbers
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
    same_order,
    window_of,
)


def window_axes(op: str) -> Callable[[str], AxisValues]:
    """The axes of an op with windows."""

    def axes(direction: str) -> AxisValues:
        common: AxisValues = {
            "values": ("normal", "integers", "special"),
            "size": (*SIZES, "1x2x600"),  # the last is wider than any buffer for a piece of a line
            "channels": EDGES,
            "kernel": ("2x2", "1x1", "3x2", "1x4", "5x3"),
            "stride": STRIDES,
            "pads": PADS,
        }
        if op != "avg_pool2d":
            common["dilation"] = DILATIONS
        if op == "max_pool2d":
            common["values"] = ("normal", "few", "special")
            if direction == "forward":
                common["indices"] = ("yes", "no")
            else:
                common["values"] = ("normal", "integers", "special")
                common["epilogue"] = ("none", "relu_mask")
        if op == "avg_pool2d":
            common["count_include_pad"] = ("yes", "no")
        if op in ("max_pool2d", "avg_pool2d"):
            common["ceil_mode"] = ("no", "yes")
        return {**common, **ORDER_AXIS}

    return axes


def columns(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """im2col and col2im."""
    n, h, w = numbers(a["size"])
    c = int(a["channels"])
    kernel, stride, pads, dilation = window_of(a)
    oh, ow = window_grid((h, w), kernel, stride, pads, dilation)
    image, col = (n, c, h, w), (n * oh * ow, c * kernel[0] * kernel[1])
    fill = {"normal": "normal:1", "integers": "integers:8"}.get(a["values"], "special:1")
    where = {"pads": pads, "stride": stride, "dilation": dilation, "attrs": {"kernel": kernel}}
    p = problem((image,), **where)
    if p.op == "im2col":
        arguments = make.input("x", image, fill, a["order"]), make.output("out", col, a["out_order"])
        return p, arguments, ("x",)
    fill = fill.replace("special", "gentle")
    arguments = make.input("col", col, fill, a["order"]), make.output("out", image, a["out_order"])
    return problem((image, col), **where), arguments, ("out", "col")


def index_dtype(kernel: Pair) -> str:
    """The dtype of max pooling's indices."""
    return "uint8" if kernel[0] * kernel[1] <= 255 else "int32"


def pool(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """max_pool2d and avg_pool2d."""
    n, h, w = numbers(a["size"])
    c = int(a["channels"])
    kernel, stride, pads = pair_of(a["kernel"]), pair_of(a["stride"]), pads_of(a["pads"])
    dilation = pair_of(a.get("dilation", "1x1"))
    ceil_mode = a["ceil_mode"] == "yes"
    oh, ow = window_grid((h, w), kernel, stride, pads, dilation, ceil_mode)
    x, out = (n, c, h, w), (n, c, oh, ow)
    attrs: dict[str, Any] = {"kernel": kernel, "ceil_mode": ceil_mode}
    if "count_include_pad" in a:
        attrs["count_include_pad"] = a["count_include_pad"] == "yes"
    epilogue = a.get("epilogue", "none")
    p = problem((x,), pads=pads, stride=stride, dilation=dilation, attrs=attrs, epilogue=epilogue)
    fill = {"normal": "normal:1", "integers": "integers:8", "few": "integers:1"}.get(a["values"], "special:1")
    gentle = fill.replace("special", "gentle")
    if p.op == "avg_pool2d":
        if direction == "forward":
            return p, (make.input("x", x, gentle, a["order"]), make.output("out", out, a["out_order"])), ("x",)
        return p, (make.input("dout", out, gentle, a["order"]), make.output("x", x, a["out_order"])), ("x",)
    integers, same = index_dtype(kernel), same_order(a)
    if direction == "forward":
        indices = make.output("indices", out, same, integers) if a["indices"] == "yes" else None
        return p, (make.input("x", x, fill, a["order"]), make.output("out", out, a["out_order"]), indices), ("x",)
    arguments = (
        make.input("dout", out, gentle, a["order"]),
        make.input("indices", out, "from argmax", same or make.rng.choice(OUT_ORDERS), integers),
        None if epilogue == "none" else make.input("out", out, fill if fill == "special:1" else "integers:1", same),
        make.output("x", x, a["out_order"]),
    )
    return p, arguments, ("x",)


def pool_derive(problem: Problem, operand: Operand, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Indices that a forward pass over random values (many of them equal) gives."""
    from ...kernels.pool.reference import max_pool2d_forward

    x = np.random.default_rng(0).integers(0, 4, problem.shapes[0]).astype(np.float64)
    indices = np.zeros(operand.shape, operand.dtype)
    max_pool2d_forward(problem._replace(storage="float64"), x, np.zeros(operand.shape), indices, 1)
    return indices


def global_axes(direction: str) -> AxisValues:
    """The axes of global average pooling."""
    return {"values": ("normal", "integers", "gentle"), "size": SIZES, "channels": EDGES, **ORDER_AXIS}


def global_pool(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of global average pooling."""
    n, h, w = numbers(a["size"])
    x, out = (n, int(a["channels"]), h, w), (n, int(a["channels"]), 1, 1)
    fill = {"integers": "integers:8"}.get(a["values"], f"{a['values']}:1")
    if direction == "forward":
        return problem((x,)), (make.input("x", x, fill, a["order"]), make.output("out", out, a["out_order"])), ("x",)
    return problem((x,)), (make.input("dout", out, fill, a["order"]), make.output("x", x, a["out_order"])), ("x",)
