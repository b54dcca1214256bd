from __future__ import annotations

import faiss
import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError, Exact, nearest_neighbors
from diffusion.neighbors import NeighborIndex
from diffusion.validation import METRICS
from tests.support.oracles import similarity

N, D = 600, 12


@pytest.fixture(scope="module", name="X")
def vectors():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, D))[rng.integers(20, size=N)] + 0.5 * rng.standard_normal((N, D))
    X[7] = X[8]  # a duplicate
    return X.astype(np.float32)


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def filled(index, X):
    if not index.is_trained:
        index.train(X)
    index.add(X)
    return index


class Engine:
    """Brute force in numpy, in the dialect that `fit(index=...)` describes."""

    def __init__(self, X, metric):
        self.X, self.metric, self.asked = X, metric, []

    def search(self, Q, k):
        assert Q.dtype == np.float32
        assert Q.flags.c_contiguous
        self.asked.append((len(Q), k))
        if self.metric == "euclidean":
            full = -similarity(Q, self.X, "euclidean")
            ids = np.argsort(full, axis=1, kind="stable")[:, :k]
        else:
            full = Q.astype(float) @ self.X.T
            ids = np.argsort(-full, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(full, ids, axis=1), ids


def given(name, X, metric):
    X = unit(X) if metric == "cosine" else X
    if name == "object":
        return Engine(X, metric)
    distance = metric == "euclidean" or name.endswith("L2")
    measure = faiss.METRIC_L2 if distance else faiss.METRIC_INNER_PRODUCT
    if name.startswith("flat"):
        return filled(faiss.IndexFlat(D, measure), X)
    if name == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlat(D, measure), D, 8, measure)
        index.nprobe = 8
        return filled(index, X)
    if name == "hnsw":
        index = faiss.IndexHNSWFlat(D, 32, measure)
        index.hnsw.efSearch = 600
        return filled(index, X)
    if name == "mapped":
        index = faiss.IndexIDMap(faiss.IndexFlat(D, measure))
        index.add_with_ids(X, np.arange(N))
        return index
    index = faiss.IndexPreTransform(faiss.IndexFlat(D, measure))
    index.add(X)
    return index


CASES = [
    (name, metric)
    for metric in METRICS
    for name in ("flat", "ivf", "hnsw", "mapped", "transformed", "object")
    if (name, metric) != ("hnsw", "inner_product")
] + [("flat L2", "cosine")]


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_the_lists_and_the_results_are_those_of_exact_search(X, tmp_path, name, metric):
    parameters = {"k": 10, "metric": metric, "affinity": "context"}
    # With an index of the caller, each of its rows is a node.
    expected = diffusion.Reranker(**parameters, neighbors=Exact()).fit_rows(X)
    index = given(name, X, metric)
    ranker = diffusion.Reranker(**parameters).fit(X, index=index)
    lists = nearest_neighbors(X, 10, metric=metric, index=index)
    exact = nearest_neighbors(X, 10, metric=metric, method="exact")
    np.testing.assert_allclose(lists[0], exact[0], atol=1e-4)
    assert (lists[1] == exact[1]).mean() > 0.995  # near ties
    Q = X[:30] + np.float32(0.01)
    _, ids = ranker.search(Q, 20)
    assert (ids == expected.search(Q, 20)[1]).mean() > 0.97
    ranker.save(tmp_path / "index")
    assert "vectors" not in ranker.state().arrays
    loaded = diffusion.load(tmp_path / "index", index=index)
    assert loaded.get_params() == ranker.get_params()
    np.testing.assert_array_equal(loaded.search(Q, 20)[1], ids)
    without = diffusion.load(tmp_path / "index")
    assert without.n_features_in_ == D
    with pytest.raises(DiffusionError, match=r"search: .* expected diffusion.load\(path, index="):
        without.search(Q)
    first = ranker.fitted().index.search(unit(Q) if metric == "cosine" else Q, 100)
    np.testing.assert_array_equal(without.rerank(*first, k=20)[1], loaded.rerank(*first, k=20)[1])
    without.save(tmp_path / "again")
    np.testing.assert_array_equal(
        diffusion.load(tmp_path / "again", index=index).search(Q, 20)[1], ids
    )


def test_the_vectors_are_not_indexed_again(X, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("indexed again")

    monkeypatch.setattr(NeighborIndex, "__init__", refuse)
    engine = Engine(unit(X), "cosine")
    ranker = diffusion.Reranker(k=5, neighbors="ivf").fit(X, index=engine)
    assert sum(m for m, _ in engine.asked) >= N
    engine.asked.clear()
    ranker.search(X[:3])
    assert [m for m, _ in engine.asked] == [3]


@pytest.mark.parametrize(("affinity", "same"), [("cosine", 1.0), ("context", 0.8)])
def test_regions_of_a_given_index(X, tmp_path, affinity, same):
    images = np.arange(N) // 4
    index = given("flat", X, "cosine")
    expected = diffusion.RegionalReranker(k=10, affinity=affinity).fit(X, images)
    ranker = diffusion.RegionalReranker(k=10, affinity=affinity).fit(X, images, index=index)
    scores, ids = ranker.search(X[:4])
    # Rounding decides near ties, which change the neighbourhoods.
    assert (ids == expected.search(X[:4])[1]).mean() >= same
    np.testing.assert_allclose(scores, expected.search(X[:4])[0], rtol=1e-2, atol=1e-5)
    ranker.save(tmp_path / "index")
    loaded = diffusion.RegionalReranker.load(tmp_path / "index", index=index)
    np.testing.assert_array_equal(loaded.search(X[:4])[1], ids)


def test_short_lists_padding_and_no_item_of_its_own(X):
    class Short(Engine):
        def search(self, Q, k):
            scores, ids = super().search(Q, k)
            ids = np.where(np.arange(ids.shape[1]) >= 4, -1, ids)
            return scores[:, :6], ids[:, :6].astype(np.int32)

    scores, ids = nearest_neighbors(X, 9, index=Short(unit(X), "cosine"))
    assert ids.shape == (N, 9)
    assert ((ids >= 0).sum(axis=1) == 3).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert not (ids == np.arange(N)[:, None]).any()

    class Others(Engine):
        def search(self, Q, k):
            scores, ids = super().search(Q, k + 1)
            return scores[:, 1:], ids[:, 1:]  # it leaves the nearest out, which is the item

    scores, ids = nearest_neighbors(X, 9, index=Others(unit(X), "cosine"))
    assert (ids >= 0).all()
    assert not (ids == np.arange(N)[:, None]).any()


def test_one_item_and_more_neighbours_than_items():
    X = np.eye(3, dtype=np.float32)
    scores, ids = nearest_neighbors(X, 5, index=filled(faiss.IndexFlatIP(3), X))
    assert ids[:, 2:].tolist() == [[-1] * 3] * 3
    assert (scores[:, 2:] == -np.inf).all()
    _, ids = nearest_neighbors(X[:1], 2, index=filled(faiss.IndexFlatIP(3), X[:1]))
    assert ids.tolist() == [[-1, -1]]


def test_lists_of_a_given_index_are_resumed(X, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.neighbors.progress.BLOCK", 100)
    monkeypatch.setattr("diffusion.storage.rows._INTERVAL", 0.0)

    class Dying(Engine):
        def search(self, Q, k):
            if len(self.asked) == 4:
                raise KeyboardInterrupt
            return super().search(Q, k)

    whole = diffusion.Reranker(k=5).fit(X, index=Engine(unit(X), "cosine"))
    with pytest.raises(KeyboardInterrupt):
        diffusion.Reranker(k=5).fit(X, index=Dying(unit(X), "cosine"), checkpoint=tmp_path / "part")
    engine = Engine(unit(X), "cosine")
    ranker = diffusion.Reranker(k=5).fit(X, index=engine, checkpoint=tmp_path / "part")
    assert sum(m for m, _ in engine.asked[1:]) == 300  # the first call checks the scores
    assert (ranker.graph_.W != whole.graph_.W).nnz == 0


class Answering:
    """An object that answers with given arrays, or raises."""

    def __init__(self, answer):
        self.answer = answer

    def search(self, Q, k):
        return self.answer(Q, k)


def answers(scores, ids):
    return Answering(lambda Q, k: (np.tile(scores, (len(Q), 1)), np.tile(ids, (len(Q), 1))))


def raising(Q, k):
    raise RuntimeError("no connection\nto the server")


def other_metric(X):
    return filled(faiss.IndexFlat(D, faiss.METRIC_L1), X)


def shifted(X):
    index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
    index.add_with_ids(unit(X), np.arange(N) + 1)
    return index


BAD = [
    (lambda X: 7, {}, r"expected a faiss index or an object with search\(Q, k\), got 7"),
    (lambda X: faiss.IndexBinaryFlat(16), {}, "float32 vectors, got IndexBinaryFlat"),
    (lambda X: filled(faiss.IndexFlatIP(D), X[:-1]), {}, f"expected {N} vectors of dimension {D}"),
    (lambda X: filled(faiss.IndexFlatIP(5), X[:, :5].copy()), {}, "IndexFlatIP of 600 of dim"),
    (other_metric, {}, "metric='cosine' expects a METRIC_INNER_PRODUCT or METRIC_L2 index"),
    (lambda X: given("flat", X, "euclidean"), {"metric": "inner_product"}, "of METRIC_L2"),
    (lambda X: given("flat", X, "cosine"), {"metric": "euclidean"}, "expects a METRIC_L2 index"),
    (shifted, {}, "row numbers of X; this IndexIDMap"),
    (lambda X: filled(faiss.IndexFlatIP(D), 9 * unit(X)), {}, "divided by their norms; search giv"),
    (lambda X: filled(faiss.IndexFlatIP(D), unit(X)[::-1].copy()), {}, "an index of the rows of X"),
    (lambda X: Answering(raising), {}, "raised RuntimeError: no connection to the server"),
    (lambda X: Answering(lambda Q, k: None), {}, "raised TypeError"),
    (lambda X: answers([1.0], [N]), {}, r"ids: expected ids in \[-1, 600\)"),
    (lambda X: answers([0.2, 0.9], [1, 2]), {}, "similarities in descending"),
    (lambda X: answers([0.9, 0.2], [1, 2]), {"metric": "euclidean"}, "distances in ascending"),
    (lambda X: answers([-0.9, 0.2], [1, 2]), {"metric": "euclidean"}, "distances of at least 0"),
    (lambda X: answers([0.9, 0.8], [3, 3]), {}, "each item at most once"),
    (lambda X: answers([0.9, np.nan], [3, 4]), {}, "finite"),
    (lambda X: answers([0.9, 0.8], [3.0, 4.0]), {}, "ids: expected integers"),
    (lambda X: answers([0.9], [3, 4]), {}, "scores and ids of shape"),
    (lambda X: Answering(lambda Q, k: (np.ones(k), np.arange(k))), {}, "scores and ids of shape"),
]


@pytest.mark.parametrize(("make", "parameters", "message"), BAD)
def test_bad_indexes(X, make, parameters, message):
    with pytest.raises(DiffusionError, match=f"^index: .*{message}"):
        diffusion.Reranker(k=5, **parameters).fit(X, index=make(X))
    with pytest.raises(DiffusionError, match=f"^index: .*{message}"):
        nearest_neighbors(X, 5, index=make(X), **parameters)


def test_loading_with_an_index_that_does_not_fit(X, tmp_path):
    diffusion.Reranker(k=5).fit(X, index=given("flat", X, "cosine")).save(tmp_path / "given")
    diffusion.Reranker(k=5).fit(X).save(tmp_path / "own")
    with pytest.raises(DiffusionError, match="index: expected 600 vectors"):
        diffusion.load(tmp_path / "given", index=filled(faiss.IndexFlatIP(D), X[:9]))
    with pytest.raises(DiffusionError, match=r"index: .*own was not fitted with an index of yours"):
        diffusion.load(tmp_path / "own", index=given("flat", X, "cosine"))


def test_compressed_vectors_are_accepted(X):
    index = faiss.index_factory(D, "SQ8", faiss.METRIC_INNER_PRODUCT)
    _, ids = nearest_neighbors(X, 10, index=filled(index, unit(X)))
    exact = nearest_neighbors(X, 10, method="exact")[1]
    same = [len(set(a) & set(b)) / 10 for a, b in zip(ids, exact, strict=True)]
    assert np.mean(same) > 0.9
