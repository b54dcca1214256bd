"""Directive `benchmark`: tables of docs/benchmarks/results/NAME.json, as `bench` wrote them.

Its argument is NAME. Above the tables stand the command that prints them, the day, the version and
the machine. Options:

- `tables`: titles or beginnings of titles, with a semicolon between them; without it, all tables;
- `continued`: the command and what follows it stand on this page already.

A name without a file, a file that is no measurement and a title of no table are errors.
"""

from __future__ import annotations

import sys
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


def titles_of(option: str) -> list[str]:
    """Return the beginnings of titles of the option `tables`."""
    return [title for part in option.split(";") if (title := part.strip())]


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


def _bare(title: str) -> str:
    return title.replace("*", "")


def head(measured: Measurement) -> str:
    """Return the command, the day, the version and the machine as Markdown."""
    return (
        f"```\n{measured.command}\n```\n\n"
        f"Measured on {measured.date} with version {measured.version}; {measured.machine}."
    )


def markdown(measured: Measurement, titles: list[str], continued: bool = False) -> str:
    """Return what the directive stands for."""
    tables = list(map(str, chosen(measured, titles)))
    return "\n\n".join(tables if continued else [head(measured), *tables]) + "\n"


class Benchmark(Directive):
    """Show tables of a benchmark."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "tables": directives.unchanged_required,
        "continued": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the head and the tables, parsed as a part of the page."""
        path = RESULTS / f"{self.arguments[0]}.json"
        self.state.document.settings.env.note_dependency(str(path))
        titles = titles_of(self.options.get("tables", ""))
        try:
            text = markdown(read_json(path), titles, "continued" in self.options)
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
