"""A network's record taken apart: settings, columns, rows, shares, and numbers as text."""

from __future__ import annotations

import dataclasses
import math

import pytest

from fastdl.bench import breakdown
from fastdl.bench.breakdown import Setting
from fastdl.bench.record import CUDA, FmaPeak, Peaks, Triad
from network_record import NETWORKS, network_record


def test_settings_are_what_participants_share():
    found = network_record("lenet", batches=(1, 8), threads=(1, 2), dtypes=("float32", "float64"))
    every = [Setting("lenet", b, d, t) for d in ("float32", "float64") for b in (1, 8) for t in (1, 2)]
    assert breakdown.settings(found) == every
    assert breakdown.main_settings(found) == [Setting("lenet", 8, "float32", 2), Setting("lenet", 8, "float64", 2)]
    assert str(every[0]) == "lenet, batch 1, float32, 1 thread"


def test_a_gpu_stands_beside_the_most_threads():
    found = network_record("lenet", participants=("fastdl cuda", "fastdl cython"), threads=(1, 2))
    few, many = breakdown.settings(found)
    assert [c.participant for c in breakdown.columns(found, few, "forward")] == ["fastdl cython"]
    both = breakdown.columns(found, many, "forward")
    # In the order of the record, where the threads of the CPU came one after the other.
    assert [(c.participant, c.device) for c in both] == [("fastdl cython", "cpu"), ("fastdl cuda", "cuda")]
    alone = network_record("lenet", participants=("fastdl cuda",), threads=(1,))
    assert breakdown.settings(alone) == [Setting("lenet", 16, "float32", 1)]
    assert len(breakdown.columns(alone, Setting("lenet", 16, "float32", 1), "forward")) == 1


def test_a_column_has_the_rows_of_the_network_in_its_order():
    found = network_record("alexnet", batches=(4,))
    found.measurements.reverse()
    (setting,) = breakdown.settings(found)
    every = breakdown.passes(found, setting)
    assert list(every) == ["forward", "backward"]
    names = [row.name for row in NETWORKS["alexnet"]()]
    for column in every["forward"]:
        assert [breakdown.row_name(m) for m in column.rows] == names == breakdown.row_names([column])
        assert column.whole is not None and column.whole.group == "total"
        assert column.seconds == column.whole.median and column.images_per_second == 4 / column.seconds
        assert column.sum == pytest.approx(sum(m.median for m in column.rows))
        assert sum(column.share(rows) for rows in column.kinds().values()) == pytest.approx(1)
        assert list(column.kinds()) == [k for k in breakdown.KINDS if k in {m.group for m in column.rows}]


def test_a_record_that_ends_early_has_no_whole_pass():
    found = network_record("lenet", participants=("torch cpu",), directions=("forward",))
    del found.measurements[3:]
    (column,) = breakdown.columns(found, breakdown.settings(found)[0], "forward")
    assert column.whole is column.seconds is column.images_per_second is None
    assert breakdown.columns(found, breakdown.settings(found)[0], "backward") == []


def test_an_unknown_group_is_of_the_other_kind():
    m = dataclasses.replace(network_record("lenet").measurements[0], group="3x3 s1")
    assert breakdown.kind(m) == "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"network": "lenet", "index": 0}}, r"settings\['batch'\] must be of type int, not None"),
        (
            {"settings": {"network": 3, "index": 0, "batch": 1}},
            r"lenet/conv1: settings\['network'\] must be of type str",
        ),
        ({"settings": {"network": "lenet", "batch": 1}}, r"settings\['index'\]"),
    ],
)
def test_measurements_that_do_not_say_where_they_belong_are_refused(changes, message):
    found = network_record("lenet")
    found.measurements[0] = dataclasses.replace(found.measurements[0], **changes)
    with pytest.raises(ValueError, match=message):
        breakdown.settings(found)


def test_a_record_of_another_suite_is_refused():
    found = network_record("lenet")
    found.measurements = [dataclasses.replace(m, suite="layers") for m in found.measurements]
    with pytest.raises(ValueError, match="no measurement of suite 'network': it has 'layers'"):
        breakdown.settings(found)
    found.measurements = []
    with pytest.raises(ValueError, match="nothing at all"):
        breakdown.settings(found)


def test_the_roof_is_the_one_that_more_of_is_reached():
    m = network_record("lenet", participants=("fastdl cython",)).measurements[0]
    m = dataclasses.replace(m, flop=1e9, bytes=1e9, seconds=[1.0], isa="v4", threads=2)
    triad = Triad(10**9, 2, [4.0], [4.0])
    assert breakdown.roofline(m, Peaks([FmaPeak("v4", "float32", 2, [10.0])], [triad], None)) == pytest.approx(25)
    assert breakdown.roofline(m, Peaks([FmaPeak("v4", "float32", 2, [2.0])], [triad], None)) == pytest.approx(50)
    two = Peaks([FmaPeak("v3", "float32", 2, [4.0]), FmaPeak("v4", "float32", 2, [2.0])], [], None)
    assert breakdown.roofline(dataclasses.replace(m, isa="any"), two) == pytest.approx(25)
    assert breakdown.roofline(dataclasses.replace(m, isa="baseline"), two) == pytest.approx(25)
    assert breakdown.roofline(dataclasses.replace(m, isa="any", flop=None), two) is None
    assert breakdown.roofline(dataclasses.replace(m, isa=CUDA), Peaks([], [], None)) is None
    assert breakdown.roofline(m, None) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (1.2345, "1.23"),
        (9.999, "10.0"),
        (12.345, "12.3"),
        (123.45, "123"),
        (999.6, "1,000"),
        (123456.0, "123,000"),
        (0.0, "0"),
        (math.inf, "inf"),
    ],
)
def test_significant_digits(value, text):
    assert breakdown.significant(value) == text
    assert breakdown.milliseconds(value / 1e3) == text


def test_words():
    assert [breakdown.size(n) for n in (0, 999, 1500, 2.5e6, 3e9)] == ["0 B", "999 B", "1.50 kB", "2.50 MB", "3.00 GB"]
    assert breakdown.counted(1, "thread") == "1 thread" and breakdown.counted(1200, "row") == "1,200 rows"
    assert breakdown.listed(["a"]) == "a" and breakdown.listed(["a", "b", "c"]) == "a, b and c"
