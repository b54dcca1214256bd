"""Tables: printed as Markdown, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from diffusion.storage import replacing


@dataclass
class Table:
    """A title, column names and rows; a cell is text or a number."""

    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Lay the table out in Markdown, numbers to the right."""
        cells = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        numeric = [
            all(not isinstance(row[i], str) for row in self.rows) for i in range(len(widths))
        ]

        def line(row: Sequence[str]) -> str:
            padded = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            )
            return f"| {' | '.join(padded)} |"

        rule = "".join(
            f"|{'-' * (width + 1)}{':' if right else '-'}"
            for width, right in zip(widths, numeric, strict=True)
        )
        body = [line(self.columns), rule + "|", *map(line, cells)]
        return "\n".join([f"{self.title}", "", *body, *(f"\n{note}" for note in self.notes)])


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.1f}"
    return str(cell)


def write_json(path: str, tables: Sequence[Table]) -> None:
    """Write the figures of tables, unrounded, whole or not at all."""
    with replacing(path, "w") as file:
        json.dump([asdict(table) for table in tables], file, indent=1)
