"""`python -m bench`: which benchmark it runs, with which options, and what it writes."""

from __future__ import annotations

import importlib
import inspect
import shlex
import sys

import pytest

from bench import __main__ as command
from bench.table import Table, read_json

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
    measured = read_json(target)
    assert measured.tables[0].rows == [["b"]]
    assert measured.command == f"python -m bench {name}"
    assert not any(given.values())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cluster --largest 4000000 --json out/c.json", "cluster --largest 4000000"),
        ("cluster --sections equality scale --folder /tmp/x", "cluster --sections equality scale"),
        ("cluster --shard-rows 1000", "cluster --shard-rows 1000"),
        ("speed --long", "speed --long"),
        (
            "quality --dataset roxford5k --descriptors '/my home/d'",
            "quality --dataset roxford5k --descriptors DIR",
        ),
    ],
)
def test_the_command_is_kept_without_folders(given, kept):
    options = vars(command.parser().parse_args(shlex.split(given)))
    name = options.pop("benchmark")
    del options["json"]
    assert command.command_of(name, options) == f"python -m bench {kept}"
