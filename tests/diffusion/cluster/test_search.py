from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffusion import IVF, DiffusionError, Exact
from diffusion.cluster import inverted, search, vectors
from diffusion.cluster.executors import open_executor
from diffusion.cluster.inputs import open_input
from diffusion.cluster.search import place_vectors
from diffusion.neighbors import HNSW, Auto, NNDescent
from diffusion.validation import METRICS, as_vectors
from tests.support.oracles import similarity


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch):
    """Thousands of small files need not be durable here."""
    monkeypatch.setattr("diffusion.storage.results._sync", lambda path: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch):
    monkeypatch.setattr(vectors, "_ROWS", 64)


@pytest.fixture
def longer_ranges(monkeypatch, _short_ranges):
    monkeypatch.setattr(vectors, "_ROWS", 700)


def searched(
    work, X, metric="cosine", method=None, *, k=10, shards=3, lists=True, where="threads:2"
):
    file = work.with_name("vectors.npy")
    if not file.exists():
        np.save(file, X)
    method = IVF(nlist=12, nprobe=4) if method is None else method
    with open_executor(where) as executor:
        return place_vectors(
            executor,
            str(work),
            open_input(file, "vectors"),
            metric,
            method,
            k=k,
            shards=shards,
            lists=lists,
            progress=False,
        )


def lists_of(result):
    """Return the lists of all items in the order of the input, which all shards have together."""
    parts = [
        [result.shards.array("placed", p, name) for name in ("rows", "scores", "ids")]
        for p in range(result.shards.count)
    ]
    for p, part in enumerate(parts):
        a, b = result.shards.bounds(p)
        assert [len(array) for array in part] == [b - a] * 3
        assert [array.dtype for array in part] == [np.int32, np.float32, np.int32]
    rows, scores, ids = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(rows)
    np.testing.assert_array_equal(rows[order], np.arange(result.shards.n))
    return scores[order], ids[order]


def brute_force(X, metric, k, among=None):
    """List the k nearest others, by descending score and ascending row; `among` is a mask (n, n).

    For the cosine, vectors of zeros are left out.
    """
    full = similarity(X, X, metric)
    np.fill_diagonal(full, -np.inf)
    if among is not None:
        full[~among] = -np.inf
    if metric != "euclidean":
        zero = ~np.any(X, axis=1)
        full[zero] = full[:, zero] = -np.inf
    ids = np.argsort(-full, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(full, ids, 1)
    return scores, np.where(np.isfinite(scores), ids, -1)


def clustered(rng, n, d=8):
    centers = rng.standard_normal((max(1, n // 25), d))
    return centers[rng.integers(len(centers), size=n)] + 0.5 * rng.standard_normal((n, d))


def check(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shards", [1, 2, 7, 100])
@pytest.mark.parametrize("method", [Exact(), IVF(nlist=3, nprobe=3)], ids=["exact", "cells"])
def test_lists_equal_those_of_a_dense_computation(tmp_path, rng, metric, shards, method):
    X = clustered(rng, 90) + 2
    result = searched(tmp_path / "work", X, metric, method, shards=shards)
    assert result.shards.count == shards
    check(lists_of(result), brute_force(X, metric, 10))


@pytest.mark.parametrize("method", [Exact(), IVF(nlist=4, nprobe=4)], ids=["exact", "cells"])
@pytest.mark.parametrize("shards", [1, 5])
def test_ties_are_ordered_by_row(tmp_path, rng, method, shards):
    X = rng.integers(-1, 2, (200, 3)).astype(np.float32)  # with zeros and duplicates
    result = searched(tmp_path / "work", X, "inner_product", method, k=30, shards=shards)
    scores, ids = lists_of(result)
    expected = brute_force(X, "inner_product", 30)
    np.testing.assert_array_equal(scores, expected[0])
    if isinstance(method, Exact):
        np.testing.assert_array_equal(ids, expected[1])
    tied = (scores[:, :-1] == scores[:, 1:]) & (ids[:, 1:] >= 0)
    assert tied.any()
    assert (ids[:, :-1] < ids[:, 1:])[tied].all()
    zero = np.flatnonzero(~X.any(axis=1))
    assert len(zero)
    np.testing.assert_array_equal(result.without_direction(), zero)


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_nearest_cells_are_searched(tmp_path, rng, metric):
    X = clustered(rng, 600)
    result = searched(tmp_path / "work", X, metric, IVF(nlist=12, nprobe=2), k=5)
    index = result.index()
    cells = index._cells
    # What is in the files.
    center = X.mean(axis=0) if metric == "euclidean" else None
    own = as_vectors(X, "X", metric=metric, center=center)
    np.testing.assert_allclose(cells.vectors, own[cells.ids], atol=1e-6)
    np.testing.assert_array_equal(np.sort(cells.ids), np.arange(600))
    assert len(cells.starts) == 12
    assert set(result.shards.starts) <= {*cells.starts.tolist(), 600}
    of = np.empty(600, int)
    for c, (a, b) in enumerate(zip(cells.starts, cells.stops, strict=True)):
        of[cells.ids[a:b]] = c
        assert (np.diff(cells.ids[a:b]) > 0).all()
    kind = "inner_product" if metric == "inner_product" else "euclidean"
    near = np.argsort(-similarity(own, cells.centroids, kind), axis=1)[:, :2]
    among = (of[:, None, None] == near.T[None]).any(axis=1)  # (item, probing item)
    expected = brute_force(own, metric, 5, among.T)
    assert (expected[1] >= 0).all()
    check(lists_of(result), expected)
    # And in one process.
    check(lists_of(result), index.neighbors(5))


def test_nothing_depends_on_shards_and_workers(tmp_path, rng):
    X = clustered(rng, 500)
    one = searched(tmp_path / "one", X, shards=1, where="threads:1")
    for shards, where in ((2, "threads:3"), (7, "threads:1"), (40, "threads:4")):
        other = searched(tmp_path / str(shards), X, shards=shards, where=where)
        for name in one.found.files:
            np.testing.assert_array_equal(one.found.array(name), other.found.array(name))
        check(lists_of(other), lists_of(one))
    sizes = np.diff(searched(tmp_path / "2", X, shards=2).shards.starts)
    largest = np.diff(np.append(one.found.array("ivf_starts"), 500)).max()
    assert abs(sizes - 250).max() <= largest / 2


@pytest.mark.parametrize("kind", ["one", "equal", "zeros", "some zeros"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", [Exact(), IVF(nlist=4, nprobe=4)], ids=["exact", "cells"])
def test_unusual_collections(tmp_path, rng, kind, metric, method):
    n = 1 if kind == "one" else 170
    X = np.ones((n, 3)) if kind in ("one", "equal") else np.zeros((n, 3))
    if kind == "some zeros":
        X[::3] = rng.integers(1, 4, X[::3].shape)
    result = searched(tmp_path / "work", X, metric, method, k=7, shards=4)
    scores, ids = lists_of(result)
    assert scores.shape == (n, min(7, max(1, n - 1)))
    expected = brute_force(X, metric, scores.shape[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-5, atol=1e-6)
    assert not (ids == np.arange(n)[:, None]).any()
    if metric == "inner_product" or kind != "some zeros":
        np.testing.assert_array_equal(ids, expected[1])
    found = result.index().search(result.index().vectors_of(np.array([0])), 3)
    assert (found[1][0, : min(3, n)] >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("lists", [True, False])
def test_the_index_answers_like_a_dense_computation(tmp_path, rng, metric, lists):
    X, Q = clustered(rng, 300) + 1, rng.standard_normal((9, 8))
    for number, method in enumerate((Exact(), IVF(nlist=5, nprobe=5))):
        result = searched(tmp_path / str(number), X, metric, method, lists=lists)
        assert (tmp_path / str(number) / "placed").exists() == lists
        index = result.index()
        assert index.method == method
        assert isinstance(index.arrays()["vectors"].base, np.memmap)
        assert all(Path(file).is_file() for file in result.found.files.values())
        queries = as_vectors(Q, "Q", metric=metric, center=index.center)
        scores, ids = index.search(queries, 20)
        full = similarity(Q, X, metric)
        np.testing.assert_array_equal(ids, np.argsort(-full, axis=1)[:, :20])
        np.testing.assert_allclose(scores, -np.sort(-full, axis=1)[:, :20], rtol=1e-4, atol=1e-4)


# --- the choice of the method ---------------------------------------------------------------------


def test_auto_reaches_its_recall(tmp_path, rng, monkeypatch, longer_ranges):
    monkeypatch.setattr(search, "exact_is_better", lambda n, d: False)
    X = clustered(rng, 2000, 6)
    result = searched(tmp_path / "work", X, method=Auto(recall=0.9))
    assert isinstance(result.found.method, IVF)
    index = result.index()
    assert 0.9 <= index.recall < 1
    true = brute_force(X, "cosine", 10)[1]
    hits = [len(set(a) & set(b)) for a, b in zip(lists_of(result)[1], true, strict=True)]
    assert np.mean(hits) / 10 == pytest.approx(index.recall, abs=0.03)
    assert not (tmp_path / "work" / "search" / "compared").exists()
    # The choice is found again, and another one is made when the collection has changed.
    again = searched(tmp_path / "work", X, method=Auto(recall=0.9))
    assert again.found == result.found
    assert index._auto == Auto(recall=0.9)


@pytest.mark.parametrize("n", [200, 1000])
def test_auto_is_exact_for_few_vectors_and_those_without_structure(tmp_path, rng, n, monkeypatch):
    if n == 1000:
        monkeypatch.setattr(search, "exact_is_better", lambda n, d: False)
    X = rng.standard_normal((n, 48))
    for _ in range(2):
        result = searched(tmp_path / "work", X, method=Auto())
        assert result.found.method == Exact()
        assert result.index().recall == 1
        check(lists_of(result), brute_force(X, "cosine", 10))
        shutil.rmtree(tmp_path / "work" / "placed")
    assert not (tmp_path / "work" / "search" / "arrays" / "sorted").exists()


def test_a_low_recall_is_told_every_time(tmp_path, rng, monkeypatch, longer_ranges):
    monkeypatch.setattr(search, "exact_is_better", lambda n, d: False)
    monkeypatch.setattr("diffusion.neighbors.auto._MOST_COMPARED", 300)
    X = rng.standard_normal((3000, 12))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"the recall at 10 is 0\.\d+, .* less than 0.98"):
            searched(tmp_path / "work", X, method=Auto())


@pytest.mark.parametrize("method", [HNSW(), NNDescent()])
def test_other_methods_are_refused(tmp_path, rng, method):
    with pytest.raises(DiffusionError, match=f"method: expected 'auto'.* got '{method.name}'"):
        searched(tmp_path / "work", rng.random((9, 3)), method=method)


@pytest.mark.parametrize("metric", METRICS)
def test_bad_vectors_are_named(tmp_path, rng, metric):
    X = rng.random((200, 3))
    X[130, 1] = np.nan
    with pytest.raises(DiffusionError, match=r"vectors from row 128 on: .* finite values, row 2 "):
        searched(tmp_path / "work", X, metric)


# --- tasks ----------------------------------------------------------------------------------------


def test_a_large_cell_is_divided(tmp_path, rng, longer_ranges):
    X = np.concatenate([np.tile([[1.0, 0.0]], (3000, 1)), rng.standard_normal((1000, 2))])
    X = X[rng.permutation(4000)]
    result = searched(tmp_path / "work", X, method=IVF(nlist=64, nprobe=3), k=4, shards=9)
    starts = np.append(result.found.array("ivf_starts"), 4000)
    assert len(starts) > 65
    assert np.diff(starts).max() <= 16 * 63
    check(lists_of(result), result.index().neighbors(4))
    assert np.diff(result.shards.starts).max() < 2000


class InterruptedTaskError(Exception):
    """Raised in the place of a task."""


@pytest.mark.parametrize("stage", ["checked", "assigned", "sorted_", "placed"])
def test_an_interrupted_search_resumes(tmp_path, rng, monkeypatch, stage):
    X = clustered(rng, 300)
    expected = searched(tmp_path / "other", X)
    module = search if stage in ("checked", "placed") else inverted
    task, calls = getattr(module, stage), []

    def failing(path, *arguments):
        calls.append(path)
        if len(calls) == 2:
            raise InterruptedTaskError
        return task(path, *arguments)

    monkeypatch.setattr(module, stage, failing)
    with pytest.raises(InterruptedTaskError):
        searched(tmp_path / "work", X, where="threads:1")
    result = searched(tmp_path / "work", X)
    assert calls.count(calls[0]) == 1
    assert calls.count(calls[1]) == 2
    for name in expected.found.files:
        np.testing.assert_array_equal(result.found.array(name), expected.found.array(name))
    check(lists_of(result), lists_of(expected))


@pytest.mark.parametrize(
    "lost",
    ["placed/00001", "search/sorted/00002", "search/arrays/sorted/vectors.npy", "search/zero"],
)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_lost_results_are_made_again(tmp_path, rng, lost, metric):
    X = clustered(rng, 300)
    before = lists_of(searched(tmp_path / "work", X, metric))
    before = [np.array(array) for array in before]
    path = tmp_path / "work" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    shutil.rmtree(tmp_path / "work" / "placed" / "00000")
    check(lists_of(searched(tmp_path / "work", X, metric)), before)
    assert not (tmp_path / "work" / "search" / "assigned").exists()


@pytest.mark.parametrize("method", [Exact(), IVF(nprobe=2)], ids=["exact", "cells"])
def test_memory_is_that_of_a_range(tmp_path, rng, monkeypatch, method):
    n, d = 6000, 256
    monkeypatch.setattr(vectors, "_ROWS", 400)
    monkeypatch.setattr("diffusion.validation._BLOCK_VALUES", 1 << 14)
    for module in (vectors, search, inverted):
        monkeypatch.setattr(module, "VALUES", 400 * d)
    monkeypatch.setattr(search, "_SAMPLE_VALUES", 600 * d)
    X = clustered(rng, n, d).astype(np.float32)
    searched(tmp_path / "once", X[:500], "euclidean", method)  # compiles
    np.save(tmp_path / "vectors.npy", X)
    del X
    tracemalloc.start()
    try:
        searched(tmp_path / "work", None, "euclidean", method, k=5, shards=8, where="threads:1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * n * d / 2


@pytest.mark.slow
def test_processes(tmp_path, rng):
    X = clustered(rng, 300)
    expected = searched(tmp_path / "threads", X)
    check(lists_of(searched(tmp_path / "work", X, where="processes:2")), lists_of(expected))
