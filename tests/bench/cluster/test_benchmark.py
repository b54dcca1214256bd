"""`python -m bench cluster` on small collections."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.cluster import asking, benchmark, equality, scale
from bench.cluster.builds import Build
from bench.cluster.processes import Usage
from bench.cluster.tiles import Tiles
from diffusion import DiffusionError, Reranker
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import open_executor


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    tiles = Tiles(4000)
    tiles.write(folder / "lists", 3)
    Reranker().fit_neighbors(*tiles.lists(0, tiles.n)).save(folder / "one")
    with open_executor("threads:2") as executor:
        build_sharded(folder / "lists", folder / "other", executor=executor)
    return tiles, folder / "one", folder / "other"


def test_indexes_of_the_same_lists_are_equal(indexes):
    tiles, one, other = indexes
    rows = equality.measure(one, other, tiles, 5).rows
    assert {row[2] for row in rows[:-1]} == {"yes"}
    names = {row[0] for row in rows}
    assert {"W: data", "degrees", "components", "affinity_levels", "similarities J: data"} <= names
    assert rows[-2][0] == "scores x of 5 queries"


def test_other_lists_give_unequal_indexes(indexes, tmp_path):
    tiles, one, _ = indexes
    scores, ids = tiles.lists(0, tiles.n)
    ids[7] = ids[7, ::-1]
    Reranker().fit_neighbors(scores, ids).save(tmp_path / "other")
    rows = {row[0]: row for row in equality.measure(one, tmp_path / "other", tiles, 5).rows}
    assert rows["W: data"][2].startswith("no")
    assert rows["affinity_holders, sorted within each list"][2].startswith("no")


def test_arrays_are_compared_by_bits():
    one = np.array([1.0, np.nan, 0.0], np.float32)
    assert equality.compared("a", one, one.copy()) == ["a", 3, "yes", 0.0]
    assert equality.compared("a", one, -one)[2:] == ["no: 3 differ", 2.0]
    assert "float32 (3,) and float32 (2,)" in equality.compared("a", one, one[:2])[2]


def test_the_largest_difference_is_a_share_of_the_best_score():
    one = [[4.0, 2.0, -np.inf], [1.0, 0.5, 0.25]]
    other = [[4.0, 1.0, -np.inf], [1.0, 0.5, 0.35]]
    assert equality.largest_difference(one, one) == 0
    assert equality.largest_difference(one, other) == 0.25


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.cluster.scale.shutil.disk_usage", lambda path: type("Usage", (), {"free": 11_000})
    )
    scale.check_disk(tmp_path, 10, 1000.0)
    assert scale.fitting(tmp_path, [5, 10, 11], 1000.0) == [5, 10]
    with pytest.raises(DiffusionError, match=r"11 items need .* at most 10"):
        scale.check_disk(tmp_path, 11, 1000.0)


def test_a_failure_after_the_first_build_keeps_what_is_measured(tmp_path, monkeypatch):
    def build(where, n, lists, index):
        if n > 4000:
            raise RuntimeError("ended with 1")
        index.mkdir()
        return Build(n, where, 1, {"build": 1.0}, Usage(), {}, {}, 100 * n)

    monkeypatch.setattr(scale, "build", build)
    looked = []
    sizes = [4000, 8000, 12_000]
    found = scale.measure(sizes, 4000, "here", tmp_path, lambda index, tiles: looked.append(index))
    assert [each.n for each in found[0]] == [4000]
    assert found[1] == ["The measurement ended at 8,000 items: ended with 1."]
    assert len(looked) == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError):
        scale.measure(sizes[1:], 4000, "here", tmp_path)


def test_shards_are_of_about_equal_size():
    assert scale.shards_of(1_000_000, 125_000) == 8
    assert scale.shards_of(4000, 125_000) == 1


def test_figures_of_queries_are_beside_each_other(indexes):
    tiles, one, _ = indexes
    figures = asking.ask(one, tiles, 3)
    both = {4000: figures, 8000: figures | {"load_ms": 2 * figures["load_ms"]}}
    table = asking.table(both)
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(table.columns[1:3]) == ["4,000 items", "8,000 items"]
    assert rows["opening, ms"][2] == 2
    assert rows["pages read"] == [figures["pages_median"]] * 2 + [1]
    assert 0 < rows["warm, ms"][0] <= rows["warm, 90 %, ms"][0]


@pytest.mark.slow
def test_cluster_prints_every_table(tmp_path, capsys):
    # On threads, since every cluster takes seconds to start.
    small = {"growing": (4000, 8000), "queries": 3, "warm": 4000}
    sizes = benchmark.Sizes(n=8000, where="threads:2", **small)
    tables = benchmark.run(shard_rows=2000, largest=8000, folder=str(tmp_path), sizes=sizes)
    printed = capsys.readouterr().out
    assert all(str(table) in printed for table in tables)
    found = {table.title.split("**")[1]: table for table in tables}
    _, sharded = found["Build over shards"].rows
    assert sharded[0] == "threads:2, 4 shards"
    assert sharded[7] > 0
    assert {row[2] for row in found["Equality of the two indexes"].rows} == {"yes", None}
    growing = found["Builds of more and more items"].rows
    assert [row[:2] for row in growing] == [["4,000", 2], ["8,000", 4]]
    stages = found["Stages of a build"].rows
    assert sum(row[1] or 0 for row in stages[:-1]) == stages[-1][1] > 0
    assert {"index"} < {row[0] for row in found["Arrays of a build"].rows}
    assert not list(tmp_path.iterdir())
    json.dumps([table.rows for table in tables])


@pytest.mark.parametrize("section", ["scale", "constants"])
def test_a_size_beyond_the_disk_is_refused_before_anything_is_built(section, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark._Run, "_warm_up", lambda self: 1e12)
    with pytest.raises(DiffusionError, match="are free"):
        benchmark.run(sections=[section], largest=10_000_000, folder=str(tmp_path))
