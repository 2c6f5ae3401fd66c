"""What shows a report of the precision laboratory: table, pictures, page."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import re

import pytest
from rich.console import Console

from fastdl.precision import page, pictures, view
from fastdl.precision.formats import FORMATS
from fastdl.precision.record import Histogram
from fastdl.precision.table import tables
from network_record import MACHINE
from page_tree import Tree
from precision_report import report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;" + "x" * 80
MODES = ("infer", "train")


def hostile(mode):
    """Whatever may hold text holds something that wants to be markup."""
    found = report(mode)
    found.network, found.weights, found.command = HOSTILE, HOSTILE, [HOSTILE]
    found.machine = dataclasses.replace(MACHINE, cpu=HOSTILE)
    found.formats[-1].reason = HOSTILE
    measured = found.formats[0].measured
    measured.kernels = [dataclasses.replace(k, layer=HOSTILE, label=HOSTILE) for k in measured.kernels]
    if mode == "infer":
        found.formats[1].inference.layers = [
            dataclasses.replace(s, layer=HOSTILE) for s in found.formats[1].inference.layers[:1]
        ]
    return found


@functools.cache
def rendered(mode):
    return page.render(report(mode))


def printed(found):
    """Everything, as a terminal shows it."""
    console = Console(width=250, file=io.StringIO(), highlight=False)
    for part in tables(found):
        console.print(part)
    return console.file.getvalue()


# ---- table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_cell_of_an_emulation_is_marked_and_no_other(mode):
    found = report(mode)
    for result in found.formats:
        cells = [field.text for field in view.row(found, result) if field.text]
        marked = [cell.startswith(view.MARK) for cell in cells]
        assert all(marked) if result.emulated else not any(marked), cells
        assert len(cells) > 8 or result.name == "int8"
    everything = printed(found)
    lines = [line for line in everything.splitlines() if "float16_sums" in line and "16" in line]
    assert lines and "not run: this machine has no integers" in everything


def test_figures_of_the_table():
    found = report()
    heads = [column.header for column in view.columns(found)]
    rows = {r.name: dict(zip(heads, view.row(found, r), strict=True)) for r in found.formats}
    half = rows["float16"]
    assert (half["accuracy"].text, half["same class as float64"].text) == ("94.00 %", "99.00 %")
    assert (half["weights"].text, half["activations"].text) == ("16.0 kB", "1.60 kB")
    assert half["µs an image"].text == "33.0"
    assert half["by direct float32"].value == pytest.approx(33 / 31)
    assert half["by fastest float32"].value == pytest.approx(33 / 22)
    assert half["computed by"].text == "real (cython v4): direct"
    assert rows["float16_sums"]["computed by"].text == "~emulated (cython v4): direct"
    found = report("train")
    heads = [column.header for column in view.columns(found)]
    half = dict(zip(heads, view.row(found, found.result("float16")), strict=True))
    assert (half["accuracy"].text, half["± sd"].text, half["trainings"].text) == ("89.00 %", "1.41 %", "2")
    assert (half["steps skipped"].text, half["of"].text, half["loss scale"].text) == ("3", "32", "1,024")
    assert half["by float32"].value == pytest.approx(4.1 / 3.1)


def test_layers_whose_ratio_is_no_number():
    text = printed(report())
    assert "not finite" in text and "exact" not in text
    assert view.ratio(float("inf")) == "exact" and view.ratio(12.34) == "12.3"


def test_what_formats_make_of_gradients():
    found = {limit.title: limit for limit in view.limits(report("train"))}
    assert list(found) == ["float8_e4m3fn", "float8_e5m2", "float16", "float16, loss times 2^10", "float16_sums"]
    h = Histogram("conv1", "activation", -30, [1] * 40, 7, 0)  # a value in each of 2 ** -30, ..., 2 ** 9
    half, scaled = found["float16"], found["float16, loss times 2^10"]
    # Below 2 ** -25 values go to 0, below 2 ** -14 they lose bits, from 2 ** 16 on they are infinite.
    assert (half.lost(h), half.rough(h), half.beyond(h)) == (5 / 40, 11 / 40, 0.0)
    assert (scaled.lost(h), scaled.rough(h), scaled.beyond(h)) == (0.0, pytest.approx(6 / 40), 4 / 40)
    eight = found["float8_e4m3fn"]
    assert eight.result.name == "float32" and eight.beyond(h) == 1 / 40


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_the_frontier_is_what_nobody_beats():
    points = [(4.0, 0.9), (2.0, 0.8), (1.0, 0.5), (3.0, 0.7), (2.0, 0.85), (5.0, 0.9)]
    assert pictures.best(points) == [(1.0, 0.5), (2.0, 0.85), (4.0, 0.9)]
    assert pictures.best([]) == []


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("infer", ["accuracy", "frontier", "noise", "sensitivity"]),
        ("train", ["accuracy", "frontier", "gradients"]),
    ],
)
def test_pictures_have_axes_with_names_and_a_sentence(mode, names):
    found = pictures.pictures(report(mode))
    assert [picture.name for picture in found] == names
    for picture in found:
        assert len(picture.text) > 20 and len(picture.caption) > 20
        charts = [axes for axes in picture.figure.axes if axes.axison]
        assert charts
        for axes in charts:
            assert axes.get_xlabel() or [t.get_text() for t in axes.get_xticklabels()]
            assert axes.get_ylabel() or [t.get_text() for t in axes.get_yticklabels()]


def test_looks_differ_and_emulations_are_open():
    found = report(names=tuple(FORMATS))
    looks = [pictures._look(result) for result in found.ran]
    assert len(set(looks)) == len(FORMATS)
    assert {look.fill for look, r in zip(looks, found.ran, strict=True) if r.emulated} == {"none"}
    assert {look.fill for look, r in zip(looks, found.ran, strict=True) if not r.emulated} == {"full"}


def test_an_emulation_has_no_place_beside_times():
    found = report()
    figure = pictures.frontier(found)
    by_bytes, by_time = (axes for axes in figure.axes if axes.axison)
    assert "weights" in by_bytes.get_xlabel() and "µs" in by_time.get_xlabel()
    count = [sum(line.get_marker() != "None" for line in axes.lines) for axes in (by_bytes, by_time)]
    assert count == [4, 3]


def test_nothing_to_show_is_no_picture():
    found = report()
    for result in found.ran:
        result.inference.layers, result.inference.sensitivity, result.inference.seconds = [], [], []
    assert [picture.name for picture in pictures.pictures(found)] == ["accuracy", "frontier"]
    assert "<table" in page.render(found)


# ---- page -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_page_is_whole(mode):
    tree = Tree(rendered(mode))
    ids = [attributes["id"] for _, attributes, _ in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    wanted = set()
    for _, attributes, _ in tree.elements:
        wanted |= set(attributes.get("aria-labelledby", "").split())
        wanted |= {attributes["href"][1:]} if attributes.get("href", "").startswith("#") else set()
        wanted |= {found for value in attributes.values() for found in re.findall(r"url\(#([^)]*)\)", value or "")}
    assert wanted and wanted <= set(ids)
    levels = [int(tag[1]) for tag, _, _ in tree.elements if re.fullmatch(r"h\d", tag)]
    assert levels[:2] == [1, 2] and all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert len(tree.all("svg")) == len(pictures.pictures(report(mode)))
    text = "".join(text for _, text in tree.all("main"))
    assert "this machine has no integers" in text and "vpdpbusd" not in text
    assert "89.00 %" in text if mode == "train" else "94.00 %" in text


@pytest.mark.parametrize("mode", MODES)
def test_what_a_report_says_is_text(mode):
    found = Tree(page.render(hostile(mode)))
    assert len(found.all("script")) == 1 and found.all("img") == []
    assert "".join(text for _, text in found.all("main")).count(HOSTILE) > 4


def test_an_interrupted_report_says_so():
    found = report()
    found.complete = False
    found.formats[2].reason = "ValueError: no such luck"
    warnings = [text for attributes, text in Tree(page.render(found)).all("p") if attributes.get("class") == "warning"]
    assert "interrupted" in warnings[0] and "float16 did not come to its end" in warnings[1]


def test_a_page_is_written_whole(tmp_path):
    page.save(report(), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == rendered("infer")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [360, 1280])
def test_it_shows_in_a_browser_without_errors_or_sideways_scrolling(chromium, tmp_path, mode, width):
    path = tmp_path / "a.html"
    path.write_text(rendered(mode))
    with chromium.open(path, width=width, dark=width == 360) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("document.querySelectorAll('th button').length") > 10
        assert shown.events("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled") == []
        requests = [event["request"]["url"] for event in shown.events("Network.requestWillBeSent")]
        assert requests == [path.as_uri()]
        dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == ("rgb(20, 23, 26)" if width == 360 else "rgb(254, 254, 254)")
