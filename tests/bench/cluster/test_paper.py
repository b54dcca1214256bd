"""Figures of larger builds, by hand."""

from __future__ import annotations

from bench.cluster import paper
from bench.cluster.builds import Build
from bench.cluster.files import Stage
from bench.cluster.processes import Process, Usage


def test_figures_are_those_of_an_item_times_items():
    usage = Usage(processes=[Process("coordinator", 9), Process("worker", 10**8)])
    stages = {
        "placed": Stage(4, 10.0, {"rows": 4_000_000}),
        "ranked": Stage(4, 26.0, {"sent_values": 9_000_000, "ids": 5}),
    }
    build = Build(
        10**6, "local:2", 4, {"start": 3.0, "build": 36.0}, usage, stages, {"a": 10**9}, 0
    )
    build.peak = 2 * 10**9
    table = paper.table(build, 2, (10**6, 10**9, 10**10))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["shards"] == ["4", "4,000", "4,000"]
    assert rows["items of a shard"] == ["250,000", "250,000", "2,500,000"]
    assert rows["index on disk, TB"] == [1e-3, 1.0, 10.0]
    assert rows["most disk in use by the build, TB"] == [2e-3, 2.0, 20.0]
    assert rows["sent between shards, TB"] == [9e-6, 9e-3, 0.09]
    assert rows["tasks"] == ["8", "8,000", "8,000"]
    assert rows["worker-hours"] == [0.02, 20.0, 200.0]
    assert rows["memory of a worker, GB"] == [0.1, 0.1, 1.0]
    assert rows["files opened in 1 exchanges, hours of all workers at 1 ms"][1] == 16e3 / 3600
    assert rows["the index's row numbers"] == ["fit", "fit", "need 64 bits"]
