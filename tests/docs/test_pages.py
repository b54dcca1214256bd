"""The Python of README.md and of the documentation runs: each page as a whole, in an empty folder.

A fence is ```python, or ```python journey for what a user needs at most ten lines for.
"""

from __future__ import annotations

import ast
import importlib.util
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
# What a build leaves there is no page.
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]

# The pages with a journey, and the number of lines that it may have.
JOURNEYS = ("qdrant", "lancedb")
MOST = 10

# Pages whose blocks take more than a few seconds.
SLOW = {"cluster", "descriptors", "format", "labels"}

# What the extras bring; a page that imports one of them is skipped where it is missing.
EXTRAS = {
    "PIL",
    "fastapi",
    "httpx",
    "lancedb",
    "langchain_core",
    "llama_index",
    "matplotlib",
    "qdrant_client",
    "torch",
    "uvicorn",
}


class Block(NamedTuple):
    """Code of a page, the number of its first line, and whether it is a journey."""

    code: str
    line: int
    journey: bool


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of Python of a page."""
    blocks: list[Block] = []
    lines: list[str] | None = None
    fence = ""
    begin = 0
    for number, line in enumerate(text.splitlines(), 1):
        if lines is None and line.startswith("```"):
            lines, begin, fence = [], number + 1, line[3:].strip()
        elif lines is not None and line.startswith("```"):
            if fence.split()[:1] == ["python"]:
                blocks.append(Block("\n".join(lines), begin, "journey" in fence.split()))
            lines = None
        elif lines is not None:
            lines.append(line)
    assert lines is None, f"line {begin - 1}: the fence does not end"
    return blocks


def missing_extras(blocks: list[Block]) -> list[str]:
    """Return the libraries of extras that are imported and not installed."""
    roots: set[str] = set()
    for block in blocks:
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
    return sorted(root for root in roots & EXTRAS if importlib.util.find_spec(root) is None)


def run(page: Path, blocks: list[Block]) -> None:
    """Run the blocks in one namespace; fail with the page and the line."""
    namespace = {"__name__": "__main__"}
    for block in blocks:
        try:
            # Errors state lines of the page.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
        except Exception as error:
            if isinstance(error, SyntaxError) and error.filename == str(page):
                line = error.lineno
            else:
                frames = traceback.extract_tb(error.__traceback__)
                line = [f.lineno for f in frames if f.filename == str(page)][-1]
            pytest.fail(f"{page.name}, line {line}: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else ()) for page in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    blocks = blocks_of(page.read_text("utf-8"))
    if not blocks:
        return
    missing = missing_extras(blocks)
    if missing:
        pytest.skip(f"{page.name} needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    run(page, blocks)


@pytest.mark.parametrize("name", JOURNEYS)
def test_a_journey_is_short(name):
    journeys = [b for b in blocks_of((DOCS / f"{name}.md").read_text("utf-8")) if b.journey]
    assert len(journeys) == 1
    lines = [line for line in journeys[0].code.splitlines() if line.strip()]
    assert len([line for line in lines if not line.lstrip().startswith("#")]) <= MOST


def test_a_failure_names_the_page_and_the_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\nx = [1]\n```\n\n```text\nno python\n```\n"
        "```python journey\nassert x\n\nx[1]\n```\n"
    )
    blocks = blocks_of(page.read_text())
    assert blocks == [Block("x = [1]", 4, False), Block("assert x\n\nx[1]", 11, True)]
    with pytest.raises(pytest.fail.Exception, match=r"page\.md, line 13: IndexError: list index"):
        run(page, blocks)
    with pytest.raises(pytest.fail.Exception, match=r"page\.md, line 2: SyntaxError"):
        run(page, [Block("x = = 2", 2, False)])
    with pytest.raises(AssertionError, match="line 1: the fence does not end"):
        blocks_of("```python\nx = 1\n")
