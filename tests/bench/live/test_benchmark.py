"""`python -m bench live` on a small collection."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bench.data.collections import objects
from bench.live import benchmark
from bench.live.stages import GRAPH, SEARCH, SOLVER, Stages
from diffusion import Context, Reranker


def test_live_prints_every_table(capsys):
    sizes = benchmark.Sizes(dimension=16, queries=20, sampled=50, warm=200)
    tables = benchmark.run(items=400, rounds=2, sizes=sizes)
    printed = capsys.readouterr().out
    assert all(str(table) in printed for table in tables)
    times, answers, files = tables
    assert "400 items, 2 rounds of 4 items out" in times.title
    assert [row[:2] for row in times.rows] == [
        [kind, step]
        for kind in ("whole objects", "random items")
        for step in ("fit", "rebuild", "remove", "add")
    ]
    for row in times.rows:
        whole, *parts = row[2:8]
        assert whole == pytest.approx(sum(parts), rel=0.5)  # medians, each by itself
        assert min(parts) > -1e-9
    for fit, rebuild in (times.rows[:2], times.rows[4:6]):
        assert min(fit[-2], rebuild[-2]) == min(fit[-1], rebuild[-1]) == 100
    for _, recall, rebuilt, *shares in answers.rows:
        assert recall == rebuilt == 100  # a small collection is searched exactly
        assert min(shares) > 99
    for row in files.rows:
        assert len(row) == len(files.columns)
        assert min(row[1:]) > 0


def test_the_objects_are_separate():
    X = objects(1000, 64)
    assert np.allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)
    near = np.argsort(-(X @ X.T), axis=1)[:, :11]
    # Items of an object follow each other.
    assert (np.abs(near - np.arange(1000)[:, None]) < 100).mean() > 0.99


def test_recall_and_overlap(vectors):
    ids = np.array([[1, 2, 3], [4, 5, -1]])
    assert benchmark.overlap(ids, np.array([[3, 2, 9], [5, -1, -1]])) == pytest.approx(
        (2 / 3 + 1) / 2
    )
    # Without scaling, the lists are those that the affinity holds, and no copies of them.
    ranker = Reranker(k=10, affinity=Context(scaling=0)).fit(vectors)
    assert benchmark.recall(ranker, 60) == 1
    assert benchmark.recall(Reranker(k=10).fit(vectors), 60) == 1
    _, lists = ranker.fitted().affinity.neighbor_lists()
    lists[:, 0] = lists[:, 1]  # of each list, the first neighbour is lost
    assert benchmark.recall(ranker, 120) == pytest.approx(0.9)


def test_bytes_written_are_those_of_new_files_and_of_what_was_appended(tmp_path):
    class Saving:
        def save(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / "temporary").write_bytes(b"x" * 100)
            (folder / "temporary").replace(folder / "new")
            with (folder / "journal").open("ab") as file:
                file.write(b"y" * 7)
            if not (folder / "kept").exists():
                (folder / "kept").write_bytes(b"z" * 1000)

    folder = tmp_path / "index"
    assert benchmark.saved(Saving(), folder)[1] == 1107
    assert benchmark.saved(Saving(), folder)[1] == 107


def test_stages_are_measured_once(vectors):
    before = Reranker.fit, Reranker.add
    ranker = Reranker(k=10)
    with Stages() as fit:
        ranker.fit(vectors)
        time.sleep(0.01)
    assert fit.whole > 0.01
    for stage in (SEARCH, GRAPH, SOLVER):
        assert fit.seconds[stage] > 0
    assert sum(fit.seconds.values()) < fit.whole - 0.009
    assert fit.row()[-1] >= 0.009
    with Stages() as addition:
        ranker.add(vectors[:3] + 0.1)
    assert set(addition.seconds) >= {SEARCH, GRAPH, SOLVER, "lists"}
    assert (Reranker.fit, Reranker.add) == before
    spent = dict(addition.seconds)
    ranker.add(vectors[:2] + 0.2)
    assert dict(addition.seconds) == spent
