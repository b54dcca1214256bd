"""Of README.md: its length, what its example and its picture say, and its figures."""

from __future__ import annotations

import re
import runpy

import pytest

import diffusion

from .test_pages import README, ROOT, blocks_of, run

TEXT = README.read_text("utf-8")


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


def test_the_example_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(README, blocks_of(TEXT))
    shown = re.search(r"^```text\n(.*?)^```", TEXT, re.M | re.S)
    assert capsys.readouterr().out == shown[1]


def test_the_picture_shows_what_is_said(tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    script = ROOT / "docs" / "pictures" / "before_after.py"
    caption = runpy.run_path(str(script))["draw"](tmp_path / "picture.png")
    assert caption in re.sub(r"\s+", " ", TEXT)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert script.with_suffix(".png").stat().st_size < 200_000


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables."""
    rows = [line for line in text.splitlines() if line.startswith("|") and "--" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def test_the_figures_are_those_of_the_survey():
    table = pytest.importorskip("bench.table")
    results = ROOT / "docs" / "benchmarks" / "results"
    measured = table.read_json(results / "quality.json")
    (found,) = [each for each in measured.tables if each.title.startswith("**Survey**")]
    survey = {row[0]: row for row in rows_of(str(found))}
    (head, *rows) = rows_of(TEXT)
    assert head[3:] == ["plain search", "published", "defaults", "lose, %"]
    assert len(rows) == 6
    for name, _, *figures in rows:
        _, items, _, cosine, published, _, defaults, lose, _ = survey[name]
        assert figures == [items, cosine, published, defaults, lose]


def test_the_times_are_those_of_the_benchmark():
    table = pytest.importorskip("bench.table")
    measured = table.read_json(ROOT / "docs" / "benchmarks" / "results" / "speed.json")
    (found,) = [each for each in measured.tables if each.title.startswith("**Whole call**")]
    times = {items: time for items, call, time, *_ in rows_of(str(found)) if "()" in call}
    few, many = (float(times[items]) for items in ("10,000", "1,000,000"))
    said = f"takes {few:.1f} ms with 10,000 items and {many:.1f} ms with a million"
    assert said in re.sub(r"\s+", " ", TEXT)


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    version = re.search(r"^version: (.+)$", citation, re.M)[1]
    date = re.search(r'^date-released: "(.+)"$', citation, re.M)[1]
    assert version == diffusion.__version__
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", changes, re.M)[:2] == ["Unreleased", f"{version} - {date}"]
