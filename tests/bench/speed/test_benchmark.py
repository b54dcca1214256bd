"""`python -m bench speed` on small problems."""

from __future__ import annotations

import pytest

from bench.speed import benchmark
from bench.speed.problems import Sizes


@pytest.mark.slow
def test_speed_prints_every_table(capsys):
    sizes = Sizes(
        cold=(),
        nodes=2000,
        dimension=8,
        queries=16,
        lists=(2000, 8, 20),
        warm=8,
        lattices=(7, 8),
        context_lattices=(7, 8),
        context_nodes=(2000,),
        copied=1000,
        multiplied=32,
        columns=(2000, 50, 4),
        spectral=(2000, 10),
        spectral_long=(2000, 20),
        limit=0.0,
        local_nodes=(2000,),
        local_queries=5,
        exact_queries=3,
        crossing_nodes=(1000,),
        crossing_counts=(1, 16),
        whole_nodes=(2000,),
        whole_queries=4,
    )
    tables = benchmark.run(long=True, sizes=sizes)
    printed = capsys.readouterr().out
    assert [table.title.split("**")[1] for table in tables] == [
        "Graph construction", "Contextual affinity", "Conjugate gradient",
        "First answer of a new process", "Memory and loading", "Contextual affinity, growth",
        "Columns, offline", "Spectral, offline", "Local solver", "Whole call",
        "Choice of the solver", "Neighbour lists", "Spectral, offline",
    ]  # fmt: skip
    assert all(str(table) in printed for table in tables)
    # Of the two spectral tables, the long one is stopped.
    assert tables[-1].rows[0][0].endswith("stopped")
    rows = {table.title.split("**")[1]: table.rows for table in tables[:-1]}
    worst = {row[0]: row[3] for row in rows["Conjugate gradient"]}
    assert worst["CG, blocks of 32"] <= 1e-6
    # Both eigensolvers reach their tolerance.
    assert all(row[3] <= 1e-2 for row in rows["Spectral, offline"])
    growth = rows["Contextual affinity, growth"]
    assert [row[0] for row in growth] == ["lattice", "lattice", "manifold"]
    assert all(0 < row[7] <= 508 + 592 for row in growth)
    agreement = [row[5] for row in rows["Local solver"] if row[5] is not None]
    assert len(agreement) == 10
    assert min(agreement) >= 97
    calls = {row[1]: row[4] for row in rows["Whole call"]}
    assert calls["Reranker().rerank"] == 1
    assert len(calls) == 10
    chosen = [row[6] for row in rows["Choice of the solver"]]
    assert chosen == ["local", "local"]
    methods, _, _, recalls = zip(*rows["Neighbour lists"], strict=True)
    assert [name.split(":")[0] for name in methods] == [
        "manifold", "ivf", "auto", "scenes", "ivf", "auto",
    ]  # fmt: skip
    assert min(recalls) > 0.5
    assert recalls[2] == recalls[5] == 1  # exact, for so few
    items, lists, peak, build, index, load, query = zip(*rows["Memory and loading"], strict=True)
    assert items == ("343", "512")
    assert min(lists + build + index + load + query) > 0
    assert min(peak) >= 0
