"""The relative links of the documentation lead to files and headings. Others are not followed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_pages import DOCS, PAGES, ROOT

SOURCES = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
]
# Pages of the site that are made of code or of docstrings, and what they are made of.
MADE = {DOCS / "concepts": DOCS / "_concepts", DOCS / "examples": ROOT / "examples"}

FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[^\n]*$", re.M | re.S)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(<?([^()\s>]+)>?\)")
REFERENCE = re.compile(r"^\[[^\]]+\]: *(\S+)", re.M)


def prose_of(text: str) -> str:
    """Return a page without its code and comments."""
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", prose_with_code(text), flags=re.S)


def prose_with_code(text: str) -> str:
    """Return a page without its fences and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.S)


def links_of(text: str) -> list[str]:
    """Return the targets of links and images that are relative."""
    prose = prose_of(text)
    found = LINK.findall(prose) + REFERENCE.findall(prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub and the site make them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose_with_code(text), re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number, anchor = 0, slug
        while anchor in anchors:
            number += 1
            anchor = f"{slug}-{number}"
        anchors.add(anchor)
    return anchors


def source_of(path: Path, of_site: bool) -> Path:
    """Return the file that a link leads to, or of which a build makes it."""
    for made, folder in MADE.items():
        if of_site and path.parent == made and path.suffix == ".rst":
            header = path.stem == "index"
            return folder / ("GALLERY_HEADER.txt" if header else f"{path.stem}.py")
    return path


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    found = []
    for target in links_of(page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        source = source_of(path, page.is_relative_to(DOCS))
        known = source.exists() and ROOT in (source, *source.parents)
        if known and anchor:
            known = source.suffix == ".md" and anchor in anchors_of(source.read_text("utf-8"))
        if not known:
            found.append(target)
    return found


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_links_and_anchors_are_found(tmp_path):
    text = (
        "# A `b`, c & d\n[one\nline](x.md#y) ![picture](z.png) [outer](https://a.org) `[no](no)`\n"
        "```\n# no heading\n[no](no)\n```\n<!-- [no](no) -->\n## A b, c & d\n### [Link](l.md): ä\n"
        "[with `code`](w.md)\n[r]: r.md\n"
    )
    assert links_of(text) == ["x.md#y", "z.png", "l.md", "w.md", "r.md"]
    assert anchors_of(text) == {"a-b-c--d", "a-b-c--d-1", "link-ä"}


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# Here\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md) [b](there.md#here) [c](there.md#gone) [d](gone.md) [e](#no)\n")
    assert broken(page) == ["there.md#gone", "gone.md", "#no"]
    assert len(SOURCES) > 30
    assert sum(len(links_of(source.read_text("utf-8"))) for source in SOURCES) > 100
