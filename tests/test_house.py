"""The house: which way imports go, how long functions are, and what no file may hold."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffusion", "features", "bench", "examples")

# From the lowest floor up. A module imports from its own floor and from those below; what is on
# one floor is one package, or modules that may know each other.
FLOORS = (
    (
        "diffusion._version",
        "diffusion.change",
        "diffusion.distances",
        "diffusion.errors",
        "diffusion.parameters",
        "diffusion.validation",
    ),
    ("diffusion.kernels",),
    ("diffusion.devices",),
    ("diffusion.storage",),
    (
        "diffusion.copies",
        "diffusion.filters",
        "diffusion.ids",
        "diffusion.metrics",
        "diffusion.transfer",
    ),
    ("diffusion.neighbors",),
    ("diffusion.affinity", "diffusion.confidence"),
    ("diffusion.graph",),
    ("diffusion.solvers",),
    ("diffusion.scoring",),
    ("diffusion.baselines", "diffusion.joining"),
    (
        "diffusion.index_state",
        "diffusion.explanation",
        "diffusion.fitted",
        "diffusion.reporting",
        "diffusion.updates",
        "diffusion.reranker",
        "diffusion.tuning",
        "diffusion.regional",
    ),
    ("diffusion.cluster",),
    ("diffusion",),
    ("diffusion.integrations", "diffusion.page", "diffusion.plot"),
    ("diffusion.serve",),
    ("diffusion.cli",),
    ("features.settings", "features.pages"),
    ("features.images",),
    ("features.datasets",),
    ("features.networks",),
    ("features.description",),
    ("features.training",),
    ("features.inspection", "features.objects"),
    ("features.index",),
    ("features.demo",),
    ("features",),
    ("features.cli",),
    ("bench",),
)
# Packages that stand side by side: neither imports the other.
APART = (("features.training", "features.objects"),)

# Functions of more than 60 lines of code, and why they are one function.
LONG: dict[str, str] = {}


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(name: str, path: Path) -> Iterator[str]:
    """Yield the absolute names that a module imports, wherever in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            parent = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            yield from (f"{parent}.{alias.name}" for alias in node.names)


@functools.cache
def floor(name: str) -> int | None:
    """Return the floor of a module, or of the module that an imported name is of."""
    best, found = "", None
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if (name == room or name.startswith(room + ".")) and len(room) > len(best):
                best, found = room, number
    return found


def test_imports_go_down():
    up = []
    for name, path in modules("diffusion", "features", "bench"):
        if path.name == "__init__.py" and name in ("diffusion", "features"):
            continue  # the public face gathers what it names
        for target in imported(name, path):
            here, there = floor(name), floor(target)
            if there is not None and (here is None or there > here):
                up.append(f"{name} imports {target}")
    assert not up


@pytest.mark.parametrize(("one", "other"), APART)
def test_packages_side_by_side_do_not_know_each_other(one, other):
    for here, there in ((one, other), (other, one)):
        for name, path in modules(here.replace(".", "/")):
            assert not [t for t in imported(name, path) if t.startswith(there)], name


def test_the_engine_imports_neither_features_nor_torch_nor_benchmarks():
    for name, path in modules("diffusion"):
        roots = {target.split(".")[0] for target in imported(name, path)}
        of_devices = {"torch"} if name.startswith("diffusion.devices.tensors") else set()
        assert not roots & {"features", "torch", "bench", "PIL"} - of_devices, name


def test_only_a_function_imports_what_needs_torch():
    for name, path in modules("diffusion"):
        for node in parsed(path).body:
            if isinstance(node, ast.ImportFrom) and "diffusion.devices.tensors" not in name:
                targets = {node.module or "", *(alias.name for alias in node.names)}
                assert not any("tensors" in target for target in targets), name


def code_lines(source: str, function: ast.AST) -> int:
    """Count lines of a function that are neither documentation, comment nor blank."""
    documentation: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            documentation |= set(range(first.lineno, first.end_lineno + 1))
    lines = source.splitlines()
    return sum(
        bool(lines[number - 1].strip()) and not lines[number - 1].strip().startswith("#")
        for number in range(function.lineno, function.end_lineno + 1)
        if number not in documentation
    )


def test_functions_are_short():
    long = set()
    for name, path in modules(*PACKAGES):
        source = path.read_text()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and code_lines(source, node) > 60:
                long.add(f"{name}.{node.name}")
    assert long == set(LONG)


def test_the_detectors_detect(tmp_path):
    (tmp_path / "x.py").write_text(
        "from ..errors import a\nfrom . import b\nimport torch.nn\nfrom ...features import c\n"
    )
    assert list(imported("diffusion.graph.x", tmp_path / "x.py")) == [
        "diffusion.errors.a",
        "diffusion.graph.b",
        "torch.nn",
        "features.c",
    ]
    assert floor("diffusion.errors.a") < floor("diffusion.kernels.blocks.step_block")
    assert floor("diffusion.Reranker") > floor("diffusion.reranker.Reranker")
    assert floor("numpy.ndarray") is None
    body = "def f():\n    '''Text.\n\n    More.\n    '''\n    # why\n\n    return 1\n"
    assert code_lines(body, ast.parse(body).body[0]) == 2


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:  # a copy without its history
        return [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_holds_a_path_of_a_machine():
    # Written apart, so that this file does not hold them.
    forbidden = re.compile("/" + "work/|/" + "root/|index" + "-url")
    for path in tracked():
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".html", ".css"}:
            assert not forbidden.search(path.read_text("utf-8", "replace")), path


def test_nothing_is_unpickled():
    for name, path in modules(*PACKAGES):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                setting = (node.arg, node.value.value)
                assert setting not in {("allow_pickle", True), ("weights_only", False)}, name
            elif isinstance(node, ast.Attribute) and node.attr in {"load", "loads"}:
                assert ast.unparse(node.value) != "pickle", name
