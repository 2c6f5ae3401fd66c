"""Cases of the normalisations and the losses."""

from __future__ import annotations

import math

import numpy as np

from ...kernels.problem import Problem
from ..cases import Argument, Axes, Maker, Operand, numbers
from .axes import EDGES, ORDER_AXIS, OUT_ORDERS, SIZES, AxisValues, Made, ToProblem, same_order


def batch_axes(direction: str) -> AxisValues:
    """The axes of batch normalisation."""
    return {
        "values": ("normal", "shifted", "constant", "special"),
        "shape": (
            "5x17",
            "2x3",
            "4x1",
            "1x5",
            "0x4",
            "64x33",
            "3x8x4x5",
            "2x33x3x1",
            "1x16x1x1",
            "2x65x2x3",
            "0x3x2x2",
        ),
        "eps": ("1e-6", "1e-5"),
        "gamma": ("storage", "compute", "float64"),
        **ORDER_AXIS,
    }


def batch_norm(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of batch normalisation."""
    shape = numbers(a["shape"])
    features, stat = (shape[1],), make.compute
    gamma = {"storage": make.storage, "compute": make.compute}.get(a["gamma"], a["gamma"])
    fill = {"shifted": "integers:8", "constant": "constant:3", "special": "rare:1"}.get(a["values"], "normal:1")
    p = problem((shape,), attrs={"eps": float(a["eps"])})
    x = make.input("x", shape, fill, a["order"])
    scale = make.input("gamma", features, "normal:1", dtype=gamma)
    shift = make.input("beta", features, "normal:1", dtype=gamma)
    if direction == "forward":
        out = make.output("out", shape, a["out_order"])
        stats = make.output("mean", features, dtype=stat), make.output("var", features, dtype=stat)
        return p, (x, scale, shift, out, *stats), ("x",)
    order = make.rng.choice(OUT_ORDERS)
    if direction == "inference":
        mean = make.input("mean", features, "normal:1", order, stat)
        var = make.input("var", features, "positive", order, stat)
        return p, (x, scale, shift, mean, var, make.output("out", shape, a["out_order"])), ("x",)
    arguments = (
        make.input("dout", shape, "normal:1", same_order(a)),
        x,
        scale,
        make.input("mean", features, "from mean", order, stat),
        make.input("var", features, "from var", order, stat),
        make.output("dx", shape, a["out_order"]),
        make.output("dgamma", features, dtype=gamma),
        make.output("dbeta", features, dtype=gamma),
    )
    return p, arguments, ("x",)


def batch_derive(problem: Problem, operand: Operand, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The statistics of x."""
    x = arrays["x"].astype(np.float64)
    axes = (0, *range(2, x.ndim))
    with np.errstate(invalid="ignore"):
        if not math.prod(x.shape[:1] + x.shape[2:]):
            return np.zeros(operand.shape)
        return x.mean(axes) if operand.name == "mean" else x.var(axes)


def local_axes(direction: str) -> AxisValues:
    """The axes of local response normalisation."""
    return {
        "values": ("normal", "integers", "rare"),
        "size": SIZES,
        "channels": EDGES,
        "window": ("5", "1", "2", "3", "40"),
        "alpha": ("1e-4", "1.0"),
        "beta": ("0.75", "0.5", "1.0", "0.6"),
        "k": ("2.0", "1.0"),
        **ORDER_AXIS,
    }


def local_norm(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of local response normalisation."""
    n, h, w = numbers(a["size"])
    shape = (n, int(a["channels"]), h, w)
    fill = {"integers": "integers:8"}.get(a["values"], f"{a['values']}:1")
    attrs = {"size": int(a["window"]), "alpha": float(a["alpha"]), "beta": float(a["beta"]), "k": float(a["k"])}
    x = make.input("x", shape, fill, a["order"])
    if direction == "forward":
        arguments: tuple[Argument, ...] = (x, make.output("out", shape, a["out_order"]))
    else:
        dout = make.input("dout", shape, "normal:1", same_order(a))
        arguments = dout, x, make.output("dx", shape, a["out_order"])
    return problem((shape,), attrs=attrs), arguments, ("x",)


def rows_axes(direction: str) -> AxisValues:
    """The axes of the ops that work row by row."""
    values = ("normal", "wide", "equal") + (("special",) if direction == "forward" else ())
    return {"values": values, "rows": ("5", "0", "1", "3"), "classes": ("10", "2", *EDGES, "1000"), **ORDER_AXIS}


def softmax(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of softmax."""
    shape = int(a["rows"]), int(a["classes"])
    fill = {"wide": "normal:20", "equal": "constant:3", "special": "gentle:1"}.get(a["values"], "normal:1")
    p = problem((shape,))
    if direction == "forward":
        return p, (make.input("x", shape, fill, a["order"]), make.output("out", shape, a["out_order"])), ("x",)
    arguments = (
        make.input("dout", shape, fill, a["order"]),
        make.input("y", shape, "from softmax", make.rng.choice(OUT_ORDERS)),
        make.output("dx", shape, a["out_order"]),
    )
    return p, arguments, ("dout",)


def cross_entropy(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of softmax cross entropy."""
    rows, classes = int(a["rows"]), int(a["classes"])
    shape = rows, classes
    fill = {"wide": "normal:20", "equal": "constant:3", "special": "gentle:1"}.get(a["values"], "normal:1")
    labels = make.input("labels", (rows,), f"natural:{classes}", dtype="int64")
    if direction == "forward":
        arguments: tuple[Argument, ...] = (
            make.input("x", shape, fill, a["order"]),
            labels,
            make.output("losses", (rows,), dtype=make.compute),
            make.output("probabilities", shape, a["out_order"], make.compute),
        )
    else:
        arguments = (
            make.input("probabilities", shape, "from softmax", make.rng.choice(OUT_ORDERS), make.compute),
            labels,
            make.input("scale", (1,), "list:0.03125" if a["values"] == "equal" else "positive", dtype=make.compute),
            make.output("dx", shape, a["out_order"]),
        )
    return problem((shape,)), arguments, ("x",) if direction == "forward" else ("probabilities",)


def softmax_derive(problem: Problem, operand: Operand, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of probabilities."""
    x = np.random.default_rng(0).standard_normal(operand.shape) * 2
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)
