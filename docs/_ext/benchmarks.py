"""Directive `benchmark`: tables of docs/benchmarks/results/NAME.json, as `bench` wrote them.

Its argument is NAME. Above the tables stand the command that prints them, the day, the version and
the machine. Options:

- `tables`: titles or beginnings of titles, with a semicolon between them; without it, all tables;
- `rows`: first cells or beginnings of them, likewise; without it, all rows;
- `continued`: the command and what follows it stand on this page already.

A name without a file, a file that is no measurement, a title of no table and a cell of no row are
errors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "results"

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.table import Measurement, Table, read_json  # noqa: E402
from diffusion.errors import DiffusionError  # noqa: E402


def parts_of(option: str) -> list[str]:
    """Return what stands between the semicolons of an option."""
    return [part for text in option.split(";") if (part := text.strip())]


def chosen(measured: Measurement, titles: list[str]) -> list[Table]:
    """Return the tables whose titles begin so, in the order of `titles`; all if there are none.

    Asterisks, which make a part of a title bold, do not count.
    """
    if not titles:
        return measured.tables
    found = []
    for title in titles:
        tables = [t for t in measured.tables if _bare(t.title).startswith(_bare(title))]
        if not tables:
            raise DiffusionError(f"no table of `{measured.command}` begins with {title!r}")
        found += tables
    return found


def only(table: Table, rows: Sequence[str]) -> Table:
    """Return a table with the rows whose first cells begin so, in the order of `rows`."""
    found = []
    for name in rows:
        named = [row for row in table.rows if _bare(str(row[0])).startswith(name)]
        if not named:
            raise DiffusionError(f"no row of {table.title!r} begins with {name!r}")
        found += named
    return replace(table, rows=found) if rows else table


def _bare(title: str) -> str:
    return title.replace("*", "")


def head(measured: Measurement) -> str:
    """Return the command, the day, the version and the machine as Markdown."""
    return (
        f"```\n{measured.command}\n```\n\n"
        f"Measured on {measured.date} with version {measured.version}; {measured.machine}."
    )


def markdown(
    measured: Measurement,
    titles: list[str],
    continued: bool = False,
    rows: Sequence[str] = (),
) -> str:
    """Return what the directive stands for."""
    tables = [only(table, rows) for table in chosen(measured, titles)]
    # A note of several tables is that of the last of them.
    seen: set[str] = set()
    parts = []
    for table in reversed(tables):
        parts.append(str(replace(table, notes=[note for note in table.notes if note not in seen])))
        seen.update(table.notes)
    parts.reverse()
    return "\n\n".join(parts if continued else [head(measured), *parts]) + "\n"


class Benchmark(Directive):
    """Show tables of a benchmark."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "tables": directives.unchanged_required,
        "rows": directives.unchanged_required,
        "continued": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the head and the tables, parsed as a part of the page."""
        path = RESULTS / f"{self.arguments[0]}.json"
        self.state.document.settings.env.note_dependency(str(path))
        titles, rows = (parts_of(self.options.get(name, "")) for name in ("tables", "rows"))
        try:
            text = markdown(read_json(path), titles, "continued" in self.options, rows)
        except DiffusionError as error:
            # The path within the repository, so that the message is the same everywhere.
            raise self.error(str(error).replace(f"{ROOT}/", "")) from error
        parsed = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), str(path)), 0, parsed)
        return parsed.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
