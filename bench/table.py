"""Tables of figures: printed as Markdown and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from diffusion.storage import replacing


@dataclass
class Table:
    """A table with a title, column names, rows and notes; a cell is text, a number or None."""

    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the table as Markdown; columns without text are aligned to the right."""
        text = [any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        body = tabulate(
            [[_text(cell) for cell in row] for row in self.rows],
            headers=self.columns,
            tablefmt="pipe",
            colalign=["left" if column else "right" for column in text],
            disable_numparse=True,
            preserve_whitespace=True,
        )
        return "\n\n".join([self.title, body, *self.notes])


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.1f}"
    return str(cell)


def show(table: Table) -> Table:
    """Print a table as soon as it is measured, and return it."""
    print(table, end="\n\n", flush=True)
    return table


def write_json(path: str, tables: Sequence[Table]) -> None:
    """Write the unrounded figures of tables; an interrupted write leaves the file as it was."""
    with replacing(path, "w") as file:
        json.dump([asdict(table) for table in tables], file, indent=1)
