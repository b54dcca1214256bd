from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import diffusion
from bench import __main__ as command
from bench.data import collections as datasets
from bench.quality import benchmark as quality
from bench.quality import methods
from bench.speed import benchmark as speed
from bench.speed.problems import Sizes
from bench.table import Table, write_json

# Options of the command itself.
OWN = {"benchmark", "json"}

# Those that take seconds on digits, not tens of them.
QUICK = [
    method
    for method in methods.METHODS
    if not method.name.startswith(("CAS", "RDP", "SuperGlobal", "DQE"))
]


def figures_of(collection, chosen):
    """The rows of the quality table by the methods' names without their settings."""
    return {row[0].split(" (")[0]: row for row in methods.measure(collection, chosen).rows}


def small(collection, items=400, queries=60):
    """The first items and queries of a collection."""
    return replace(
        collection,
        gallery=collection.gallery[:items],
        queries=collection.queries[:queries],
        gallery_labels=collection.gallery_labels[:items],
        query_labels=collection.query_labels[:queries],
    )


def test_digits_reach_the_published_figures():
    collection = datasets.digits()
    assert collection.gallery.shape == (1500, 64)
    assert collection.queries.shape == (297, 64)
    rows = figures_of(collection, QUICK)
    figures = {name: row[1] for name, row in rows.items()}
    assert figures["cosine"] == 65.0
    assert figures["α-QE"] == 71.3
    assert figures["k-reciprocal"] == pytest.approx(75.2, abs=0.1)
    # 85.9 is with k1 = 40, k2 = 10 and a node's own message counted twice.
    assert figures["GNN"] == pytest.approx(85.2, abs=0.1)
    assert figures["diffusion, cosine affinity"] >= 81.0
    assert figures["diffusion, as by default"] >= 90.0
    assert rows["cosine"][3:5] == ["0 %", "no"]
    assert rows["GNN"][4] == rows["k-reciprocal"][4] == "yes"
    assert rows["diffusion, cosine affinity"][4] == "no"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "figures"),
    [
        (datasets.digits, {"RDP": 85.5, "CAS": 91.6}),
        (partial(datasets.grocery, True), {"k-reciprocal": 45.6, "CAS": 48.3}),
        (partial(datasets.grocery, False), {"k-reciprocal": 52.4, "CAS": 56.0}),
    ],
)
def test_rivals_reach_their_figures(load, figures):
    collection = load()
    if collection is None:
        pytest.skip("grocery descriptors are not in DIFFUSION_DATA")
    rows = figures_of(collection, methods.METHODS)
    for name, expected in figures.items():
        assert rows[name][1] == pytest.approx(expected, abs=0.15)


def test_grocery_split_and_figures():
    collection = datasets.grocery(packages_only=True)
    if collection is None:
        pytest.skip("grocery descriptors are not in DIFFUSION_DATA")
    assert len(collection.queries) + len(collection.gallery) == 781
    rows = figures_of(collection, QUICK)
    assert rows["cosine"][1] == pytest.approx(34.4, abs=0.05)
    assert rows["k-reciprocal"][1] == pytest.approx(45.6, abs=0.1)
    assert rows["diffusion, cosine affinity"][1] == pytest.approx(25.4, abs=0.1)
    assert rows["diffusion, as by default"][1] >= 48.0


def test_grocery_is_skipped_where_it_is_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert datasets.grocery(packages_only=True) is None


def test_manifold_is_connected_and_repeatable():
    X = datasets.manifold(3000, 32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)
    assert (datasets.manifold(3000, 32) == X).all()
    sizes = diffusion.Reranker(k=50).fit(X).graph_.component_sizes
    assert sizes[0] >= 0.99 * len(X)


def test_lattice_lists_are_reciprocal_and_sorted():
    scores, ids = datasets.lattice_lists(8, 50)
    assert ids.shape == (512, 50)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 50 for row in ids)
    graph = diffusion.Reranker(k=50, affinity="cosine").fit_neighbors(scores, ids).graph_
    assert graph.n_edges == 512 * 50 // 2
    assert graph.n_components == 1


def test_speed_prints_every_table(capsys):
    sizes = Sizes(
        nodes=2000,
        dimension=8,
        queries=16,
        warm=8,
        lattices=(7, 8),
        context_lattices=(7, 8),
        copied=1000,
        multiplied=32,
        columns=(2000, 50, 4),
        spectral=(2000, 10),
        spectral_long=(2000, 20),
        limit=0.0,
        local_nodes=(2000,),
        local_queries=5,
        exact_queries=3,
    )
    tables = speed.run(long=True, sizes=sizes)
    printed = capsys.readouterr().out
    assert [table.title.split("**")[1] for table in tables] == [
        "Graph construction", "Contextual affinity", "Conjugate gradient",
        "Memory and loading", "Contextual affinity, growth", "Columns, offline",
        "Spectral, offline", "Local solver", "Spectral, offline",
    ]  # fmt: skip
    assert all(str(table) in printed for table in tables)
    worst = {row[0]: row[3] for row in tables[2].rows}
    assert worst["CG, blocks of 32"] <= 1e-6
    # Both eigensolvers reach their tolerance; the long comparison stops the other one.
    assert all(row[3] <= 1e-2 for row in tables[6].rows)
    assert tables[8].rows[0][0].endswith("stopped")
    # A fit keeps more than nothing, and an index is as large as it was saved.
    items, lists, peak, build, index, load, query = zip(*tables[3].rows, strict=True)
    assert items == ("343", "512")
    assert min(lists + build + index + load + query) > 0
    assert min(peak) >= 0


def test_json_holds_the_figures_that_are_printed(tmp_path, capsys):
    collection = small(datasets.digits())
    made = partial(replace, collection, name="the same")
    tables = quality.built_in(
        [collection], QUICK, (diffusion.CG(), diffusion.Columns(size=100)), [made]
    )
    write_json(tmp_path / "figures.json", tables)
    written = json.loads((tmp_path / "figures.json").read_text())
    printed = capsys.readouterr().out
    assert [table["title"].split("**")[1] for table in written] == [
        "digits (raw pixels)", "Solvers", "Solvers", "Survey",
    ]  # fmt: skip
    for row in written[0]["rows"]:
        assert f"| {row[0]}" in printed
        assert f" {row[1]} |" in printed
    # Every way to the same figure: method by method, solver by solver, surveyed.
    by_default = {row[0]: row[1] for row in written[0]["rows"]}["diffusion, as by default"]
    assert written[1]["rows"][0][1] == written[3]["rows"][0][5] == by_default


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


def test_absent_collections_are_skipped(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    (found,) = quality.at_hand()
    assert found.name.startswith("digits")
    assert "grocery: skipped" in capsys.readouterr().out


def test_table_layout(tmp_path):
    table = Table("title", ("name", "n"), [["a", 1.23456], ["bb", 1000], ["c", None]], ["a note"])
    assert str(table).splitlines() == [
        "title", "",
        "| name   |    n |",
        "|:-------|-----:|",
        "| a      | 1.23 |",
        "| bb     | 1000 |",
        "| c      |      |",
        "", "a note",
    ]  # fmt: skip
    write_json(str(tmp_path / "t.json"), [table])
    assert json.loads((tmp_path / "t.json").read_text())[0]["rows"][0] == ["a", 1.23456]
