"""Pictures of networks: what is drawn where, that nothing overlaps, and the sentences beside them."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest
from matplotlib import rcParams
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from fastdl.bench import breakdown, pictures
from fastdl.bench.pictures import _roofline, _scaling, _shares, _style
from fastdl.bench.record import Triad
from network_record import MACHINE, SPEEDS, network_record

RECORDS = {
    "five rows": lambda: network_record("lenet"),
    "everybody": lambda: network_record(
        "alexnet", participants=list(SPEEDS), threads=(1, 2, 4), batches=(1, 4, 16), directions=("forward", "backward")
    ),
    "one participant": lambda: network_record("alexnet", participants=("torch cpu",), directions=("backward",)),
    "two hundred rows": lambda: network_record("resnet152", participants=("fastdl cython", "fastdl numpy")),
}
#: Nothing of this may be taken for a formula, markup, or a place in a format.
HOSTILE = r"<b>$\frac{1}{%s}$&\"_^{}"


def main(found):
    return found, breakdown.main_settings(found)[0]


def texts(figure):
    """Every text that is seen, with its box in pixels (left, lower, right, upper); slanted ones left out."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    unseen = set()
    for axes in figure.axes:
        for labels, (low, high), at in (
            (axes.get_xticklabels(which="both"), sorted(axes.get_xlim()), 0),
            (axes.get_yticklabels(which="both"), sorted(axes.get_ylim()), 1),
        ):
            unseen |= {n for n in labels if not (axes.axison and low <= n.get_position()[at] <= high)}
    for text in figure.findobj(Text):
        if text not in unseen and text.get_visible() and text.get_text().strip() and text.get_rotation() % 90 == 0:
            yield text.get_text(), text.get_window_extent(renderer).extents.tolist()


def rename(found, old, new):
    """The record with another name for a row."""
    found.measurements = [
        dataclasses.replace(m, case=m.case.replace(old, new)) if m.case.endswith(old) else m for m in found.measurements
    ]
    return found


# ---- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_overlaps_and_nothing_is_cut_off(name):
    drawn = pictures.pictures(*main(RECORDS[name]()))
    assert [p.name for p in drawn] == ["shares", "times", "roofline", *(["scaling"] if name == "everybody" else [])]
    for picture in drawn:
        wide, high = picture.figure.get_size_inches() * picture.figure.dpi
        found = list(texts(picture.figure))
        assert len(found) > 10
        for text, (left, lower, right, upper) in found:
            assert left >= 0 and right <= wide and lower >= 0 and upper <= high, (picture.name, text)
        for (a, one), (b, other) in itertools.combinations(found, 2):
            across, up = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
            assert across < 1 or up < 1, (picture.name, a, b)


def test_long_names_do_not_leave_the_picture():
    found = rename(network_record("lenet", participants=("torch cpu",)), "conv2", "conv2" * 30)
    name = "lenet" * 30
    found.measurements = [
        dataclasses.replace(
            m, participant="torch" * 30, case=m.case.replace("lenet", name), settings=m.settings | {"network": name}
        )
        for m in found.measurements
    ]
    found.absent = {"fastdl" * 30: "no" * 100}
    for picture in pictures.pictures(*main(found)):
        for text, (left, _, right, _) in texts(picture.figure):
            assert left >= 0 and right <= 960, (picture.name, text)


def test_names_are_no_formulas(tmp_path):
    found = rename(network_record("lenet"), "conv2", HOSTILE)
    found.absent = {HOSTILE: HOSTILE}
    found.machine = dataclasses.replace(MACHINE, cpu=HOSTILE)
    for picture in pictures.pictures(*main(found)):
        pictures.save(picture.figure, tmp_path / "a.svg")
        assert any(HOSTILE[:6] in text for text, _ in texts(picture.figure)), picture.name
        assert HOSTILE in picture.text or picture.name == "times", picture.text


def test_a_record_without_rows_has_no_picture():
    found = network_record("lenet")
    found.measurements = [m for m in found.measurements if m.group == "total"]
    assert pictures.pictures(*main(found)) == []


def test_drawing_leaves_no_trace(tmp_path):
    before = dict(rcParams)
    (first, *_), (second, *_) = (pictures.pictures(*main(network_record("lenet"))) for _ in range(2))
    for figure, name in ((first.figure, "a"), (second.figure, "b")):
        pictures.save(figure, tmp_path / f"{name}.svg")
        pictures.save(figure, tmp_path / f"{name}.png")
    assert dict(rcParams) == before
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "a.png", "b.svg", "b.png"}
    with pytest.raises(ValueError, match=r"\.png or \.svg, not as 'a\.pdf'"):
        pictures.save(first.figure, tmp_path / "a.pdf")


def test_matplotlib_is_loaded_when_a_picture_is_drawn_and_pyplot_never():
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from fastdl.bench import breakdown, pictures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from network_record import network_record\n"
        "found = network_record('lenet')\n"
        "pictures.pictures(found, breakdown.main_settings(found)[0])\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = str(pictures.__file__).partition("fastdl/bench")[0]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_colours_can_be_read_and_told_apart_in_grey():
    looks = list(_style.LOOKS.values())
    assert {look.color for look in looks}.isdisjoint({_style.INK, _style.PAPER, _style.GRID})
    assert len({look.hatch for look in looks}) == len({look.marker for look in looks}) == len(looks)
    for look in looks:
        assert _style.contrast(_style.text_on(look.color), look.color) >= 4.5
    assert _style.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert len({_style.participant_look(k)[1] for k in range(6)}) == 6


def test_long_names_are_shortened_to_their_width():
    assert _style.shortened("conv1", 3.0, 10) == "conv1"
    short = _style.shortened("a" * 200 + "b" * 200, 2.0, 10)
    assert short.startswith("a") and short.endswith("b") and "…" in short
    assert 1.5 < _style.text_width(short, 10) <= 2.0


# ---- one by one -----------------------------------------------------------------------------------------------------


def simple():
    """Two convolutions and a dense layer with 9 of 10 seconds in the convolutions, 7 of them in the second."""
    found = network_record("lenet", participants=("fastdl cython", "torch cpu"), directions=("forward",))
    seconds = {"conv1": 2.0, "conv2": 7.0, "fc3": 1.0, "": 11.0}
    found.measurements = [
        dataclasses.replace(m, seconds=[seconds[name] * (2 if m.participant == "torch cpu" else 1)])
        for m in found.measurements
        if (name := breakdown.row_name(m)) in seconds
    ]
    return found


def test_parts_of_a_bar_are_as_long_as_their_share():
    found, setting = main(simple())
    figure = pictures.shares(found, setting)
    bars = [p for p in figure.findobj(Rectangle) if p.get_height() == _shares._BAR]
    assert [bar.get_width() / _shares._LONG for bar in bars] == pytest.approx([0.2, 0.7, 0.1] * 2)
    written = [text for text, _ in texts(figure)]
    assert {"fastdl cython, 2 threads", "11,000 ms, 1.45 images/s", "conv2\n70%", "dense 10%"} <= set(written)
    assert "fastdl cuda: there is no CUDA device" in written
    assert pictures.shares_text(found, setting) == (
        "Forward pass of lenet: convolution takes 90% of 10,000 ms with fastdl cython, 2 threads, 90% with 1 other; "
        "the longest row is conv2 (70%)."
    )


def test_what_an_interrupted_run_has_is_no_whole_pass():
    found, setting = main(simple())
    found.measurements = [m for m in found.measurements if m.group != "total"]
    written = [text for text, _ in texts(pictures.shares(found, setting))]
    assert "rows together: 10,000 ms" in written and not any("images/s" in text for text in written)
    assert pictures.times_text(found, setting) == (
        "Forward pass of lenet; on the CPU fastdl cython is the fastest in 3 of 3 rows."
    )
    found = network_record("lenet", batches=(1, 2))
    found.measurements = [m for m in found.measurements if m.group != "total" or m.settings["batch"] == 1]
    assert pictures.scaling(*main(found)) is None


def test_another_kind_that_takes_most_is_told():
    found, setting = main(simple())
    found.measurements = [
        dataclasses.replace(m, seconds=[90.0]) if (m.participant, m.op) == ("torch cpu", "linear") else m
        for m in found.measurements
    ]
    assert "2 threads, but dense 83% with torch cpu, 2 threads; the longest" in pictures.shares_text(found, setting)


def test_stages_stand_for_many_rows():
    found, setting = main(network_record("resnet152", participants=("torch cpu",)))
    (column,) = breakdown.columns(found, setting, "forward")
    parts = _shares.parts(column)
    assert len(column.rows) > 200 and len(parts) < 20
    assert sum(len(part.rows) for part in parts) == len(column.rows)
    assert [p.name for p in parts if p.kind == "convolution"] == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert len(_shares.parts(breakdown.columns(*main(network_record("alexnet")), "forward")[0])) == 16
    assert [_shares._stage(n) for n in ("conv4_23_1x1", "fc", "7x7")] == ["conv4", "fc", "7"]


def test_times_have_bars_or_on_a_logarithmic_scale_points():
    found, setting = main(simple())
    bars = pictures.times(found, setting).axes[1]
    assert bars.get_xscale() == "linear"
    drawn = [p.get_width() for p in bars.findobj(Rectangle) if p.get_height() == pytest.approx(0.9 * 0.125)]
    assert drawn == pytest.approx([2e3, 7e3, 1e3, 4e3, 14e3, 2e3])
    assert pictures.times(found, setting, log=True).axes[1].get_xscale() == "log"
    slow = network_record("lenet", participants=("fastdl cython", "fastdl numpy"))
    assert pictures.times(*main(slow)).axes[1].get_xscale() == "log"
    assert pictures.times_text(found, setting) == (
        "Forward pass of lenet: 11,000 ms with fastdl cython, 2 threads, 2.00 times as long with torch cpu; "
        "on the CPU fastdl cython is the fastest in 3 of 3 rows."
    )


def test_both_passes_have_one_scale_that_holds_the_longest():
    found, setting = main(network_record("lenet", noise=0.0))
    _, forward, backward = pictures.times(found, setting).axes
    longest = 1e3 * max(m.median for m in found.measurements if m.group != "total")
    assert forward.get_xlim() == backward.get_xlim()
    assert forward.get_xlim()[0] == 0 and longest < forward.get_xlim()[1] < 1.2 * longest


def test_error_bars_are_quartiles():
    found, setting = main(simple())
    found.measurements[0] = dataclasses.replace(found.measurements[0], seconds=[1.0, 2.0, 3.0, 4.0, 5.0])
    axes = pictures.times(found, setting).axes[1]
    segments = axes.collections[0].get_segments()
    assert [x for x, _ in segments[0]] == pytest.approx([2e3, 4e3])


def test_roofs_are_those_of_memory_and_of_faster_caches():
    found = network_record("lenet")
    # Two threads: 98 kB of first-level caches, 2.1 MB of second-level ones, and 33.6 MB that they share.
    assert [(r.name, round(r.gbps)) for r in _roofline.roofs(found, "v4", 2)] == [
        ("memory", 29),
        ("L3 cache", 119),
        ("L2 cache", 376),
    ]
    assert [r.name for r in _roofline.roofs(found, "v4", 3)] == []
    found.peaks.triad[:] = [Triad(10**9, 1, [2600.0], [1.0], "cuda"), Triad(1000, 2, [20.0], [21.0])]
    assert _roofline.roofs(found, "cuda", 1) == [("memory", 2600.0)]
    assert _roofline.roofs(found, "v4", 2) == [("memory", 21.0)]
    found.peaks = None
    assert _roofline.roofs(found, "v4", 2) == []
    assert pictures.roofline(*main(found)) is not None
    assert pictures.roofline_text(*main(found)) == "On the CPU no roof was measured."


def test_points_of_the_roofline():
    found, setting = main(simple())
    found.measurements = [dataclasses.replace(m, flop=3e12, bytes=1e12) for m in found.measurements]
    axes = pictures.roofline(found, setting).axes[1]
    points = {
        (float(x), float(y)) for line in axes.lines for x, y in [*line.get_xydata()] if len(line.get_xdata()) == 1
    }
    assert {x for x, _ in points} == {3.0}
    assert sorted({y for _, y in points}) == pytest.approx([1500 / 7, 3000 / 7, 750, 1500, 3000])
    found.measurements = [dataclasses.replace(m, flop=None) for m in found.measurements]
    assert pictures.roofline(found, setting) is None
    assert len(pictures.roofline(*main(RECORDS["everybody"]())).axes) == 3  # the sheet, the CPU, the GPU


def test_scaling_is_drawn_where_something_was_varied():
    assert pictures.scaling(*main(network_record("lenet"))) is None
    assert pictures.scaling_text(*main(network_record("lenet"))) == ""
    found, setting = main(network_record("lenet", batches=(2, 8), threads=(1, 4), participants=("torch cpu",)))
    for number, m in enumerate(found.measurements):
        seconds = [m.settings["batch"] ** 0.5 / m.threads**0.5]
        found.measurements[number] = dataclasses.replace(m, seconds=seconds)
    _, batches, threads = pictures.scaling(found, setting).axes
    assert list(batches.lines[0].get_xdata()) == [2, 8]
    assert list(batches.lines[0].get_ydata()) == pytest.approx([2 / 2**0.5 * 2, 8 / 8**0.5 * 2])
    assert list(threads.lines[0].get_ydata()) == [1, 4]  # ideal
    assert list(threads.lines[1].get_ydata()) == pytest.approx([1, 2])
    assert pictures.scaling_text(found, setting) == (
        "From batch 2 to 8 the forward pass with torch cpu goes from 2.83 to 5.66 images/s. "
        "With 4 threads the forward pass with torch cpu is 2.00 times as fast as with 1."
    )
    assert len(pictures.scaling(*main(network_record("lenet", batches=(1, 2)))).axes) == 2


def test_a_gpu_has_no_speed_up_over_threads():
    found, setting = main(RECORDS["everybody"]())
    assert {key[1] for key in _scaling._series(found, setting, "threads")} == {n for n in SPEEDS if "cuda" not in n}
    assert {key[1] for key in _scaling._series(found, setting, "batch")} == set(SPEEDS)
