from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest

import diffusion
from bench import __main__ as command
from bench.data import collections as datasets
from bench.quality import methods as quality
from bench.speed import benchmark as speed
from bench.table import Table, write_json

# Those that take seconds on digits, not tens of them.
QUICK = [
    method
    for method in quality.METHODS
    if not method.name.startswith(("CAS", "RDP", "SuperGlobal", "DQE"))
]


def figures_of(collection, methods):
    """The rows of the quality table by the methods' names without their settings."""
    return {row[0].split(" (")[0]: row for row in quality.measure(collection, methods).rows}


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
    rows = figures_of(collection, quality.METHODS)
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


def test_speed_prints_every_table(monkeypatch, capsys):
    # Above the number of nodes from which on cores share them.
    monkeypatch.setattr(speed, "N", 20_500)
    monkeypatch.setattr(speed, "D", 8)
    monkeypatch.setattr(speed, "QUERIES", 16)
    monkeypatch.setattr(speed, "SIDES", (8, 10))
    monkeypatch.setattr(speed, "machine_limits", lambda: {"bytes": 1e10, "operations": 1e11})
    monkeypatch.setattr(speed.speed_context, "SIDES", (4, 5))
    monkeypatch.setattr(speed.speed_solvers, "LOCAL_NODES", (3000,))
    monkeypatch.setattr(speed.speed_solvers, "LOCAL_QUERIES", 5)
    monkeypatch.setattr(speed.speed_solvers, "EXACT_QUERIES", 3)
    monkeypatch.setattr(speed.speed_solvers, "SPECTRAL", (3000, 20))
    monkeypatch.setattr(speed.speed_solvers, "SPECTRAL_LONG", (3000, 400))
    monkeypatch.setattr(speed.speed_solvers, "LIMIT", 0.01)
    monkeypatch.setattr(speed.speed_solvers, "COLUMNS_NODES", 3000)
    monkeypatch.setattr(speed.speed_solvers, "COLUMNS_SIZE", 100)
    monkeypatch.setattr(speed.speed_solvers, "COLUMNS_SAMPLE", 4)
    tables = speed.run(long=True)
    printed = capsys.readouterr().out
    assert [table.title.split("**")[1] for table in tables] == [
        "Graph construction", "Contextual affinity", "Conjugate gradient",
        "Memory and loading", "Contextual affinity, growth", "Columns, offline",
        "Spectral, offline", "Local solver", "Spectral, offline",
    ]  # fmt: skip
    assert all(str(table) in printed for table in tables)
    worst = {row[0]: row[3] for row in tables[2].rows}
    assert worst["CG, blocks of 32"] <= 1e-6


def test_command_writes_the_same_figures_as_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quality, "grocery", lambda packages_only: None)
    monkeypatch.setattr(quality, "METHODS", QUICK)
    monkeypatch.setattr(quality, "SOLVERS", (diffusion.CG(), diffusion.Columns()))
    monkeypatch.setattr(quality, "survey", lambda: Table("**Survey**", ("a",), [["b"]]))
    target = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", "quality", "--json", str(target)])
    assert command.main() == 0
    written, *_ = json.loads(target.read_text())
    printed = capsys.readouterr().out
    assert "skipped" in printed
    for row in written["rows"]:
        assert f"| {row[0]}" in printed
        assert f" {row[1]} |" in printed


def test_table_layout(tmp_path):
    table = Table("title", ("name", "n"), [["a", 1.23456], ["bb", 1000], ["c", None]], ["a note"])
    assert str(table).splitlines() == [
        "title", "",
        "| name |    n |",
        "|------|-----:|",
        "| a    | 1.23 |",
        "| bb   | 1000 |",
        "| c    |      |",
        "", "a note",
    ]  # fmt: skip
    write_json(str(tmp_path / "t.json"), [table])
    assert json.loads((tmp_path / "t.json").read_text())[0]["rows"][0] == ["a", 1.23456]
