"""Pages that need nothing else, no network, no font, no other file: their elements, tables, pictures, style and script.

A page is built as a tree of elements, so that whatever a record says is text and never markup. ``page.css`` and
``page.js`` go into it as they are; a content security policy lets nothing else run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .breakdown import significant
from .pictures import Picture, svg
from .pictures._style import INK, PAPER
from .record import Machine

Content = str | Element | None


def document(title: str, lead: str, sections: Sequence[Element], version: str) -> str:
    """A whole page as text: a heading, a sentence below it, links to the sections, and these."""
    links = [tag("li", tag("a", str(s[0].text), href=f"#{s.get('id')}")) for s in sections]
    root = tag(
        "html",
        _head(title),
        tag(
            "body",
            tag("a", "Skip to the content", class_="skip", href="#content"),
            tag("header", tag("h1", title), tag("p", lead, class_="lead")),
            tag("nav", tag("ul", *links), aria_label="Contents"),
            tag("main", *sections, id="content", tabindex="-1"),
            tag("footer", tag("p", f"Made by fastdl {version}")),
            tag("script", resource("page.js")),
        ),
        lang="en",
    )
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def tag(element: str, /, *content: Content, **attributes: str) -> Element:
    """An element; in names of attributes "_" stands for "-", at the end for nothing."""
    found = Element(element, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            found.append(part)
        elif part and len(found):
            found[-1].tail = (found[-1].tail or "") + part
        elif part:
            found.text = (found.text or "") + part
    return found


def section(name: str, title: str, content: Iterable[Content]) -> Element:
    """With a heading, to which ``document`` makes a link."""
    return tag("section", tag("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title")


def resource(name: str) -> str:
    """A file beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _head(title: str) -> Element:
    digest = base64.b64encode(hashlib.sha256(resource("page.js").encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),  # or the browser asks for /favicon.ico
        tag("title", title),
        tag("style", resource("page.css")),
    )


def entries(entries: Mapping[str, Content]) -> Element:
    """Terms and what they are; those without content are left out."""
    found = tag("dl")
    for term, content in entries.items():
        if content is not None and content != "":
            found.extend([tag("dt", term), tag("dd", content)])
    return found


class Cell(NamedTuple):
    """Of a table; ``value`` is what it is sorted by, None for an empty one."""

    text: str
    value: float | str | None
    below: str = ""
    part: float | None = None  # of a bar behind the text

    def element(self, words: bool, heading: bool) -> Element:
        """As <td>, or as the <th> of its row."""
        attributes = {} if self.value is None else {"data_value": str(self.value)}
        if words:
            attributes["class_"] = "words"
        if self.part is not None:
            attributes |= {"class_": "share", "style": f"--part: {100 * self.part:.1f}%"}
        below = tag("span", self.below, class_="fused") if self.below else None
        if heading:
            return tag("th", self.text, below, scope="row", **attributes)
        return tag("td", self.text, below, **attributes)


def number(value: float | None, text: Callable[[float], str] = significant) -> Cell:
    """Empty for None."""
    return Cell("", None) if value is None else Cell(text(value), value)


def table(
    name: str,
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    totals: Iterable[Sequence[Cell]] = (),
    *,
    words: Iterable[int] = (),
    heading: int = 0,
    ordered: bool = False,
) -> Element:
    """In a region that scrolls. ``words``: columns of text; ``heading``: the one that names the row; ``ordered``: rows
    come in the order of the first column."""
    left = {*words, heading}
    head = [
        tag("th", text, scope="col", **({"class_": "words"} if n in left else {})) for n, text in enumerate(headers)
    ]
    if ordered:
        head[0].set("aria-sort", "ascending")

    def lines(cells: Iterable[Sequence[Cell]]) -> Iterator[Element]:
        for row in cells:
            yield tag("tr", *(cell.element(n in left, n == heading) for n, cell in enumerate(row)))

    foot = list(lines(totals))
    table = tag(
        "table",
        tag("caption", caption, id=f"{name}-caption"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *lines(rows)),
        tag("tfoot", *foot) if foot else None,
        class_="sortable",
    )
    return tag("div", table, class_="scroll", role="region", tabindex="0", aria_labelledby=f"{name}-caption")


def figure(name: str, picture: Picture) -> Element:
    """With the picture's own colours of text and background replaced by those of the page."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", svg(picture.figure))
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href":
                value = value.replace("#", f"#{name}-", 1)
            value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor").replace(PAPER, "var(--paper)")
            element.set(key, value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-text", "id": name}
    caption = tag("figcaption", picture.caption + " ", tag("span", picture.text, id=f"{name}-text"))
    frame = tag("div", root, class_="picture", role="region", tabindex="0", aria_label=f"Picture: {picture.name}")
    return tag("figure", frame, caption)


def machine(m: Machine) -> Element:
    """What is known of it."""
    quota = "no limit" if m.cgroup_cpus is None else f"{m.cgroup_cpus:g} CPUs"
    return entries(
        {
            "CPU": f"{m.cpu} ({m.architecture})",
            "features": ", ".join(m.features),
            "CPUs": f"{m.cpus} in the machine, {m.affinity} for this process; limit of the control group: {quota}",
            "caches": ", ".join(f"{name} {nbytes // 1024:,} KiB" for name, nbytes in m.caches.items()),
            "memory": None if m.memory is None else f"{m.memory / 2**30:.1f} GiB",
            "governor": m.governor or "unknown",
            "load before": ", ".join(f"{load:.2f}" for load in m.load) + " (1, 5, 15 minutes)" if m.load else "unknown",
            "GPU": "none was used" if m.gpu is None else ", ".join(f"{key} {value}" for key, value in m.gpu.items()),
            "system": m.system,
            "versions": ", ".join(f"{name} {version}" for name, version in m.versions.items()),
            "build": ", ".join(f"{name} {value}" for name, value in (m.build or {}).items()) or "no compiled kernels",
            "revision": m.revision,
        }
    )
