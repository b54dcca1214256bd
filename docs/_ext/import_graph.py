"""The directive `import-graph PACKAGE`: which part of a package imports which, read from the code.

A row per floor, the lowest at the bottom; an arrow for each part that another one imports. What a
part's arrow reaches is also listed as text below the picture.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
# The size of a box, and the room for one with its gaps, in the units of the picture.
WIDTH, HEIGHT, COLUMN, ROW = 118, 30, 134, 78
# Most boxes of a row.
MOST = 6


def modules_of(package: str) -> dict[str, Path]:
    """Return the files of a package by the names of their modules."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """Return the absolute names that the code of a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            parent = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{parent}.{alias.name}" for alias in node.names}
    return names


def part_of(name: str, package: str) -> str | None:
    """Return the part of the package that a module is of: the second word of its name."""
    words = name.split(".")
    return words[1] if words[0] == package and len(words) > 1 else None


def edges_of(package: str) -> dict[str, set[str]]:
    """Return the parts of a package, and which other parts each of them imports.

    The face of the package, its `__init__`, imports them all and is left out.
    """
    modules = modules_of(package)
    parts = {part for name in modules if (part := part_of(name, package)) is not None}
    edges: dict[str, set[str]] = {part: set() for part in parts}
    for name, path in modules.items():
        here = part_of(name, package)
        if here is not None:
            there = {part_of(target, package) for target in imported(name, path)}
            edges[here] |= {part for part in there if part in parts and part != here}
    return edges


def rows_of(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the parts in rows, such that each stands above what it imports.

    Parts that import each other stand in one row.
    """
    reach = {part: {part, *edges[part]} for part in edges}
    for _ in edges:
        reach = {part: set().union(*(reach[other] for other in reach[part])) for part in edges}
    group = {p: frozenset(q for q in reach[p] if p in reach[q]) for p in edges}
    height: dict[frozenset[str], int] = {}

    def high(part: str) -> int:
        own = group[part]
        if own not in height:
            below = [high(q) + 1 for p in own for q in edges[p] if q not in own]
            height[own] = max(below, default=0)
        return height[own]

    rows: list[list[str]] = [[] for _ in range(max(map(high, edges)) + 1)]
    for part in sorted(edges):
        rows[high(part)].append(part)
    return [row[i : i + MOST] for row in rows[::-1] for i in range(0, len(row), MOST)]


def picture(package: str) -> str:
    """Return the graph as SVG; its colours are those of the page."""
    edges = edges_of(package)
    rows = rows_of(edges)
    width = COLUMN * max(map(len, rows))
    places = {}
    for y, row in enumerate(rows):
        left = (width - COLUMN * len(row)) / 2 + (COLUMN - WIDTH) / 2
        for x, part in enumerate(row):
            places[part] = (left + x * COLUMN, y * ROW + 8)
    lines, boxes = [], []
    for part, targets in sorted(edges.items()):
        x, y = places[part]
        for target in sorted(targets):
            tx, ty = places[target]
            ends = f"{x + WIDTH / 2:.0f} {y + HEIGHT:.0f}", f"{tx + WIDTH / 2:.0f} {ty:.0f}"
            if ty <= y:  # a row for both
                ends = f"{x + WIDTH / 2:.0f} {y:.0f}", f"{tx + WIDTH / 2:.0f} {ty:.0f}"
                bend = f"C {x + WIDTH / 2:.0f} {y - 22:.0f} {tx + WIDTH / 2:.0f} {ty - 22:.0f}"
            else:
                bend = (
                    f"C {x + WIDTH / 2:.0f} {y + HEIGHT + ROW / 2:.0f}"
                    f" {tx + WIDTH / 2:.0f} {ty - ROW / 2:.0f}"
                )
            lines.append(f'<path d="M {ends[0]} {bend} {ends[1]}"/>')
        boxes.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 20:.0f}">{part}</text>'
        )
    size = f"0 0 {width} {len(rows) * ROW - 36}"
    return (
        f'<svg class="import-graph" viewBox="{size}" role="img" '
        f'aria-label="Imports between the parts of {package}" style="max-width: {width}px">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


class ImportGraph(Directive):
    """Draw the imports of a package, and list them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the picture and the list."""
        package = self.arguments[0]
        environment = self.state.document.settings.env
        for path in modules_of(package).values():
            environment.note_dependency(str(path))
        drawn = nodes.raw("", f'<div class="wide">{picture(package)}</div>', format="html")
        listing = nodes.bullet_list()
        for part, targets in sorted(edges_of(package).items()):
            text = nodes.paragraph()
            text += nodes.literal("", part)
            text += nodes.Text(" imports " if targets else " imports no other part")
            for number, target in enumerate(sorted(targets)):
                text += nodes.Text(", " if number else "")
                text += nodes.literal("", target)
            listing += nodes.list_item("", text)
        folded = [
            nodes.raw("", "<details><summary>The same as a list</summary>", format="html"),
            listing,
            nodes.raw("", "</details>", format="html"),
        ]
        return [drawn, *folded]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("import-graph", ImportGraph)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
