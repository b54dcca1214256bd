"""`python -m bench speed` on small problems."""

from __future__ import annotations

from bench.speed import benchmark
from bench.speed.problems import Sizes


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
    tables = benchmark.run(long=True, sizes=sizes)
    printed = capsys.readouterr().out
    assert [table.title.split("**")[1] for table in tables] == [
        "Graph construction", "Contextual affinity", "Conjugate gradient",
        "First answer of a new process", "Memory and loading", "Contextual affinity, growth",
        "Columns, offline", "Spectral, offline", "Local solver", "Neighbour lists",
        "Spectral, offline",
    ]  # fmt: skip
    assert all(str(table) in printed for table in tables)
    worst = {row[0]: row[3] for row in tables[2].rows}
    assert worst["CG, blocks of 32"] <= 1e-6
    # Both eigensolvers reach their tolerance; scipy's is stopped in the long comparison.
    assert all(row[3] <= 1e-2 for row in tables[7].rows)
    assert tables[10].rows[0][0].endswith("stopped")
    methods, _, _, recalls = zip(*tables[9].rows, strict=True)
    names = [name.split(":")[0] for name in methods]
    assert names == ["manifold", "ivf", "auto", "scenes", "ivf", "auto"]
    assert min(recalls) > 0.5
    assert recalls[2] == recalls[5] == 1  # exact, for so few
    items, lists, peak, build, index, load, query = zip(*tables[4].rows, strict=True)
    assert items == ("343", "512")
    assert min(lists + build + index + load + query) > 0
    assert min(peak) >= 0
