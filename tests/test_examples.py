from __future__ import annotations

import doctest
import importlib
import pkgutil
import runpy
from pathlib import Path

import pytest

import diffusion
import features

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


SLOW = {"changing_collection", "few_labels", "object_discovery", "photos"}


@pytest.mark.parametrize(
    "example",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example_runs(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_every_example_is_listed():
    listing = (EXAMPLES[0].parent / "README.md").read_text()
    assert all(f"`{example.name}`" in listing for example in EXAMPLES)


MODULES = [
    module.name
    for package in (diffusion, features)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", ["diffusion", "features", *MODULES])
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
