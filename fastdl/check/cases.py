"""The cases that every row of the registry is run on: their ids, how they are combined, and their arrays.

A case is a problem and its arrays, spelled out in its id as ``op/direction/storage/axis=value,...``; the values of
every array follow from the id. The axes of each op are in ``grid/``. The sampled grid of an op contains every pair
of values of two axes (where the pair is possible), the full grid every triple; both end with the op's large cases.
``fuzz.py`` draws others.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..kernels.problem import FLOAT8, Problem, Shape, memory_order
from .arrays import ORDERS, RANDOM_ORDERS, SIGNIFICAND, Allocate, Placed, dtype_of, fill, heap, place, repeated

Axes = dict[str, str]


class Operand(NamedTuple):
    """One array argument."""

    name: str
    shape: Shape
    dtype: str
    role: str  # "in"; "out": written completely; "state": read and written
    order: str
    values: str  # for arrays.fill, or "from NAME": see Spec.derive


#: What a kernel gets between the problem and the thread count: an array, a list of arrays, or None.
Argument = Operand | tuple[Operand, ...] | None


class Case(NamedTuple):
    """One call: the problem (``build`` fills in its ``orders``), the arguments, and what the values are like."""

    id: str
    problem: Problem
    arguments: tuple[Argument, ...]
    values: str
    listed: tuple[str, ...]  # names of the operands that Problem.shapes and Problem.orders describe

    @property
    def operands(self) -> tuple[Operand, ...]:
        """All operands, lists flattened; an array that is input and output at once counts once."""
        flat: dict[str, Operand] = {}
        for argument in self.arguments:
            if isinstance(argument, Operand):
                flat[argument.name] = argument
            elif argument is not None:
                flat |= {operand.name: operand for operand in argument}
        return tuple(flat.values())


class Maker:
    """Makes the operands of one case: memory orders that the case does not fix are drawn from its own generator."""

    def __init__(self, storage: str, compute: str, seed: str) -> None:
        self.storage, self.compute = storage, compute
        self.rng = random.Random(seed)

    def input(self, name: str, shape: Shape, values: str, order: str = "", dtype: str = "") -> Operand:
        """An operand that is only read."""
        return Operand(name, shape, dtype or self.storage, "in", self._order(order, ORDERS), values)

    def output(self, name: str, shape: Shape, order: str = "", dtype: str = "") -> Operand:
        """An operand that is only written."""
        return Operand(name, shape, dtype or self.storage, "out", self._order(order, ORDERS[:-1]), "")

    def state(self, name: str, shape: Shape, values: str, order: str = "") -> Operand:
        """An operand that is updated in place."""
        return Operand(name, shape, self.storage, "state", self._order(order, ORDERS[:-1]), values)

    def _order(self, given: str, orders: tuple[str, ...]) -> str:
        if not given:
            return self.rng.choice(orders)
        # What is written has no element twice.
        random_order = RANDOM_ORDERS.fullmatch(given) and (orders is ORDERS or given.startswith("mixed"))
        if given not in orders and not random_order:
            raise KeyError(f"there is no memory order {given!r} here")
        return given

    def products(self, terms: int, values: str) -> tuple[str, str]:
        """Fills for the two factors of a sum of ``terms`` products; for the exact kinds every partial sum is exact.

        "wide" gives one factor all the bits that the storage has (more than a half or TF32 for float32, more than a
        float32 for float64), and the other as many as the accumulator has left. A float8 gets small integers, or most
        sums would overflow.
        """
        integers = 3 if self.storage in FLOAT8 else 8
        sums = 2 ** (53 if self.compute == "float64" else 24)
        terms = max(terms, 1)
        if values == "integers":
            most = max(1, min(integers, int((sums / terms) ** 0.5)))
            return f"integers:{most}", f"integers:{most}"
        if values == "wide":
            widest = {"float64": 2**27 - 1, "float32": 4095}.get(self.storage, 2 ** SIGNIFICAND[self.storage] - 1)
            wide = max(1, min(widest, sums // terms) - 1) | 1
            pair = f"odd:{wide}", f"integers:{max(1, min(integers - 1, sums // (terms * wide)))}"
            return pair if self.rng.random() < 0.5 else (pair[1], pair[0])
        if values == "subnormal":
            return f"subnormal:{max(1, min(50, 2**21 // (3 * terms)))}", "integers:3"
        if values == "special":
            return ("rare:1", "normal:1") if self.rng.random() < 0.5 else ("normal:1", "rare:1")
        return "normal:1", "normal:1"


#: Values for which a sum of products is exact in the compute dtype, whatever its order.
EXACT_VALUES = ("integers", "wide", "subnormal")


class Spec(NamedTuple):
    """The grid of one op."""

    axes: Callable[[str], dict[str, tuple[str, ...]]]  # direction -> axis -> values; the first one is the default
    make: Callable[[str, Axes, Maker, Callable[..., Problem]], tuple[Problem, Sequence[Argument], Sequence[str]] | None]
    large: tuple[str, ...] = ()  # "axis=value,..." of cases beside the combinations
    #: value of an operand "from NAME" out of the arrays that come before it
    derive: Callable[[Problem, Operand, dict[str, np.ndarray]], np.ndarray] | None = None
    #: "axis=value,..." of corners that some rows live in: further combinations of the other axes
    corners: tuple[str, ...] = ()
    #: whether zeros of the forward pass must have the sign that the formula gives them
    signed: bool = False


# ---- ids ------------------------------------------------------------------------------------------------------------


def numbers(text: str) -> tuple[int, ...]:
    """``"2x3"`` as (2, 3); an empty text as ()."""
    return tuple(int(part) for part in text.split("x")) if text else ()


def spec_of(op: str) -> Spec:
    """The grid of ``op``; ``ValueError`` for an op without one."""
    from .grid import SPECS

    try:
        return SPECS[op]
    except KeyError:
        raise ValueError(f"there is no op {op!r}; there are {', '.join(SPECS)}") from None


def make(op: str, direction: str, storage: str, axes: Axes) -> Case | None:
    """The case with these axis values; None where they contradict each other."""
    spec = spec_of(op)
    identity = f"{op}/{direction}/{storage}/" + ",".join(f"{name}={value}" for name, value in axes.items())

    def problem(shapes: Sequence[Shape], **more: object) -> Problem:
        attrs = tuple(sorted((more.pop("attrs", None) or {}).items()))  # type: ignore[attr-defined]
        return Problem(op, direction, tuple(shapes), storage, attrs=attrs, **more)  # type: ignore[arg-type]

    compute = Problem(op, direction, (), storage).compute
    try:
        made = spec.make(direction, axes, Maker(storage, compute, identity), problem)
    except ValueError:  # no window fits
        return None
    if made is None:
        return None
    return Case(identity, made[0], tuple(made[1]), axes.get("values", ""), tuple(made[2]))


def parse(identity: str) -> Case:
    """The case of an id as ``fastdl check`` prints it; ``ValueError`` where there is no such case."""
    try:
        op, direction, storage, rest = identity.split("/")
        given = dict(part.split("=") for part in rest.split(",") if part)
    except ValueError:
        raise ValueError(f"a case is op/direction/dtype/axis=value,..., not {identity!r}") from None
    axes = spec_of(op).axes(direction)
    if unknown := set(given) - set(axes):
        raise ValueError(f"{op} {direction} has the axes {', '.join(axes)}, not {', '.join(sorted(unknown))}")
    try:
        case = make(op, direction, storage, {name: given.get(name, values[0]) for name, values in axes.items()})
    except (KeyError, ValueError) as error:
        raise ValueError(f"there is no case {identity!r}: {error}") from None
    if case is None:
        raise ValueError(f"the parts of {identity!r} contradict each other (no window fits, or groups do not divide)")
    return case


# ---- combinations ---------------------------------------------------------------------------------------------------


def cover(
    axes: dict[str, tuple[str, ...]], strength: int, possible: Callable[[Axes], bool], seed: str
) -> Iterator[Axes]:
    """Combinations of the axes' values in which every possible tuple of ``strength`` values occurs together.

    Greedy: each combination starts from a tuple that is still missing and is the best of several random completions.
    """
    names, rng = list(axes), random.Random(seed)
    sizes = [len(axes[name]) for name in names]
    strength = min(strength, len(names))
    groups = list(itertools.combinations(range(len(names)), strength))
    missing = dict.fromkeys(
        (group, values) for group in groups for values in itertools.product(*(range(sizes[i]) for i in group))
    )

    def covered(chosen: list[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        tuples = ((group, tuple(chosen[i] for i in group)) for group in groups)
        return [t for t in tuples if t in missing]

    def named(chosen: list[int]) -> Axes:
        return {name: axes[name][value] for name, value in zip(names, chosen, strict=True)}

    while missing:
        target = next(iter(missing))
        best: list[int] = []
        best_new: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        found = 0
        for _ in range(60):
            chosen = [rng.randrange(size) for size in sizes]
            for i, value in zip(*target, strict=True):
                chosen[i] = value
            if not possible(named(chosen)):
                continue
            new = covered(chosen)
            if len(new) > len(best_new):
                best, best_new = chosen, new
            found += 1
            if found == 8:
                break
        if not best:  # these values cannot meet
            del missing[target]
            continue
        for t in best_new:
            del missing[t]
        yield named(best)


@functools.lru_cache(maxsize=256)
def _combinations(op: str, direction: str, full: bool) -> tuple[tuple[tuple[str, str], ...], ...]:
    spec = spec_of(op)
    axes = spec.axes(direction)

    def possible(chosen: Axes) -> bool:
        return make(op, direction, "float32", chosen) is not None

    def parts(text: str) -> Axes:
        return dict(part.split("=") for part in text.split(","))

    combinations = cover(axes, 3 if full else 2, possible, f"{op} {direction}")
    chosen = [tuple(combination.items()) for combination in combinations]
    for text in spec.corners:
        fixed = {name: (value,) for name, value in parts(text).items()}
        if all(name in axes for name in fixed):
            combinations = cover(axes | fixed, 2 if full else 1, possible, f"{op} {direction} {text}")
            chosen += [tuple(combination.items()) for combination in combinations]
    for text in spec.large:
        given = parts(text)
        if all(name in axes for name in given):
            chosen.append(tuple((name, given.get(name, values[0])) for name, values in axes.items()))
    return tuple(dict.fromkeys(chosen))


def cases(op: str, direction: str, storage: str, full: bool = False) -> Iterator[Case]:
    """The cases of one op, direction and storage dtype: the sampled grid, or the full one; none for an op without."""
    from .grid import SPECS

    if op not in SPECS:
        return
    for combination in _combinations(op, direction, full):
        case = make(op, direction, storage, dict(combination))
        if case is not None:
            yield case


# ---- arrays ---------------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    """A case with its arrays."""

    problem: Problem  # with its orders
    placed: dict[str, Placed]  # by operand name; inputs are filled and read-only, states filled, outputs not
    initial: dict[str, np.ndarray]  # contiguous copies of the inputs and states

    def arguments(self, case: Case) -> list[np.ndarray | list[np.ndarray] | None]:
        """The arrays as the kernel takes them."""
        return [
            None
            if argument is None
            else self.placed[argument.name].array
            if isinstance(argument, Operand)
            else [self.placed[operand.name].array for operand in argument]
            for argument in case.arguments
        ]


def seed_of(identity: str) -> int:
    """A number that is the same for the same id in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "little")


def build(case: Case, allocate: Allocate = heap) -> Built:
    """The arrays of ``case``."""
    rng = np.random.default_rng(seed_of(case.id))
    placed: dict[str, Placed] = {}
    initial: dict[str, np.ndarray] = {}
    for operand in case.operands:
        dtype = dtype_of(operand.dtype)
        to = place(operand.shape, dtype, operand.order, allocate)
        placed[operand.name] = to
        if operand.role == "out":
            continue
        to.memory.fill(0xFF)  # NaN in the gaps: whoever reads them shows it
        # An entry that is shown several times is made and written once.
        once = tuple(1 if i in repeated(to.array) else n for i, n in enumerate(operand.shape))
        if operand.values.startswith("from "):
            derive = spec_of(case.problem.op).derive
            assert derive is not None
            values = np.asarray(derive(case.problem, operand, initial), dtype)
        else:
            values = fill(operand.values, once, dtype, rng)
        part = tuple(slice(n) for n in once) or ...
        to.array[part] = values[part]
        initial[operand.name] = np.broadcast_to(values[part], operand.shape).copy(order="C")
    orders = tuple(memory_order(placed[name].array) for name in case.listed)
    for operand in case.operands:
        if operand.role == "in":
            placed[operand.name].array.flags.writeable = False
    return Built(case.problem._replace(orders=orders), placed, initial)
