"""Comparing records: intervals against every resample, false and missed findings on made-up times, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from fastdl.bench import compare, stats
from fastdl.bench.compare import Verdict
from fastdl.bench.record import FmaPeak, Peaks, Record
from network_record import MACHINE, network_record


def noise(kind, rng, count):
    """Times around 1, all from the same source."""
    if kind == "steady":
        return np.exp(0.05 * rng.standard_normal(count))
    if kind == "turns":  # five, each with a level of its own
        return np.exp(0.02 * np.repeat(rng.standard_normal(5), count // 5) + 0.04 * rng.standard_normal(count))
    if kind == "hardly anything but turns":
        return np.exp(0.05 * np.repeat(rng.standard_normal(5), count // 5) + 0.01 * rng.standard_normal(count))
    assert kind == "heavy tails"  # Student's distribution with 1.5 degrees of freedom, which has no variance
    return 1 + 0.02 * np.abs(rng.standard_t(1.5, count))


def record(times, **changes):
    """With a pair of a name for each list of times."""
    template = network_record("lenet", participants=("torch cpu",), directions=("forward",)).measurements[0]
    measurements = [
        dataclasses.replace(template, case=f"lenet/{number}", seconds=[float(t) for t in some])
        for number, some in enumerate(times)
    ]
    return Record(
        **({"suite": "network", "command": [], "machine": MACHINE, "complete": True} | changes),
        measurements=measurements,
    )


def verdicts(found):
    return [pair.verdict for pair in found.pairs]


# ---- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
def test_the_distribution_of_the_median_is_that_of_every_resample(count):
    rng = np.random.default_rng(count)
    values = rng.random(count).round(1) + 1  # some of them equal
    length = math.ceil(count / compare.BLOCKS)
    blocks = [[values[(start + k) % count] for k in range(length)] for start in range(count)]
    expected: dict[float, float] = {}
    resamples = list(itertools.product(blocks, repeat=math.ceil(count / length)))
    for resample in resamples:
        drawn = sorted(itertools.chain(*resample))
        for middle in ((len(drawn) - 1) // 2, len(drawn) // 2):
            expected[drawn[middle]] = expected.get(drawn[middle], 0.0) + 0.5 / len(resamples)
    x, p = compare.median_distribution(list(values))
    assert list(x) == sorted(values)
    found = {value: p[x == value].sum() for value in x}
    for value in values:
        assert found[value] == pytest.approx(expected.get(value, 0.0), abs=1e-12)


def test_the_distribution_of_many_values_is_that_of_drawn_resamples():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=40)
    x, p = compare.median_distribution(list(values))
    assert p.sum() == pytest.approx(1) and p.min() >= 0
    starts = rng.integers(0, 40, (20_000, 5, 1))
    drawn = np.median(values[(starts + np.arange(8)) % 40].reshape(20_000, 40), axis=1)
    for quantile in (0.05, 0.5, 0.95):
        value = np.quantile(drawn, quantile)
        # As often below it, but for the error of drawing (five standard deviations) and a step of the distribution.
        below = p[x <= value].sum()
        assert abs(below - quantile) < 5 * 0.5 / math.sqrt(20_000) + p.max()


def test_intervals_are_of_the_ratio_and_do_not_depend_on_its_unit():
    rng = np.random.default_rng(1)
    old, new = noise("steady", rng, 30), noise("steady", rng, 30)
    one = compare.ratio_interval(old, new, 0.95)
    assert one.lower < np.median(new) / np.median(old) < one.upper
    assert compare.ratio_interval(1e-6 * old, 3e-6 * new, 0.95) == pytest.approx([3 * one.lower, 3 * one.upper])
    back = compare.ratio_interval(new, old, 0.95)
    assert [1 / back.upper, 1 / back.lower] == pytest.approx(one)
    wide = compare.ratio_interval(old, new, 0.9999)
    assert wide.lower < one.lower and one.upper < wide.upper
    assert compare.ratio_interval([2.0] * 9, [3.0] * 9, 0.95) == (1.5, 1.5)
    with pytest.raises(ValueError, match="single time"):
        compare.ratio_interval([1.0], [1.0, 2.0], 0.95)


@pytest.mark.parametrize("kind", ["steady", "turns", "hardly anything but turns", "heavy tails"])
def test_intervals_hold_as_often_as_they_say(kind):
    """300 intervals of 90%, of a ratio that is 1: as many hold, but for four standard deviations."""
    rng = np.random.default_rng(2)
    intervals = [compare.ratio_interval(noise(kind, rng, 25), noise(kind, rng, 25), 0.9) for _ in range(300)]
    hold = sum(i.lower <= 1 <= i.upper for i in intervals)
    assert hold >= 300 * 0.9 - 4 * math.sqrt(300 * 0.9 * 0.1)


@pytest.mark.parametrize(
    ("level", "freedom", "expected"),
    # Abramowitz and Stegun, table 26.10.
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.99, 3, 5.841), (0.95, 8, 2.306), (0.9, 7, 1.895), (0.999, 120, 3.373)],
)
def test_quantiles_of_students_distribution(level, freedom, expected):
    assert stats.student_t(level, freedom) == pytest.approx(expected, abs=6e-4)
    assert stats.student_t(0.0, freedom) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("level", "freedom"), [(1.0, 3), (-0.1, 3), (0.5, 0)])
def test_quantiles_that_there_are_not(level, freedom):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.student_t(level, freedom)


# ---- findings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["steady", "turns", "heavy tails"])
@pytest.mark.parametrize("count", [5, 15, 50])
def test_the_same_times_are_almost_never_found_changed(kind, count):
    rng = np.random.default_rng(3)
    old, new = (record(noise(kind, rng, count) for _ in range(200)) for _ in range(2))
    found = compare.compare(old, new)
    changed = len(found.found(Verdict.SLOWER)) + len(found.found(Verdict.FASTER))
    # A fifth of times each can be apart by chance, 2 times in 252: no level is beyond that.
    assert found.by_chance == pytest.approx(200 * 2 / 252)
    assert changed <= 2


@pytest.mark.parametrize("kind", ["steady", "turns", "heavy tails"])
@pytest.mark.parametrize("count", [15, 50])
def test_a_change_of_a_fifth_is_found(kind, count):
    rng = np.random.default_rng(4)
    old = record(noise(kind, rng, count) for _ in range(90))
    new = record(noise(kind, rng, count) * (1.2, 1 / 1.2, 1.0)[k % 3] for k in range(90))
    found = verdicts(compare.compare(old, new))
    for number, verdict in ((0, Verdict.SLOWER), (1, Verdict.FASTER), (2, Verdict.UNCHANGED)):
        # Of 30; tails without a variance hide some of them.
        assert found[number::3].count(verdict) >= (20 if kind == "heavy tails" else 29)


def test_a_small_change_is_none_however_certain():
    rng = np.random.default_rng(5)
    old, new = record([1 + 0.001 * rng.random(50)]), record([1.04 + 0.001 * rng.random(50)])
    assert verdicts(compare.compare(old, new)) == [Verdict.UNCHANGED]
    assert verdicts(compare.compare(old, new, threshold=0.03)) == [Verdict.SLOWER]
    assert verdicts(compare.compare(new, old, threshold=0.03)) == [Verdict.FASTER]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_times_have_no_interval(count):
    old, new = record([[1.0] * count, [1.0] * count]), record([[2.0] * count, [1.01] * 9])
    found = compare.compare(old, new)
    assert found.pairs[0].interval is None and found.pairs[0].verdict is Verdict.UNDECIDED
    assert found.pairs[1].verdict is Verdict.UNCHANGED
    # Two threes are apart by chance 2 times in 20: enough for a confidence of 90%.
    loose = compare.compare(old, new, confidence=0.89)
    assert (loose.pairs[0].verdict is Verdict.SLOWER) is (count == 3)


def test_pairs_are_those_that_agree_in_everything():
    old, new = record([[1.0], [1.0], [1.0]]), record([[1.0], [1.0], [1.0]])
    new.measurements[1] = dataclasses.replace(new.measurements[1], threads=4)
    new.measurements[2] = dataclasses.replace(
        new.measurements[2], settings=new.measurements[2].settings | {"batch": 99}
    )
    found = compare.compare(old, new)
    assert [pair.key.case for pair in found.pairs] == ["lenet/0"]
    assert [(key.case, key.threads, key.batch) for key in found.only_old] == [("lenet/1", 2, 16), ("lenet/2", 2, 16)]
    assert [(key.case, key.threads, key.batch) for key in found.only_new] == [("lenet/1", 4, 16), ("lenet/2", 2, 99)]
    assert [p.key.case for p in compare.compare(old, new, only=["*/[01]"]).pairs] == ["lenet/0"]


def test_levels_tell_apart_what_nothing_else_does():
    old, new = record([[1.0], [1.0]]), record([[1.0], [1.0]])
    for some in (old, new):
        first = some.measurements[0]
        some.measurements[:] = [dataclasses.replace(first, isa=isa) for isa in ("v3", "v4")]
    assert [pair.key.isa for pair in compare.compare(old, new).pairs] == ["v3", "v4"]
    new.measurements.append(new.measurements[0])
    with pytest.raises(
        ValueError, match=r"a record holds lenet/0, forward, float32, 2 threads, torch cpu, batch 16, v3 twice"
    ):
        compare.compare(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"participant": "torch cuda"}, "participant is torch cpu in the old one and torch cuda in the new one"),
        ({"dtype": "float64"}, "dtype is float32 in the old one and float64 in the new one"),
        ({"settings": {"batch": 3}}, "batch is 16 in the old one and 3 in the new one"),
    ],
)
def test_nothing_in_common(change, message):
    old, new = record([[1.0]]), record([[1.0]])
    new.measurements[0] = dataclasses.replace(new.measurements[0], **change)
    with pytest.raises(ValueError, match=message):
        compare.compare(old, new)


def test_what_cannot_be_compared():
    some, none = record([[1.0]]), record([])
    with pytest.raises(ValueError, match="the new record has not a measurement"):
        compare.compare(some, none)
    with pytest.raises(ValueError, match="neither record has a case that matches x"):
        compare.compare(some, some, only=["x"])
    for wrong in ({"confidence": 1.0}, {"threshold": -0.1}):
        with pytest.raises(ValueError, match="the threshold is not negative"):
            compare.compare(some, some, **wrong)
    other = record([[1.0], [1.0]])
    other.measurements[:] = [
        dataclasses.replace(m, case=case, dtype=dtype)
        for m, case, dtype in zip(other.measurements, ("a", "b"), ("x", "y"), strict=True)
    ]
    crossed = dataclasses.replace(other)
    crossed.measurements = [dataclasses.replace(m, dtype={"x": "y", "y": "x"}[m.dtype]) for m in other.measurements]
    with pytest.raises(ValueError, match="no two measurements agree in all of suite, case"):
        compare.compare(other, crossed)


def test_warnings():
    old = record(
        [[1.0]], peaks=Peaks([FmaPeak("v3", "float32", 2, [100.0]), FmaPeak("v4", "float32", 2, [100.0])], [], None)
    )
    assert compare.warnings(old, old) == []
    new = record(
        [[1.0]], peaks=Peaks([FmaPeak("v3", "float32", 2, [80.0]), FmaPeak("v4", "float32", 2, [98.0])], [], None)
    )
    new.complete = False
    new.machine = dataclasses.replace(
        MACHINE,
        cpu="another CPU",
        features=["avx2"],
        governor="powersave",
        load=[1.5],
        versions=MACHINE.versions | {"numpy": "9.9"},
        gpu={"driver": "570"},
        revision="0000",
    )
    new.measurements[0] = dataclasses.replace(new.measurements[0], threads=8)
    assert compare.warnings(old, new) == [
        "the new record was interrupted and is not complete",
        "the machine was busy before the new record: a load of 1.5 on 2 CPUs",
        "different cpu: AMD EPYC 9R45 in the old record, another CPU in the new one",
        "different features: avx512f in the old record, nothing in the new one",
        "different governor: nothing in the old record, powersave in the new one",
        "different version of numpy: 2.4.6 in the old record, 9.9 in the new one",
        "different GPU: driver: nothing in the old record, 570 in the new one",
        "different threads: 2 in the old record, 8 in the new one",
        "the machine's own peak was 100 GFLOP/s and is 80 (v3, float32, 2 threads), and 0 others differ",
    ]


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Writes records of such times and gives their names."""

    def write(*times):
        for number, some in enumerate(times):
            record(some).save(tmp_path / f"{number}.json")
        return [tmp_path / f"{number}.json" for number in range(len(times))]

    return write


def steady(*factors):
    rng = np.random.default_rng(6)
    return [factor * np.exp(0.01 * rng.standard_normal(20)) for factor in factors]


def test_exit_codes(run, files, tmp_path):
    slower = files(steady(1, 1), steady(1, 1.3))
    assert run("compare", *slower)[0] == 1
    assert run("compare", *reversed(slower))[0] == 0
    assert run("compare", *slower, "--only", "lenet/0")[0] == 0
    assert run("compare", *slower, "--threshold", "40")[0] == 0
    (tmp_path / "no.json").write_text("{}")
    for arguments, message in (
        ((slower[0], tmp_path / "no.json"), "no.json: this is no benchmark record"),
        ((slower[0], tmp_path / "nothing.json"), "nothing.json: No such file"),
        ((*slower, "--only", "alexnet"), "neither record has a case that matches alexnet"),
        ((*slower, "--confidence", "2"), "--confidence"),
        ((slower[0],), "NEW"),
    ):
        code, out, err = run("compare", *arguments)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_the_table(run, files):
    code, out, err = run("compare", *files(steady(1, 1, 1, 1, 1), [*steady(1, 1.3, 1.5, 0.7), [2.0]]))
    lines = out.splitlines()
    assert (code, err) == (1, "")
    order = [line.split()[0] for line in lines if line.startswith("lenet/")]
    assert order == [
        "lenet/2",
        "lenet/1",
        "lenet/3",
        "lenet/4",
    ]  # slower and faster, the largest change first; undecided
    titles = [line.strip() for line in lines if line.startswith(("slower", "faster", "undecided"))]
    assert titles == ["slower: 2", "faster: 1", "undecided: 1"]
    assert lines[1].split() == ["case", "old,", "ms", "new,", "ms", "new", "/", "old", "interval"]
    assert "1 of 5 unchanged: by less than 5% or within the noise" in lines
    assert "1 have no interval and cannot be found changed: there are too few times of them" in lines
    assert "All intervals hold together with a confidence of 95%" in lines[-1]


def test_what_is_in_one_record_only_is_listed(run, files):
    code, out, _ = run("compare", *files(steady(1), steady(*[1] * 20)))
    assert code == 0
    assert "only in the new record: 19" in out and "  lenet/3, forward, float32, 2 threads, torch cpu, batch 16" in out
    assert out.endswith("  ...\n")


def test_warnings_come_first(run, files, tmp_path):
    old, new = files(steady(1), steady(1))
    record(steady(1), machine=dataclasses.replace(MACHINE, cpu="[red]another[/red]")).save(new)
    out = run("compare", old, new)[1]
    assert out.startswith(
        "WARNING: different cpu: AMD EPYC 9R45 in the old record, [red]another[/red] in the new one\n"
    )


def test_json(run, files):
    code, out, err = run("compare", *files(steady(1, 1), [*steady(1.4), [1.0]]), "--json", "--confidence", "0.9")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert {name: found[name] for name in ("confidence", "threshold", "warnings", "only_old", "only_new")} == {
        "confidence": 0.9, "threshold": 0.05, "warnings": [], "only_old": [], "only_new": [],
    }  # fmt: skip
    assert found["level"] == pytest.approx(0.95) and 0 < found["by_chance"] < 0.1
    first, second = found["pairs"]
    assert first["case"] == "lenet/0" and first["batch"] == 16 and first["verdict"] == "slower"
    assert first["ratio"] == pytest.approx(first["new"] / first["old"])
    assert 1 < first["lower"] <= first["ratio"] <= first["upper"]
    assert (second["lower"], second["upper"], second["verdict"]) == (None, None, "unchanged")
