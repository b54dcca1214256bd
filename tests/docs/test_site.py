"""Of the site: the commands of its pages, the pages of code, and the extensions of docs/_ext."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import diffusion.cli
import features.cli
from diffusion.cli import command

from .test_pages import DOCS, PAGES, ROOT

MAINS = {"diffusion": diffusion.cli.main, "features": features.cli.main}


def extension(name: str) -> ModuleType:
    """Import a module of docs/_ext, which needs docutils."""
    pytest.importorskip("docutils")
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_of(text: str) -> list[list[str]]:
    """Return the calls of the two commands in the fences of a page that are no Python."""
    found = []
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.M | re.S):
        if language in ("", "sh", "text"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.split(" ")[0] in MAINS:
                    found.append(shlex.split(line, comments=True))
    return found


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words[:2])}")
    for page in PAGES
    for words in commands_of(page.read_text("utf-8"))
]


@pytest.mark.parametrize("words", COMMANDS)
def test_the_commands_of_the_pages_exist(words, monkeypatch):
    parsed = []
    monkeypatch.setattr(
        command, "run", lambda parser, given: parsed.append(parser.parse_args(given))
    )
    MAINS[words[0]](words[1:])
    assert [options.verb for options in parsed] == words[1:2]


BENCHMARKS = sorted(
    {
        call.strip()
        for page in PAGES
        for call in re.findall(r"python -m bench ([^`\n#]+)", page.read_text("utf-8"))
    }
)


@pytest.mark.parametrize("call", BENCHMARKS)
def test_the_benchmarks_of_the_pages_exist(call):
    pytest.importorskip("tabulate")
    from bench.__main__ import parser

    parser().parse_args(shlex.split(call))


def test_the_commands_are_found():
    page = "```\ndiffusion info index/  # why\n```\n```python\nfeatures x\n```\n"
    page += "```sh\nfeatures a \\\n  b\n```\n"
    assert commands_of(page) == [["diffusion", "info", "index/"], ["features", "a", "b"]]
    assert len(COMMANDS) > 20


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CONCEPTS = sorted((DOCS / "_concepts").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES + CONCEPTS, ids=lambda path: path.stem)
def test_a_page_of_code_opens_with_a_title(script):
    title, line, blank, *text = ast.get_docstring(ast.parse(script.read_text("utf-8"))).split("\n")
    assert title
    assert line == "=" * len(title)
    assert not blank
    if script in EXAMPLES:
        assert text[0].startswith("You learn ")


def test_the_order_of_the_examples_names_them_all():
    order = extension("order")
    assert sorted(order.FIRST) == [script.stem for script in EXAMPLES]
    assert sorted(["z.py", "text.py", "search.py"], key=order.Order("")) == [
        "search.py",
        "text.py",
        "z.py",
    ]


def test_every_example_makes_a_picture():
    assert all("plt.subplots(" in script.read_text("utf-8") for script in EXAMPLES + CONCEPTS)


def test_the_import_graph_is_that_of_the_code(tmp_path, monkeypatch):
    graph = extension("import_graph")
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    files = {
        "house/__init__.py": "from .roof import a",
        "house/ground.py": "import os",
        "house/floor/__init__.py": "from ..ground import b\nfrom .. import ground",
        "house/floor/room.py": "def f():\n    from house.wall import c",
        "house/wall.py": "from .floor.room import f",
        "house/roof.py": "import house.floor.room\nfrom . import wall",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    edges = graph.edges_of("house")
    assert edges == {
        "ground": set(),
        "floor": {"ground", "wall"},
        "wall": {"floor"},
        "roof": {"floor", "wall"},
    }
    assert graph.rows_of(edges) == [["roof"], ["floor", "wall"], ["ground"]]
    drawn = graph.picture("house")
    assert drawn.count("<rect") == 4
    assert drawn.count("<path") == 5


def test_imports_of_the_library_go_down_in_its_picture():
    graph = extension("import_graph")
    for package in ("diffusion", "features"):
        edges = graph.edges_of(package)
        height = {part: -i for i, row in enumerate(graph.rows_of(edges)) for part in row}
        up = [(a, b) for a in edges for b in edges[a] if height[b] > height[a]]
        assert not up
        assert set(height) == set(edges)
        names = {path.stem for path in Path(ROOT, package).iterdir() if path.suffix == ".py"}
        assert names - {"__init__", "__main__"} <= set(edges)


def test_formulas_are_mathml():
    mathml = extension("mathml")
    drawn = mathml.tex2mathml(r"\frac{1 - \alpha}{1 - \alpha \lambda}")
    assert "<mfrac>" in drawn
    assert "α" in drawn
