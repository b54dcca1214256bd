"""The directive that shows tables of benchmarks, and the results that the pages show with it."""

from __future__ import annotations

import json
import re
import sys

import pytest

from diffusion.errors import DiffusionError

from .test_pages import DOCS, PAGES
from .test_site import extension

pytest.importorskip("tabulate")

WRITTEN = {
    "command": "python -m bench live --items 10",
    "date": "2026-01-31",
    "version": "1.2.3",
    "machine": {"processor": "a processor", "threads": 2, "memory": 16, "load": 0.1},
    "tables": [
        {
            "title": "**Time**: of 10 items",
            "columns": ["step", "s"],
            "rows": [["add", 0.12345], ["remove", None]],
            "notes": ["A note."],
        },
        {"title": "**Files**", "columns": ["MB"], "rows": [[7]], "notes": []},
    ],
}

HEAD = """\
```
python -m bench live --items 10
```

Measured on 2026-01-31 with version 1.2.3; a processor, 2 threads, 16 GiB of memory.
"""

TIME = """
**Time**: of 10 items

| step   |     s |
|:-------|------:|
| add    | 0.123 |
| remove |       |

A note.
"""

FILES = """
**Files**

|   MB |
|-----:|
|    7 |
"""


@pytest.fixture
def extended(tmp_path, monkeypatch):
    module = extension("benchmarks")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / "live.json").write_text(json.dumps(WRITTEN), "utf-8")
    return module


@pytest.mark.parametrize(
    ("titles", "continued", "text"),
    [
        ([], False, HEAD + TIME + FILES),
        ([], True, TIME + FILES),
        (["Files"], False, HEAD + FILES),
        (["**Files**", "Time: of"], True, FILES + TIME),
    ],
)
def test_the_text_of_a_page(extended, titles, continued, text):
    measured = extended.read_json(extended.RESULTS / "live.json")
    assert extended.markdown(measured, titles, continued) == text.lstrip()


def test_rows_are_chosen_by_their_first_cells(extended):
    measured = extended.read_json(extended.RESULTS / "live.json")
    text = extended.markdown(measured, ["Time"], True, ["rem"])
    assert "| remove |" in text
    assert "add" not in text
    rows = extended.markdown(measured, ["Time"], True, ["remove", "add"])
    assert rows.index("| remove") < rows.index("| add")
    with pytest.raises(DiffusionError, match=r"no row of .* begins with 'move'"):
        extended.markdown(measured, ["Time"], True, ["move"])


def test_a_note_of_several_tables_stands_below_the_last(extended):
    measured = extended.read_json(extended.RESULTS / "live.json")
    measured.tables[1].notes = ["Another note.", "A note."]
    text = extended.markdown(measured, [])
    assert text.count("A note.") == 1
    assert text.endswith("Another note.\n\nA note.\n")
    assert extended.markdown(measured, ["Time"]).endswith("A note.\n")


def test_names_are_separated_by_semicolons(extended):
    assert extended.parts_of(" Files; Time: of ;") == ["Files", "Time: of"]
    assert extended.parts_of("") == []


def test_a_title_of_no_table_is_an_error(extended):
    measured = extended.read_json(extended.RESULTS / "live.json")
    message = r"no table of `python -m bench live --items 10` begins with 'Speed'"
    with pytest.raises(DiffusionError, match=message):
        extended.markdown(measured, ["Files", "Speed"])


def built(folder, page):
    """Build a site of one page; return its text and what the build warns of."""
    sphinx = pytest.importorskip("sphinx.testing.util")
    pytest.importorskip("myst_parser")
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser', 'benchmarks']\n")
    (source / "index.md").write_text(page)
    app = sphinx.SphinxTestApp("pseudoxml", srcdir=source)
    app.build()
    text = (source / "_build" / "pseudoxml" / "index.pseudoxml").read_text("utf-8")
    warnings = app.warning.getvalue()
    app.cleanup()
    return text, warnings


def test_a_site_is_built(extended, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks", extended)
    page = "# Title\n\n## Section\n\n```{benchmark} live\n:tables: Time; Files\n```\n\nText.\n"
    page += "\n```{benchmark} live\n:continued:\n:tables: Files\n```\n"
    text, warnings = built(tmp_path, page)
    assert not warnings
    assert text.count("<table ") == 3
    assert text.count("Measured on 2026-01-31") == 1
    assert "<strong>" in text
    assert text.count("<literal_block") == 1


def test_a_site_without_the_result_warns(extended, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks", extended)
    _, warnings = built(tmp_path, "# Title\n\n```{benchmark} speed\n```\n")
    assert re.search(r"index\.md:3: .*speed\.json: No such file", warnings)


def directives():
    """Return the name and the options of every directive of the pages, but not of quoted ones."""
    for page in PAGES:
        text = re.sub(r"^````.*?^````", "", page.read_text("utf-8"), flags=re.M | re.S)
        yield from re.findall(r"^```\{benchmark\} (\w+)\n(.*?)```", text, re.M | re.S)


RESULTS = sorted((DOCS / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_results_are_shown_in_general_terms(path):
    from bench.__main__ import parser

    measured = extension("benchmarks").read_json(path)
    assert measured.command.startswith("python -m bench ")
    parser().parse_args(measured.command.split()[3:])
    # No path of the machine on which they were measured.
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text("utf-8"))
    assert path.stem in {name for name, _ in directives()}


def test_the_directives_name_tables_that_exist():
    module = extension("benchmarks")
    for name, options in directives():
        measured = module.read_json(module.RESULTS / f"{name}.json")
        given = dict(re.findall(r":(\w+): (.*)", options))
        titles, rows = (module.parts_of(given.get(option, "")) for option in ("tables", "rows"))
        module.markdown(measured, titles, True, rows)
