from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

import diffusion
from diffusion import Reranker
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import open_executor


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch):
    """Thousands of small files need not be durable here."""
    monkeypatch.setattr("diffusion.storage.results._sync", lambda path: None)


def write_lists(folder, scores, ids, cuts):
    folder.mkdir(parents=True, exist_ok=True)
    for p, (a, b) in enumerate(pairwise(cuts)):
        np.save(folder / f"ids_{p:04d}.npy", ids[a:b])
        np.save(folder / f"scores_{p:04d}.npy", scores[a:b])
    return folder


def made_lists(rng, n, k, metric="cosine"):
    """Lists of clustered vectors with ties, cut short here and there, and one item without any."""
    X = rng.standard_normal((max(1, n // 20), 6))[rng.integers(0, max(1, n // 20), n)]
    X = X + 0.4 * rng.standard_normal(X.shape)
    scores, ids = diffusion.nearest_neighbors(X, k, metric=metric)
    scores = np.round(scores, 2).astype(np.float32)
    short = rng.integers(k // 2, 3 * k, n)
    short[n // 2] = 0
    ids[np.arange(k)[None] >= short[:, None]] = -1
    return scores, ids


def built(tmp_path, scores, ids, cuts, ranker, **options):
    write_lists(tmp_path / "lists", scores, ids, cuts)
    with open_executor("threads:2") as executor:
        build_sharded(tmp_path / "lists", tmp_path / "index", ranker, executor=executor, **options)
    return diffusion.load(tmp_path / "index", verify=True)


CUTS = {"one": [0, 300], "two": [0, 120, 300], "seven": [0, 1, 40, 40, 100, 200, 299, 300]}
KINDS = {
    "context": {},
    "unscaled": {"affinity": diffusion.affinity.Context((3, 6), 20, scaling=0.0)},
    "cosine": {"affinity": "cosine", "k": 12},
    "gaussian": {"affinity": "gaussian", "k": 12, "metric": "euclidean"},
    "product": {"affinity": "cosine", "k": 12, "metric": "inner_product"},
}


def check_equal(found, expected, rng):
    """Compare two Rerankers by item: graph, affinity and answers."""
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    for name in ("degrees", "components"):
        one, other = getattr(found.graph_, name), getattr(expected.graph_, name)
        np.testing.assert_array_equal(one, other)
    assert repr(found.graph_) == repr(expected.graph_)
    assert found.get_params().keys() == expected.get_params().keys()
    n = found.n_items_
    rows = rng.permutation(n)[:20]
    ids0 = np.array([rng.permutation(n)[: min(n, 15)] for _ in rows])
    scores0 = -np.sort(rng.random(ids0.shape).astype(np.float32), axis=1)
    scores0 = scores0 if found.metric == "euclidean" else 2 + scores0
    scores, ids = found.rerank(scores0, ids0, k=10)
    others, other_ids = expected.rerank(scores0, ids0, k=10)
    np.testing.assert_allclose(scores, others, rtol=1e-5, atol=1e-6)
    differ = ids != other_ids  # only where scores are equal but for rounding
    assert (np.abs(scores - others)[differ] < 1e-5).all()
    assert differ.mean() < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", CUTS)
def test_the_index_equals_that_of_one_process(tmp_path, rng, kind, cuts):
    ranker = Reranker(**KINDS[kind])
    scores, ids = made_lists(rng, 300, 12, ranker.metric)
    found = built(tmp_path, scores, ids, CUTS[cuts], ranker)
    expected = Reranker(**KINDS[kind]).fit_neighbors(scores, ids)
    check_equal(found, expected, rng)
    own, other = found.state(), expected.state()
    assert json.loads(json.dumps(own.parameters)) == json.loads(json.dumps(other.parameters))
    assert own.sizes == other.sizes
    assert own.arrays.keys() == other.arrays.keys()
    assert {a: v.dtype for a, v in own.arrays.items()} == {
        a: v.dtype for a, v in other.arrays.items()
    }
    assert not (tmp_path / "index.build").exists()
