"""`python -m bench`: which benchmark it runs, with which options, and what it writes."""

from __future__ import annotations

import importlib
import inspect
import json
import sys

import pytest

from bench import __main__ as command
from bench.table import Table

# Options of the command itself.
OWN = {"benchmark", "json"}


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_the_command_runs_a_benchmark_and_writes_json(name, monkeypatch, tmp_path, capsys):
    given = {}

    def run(**options):
        given.update(options)
        return [Table("**T**", ("a",), [["b"]])]

    package, _ = command.BENCHMARKS[name]
    module = importlib.import_module(f"{package}.benchmark")
    # The command calls it with options that it takes.
    options = vars(command.parser().parse_args([name]))
    inspect.signature(module.run).bind(**{o: options[o] for o in options.keys() - OWN})
    monkeypatch.setattr(module, "run", run)
    target = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", name, "--json", str(target)])
    assert command.main() == 0
    assert json.loads(target.read_text())[0]["rows"] == [["b"]]
    assert not any(given.values())
