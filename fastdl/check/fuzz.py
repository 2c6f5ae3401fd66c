"""Random cases for the rows of the registry: geometries, sizes and memory layouts that no list holds.

A drawn case is a case like those of the grid, spelled out in its id, so that ``fastdl check --case 'ID'`` repeats it.
Where an axis has numbers, they are drawn beyond the grid's lists (`DRAWS`); elsewhere one of its values is taken.
The i-th case of an op, direction and dtype follows from these and the seed, whatever else is checked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

from ..kernels import registry
from .cases import Case, make, spec_of

Rng = random.Random
Draw = Callable[[Rng], str]
Key = tuple[str, str, str]  # op, direction, storage dtype

#: Elements (and an eighth of the products) of the largest case. Costs are spread evenly over the orders of magnitude.
MOST_WORK = 3 * 10**6


# ---- numbers --------------------------------------------------------------------------------------------------------


def count(rng: Rng, most: int, zero: float = 0.02) -> int:
    """1 to about ``most``, evenly by order of magnitude; every other one at or beside a multiple of a vector."""
    if rng.random() < zero:
        return 0
    n = round(most ** rng.random())
    if rng.random() < 0.5:
        lanes = rng.choice((4, 8, 16, 32))
        n = max(1, -(-n // lanes) * lanes + rng.choice((-1, 0, 0, 1)))
    return n


def join(*numbers: int) -> str:
    """(2, 3) as ``"2x3"``."""
    return "x".join(map(str, numbers))


def _size(rng: Rng) -> str:
    """Batch x height x width, some of them a single long line."""
    n = 0 if rng.random() < 0.02 else rng.choice((1, 1, 2, 3, 5))
    h, w = count(rng, 40, 0), count(rng, 40, 0)
    if rng.random() < 0.05:
        h, w = rng.choice(((1, 3 * w * w), (3 * h * h, 1)))
    return join(n, h, w)


def _kernel(rng: Rng) -> str:
    """Mostly what networks have."""
    if rng.random() < 0.6:
        side = rng.choice((1, 2, 3, 3, 3, 5, 7))
        return join(side, side)
    return join(rng.randint(1, rng.choice((4, 8, 12))), rng.randint(1, rng.choice((4, 8, 12))))


def _pair(usual: float, most: int) -> Draw:
    """1 x 1 (with the probability ``usual``), equal or unequal numbers."""

    def draw(rng: Rng) -> str:
        if rng.random() < usual:
            return "1x1"
        first = rng.randint(1, most)
        return join(first, first if rng.random() < 0.4 else rng.randint(1, most))

    return draw


def _pads(rng: Rng) -> str:
    kind = rng.random()
    if kind < 0.5:
        return join(*(rng.choice((0, 1, 1, 2, 3)),) * 4)
    most = rng.choice((1, 3, 9))
    if kind < 0.7:
        vertical, horizontal = rng.randint(0, most), rng.randint(0, most)
        return join(vertical, vertical, horizontal, horizontal)
    return join(*(rng.randint(0, most) for _ in range(4)))


def _groups(rng: Rng) -> str:
    if rng.random() < 0.6:
        return "1"
    return rng.choice(("depth", "depth", "depth2", "2", "3", "4", str(rng.randint(2, 9))))


def _channels(rng: Rng) -> str:
    """Input x output channels of a group."""
    return join(count(rng, 150, 0), count(rng, 150, 0))


def shape(rng: Rng, dimensions: Sequence[int] = (0, 1, 2, 2, 3, 4, 4, 4, 5)) -> tuple[int, ...]:
    """Any shape, now and then one without elements."""
    d = rng.choice(dimensions)
    most = {0: 1, 1: 300_000, 2: 1000, 3: 100, 4: 60}.get(d, 16)
    return tuple(count(rng, most) for _ in range(d))


def _parts(rng: Rng) -> str:
    return "+".join(str(count(rng, 70, 0.15)) for _ in range(rng.randint(1, 6)))


def _parameters(rng: Rng) -> str:
    """The shapes of an optimizer's parameters."""
    some = [shape(rng, (0, 1, 2, 4)) for _ in range(rng.randint(0, 5))]
    return "+".join(join(*s) if s else "scalar" for s in some) or "none"


def _real(low: float, high: float) -> Draw:
    """A number of any magnitude between these."""
    return lambda rng: repr(float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}"))


def _fraction(most: float) -> Draw:
    """0, or a number that is evenly spread up to ``most``."""
    return lambda rng: repr(round(rng.random() * most, 4) if rng.random() < 0.95 else 0.0)


def _whole(bits: int) -> Draw:
    """An integer of any length up to ``bits``."""
    return lambda rng: str(rng.getrandbits(rng.randint(1, bits)))


def _count(most: int, zero: float = 0.02) -> Draw:
    return lambda rng: str(count(rng, most, zero))


#: axis; or op/axis, or op/direction/axis, where these mean something else by it
DRAWS: dict[str, Draw] = {
    "size": _size,
    "kernel": _kernel,
    "stride": _pair(0.6, 5),
    "dilation": _pair(0.8, 4),
    "pads": _pads,
    "groups": _groups,
    "channels": _count(200, 0),
    "conv2d/channels": _channels,
    "conv2d/forward_pooled/kernel": lambda rng: rng.choice(("3x3", "5x5")),
    "conv2d/backward_bias/channels": _count(200, 0),
    "m": _count(400),
    "n": _count(400),
    "k": _count(1500),
    "local_response_norm/k": _real(0.5, 4),
    "window": _count(50, 0),
    "alpha": _real(1e-5, 2),
    "beta": _real(0.2, 2),
    "shape": lambda rng: join(*shape(rng)),
    "batch_norm/shape": lambda rng: join(*(max(n, i > 0) for i, n in enumerate(shape(rng, (2, 4, 4))))),
    "concat/shape": lambda rng: join(*shape(rng, (1, 2, 3, 4, 4))),
    "axis": lambda rng: str(rng.randint(0, 3)),
    "parts": _parts,
    "rows": _count(300),
    "classes": _count(1500, 0),
    "eps": _real(1e-8, 1e-2),
    "ratio": _fraction(0.999),
    "scale": _real(0.5, 8),
    "conv2d_int8/scale": lambda rng: f"normal:{_real(1e-4, 0.1)(rng)}",
    "conv2d_binary/scale": lambda rng: f"normal:{_real(1e-4, 10)(rng)}",
    "zero": lambda rng: str(rng.randrange(256)),
    "out_zero": lambda rng: str(rng.randrange(256)),
    "seed": _whole(64),
    "step": _whole(40),
    "shapes": _parameters,
    "lr": _real(1e-6, 2),
    "first": _fraction(0.99),
    "second": _fraction(0.9999),
    # Adam's correction divides by 1 - beta**step
    "unscale/scale": lambda rng: repr(2.0 ** rng.randint(-4, 24)) if rng.random() < 0.6 else _real(1e-3, 1e8)(rng),
    "adam/step": lambda rng: str(count(rng, 10**6, 0)),
}


def _order(rng: Rng, outputs: bool) -> str:
    """Mostly what the fast paths take."""
    kind = rng.random()
    if kind < 0.45:
        return "nhwc"
    if kind < 0.6:
        return "nchw"
    if kind < 0.8:
        return f"{'mixed' if outputs or rng.random() < 0.6 else 'broadcast'}:{rng.randrange(10**6)}"
    return rng.choice(("sliced", "gaps", "reversed"))


# ---- cases ----------------------------------------------------------------------------------------------------------


def _draw(op: str, direction: str, name: str, values: Sequence[str], rng: Rng) -> str:
    if name == "order" or name.endswith("_order"):
        return _order(rng, outputs="zero" not in values)
    found = [DRAWS[key] for key in (f"{op}/{direction}/{name}", f"{op}/{name}", name) if key in DRAWS]
    return found[0](rng) if found and rng.random() < 0.85 else rng.choice(values)


def work(case: Case) -> float:
    """What a case costs: elements, and the terms of sums."""
    p = case.problem
    elements = sum(math.prod(operand.shape) for operand in case.operands)
    if p.op == "conv2d" and p.direction != "backward_bias":
        terms = p.shapes[0][0] * math.prod(p.shapes[1]) * math.prod(p.grid())
    elif p.op == "gemm":
        terms = math.prod(p.shapes[0]) * p.shapes[1][1]
    else:
        attrs = dict(p.attrs)
        taps = math.prod(attrs.get("kernel", (1,))) * attrs.get("size", 1)
        terms = taps * max((math.prod(operand.shape) for operand in case.operands), default=0)
    return elements + terms / 8


def draw(op: str, direction: str, storage: str, seed: int, index: int) -> Case:
    """The ``index``-th case of an op, direction and dtype."""
    rng = Rng(f"{seed}/{op}/{direction}/{storage}/{index}")
    axes = spec_of(op).axes(direction)
    limit = MOST_WORK ** rng.uniform(0.3, 1)
    tiny = rng.random() < 0.05  # or empty: elsewhere these would be most of what a limit lets through
    for attempt in range(2000):
        chosen = {name: _draw(op, direction, name, values, rng) for name, values in axes.items()}
        case = make(op, direction, storage, chosen)
        if case is None or work(case) > limit:
            continue
        if tiny or attempt > 300 or (case.operands and 0 not in case.operands[0].shape and work(case) > limit / 30):
            return case
    raise RuntimeError(f"no case of {op} {direction} could be drawn")


def cases(key: Key, number: int, seed: int) -> Iterator[Case]:
    """The first ``number`` cases of one op, direction and dtype; none for an op without a grid."""
    from .grid import SPECS

    if key[0] in SPECS:
        for index in range(number):
            yield draw(*key, seed, index)


def shares(number: int, keys: Sequence[Key]) -> dict[Key, int]:
    """``number`` cases among ``keys``: the more, the more algorithms and axes there are; at least one each."""
    from .grid import SPECS

    def weight(key: Key) -> int:
        op, direction, _ = key
        algorithms = {row.algorithm for row in registry.TABLE if row[:2] == (op, direction) and row.backend != "numpy"}
        return max(len(algorithms), 1) * len(SPECS[op].axes(direction)) if op in SPECS else 1

    weights = {key: weight(key) for key in keys}
    total, found, before = sum(weights.values()), {}, 0.0
    for key in keys:
        after = before + number * weights[key] / total
        found[key] = max(round(after) - round(before), 1)
        before = after
    return found
