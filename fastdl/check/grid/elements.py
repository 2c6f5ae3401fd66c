"""Cases of what treats one element at a time: activations, casts, dropout; and of concat, optimizers and unscale."""

from __future__ import annotations

from collections.abc import Callable

from ...kernels.problem import COMPUTE, FLOAT8
from ..arrays import EXPONENTS, SIGNIFICAND, largest
from ..cases import Axes, Maker, Operand, numbers
from .axes import ORDER_AXIS, OUT_ORDERS, AxisValues, Made, ToProblem

SHAPES = ("3x33", "0", "1", "7", "", "2x17x3x5", "1x1x1x1", "0x3x4x4", "1x16x9x8", "3x65x2x1", "2x3x4x5x6")


#: of random words, some with more than 32 bits
SEEDS = ("0", "1", "18446744073709551615", "81985529216486895")
STEPS = ("0", "1", "4294967296")


def elementwise_axes(direction: str) -> AxisValues:
    """The axes of the element-wise ops."""
    # "alias": the input whose memory the output shares; element-wise kernels may work in place
    aliases = ("none", "first") + (("second",) if direction == "backward" else ())
    return {"values": ("normal", "large", "special"), "shape": SHAPES, "alias": aliases, **ORDER_AXIS}


def _in_place(arguments: tuple[Operand, ...], alias: str) -> tuple[Operand, ...]:
    """The inputs and then the output, which takes the place of the input that ``alias`` names."""
    if alias == "none":
        return arguments
    *inputs, out = arguments
    at = {"first": 0, "second": 1}[alias]
    inputs[at] = inputs[at]._replace(role="state", order=out.order)
    return *inputs, inputs[at]


def activation(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of an activation."""
    shape = numbers(a["shape"])
    fill = {"normal": "normal:1", "large": "normal:30"}.get(a["values"], "special:1")
    p = problem((shape,))
    if direction == "forward":
        forward = make.input("x", shape, fill, a["order"]), make.output("out", shape, a["out_order"])
        return p, _in_place(forward, a["alias"]), ("x",)
    # y is a value that the forward pass can give
    y = {"relu": "natural:3", "relu6": "natural:7", "sigmoid": "unit", "tanh": "signed_unit"}[p.op]
    arguments = (
        make.input("dout", shape, fill.replace("special", "gentle"), a["order"]),
        make.input("y", shape, y),
        make.output("dx", shape, a["out_order"]),
    )
    return p, _in_place(arguments, a["alias"]), ("dout",)


def add(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of add."""
    shape = numbers(a["shape"])
    fill = {"normal": "normal:1", "large": "normal:30"}.get(a["values"], "special:1")
    arguments = (
        make.input("a", shape, fill, a["order"]),
        make.input("b", shape, fill),
        make.output("out", shape, a["out_order"]),
    )
    return problem((shape,)), _in_place(arguments, a["alias"]), ("a",)


def concat_axes(direction: str) -> AxisValues:
    """The axes of concat."""
    return {
        "values": ("normal", "special"),
        "shape": ("2x3x4x5", "5x7", "3", "0x4x2x2", "1x17x3x2"),
        "axis": ("1", "0", "2", "3"),
        "parts": ("1+3", "5", "0+2", "16+1+17", "2+0+33+4"),
        **ORDER_AXIS,
    }


def concat(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of concat."""
    shape, axis = numbers(a["shape"]), int(a["axis"])
    if axis >= len(shape):
        return None
    sizes = [int(part) for part in a["parts"].split("+")]
    shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
    fill = "normal:1" if a["values"] == "normal" else "special:1"
    parts = tuple(make.input(f"a{i}", s, fill, a["order"] if i == 0 else "") for i, s in enumerate(shapes))
    out = make.output("out", (*shape[:axis], sum(sizes), *shape[axis + 1 :]), a["out_order"])
    return problem(shapes, attrs={"axis": axis}), (parts, out), tuple(part.name for part in parts)


def cast_axes(direction: str) -> AxisValues:
    """The axes of cast."""
    if direction == "stochastic":
        return {
            "values": ("normal", "bits", "ties", "special", "subnormal"),
            "shape": ("777", *SHAPES),
            "seed": SEEDS,
            "step": STEPS,
            **ORDER_AXIS,
        }
    return {
        "values": ("normal", "bits", "ties", "special"),
        "source": tuple(COMPUTE),
        "shape": ("777", *SHAPES),
        **ORDER_AXIS,
    }


def cast(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of cast."""
    shape = numbers(a["shape"])
    if direction == "stochastic":
        fill = {"normal": "normal:1", "bits": "bits", "ties": f"ties:{make.storage}", "subnormal": "normal:1e-5"}
        x = make.input("x", shape, fill.get(a["values"], "special:1"), a["order"], "float32")
        state = make.input("state", (2,), f"list:{a['seed']};{a['step']}", "nchw", "uint64")
        return problem((shape,)), (x, state, make.output("out", shape, a["out_order"])), ("x",)
    # Every midpoint of the narrower dtype, and what lies beside it, is one of the wider dtype.
    wider = SIGNIFICAND[a["source"]] > SIGNIFICAND[make.storage] + 1 and a["source"] not in FLOAT8
    wider &= EXPONENTS[a["source"]][0] < EXPONENTS[make.storage][0]
    fill = {"normal": "normal:30", "bits": "bits", "ties": f"ties:{make.storage}" if wider else "bits"}
    arguments = (
        make.input("x", shape, fill.get(a["values"], "special:1"), a["order"], a["source"]),
        make.output("out", shape, a["out_order"]),
    )
    return problem((shape,), attrs={"source": a["source"]}), arguments, ("x",)


def dropout_axes(direction: str) -> AxisValues:
    """The axes of dropout."""
    if direction == "mask":
        # several blocks of four words, and their tails
        return {
            "ratio": ("0.5", "0.0", "0.15", "0.999"),
            "shape": ("3x33", *SHAPES[1:], "1001"),
            "seed": SEEDS,
            "step": STEPS,
        }
    return {
        "values": ("normal", "special"),
        "scale": ("1.0", "2.0", "1.1764705882352942"),
        "shape": SHAPES,
        "alias": ("none", "first"),
        **ORDER_AXIS,
    }


def dropout(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of dropout."""
    shape = numbers(a["shape"])
    if direction == "mask":
        state = make.input("state", (2,), f"list:{a['seed']};{a['step']}", "nchw", "uint64")
        p = problem((shape,), attrs={"ratio": float(a["ratio"])})
        return p, (state, make.output("out", shape, "nchw", "uint8")), ()
    arguments = (
        make.input("x", shape, "normal:1" if a["values"] == "normal" else "gentle:1", a["order"]),
        make.input("mask", shape, "natural:2", dtype="uint8"),
        make.output("out", shape, a["out_order"]),
    )
    return problem((shape,), attrs={"scale": float(a["scale"])}), _in_place(arguments, a["alias"]), ("x",)


#: of the parameters
_SHAPES = ("3x33+7", "1", "none", "0+4", "2x3x2x5+scalar+17", "65x16+16+16x3x3x3")


def _shapes_of(a: Axes) -> list[tuple[int, ...]]:
    texts = [] if a["shapes"] == "none" else a["shapes"].split("+")
    return [() if text == "scalar" else numbers(text) for text in texts]


def _step_axes(direction: str) -> AxisValues:
    return {
        "values": ("normal", "small", "special"),
        "shapes": _SHAPES,
        "lr": ("0.01", "1.0", "1e-4"),
        "first": ("0.9", "0.5", "0.0"),
        "second": ("0.999", "0.9"),
        "eps": ("1e-7", "1e-3"),
        "step": ("1", "1000", "100000"),
        "order": OUT_ORDERS,
    }


#: op -> (its states, attribute -> axis)
OPTIMIZERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "sgd": ((), {}),
    "momentum": (("v",), {"momentum": "first"}),
    "nesterov": (("v",), {"momentum": "first"}),
    "adagrad": (("h",), {"eps": "eps"}),
    "rmsprop": (("h",), {"decay_rate": "second", "eps": "eps"}),
    "adam": (("m", "v"), {"beta1": "first", "beta2": "second", "eps": "eps"}),
}


def optimizer_axes(op: str) -> Callable[[str], AxisValues]:
    """The axes of an optimizer."""
    used = {"values", "shapes", "lr", "order", *OPTIMIZERS[op][1].values()} | ({"step"} if op == "adam" else set())
    return lambda direction: {name: values for name, values in _step_axes(direction).items() if name in used}


def optimizer(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of an optimizer."""
    shapes = _shapes_of(a)
    fill = {"small": "normal:1e-5", "special": "rare:1"}.get(a["values"], "normal:1")
    states, attributes = OPTIMIZERS[problem(()).op]
    # the sums of squares are never negative
    positive = {"m": fill, "v": "normal:1"} if not attributes.get("beta1") else {"m": fill, "v": "positive"}
    lists = [
        tuple(make.state(f"p{i}", shape, "normal:1", a["order"]) for i, shape in enumerate(shapes)),
        tuple(make.input(f"g{i}", shape, fill) for i, shape in enumerate(shapes)),
        *(
            tuple(make.state(f"{name}{i}", shape, positive.get(name, "positive")) for i, shape in enumerate(shapes))
            for name in states
        ),
    ]
    scalars = [make.input("lr", (1,), f"list:{a['lr']}", "nchw", "float64")]
    if "step" in a:
        scalars.append(make.input("step", (1,), f"list:{a['step']}", "nchw", "int64"))
    attrs = {name: float(a[axis]) for name, axis in attributes.items()}
    return problem(shapes, attrs=attrs), (*lists, *scalars), tuple(operand.name for operand in lists[0])


def unscale_axes(direction: str) -> AxisValues:
    """The axes of unscale."""
    return {
        "values": ("normal", "rare", "special", "subnormal", "largest", "bits"),
        "shapes": _SHAPES,
        # 1 / scale is exact, a subnormal, rounded, or makes finite numbers infinite
        "scale": ("65536.0", "1.0", "0.125", "3000.0", "0.3", "1e39"),
        "order": OUT_ORDERS,
    }


def unscale(direction: str, a: Axes, make: Maker, problem: ToProblem) -> Made:
    """A case of unscale."""
    shapes = _shapes_of(a)
    fill = {"normal": "normal:30", "subnormal": "subnormal:1000", "largest": f"constant:{largest(make.storage)!r}"}
    values = fill.get(a["values"], "bits" if a["values"] == "bits" else f"{a['values']}:1")
    grads = tuple(make.state(f"g{i}", shape, values, "" if i else a["order"]) for i, shape in enumerate(shapes))
    scale = make.input("scale", (1,), f"list:{a['scale']}", "nchw", "float64")
    overflow = make.output("overflow", (1,), "nchw", "int32")
    return problem(shapes), (grads, scale, overflow), tuple(operand.name for operand in grads)
