"""The page of a network's record: as text, and in a browser where there is one."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
import re

import pytest

from fastdl.bench import breakdown, html, page
from fastdl.bench.pictures._style import contrast
from fastdl.bench.record import Check
from network_record import MACHINE, network_record
from page_tree import Tree

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;" + "x" * 80


def everybody():
    return network_record(
        "lenet", participants=("fastdl cython", "torch cpu", "fastdl cuda"), threads=(1, 2), batches=(1, 16)
    )


def hostile():
    """Whatever may hold text holds something that wants to be markup."""
    found = network_record("lenet", participants=("fastdl cython", "torch cpu"))
    found.command, found.absent, found.created = [HOSTILE, "--all"], {HOSTILE: HOSTILE}, HOSTILE
    found.machine = dataclasses.replace(
        MACHINE, cpu=HOSTILE, system=HOSTILE, versions={HOSTILE: HOSTILE}, gpu={"name": HOSTILE, HOSTILE: [HOSTILE]}
    )
    found.measurements = [
        dataclasses.replace(
            m,
            case=m.case.replace("lenet", HOSTILE.replace("/", "")).replace("conv1", HOSTILE),
            participant=m.participant.replace("torch", HOSTILE),
            kernels=[HOSTILE],
            settings=m.settings | {"network": HOSTILE.replace("/", ""), "layers": [HOSTILE, HOSTILE]},
        )
        for m in found.measurements
    ]
    return found


PAGES = {"lenet": lambda: network_record("lenet"), "everybody": everybody, "hostile": hostile}


@functools.cache
def rendered(name):
    """One of these pages."""
    return page.render(PAGES[name]())


@pytest.fixture(scope="module", params=PAGES)
def tree(request):
    """Of each of them."""
    return Tree(rendered(request.param))


@pytest.fixture
def bare(monkeypatch):
    """The tree of a page without pictures, which take most of the time."""
    monkeypatch.setattr(page, "pictures", lambda *_: [])
    return lambda found: Tree(page.render(found))


# ---- as text --------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_what_refers_to_them_finds_them(tree):
    ids = [attributes["id"] for _, attributes, _ in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    wanted = set()
    for _, attributes, _ in tree.elements:
        wanted |= set(attributes.get("aria-labelledby", "").split())
        wanted |= {attributes["href"][1:]} if attributes.get("href", "").startswith("#") else set()
        wanted |= {found for value in attributes.values() for found in re.findall(r"url\(#([^)]*)\)", value or "")}
    assert wanted and wanted <= set(ids)


def test_the_outline(tree):
    assert tree.elements[0][:2] == ["html", {"lang": "en"}]
    assert [len(tree.all(tag)) for tag in ("h1", "title", "header", "nav", "main", "footer")] == [1] * 6
    levels = [int(tag[1]) for tag, _, _ in tree.elements if re.fullmatch(r"h\d", tag)]
    assert levels[:2] == [1, 2] and all(b <= a + 1 for a, b in itertools.pairwise(levels))
    links = [attributes["href"] for attributes, _ in tree.all("a")]
    assert links[0] == "#content" and links[1:] == [f"#{a['id']}" for a, _ in tree.all("section")]


def test_tables_have_captions_scopes_and_as_many_cells_in_each_row(tree):
    tables, section = [], ""
    for tag, attributes, text in tree.elements:
        if tag == "caption":
            tables.append([])
            assert text
        elif tag in ("thead", "tbody", "tfoot"):
            section = tag
        elif tag == "tr":
            tables[-1].append((section, []))
        elif tag in ("th", "td"):
            tables[-1][-1][1].append((tag, attributes.get("scope"), text))
    assert len(tables) == len(tree.all("table")) > 3
    for (first, headers), *rows in tables:
        assert first == "thead" and all(cell[:2] == ("th", "col") and cell[2] for cell in headers)
        assert rows and len(rows) == len([1 for section, _ in rows if section != "thead"])
        for _, cells in rows:
            assert len(cells) == len(headers)
            assert [(scope, bool(text)) for tag, scope, text in cells if tag == "th"] == [("row", True)]


def test_what_scrolls_can_be_reached_and_has_a_name(tree):
    regions = [attributes for attributes, _ in tree.all("div")]
    assert len(regions) == len(tree.all("table")) + len(tree.all("svg"))
    for attributes in regions:
        assert (attributes["role"], attributes["tabindex"]) == ("region", "0")
        assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def test_pictures_have_a_sentence_in_their_place(tree):
    assert len(tree.all("svg")) == len(tree.all("figcaption")) == len(tree.all("figure")) >= 3
    texts = {attributes.get("id"): text for attributes, text in tree.all("span")}
    for attributes, _ in tree.all("svg"):
        assert attributes["role"] == "img" and len(texts[attributes["aria-labelledby"]]) > 40
        assert "width" not in attributes and attributes["viewbox"].startswith("0 0 ")


def test_nothing_else_is_loaded_and_nothing_else_runs(tree):
    ((_, script),) = tree.all("script")
    (policy,) = (a["content"] for a, _ in tree.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
    for tag, attributes, _ in tree.elements:
        assert tag not in ("img", "iframe", "object", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
    ((_, styles),) = tree.all("style")
    assert "url(" not in styles and "@import" not in styles


def test_what_a_record_says_is_text():
    found = Tree(rendered("hostile"))
    assert len(found.all("script")) == 1 and found.all("img") == []
    shown = "".join(text for _, text in found.all("main"))
    assert shown.count(HOSTILE) > 20
    (heading,) = (text for _, text in found.all("h1"))
    assert heading == HOSTILE.replace("/", "") + ", layer by layer"


def test_colours_have_enough_contrast():
    styles = html.resource("page.css")
    schemes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{([^}]*)\}", styles)
    ]
    assert len(schemes) == 3  # light, dark, paper
    for colors in schemes:
        for ink in ("ink", "muted", "accent"):
            for behind in ("paper", "band"):
                assert contrast(colors[ink], colors[behind]) >= 4.5, (ink, behind, colors)
        for behind in {"share", "warning"} & set(colors):
            assert contrast(colors["ink"], colors[behind]) >= 4.5


def rows_of(tree, caption):
    """The table's body: a list of [(text, data-value)] for each row."""
    found, reading = [], False
    for tag, attributes, text in tree.elements:
        if tag == "caption":
            reading = text == caption
        elif reading and tag == "tr":
            found.append([])
        elif reading and tag in ("th", "td"):
            found[-1].append((text, attributes.get("data-value")))
    return found


def test_the_summary_says_what_was_measured():
    found, tree = everybody(), Tree(rendered("everybody"))
    setting = breakdown.settings(found)[-1]
    ours, torch, cuda = breakdown.columns(found, setting, "forward")
    head, *body = rows_of(tree, "Whole passes")
    assert [text for text, _ in head][:9] == [
        "participant", "network", "batch", "dtype", "threads", "forward, ms", "spread", "by fastdl cython", "images/s",
    ]  # fmt: skip
    assert len(body) == 2 * (2 + 3)
    rows = {tuple(text for text, _ in row[:5]): row for row in body}
    row = rows["torch cpu", "lenet", "16", "float32", "2"]
    assert row[5] == (breakdown.milliseconds(torch.seconds), str(torch.seconds))
    assert float(row[7][1]) == pytest.approx(torch.seconds / ours.seconds)
    assert float(row[8][1]) == pytest.approx(16 / torch.seconds)
    row = rows["fastdl cuda", "lenet", "16", "float32", "GPU"]
    assert float(row[7][1]) == pytest.approx(cuda.seconds / ours.seconds)
    assert "NVIDIA H100" in tree.all("p")[0][1]


def test_the_rows_of_a_participant():
    found, tree = everybody(), Tree(rendered("everybody"))
    (ours, *_) = breakdown.columns(found, breakdown.settings(found)[-1], "backward")
    head, *body, together, whole = rows_of(tree, "fastdl cython, 2 threads, backward pass: lenet, batch 16, float32")
    assert len(body) == len(ours.rows) == 5
    for line, m in zip(body, ours.rows, strict=True):
        values = {name: cell for (name, _), cell in zip(head, line, strict=True)}
        figures = m.figures(found.peaks)
        assert values["row"][1] == breakdown.row_name(m) and values["row"][0].startswith(breakdown.row_name(m))
        assert float(values["time, ms"][1]) == m.median
        assert float(values["spread"][1]) == m.summary.spread
        assert float(values["share"][1]) == pytest.approx(m.median / ours.sum)
        assert float(values["GFLOP/s"][1]) == figures["gflops"] and float(values["GB/s"][1]) == figures["gbps"]
        assert float(values["of the roofline"][1]) == pytest.approx(breakdown.roofline(m, found.peaks) / 100)
        assert values["parameters"][1] == str(m.settings["parameter_bytes"])
        assert values["kernel"][0] == f"cython/{m.op}"
    assert "conv1 + relu1 + pool1" in body[0][1][0]
    assert (together[3][1], whole[3][1]) == (str(ours.sum), str(ours.whole.median))


def test_what_is_not_known_is_left_empty(bare):
    found = network_record("lenet", participants=("torch cpu",), directions=("forward",))
    found.peaks = None
    found.measurements = [dataclasses.replace(m, flop=None, bytes=None, kernels=[]) for m in found.measurements]
    tree = bare(found)
    head, first, *_ = rows_of(tree, "torch cpu, 2 threads, forward pass: lenet, batch 16, float32")
    empty = [name for (name, _), cell in zip(head, first, strict=True) if cell == ("", None)]
    assert empty == ["GFLOP", "moved", "GFLOP/s", "GB/s", "of the roofline", "workspace", "kernel"]


def test_warnings(bare):
    def warnings(found):
        return [text for attributes, text in bare(found).all("p") if attributes.get("class") == "warning"]

    found = network_record("lenet")
    assert warnings(found) == []
    found.complete = False
    found.measurements[0] = dataclasses.replace(found.measurements[0], check=Check(2.0, 1.0, "float64"))
    first, second = warnings(found)
    assert "interrupted" in first and second.startswith("1 result of 30 was outside its tolerance")


def test_a_page_is_written_whole_or_not_at_all(tmp_path, bare):
    path, found = tmp_path / "a.html", network_record("lenet")
    page.save(found, path)
    before = path.read_text()
    assert before == page.render(found)
    found.measurements = []
    with pytest.raises(ValueError, match="no measurement of suite 'network'"):
        page.save(found, path)
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["a.html"]


# ---- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> page."""
    folder = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        (folder / f"{name}.html").write_text(rendered(name))
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 1280])
def test_it_shows_without_errors_requests_or_sideways_scrolling(chromium, files, name, width):
    with chromium.open(files[name], width=width, dark=width == 360) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("document.querySelectorAll('th button').length") > 20
        assert shown.events("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled") == []
        requests = [event["request"]["url"] for event in shown.events("Network.requestWillBeSent")]
        assert requests == [files[name].as_uri()]


#: The state of the first table with rows of the network: names in their order, and each header's aria-sort.
STATE = """(() => { const table = document.querySelector("#rows-0-forward-0-caption").closest("table");
  return [[...table.tBodies[0].rows].map(row => row.cells[1].dataset.value),
          [...table.tHead.rows[0].cells].map(cell => cell.getAttribute("aria-sort"))]; })()"""


def sorted_by(column, value):
    return [value if number == column else None for number in range(15)]


def test_sorting_by_mouse_and_by_keyboard(chromium, files):
    found = network_record("lenet")
    (ours, *_) = breakdown.columns(found, breakdown.settings(found)[0], "forward")
    names = [breakdown.row_name(m) for m in ours.rows]
    by_time = [breakdown.row_name(m) for m in sorted(ours.rows, key=lambda m: m.median)]
    assert names != by_time != names[::-1]
    with chromium.open(files["lenet"]) as shown:
        assert shown.evaluate(STATE) == [names, sorted_by(0, "ascending")]
        button = "[aria-labelledby='rows-0-forward-0-caption'] th:nth-child({}) button"
        shown.click(button.format(4))
        assert shown.evaluate(STATE) == [by_time, sorted_by(3, "ascending")]
        shown.click(button.format(4))
        assert shown.evaluate(STATE) == [by_time[::-1], sorted_by(3, "descending")]
        shown.press("Tab")  # from the pressed button to the next
        assert shown.evaluate("document.activeElement.textContent") == "spread"
        shown.press("Tab")
        shown.press("Enter", "\r")
        assert shown.evaluate(STATE) == [by_time, sorted_by(5, "ascending")]  # by the share
        shown.press(" ", " ")
        assert shown.evaluate(STATE) == [by_time[::-1], sorted_by(5, "descending")]
        shown.click(button.format(2))
        assert shown.evaluate(STATE) == [sorted(names), sorted_by(1, "ascending")]
        # The totals stay where they are, and the other tables as they were.
        assert (
            shown.evaluate("document.querySelector('#rows-0-forward-0-caption').closest('table').tFoot.rows.length")
            == 2
        )
        other = STATE.replace("forward-0", "backward-0")
        assert shown.evaluate(other) == [names, sorted_by(0, "ascending")]


def test_cells_are_compared_as_numbers_and_empty_ones_come_last(chromium, files):
    with chromium.open(files["lenet"]) as shown:
        values = "[undefined, '10', '9', '-1e-3', undefined, '2.5']"
        for sign in (1, -1):
            order = shown.evaluate(f"{values}.map(v => [v]).sort((a, b) => compare(a[0], b[0], {sign})).map(v => v[0])")
            numbers = ["-1e-3", "2.5", "9", "10"]
            assert [v for v in order if v] == numbers[::sign] and not any(order[4:])
        assert shown.evaluate("['conv10', 'conv9', 'conv2'].sort((a, b) => compare(a, b, 1))") == [
            "conv2",
            "conv9",
            "conv10",
        ]


def test_the_skip_link_and_the_focus_can_be_seen(chromium, files):
    with chromium.open(files["lenet"]) as shown:
        hidden = "document.querySelector('.skip').getBoundingClientRect().right <= 0"
        assert shown.evaluate(hidden)
        shown.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip" and not shown.evaluate(hidden)
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        shown.press("Enter", "\r")
        assert shown.evaluate("document.activeElement.id") == "content"
        shown.press("Tab")
        assert shown.evaluate("document.activeElement.getAttribute('role')") == "region"
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_light_and_dark(chromium, files):
    seen = {}
    for dark in (False, True):
        with chromium.open(files["lenet"], dark=dark) as shown:
            picture = "document.querySelector('figure svg')"
            seen[dark] = [
                shown.evaluate("getComputedStyle(document.body).backgroundColor"),
                shown.evaluate(f"getComputedStyle({picture}.querySelector('#patch_1 path, [id$=patch_1] path')).fill"),
                shown.evaluate(f"getComputedStyle({picture}.querySelector('[id$=text_1] g')).fill"),
            ]
            assert seen[dark][0] == seen[dark][1]  # the picture lies on the page's own background
    assert seen[False][0] == "rgb(254, 254, 254)" and seen[False][2] == "rgb(29, 33, 38)"
    assert seen[True][0] == "rgb(20, 23, 26)" and seen[True][2] == "rgb(231, 234, 238)"


def test_it_can_be_read_without_scripts(chromium, files):
    with chromium.open(files["lenet"], script=False) as shown:
        html = shown.call("DOM.getDocument", depth=1)["root"]["nodeId"]
        assert shown.call("DOM.querySelectorAll", nodeId=html, selector="button")["nodeIds"] == []
        assert len(shown.call("DOM.querySelectorAll", nodeId=html, selector="tbody tr")["nodeIds"]) > 30


def test_it_prints_with_everything_unfolded(chromium, files):
    with chromium.open(files["everybody"]) as shown:
        closed = "[...document.querySelectorAll('details')].filter(d => !d.open).length"
        assert shown.evaluate(closed) == 3
        assert shown.pdf().startswith(b"%PDF-")
        assert shown.evaluate(closed) == 0


def test_what_a_screen_reader_is_told(chromium, files):
    with chromium.open(files["lenet"]) as shown:
        nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"] and "role" in n]
    roles = [role for role, _ in told]
    for role in ("banner", "main", "contentinfo", "heading", "table", "columnheader", "rowheader", "button"):
        assert role in roles, role
    for role, name in told:
        if role in ("table", "region", "image", "img", "navigation", "button", "columnheader", "rowheader", "link"):
            assert name.strip(), role
    images = [name for role, name in told if role in ("image", "img")]
    assert len(images) == 3 and images[0].startswith("Forward pass of lenet: convolution takes ")
    assert json.dumps(told).count('["StaticText", "conv1"]') > 5
