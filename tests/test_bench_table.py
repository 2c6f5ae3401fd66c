"""Tables of a network's record for a terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from fastdl.bench import breakdown, table
from network_record import SPEEDS, network_record


def printed(found, width):
    """Everything, as a terminal of this width shows it."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for part in table.tables(found, width):
        console.print(part)
    return console.file.getvalue()


def cells(part):
    """Row name -> header -> text; the last line of a header that has two, with the participant before it."""
    heads = [str(column.header).replace("\n", " ") for column in part.columns]
    columns = [[str(cell) for cell in column.cells] for column in part.columns]
    return {row[0]: list(zip(heads, row, strict=True)) for row in zip(*columns, strict=True)}


def test_a_line_for_each_row_and_columns_for_each_participant():
    found = network_record("lenet", directions=("forward",), participants=("fastdl cython", "torch cpu"))
    layers, whole = table.tables(found)
    setting = breakdown.settings(found)[0]
    ours, torch = breakdown.columns(found, setting, "forward")
    rows = cells(layers)
    assert str(layers.title) == "forward pass: lenet, batch 16, float32, 2 threads"
    assert list(rows) == ["conv1", "conv2", "fc3", "fc4", "fc5", "rows together", "whole pass"]
    m, other = ours.rows[1], torch.rows[1]
    figures = m.figures(found.peaks)
    held = sum(value for value in breakdown.memory(m).values() if value is not None)
    assert rows["conv2"] == [
        ("row", "conv2"),
        ("fastdl cython ms", breakdown.milliseconds(m.median)),
        ("±", breakdown.percent(m.summary.spread)),
        ("share", breakdown.percent(m.median / ours.sum)),
        ("GFLOP/s", breakdown.significant(figures["gflops"])),
        ("GB/s", breakdown.significant(figures["gbps"])),
        ("roof", breakdown.percent(figures["percent_of_peak"] / 100)),
        ("memory", breakdown.size(held)),
        ("kernel", "cython/conv2d"),
        ("torch cpu ms", breakdown.milliseconds(other.median)),
        ("±", breakdown.percent(other.summary.spread)),
        ("share", breakdown.percent(other.median / torch.sum)),
        ("ratio", breakdown.significant(other.median / m.median)),
    ]
    assert dict(rows["whole pass"])["torch cpu ms"] == breakdown.milliseconds(torch.seconds)
    assert dict(rows["rows together"])["ratio"] == breakdown.significant(torch.sum / ours.sum)
    assert "fastdl cuda is not there: there is no CUDA device" in str(whole.caption)


@pytest.mark.parametrize("width", [120, 140, 160])
@pytest.mark.parametrize("network", ["lenet", "alexnet", "resnet152"])
def test_everything_fits(network, width):
    found = network_record(network, participants=list(SPEEDS), directions=("forward",))
    text = printed(found, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    heads = [str(c.header).partition("\n")[0] for part in table.tables(found, width)[:-1] for c in part.columns]
    assert [name for name in heads if name in SPEEDS] == list(SPEEDS)


def test_of_many_rows_the_longest_are_shown():
    found = network_record("resnet152", participants=("torch cpu",), directions=("forward",))
    layers, _ = table.tables(found)
    names = list(cells(layers))
    assert len(names) == table.MOST_ROWS + 3
    assert names[-3:] == ["160 shorter rows", "rows together", "whole pass"]
    (column,) = breakdown.columns(found, breakdown.settings(found)[0], "forward")
    longest = {breakdown.row_name(m) for m in sorted(column.rows, key=lambda m: -m.median)[: table.MOST_ROWS]}
    assert names[:-3] == [breakdown.row_name(m) for m in column.rows if breakdown.row_name(m) in longest]


def test_the_summary_has_a_line_for_each_setting_and_participant():
    found = network_record("lenet", participants=("torch cpu", "torch cuda"), threads=(1, 2), batches=(1, 4))
    part = table.summary_table(found)
    columns = [[str(cell) for cell in column.cells] for column in part.columns]
    rows = list(zip(*columns, strict=True))
    assert [row[2:5] for row in rows] == [
        ("torch cpu", "1", "1"),
        ("torch cpu", "1", "2"),
        ("torch cuda", "1", "GPU"),
        ("torch cpu", "4", "1"),
        ("torch cpu", "4", "2"),
        ("torch cuda", "4", "GPU"),
    ]
    setting = breakdown.settings(found)[-1]
    cpu, cuda = breakdown.columns(found, setting, "backward")
    assert rows[-1][9:] == (
        breakdown.milliseconds(cuda.seconds),
        breakdown.percent(cuda.whole.summary.spread),
        breakdown.significant(cuda.seconds / cpu.seconds),
        breakdown.significant(4 / cuda.seconds),
    )


def test_an_interrupted_run_says_so():
    found = network_record("lenet")
    assert "interrupted" not in str(table.summary_table(found).caption)
    found.complete = False
    assert "interrupted" in str(table.summary_table(found).caption)


def test_what_is_not_known_is_left_empty():
    found = network_record("lenet", participants=("torch cpu", "fastdl numpy"), directions=("forward",))
    found.peaks = None
    found.measurements = [
        dataclasses.replace(m, flop=None, bytes=None, kernels=[])
        for m in found.measurements
        if (m.participant, breakdown.row_name(m))
        not in {("fastdl numpy", "fc4"), ("torch cpu", "fc5"), ("torch cpu", "")}
    ]
    rows = cells(table.tables(found)[0])
    assert [text for _, text in rows["conv1"][4:7]] == ["", "", ""] and rows["conv1"][8] == ("kernel", "")
    assert [text for _, text in rows["fc4"][9:]] == [""] * 4
    assert [text for _, text in rows["fc5"][1:9]] == [""] * 8 and rows["fc5"][9][1] and rows["fc5"][12] == ("ratio", "")
    assert [text for _, text in rows["whole pass"]][1:9] == [""] * 8
    (line, _) = zip(
        *([str(cell) for cell in column.cells] for column in table.summary_table(found).columns), strict=True
    )
    assert line[2:] == ("torch cpu", "16", "2", "not measured", "", "", "")


def test_names_are_no_markup():
    found = network_record("lenet", participants=("torch cpu",))
    name = "[bold]conv[/bold] [/]"
    found.absent = {name: name}
    found.measurements = [dataclasses.replace(m, case=m.case.replace("conv1", name)) for m in found.measurements]
    text = printed(found, 160)
    assert text.count(name) == 2 + 2  # a row of each pass, and who is absent
