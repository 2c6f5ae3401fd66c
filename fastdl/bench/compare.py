"""Two records of the same benchmark: what has become slower or faster beyond the noise.

Measurements of the same suite, case, direction, dtype, threads, participant and batch are a pair; what is compared is
the ratio of their medians, new by old.

**Intervals** are percentile intervals of the bootstrap in circular blocks (Politis and Romano, "A circular
block-resampling procedure for stationary data", 1992): calls of one turn have more in common than calls of different
turns, so neighbours are drawn together. A block is a fifth of the times, a turn where there are five rounds. The
distribution of a median over all resamples can be computed and need not be drawn (Efron, "Bootstrap methods: another
look at the jackknife", Annals of Statistics 7, 1979, section 3, for blocks of one), so there is no seed. As five blocks
are few, the percentiles are those of the expanded interval (Hesterberg, "What teachers should know about the
bootstrap", The American Statistician 69, 2015), which puts Student's t in the place of the normal distribution.

**Many pairs**: of 200 intervals of 95 % ten would miss 1 by chance. They are Bonferroni's instead: each has the level
at which all of them together are right with the confidence that was asked for. Few times cannot reach such a level: of
two fives from one source all new ones are slower, or all faster, in 2 of 252 cases. ``Comparison.by_chance`` says how
many findings there would be if nothing had changed; a pair whose chance alone is above 1 - confidence (two threes: 2 of
20) has no interval.

What happens between two runs (another load, another place in memory, another temperature) is in no interval; therefore
a change must also exceed a threshold.
"""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from .record import Machine, Measurement, Record
from .stats import student_t

#: Blocks that make up a resample.
BLOCKS = 5


class Verdict(StrEnum):
    """Of a pair."""

    SLOWER = "slower"
    FASTER = "faster"
    UNCHANGED = "unchanged"
    UNDECIDED = "undecided"  # it differs by more than the threshold, and there are too few times for an interval


class Interval(NamedTuple):
    """Of a ratio."""

    lower: float
    upper: float


class Key(NamedTuple):
    """What the measurements of a pair have in common."""

    suite: str
    case: str
    direction: str
    dtype: str
    threads: int
    participant: str
    batch: int | None
    isa: str  # empty where the others are enough

    def __str__(self) -> str:
        words = [self.case, self.direction, self.dtype, f"{self.threads} threads", self.participant]
        return ", ".join(
            [*words, *([f"batch {self.batch}"] if self.batch is not None else []), *filter(None, [self.isa])]
        )


@dataclass(frozen=True)
class Pair:
    """One case in both records."""

    key: Key
    old: float  # seconds, medians
    new: float
    interval: Interval | None  # of the ratio; None where there are too few times
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """Above 1: it takes longer now."""
        return self.new / self.old


@dataclass(frozen=True)
class Comparison:
    """Of two records."""

    pairs: list[Pair]
    only_old: list[Key]
    only_new: list[Key]
    warnings: list[str]
    confidence: float  # that all intervals are right
    level: float  # of each
    threshold: float
    by_chance: float  # findings at most, if nothing had changed

    def found(self, verdict: Verdict) -> list[Pair]:
        """Those pairs, the largest changes first."""
        some = [pair for pair in self.pairs if pair.verdict == verdict]
        return sorted(some, key=lambda pair: -abs(math.log(pair.ratio)))

    def to_json(self) -> dict[str, Any]:
        """As JSON can express it; all numbers are seconds or ratios."""

        def key(k: Key) -> dict[str, Any]:
            return {name: value for name, value in k._asdict().items() if value not in (None, "")}

        pairs = [
            key(p.key)
            | {"old": p.old, "new": p.new, "ratio": p.ratio}
            | {"lower": p.interval and p.interval.lower, "upper": p.interval and p.interval.upper}
            | {"verdict": str(p.verdict)}
            for p in self.pairs
        ]
        lists = {"pairs": pairs, "only_old": [*map(key, self.only_old)], "only_new": [*map(key, self.only_new)]}
        return {name: value for name, value in vars(self).items() if name not in lists} | lists


def compare(
    old: Record, new: Record, *, confidence: float = 0.95, threshold: float = 0.05, only: Sequence[str] = ()
) -> Comparison:
    """Pairs the measurements and judges them; ``only``: patterns of cases, as "alexnet/conv*".

    ``threshold`` is a part: with 0.05 a change is new / old above 1.05 or below 1 / 1.05. ``ValueError`` where the
    records have nothing in common or hold a measurement twice.
    """
    if not 0 < confidence < 1 or threshold < 0:
        raise ValueError("confidence lies between 0 and 1, and the threshold is not negative")
    before, after = _keyed(old, new, only)
    common = [key for key in before if key in after]
    if not common:
        raise ValueError(_nothing(before, after, only))
    level = 1 - (1 - confidence) / len(common)
    pairs, chance = [], 0.0
    for key in common:
        a, b = before[key], after[key]
        least = 2 / math.comb(_blocks(a.seconds) + _blocks(b.seconds), _blocks(a.seconds))
        interval = ratio_interval(a.seconds, b.seconds, level) if least <= 1 - confidence else None
        chance += max(1 - level, least) if interval else 0.0
        pairs.append(Pair(key, a.median, b.median, interval, _verdict(b.median / a.median, interval, threshold)))
    only_old, only_new = (
        [key for key in some if key not in other] for some, other in ((before, after), (after, before))
    )
    return Comparison(pairs, only_old, only_new, warnings(old, new), confidence, level, threshold, chance)


def _keyed(old: Record, new: Record, only: Sequence[str]) -> tuple[dict[Key, Measurement], dict[Key, Measurement]]:
    """The measurements of both; the ISA level tells them apart where nothing else does."""

    def key(m: Measurement, isa: bool) -> Key:
        batch = m.settings.get("batch")
        return Key(m.suite, m.case, m.direction, m.dtype, m.threads, m.participant, batch, m.isa if isa else "")

    every = [
        [m for m in record.measurements if not only or any(fnmatch.fnmatchcase(m.case, pattern) for pattern in only)]
        for record in (old, new)
    ]
    isa = any(len({key(m, False) for m in some}) < len(some) for some in every)
    for some in every:
        twice = [found for found, count in Counter(key(m, isa) for m in some).items() if count > 1]
        if twice:
            raise ValueError(f"a record holds {twice[0]} twice")
    before, after = ({key(m, isa): m for m in some} for some in every)
    return before, after


def _nothing(before: Iterable[Key], after: Iterable[Key], only: Sequence[str]) -> str:
    """What the records differ in that have no pair."""
    old, new = list(before), list(after)
    if not old or not new:
        which = "neither record has" if not old and not new else f"the {'new' if old else 'old'} record has not"
        return f"{which} a case that matches {', '.join(only)}" if only else f"{which} a measurement"
    for name in Key._fields:
        theirs = [{str(getattr(key, name)) for key in keys} for keys in (old, new)]
        if not theirs[0] & theirs[1]:
            a, b = (", ".join(sorted(values)[:4]) + (", ..." if len(values) > 4 else "") for values in theirs)
            return f"the records have nothing in common: {name} is {a} in the old one and {b} in the new one"
    return "the records have nothing in common: no two measurements agree in all of " + ", ".join(Key._fields[:-1])


def _verdict(ratio: float, interval: Interval | None, threshold: float) -> Verdict:
    if abs(math.log(ratio)) <= math.log1p(threshold):
        return Verdict.UNCHANGED
    if interval is None:
        return Verdict.UNDECIDED
    if interval.lower > 1:
        return Verdict.SLOWER
    return Verdict.FASTER if interval.upper < 1 else Verdict.UNCHANGED


# ---- intervals ------------------------------------------------------------------------------------------------------


def _blocks(values: Sequence[float]) -> int:
    """How many blocks of equal length it takes, the last one going round."""
    return -(-len(values) // _length(values))


def _length(values: Sequence[float]) -> int:
    return -(-len(values) // BLOCKS)


def ratio_interval(old: Sequence[float], new: Sequence[float], level: float) -> Interval:
    """Of the ratio of the medians, new by old; of at least two times each."""
    few, many = sorted((_blocks(old), _blocks(new)))
    if few < 2:
        raise ValueError("a single time has no interval")
    (a, p), (b, q) = median_distribution(old), median_distribution(new)
    ratios, weights = np.divide.outer(b, a).ravel(), np.multiply.outer(q, p).ravel()
    order = np.argsort(ratios)
    below = np.cumsum(weights[order])
    expanded = math.sqrt(few / (few - 1)) * student_t(level, few + many - 2)
    tail = max(statistics.NormalDist().cdf(-expanded), _NOTHING)
    lower, upper = np.searchsorted(below, [tail, below[-1] - tail])
    return Interval(float(ratios[order[lower]]), float(ratios[order[upper]]))


#: Probabilities below are rounding errors of Fourier transforms.
_NOTHING = 1e-9


def median_distribution(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The values in order, and the probability of each to be the median of a resample, from all resamples there are.

    A resample consists of blocks of neighbours (the last value's neighbour is the first), each as likely as any other.
    Of an even number of values the two in the middle are the median half of the time each.

    The median is at most v where at least half of the values are: where the counts of such values in the blocks, which
    are independent, add up to enough. The distribution of their sum is that of one count, convolved with itself.
    """
    x, length, blocks = np.sort(np.asarray(values, np.float64)), _length(values), _blocks(values)
    small = np.asarray(values)[np.newaxis] <= x[:, np.newaxis]  # of v, of value
    sums = np.cumsum(np.concatenate([np.zeros_like(small[:, :1]), small, small[:, : length - 1]], axis=1), axis=1)
    inside = sums[:, length:] - sums[:, :-length]  # of v, of block
    count = np.stack([(inside == k).mean(axis=1) for k in range(length + 1)], axis=1)
    size = blocks * length
    total = np.fft.irfft(np.fft.rfft(count, size + 1, axis=1) ** blocks, size + 1, axis=1)
    enough = [total[:, middle:].sum(axis=1) for middle in ((size + 1) // 2, (size + 2) // 2)]
    at_most = (enough[0] + enough[1]) / 2
    return x, np.clip(np.diff(at_most, prepend=0.0), 0.0, None)


# ---- what else is different -----------------------------------------------------------------------------------------

#: Fields of a machine that say how fast it is; the load and the revision may differ.
_FIELDS = (
    "cpu",
    "architecture",
    "features",
    "cpus",
    "affinity",
    "cgroup_cpus",
    "memory",
    "caches",
    "governor",
    "system",
)
#: Peaks of one machine that differ by more: it was not as fast as before.
PEAK = 0.05
#: Of the CPUs: with a larger load somebody else was at work.
BUSY = 0.5


def warnings(old: Record, new: Record) -> list[str]:
    """Reasons not to trust the comparison, a sentence each."""
    found = []
    for name, record in (("old", old), ("new", new)):
        if not record.complete:
            found.append(f"the {name} record was interrupted and is not complete")
        wrong = sum(m.check is not None and not m.check.passed for m in record.measurements)
        if wrong:
            found.append(f"{wrong} results of the {name} record were outside their tolerances")
        load, cpus = (record.machine.load or [0.0])[0], record.machine.affinity
        if load > BUSY * cpus:
            found.append(f"the machine was busy before the {name} record: a load of {load:.1f} on {cpus} CPUs")
    found += _machines(old.machine, new.machine)
    counts = [sorted({m.threads for m in record.measurements}) for record in (old, new)]
    if counts[0] != counts[1]:
        found.append(f"different threads: {_text(counts[0])} in the old record, {_text(counts[1])} in the new one")
    return found + _peaks(old, new)


def _machines(old: Machine, new: Machine) -> list[str]:
    before, after = asdict(old), asdict(new)
    found = [_differs(name, before[name], after[name]) for name in _FIELDS if before[name] != after[name]]
    for group, what in (("versions", "version of {}"), ("build", "{} of the build"), ("gpu", "GPU: {}")):
        a, b = before[group] or {}, after[group] or {}
        for name in dict.fromkeys([*a, *b]):
            if a.get(name) != b.get(name):
                found.append(_differs(what.format(name), a.get(name), b.get(name)))
    return found


def _differs(what: str, old: Any, new: Any) -> str:
    """Of lists and tables only what is not the same."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = ([value for value in some if value not in other] for some, other in ((old, new), (new, old)))
    if isinstance(old, dict) and isinstance(new, dict):
        same = old.items() & new.items()
        old, new = dict(old.items() - same), dict(new.items() - same)
    return f"different {what.replace('_', ' ')}: {_text(old)} in the old record, {_text(new)} in the new one"


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "nothing"
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def _peaks(old: Record, new: Record) -> list[str]:
    """Whether the machine itself computed as fast as before."""
    if old.peaks is None or new.peaks is None:
        return []
    found = []
    before = {(p.isa, p.dtype, p.threads): p.best for p in old.peaks.fma}
    for p in new.peaks.fma:
        rate = before.get((p.isa, p.dtype, p.threads))
        if rate is not None and abs(math.log(p.best / rate)) > math.log1p(PEAK):
            what = f"{p.isa}, {p.dtype}, {p.threads} threads"
            found.append((abs(math.log(p.best / rate)), what, rate, p.best))
    if not found:
        return []
    _, what, rate, best = max(found)
    return [
        f"the machine's own peak was {rate:.0f} GFLOP/s and is {best:.0f} ({what}), and {len(found) - 1} others differ"
    ]
