from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import diffusion
from diffusion import IVF, Exact, nearest_neighbors
from diffusion.neighbors import Auto, NeighborIndex, auto
from diffusion.validation import METRICS, as_vectors
from tests.support.oracles import similarity


@pytest.fixture
def approximate(monkeypatch):
    """Let small collections be searched as large ones are."""
    monkeypatch.setattr(auto, "exact_is_better", lambda n, d: False)


def clustered(rng, n, d=16, clusters=120):
    centers = rng.standard_normal((clusters, d))
    return centers[rng.integers(clusters, size=n)] + 0.5 * rng.standard_normal((n, d))


def nearest(Q, X, metric, k, own=False):
    """Return the ids of the k nearest rows of X, by brute force."""
    out = []
    for start in range(0, len(Q), 100):
        full = similarity(Q[start : start + 100], X, metric)
        if own:
            full[np.arange(len(full)), start + np.arange(len(full))] = -np.inf
        out.append(np.argsort(-full, axis=1)[:, :k])
    return np.concatenate(out)


def recall_of(ids, true):
    pairs = zip(ids, true, strict=True)
    return np.mean([len(set(own) & set(other)) / len(other) for own, other in pairs])


def test_a_small_collection_is_searched_exactly(rng):
    X = clustered(rng, 2000)
    for own, other in zip(
        nearest_neighbors(X, 10), nearest_neighbors(X, 10, method="exact"), strict=True
    ):
        np.testing.assert_array_equal(own, other)
    index = NeighborIndex(as_vectors(X, "X", metric="cosine"), "cosine", Auto())
    assert index.method == Exact()
    assert index.recall == 1.0


def test_exact_search_is_for_few_vectors():
    for d in (2, 64, 128, 2048):
        assert auto.exact_is_better(10_000, d)
        assert not auto.exact_is_better(100_000, d)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", [0.8, 0.98])
@pytest.mark.usefixtures("approximate")
def test_the_recall_is_reached_and_is_the_one_measured(rng, metric, target):
    everything = clustered(rng, 4400)
    if metric == "inner_product":  # of unit vectors, whose near items are in near cells
        everything /= np.linalg.norm(everything, axis=1, keepdims=True)
    X, Q = as_vectors(everything, "X", metric=metric)[:4000], everything[4000:]
    Q = as_vectors(Q, "Q", metric=metric)
    index = NeighborIndex(X, metric, Auto(recall=target), k=20)
    assert isinstance(index.method, IVF)
    true = nearest(X, X, metric, 20, own=True)
    reached = recall_of(index.neighbors(20)[1], true)
    assert target - 0.005 <= reached
    assert abs(reached - index.recall) < 0.02
    asked = recall_of(index.search(Q, 20)[1], nearest(Q, X, metric, 20))
    assert asked >= target - 0.03
    # A cell less would not be enough, up to the error of the sample.
    if index.method.nprobe > 1:
        fewer = IVF(index.method.nlist, max(1, index.method.nprobe // 2))
        less = NeighborIndex(X, metric, fewer).neighbors(20)[1]
        assert recall_of(less, true) < reached


@pytest.mark.usefixtures("approximate")
def test_without_structure_the_search_is_exact(rng):
    X = as_vectors(rng.standard_normal((3000, 64)), "X", metric="cosine")
    index = NeighborIndex(X, "cosine", Auto())
    assert index.method == Exact()
    assert index.recall == 1.0


@pytest.mark.usefixtures("approximate")
def test_the_effort_is_limited_and_a_warning_states_the_recall(rng, monkeypatch):
    monkeypatch.setattr(auto, "_MOST_COMPARED", 600)
    X = as_vectors(rng.standard_normal((4000, 32)), "X", metric="cosine")
    with pytest.warns(UserWarning, match=r"neighbors: the recall at 50 is 0\.\d+, measured"):
        index = NeighborIndex(X, "cosine", Auto())
    assert isinstance(index.method, IVF)
    reached = recall_of(index.neighbors(50)[1], nearest(X, X, "cosine", 50, own=True))
    assert abs(reached - index.recall) < 0.03
    assert reached < 0.9


@pytest.mark.usefixtures("approximate")
@pytest.mark.parametrize("copies", [1, 30, 3000])
def test_duplicates_and_zeros(rng, copies):
    X = np.repeat(clustered(rng, 3000 // copies), copies, axis=0)
    X[:300] = 0
    index = NeighborIndex(as_vectors(X, "X", metric="cosine"), "cosine", Auto(), k=10)
    scores, ids = index.neighbors(10)
    assert (ids >= 0).all()
    assert not (ids == np.arange(len(X))[:, None]).any()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.usefixtures("approximate")
def test_the_choice_and_its_recall_are_stored(rng, tmp_path):
    X = clustered(rng, 3000).astype(np.float32)
    ranker = diffusion.Reranker(k=10, affinity="cosine").fit(X)
    chosen, recall = ranker.fitted().index.method, ranker.fitted().index.recall
    assert isinstance(chosen, IVF)
    assert 0.98 < recall <= 1
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index", verify=True)
    assert loaded.get_params() == ranker.get_params()
    assert loaded.neighbors == "auto"
    assert (loaded.fitted().index.method, loaded.fitted().index.recall) == (chosen, recall)
    loaded.save(tmp_path / "again")
    for index in ("index", "again"):
        for own, other in zip(
            diffusion.load(tmp_path / index).search(X[:40]), ranker.search(X[:40]), strict=True
        ):
            np.testing.assert_array_equal(own, other)
        command = [sys.executable, "-m", "diffusion.cli", "info", "--json", str(tmp_path / index)]
        facts = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert facts["recall"] == recall
        assert facts["neighbors"] == {"name": "ivf", "nlist": chosen.nlist, "nprobe": chosen.nprobe}
        assert facts["neighbors_from"] == {"name": "auto", "recall": 0.98}


def test_no_recall_is_stored_that_was_not_measured(rng, tmp_path):
    ranker = diffusion.Reranker(k=5, neighbors=IVF(3, 2)).fit(clustered(rng, 200))
    assert "recall" not in ranker.state().parameters
    assert diffusion.Reranker(k=5).fit(clustered(rng, 200)).state().parameters["recall"] == 1.0


@pytest.mark.parametrize("recall", [0, 1, 1.5, "high", float("nan")])
def test_bad_recall(recall):
    with pytest.raises(diffusion.DiffusionError, match="recall: expected a number in"):
        Auto(recall=recall)


@pytest.mark.usefixtures("approximate")
def test_progress_of_every_phase(rng, monkeypatch, capsys):
    monkeypatch.setattr("diffusion.neighbors.cells.CHUNK", 500)
    monkeypatch.setattr("diffusion.neighbors.cells._SLAB", 500)
    monkeypatch.setattr("diffusion.neighbors.cells._TOGETHER", 2)
    nearest_neighbors(clustered(rng, 2000), 5, progress=True)
    shown = capsys.readouterr().err
    for phase in ("ivf k-means", "ivf build", "ivf tuning", "ivf search", "recall at 5"):
        assert phase in shown
    assert "row/s" in shown
    assert "group/s" in shown
