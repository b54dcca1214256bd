"""Adding and removing items: arguments, special collections, and searches at the same time."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from diffusion.solvers import CG
from tests.support.collections import Collection, assert_same

EXACT = CG(tol=1e-9, max_iter=500)
SETTINGS = {"k": 7, "solver": EXACT, "affinity": diffusion.Context(scales=(2, 4, 7), size=9)}


def made(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.random.default_rng(7).standard_normal((4, 5))[
        rng.integers(0, 4, n)
    ] + 0.5 * rng.standard_normal((n, 5))


@pytest.fixture
def ranker() -> diffusion.Reranker:
    return diffusion.Reranker(**SETTINGS).fit(made(40), ids=[f"item {i}" for i in range(40)])


def unchanged(ranker: diffusion.Reranker, before: diffusion.Reranker) -> None:
    assert ranker.ids_.tolist() == before.ids_.tolist()
    assert ranker.graph_ is before.graph_


@pytest.mark.parametrize(
    ("X", "ids", "message"),
    [
        (made(2), ["a", "a"], "ids: .*'a'"),
        (made(2), ["a", "item 3"], "ids: .*'item 3'"),
        (made(2), ["a"], "ids: .*2"),
        (made(2), None, "ids: "),
        (made(2), [1, 2], "ids: .*str"),
        (made(2)[:, :3], ["a", "b"], "X: .*5"),
        (np.full((1, 5), np.nan), ["a"], "X: .*row 0"),
        (np.zeros((2, 2, 5)), ["a", "b"], "X: "),
    ],
)
def test_what_cannot_be_added_changes_nothing(ranker, X, ids, message):
    before = copy.copy(ranker)
    with pytest.raises(DiffusionError, match=message):
        ranker.add(X, ids=ids)
    unchanged(ranker, before)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["item 1", "nobody"], "ids: .*'nobody'"),
        (["item 1", "item 1"], "ids: .*'item 1'"),
        ([f"item {i}" for i in range(40)], "ids: .*at least one"),
        ([1], "ids: "),
        ([[1.5]], "ids: "),
    ],
)
def test_what_cannot_be_removed_changes_nothing(ranker, ids, message):
    before = copy.copy(ranker)
    with pytest.raises(DiffusionError, match=message):
        ranker.remove(ids)
    unchanged(ranker, before)


def test_before_a_fit_there_is_nothing_to_change():
    with pytest.raises(DiffusionError, match="not fitted yet"):
        diffusion.Reranker().add(made(3))
    with pytest.raises(DiffusionError, match="not fitted yet"):
        diffusion.Reranker().remove([0])


def test_nothing_added_and_nothing_removed_is_nothing_changed(ranker):
    before = copy.copy(ranker)
    unchanged(ranker.add(np.empty((0, 5)), ids=[]).remove([]), before)


def test_row_numbers_stay_with_their_items():
    """Without own ids, an item keeps its number, which no other ever gets."""
    X = made(30)
    ranker = diffusion.Reranker(**SETTINGS).fit(X)
    ranker.remove([3, 29, 10])
    assert sorted(ranker.ids_.tolist()) == [i for i in range(29) if i not in (3, 10)]
    for item in (0, 4, 28):
        assert ranker.search(X[item], 1)[1].tolist() == [item]
    ranker.add(X[[3, 10]])
    assert sorted(ranker.ids_.tolist())[-2:] == [30, 31]
    assert ranker.search(X[10], 1)[1].tolist() == [31]


def test_one_vector_and_one_id():
    ranker = diffusion.Reranker(**SETTINGS).fit(made(30), ids=np.arange(100, 130))
    ranker.add(np.ones(5), ids=[7]).remove(101)
    assert ranker.n_items_ == 30
    assert 7 in ranker.ids_
    assert 101 not in ranker.ids_


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("neighbors", ["exact", "ivf", "hnsw", "auto"])
def test_every_metric_and_method(metric, neighbors):
    """On collections so small that every method finds all neighbours."""
    method = diffusion.neighbors.IVF(nlist=2, nprobe=2) if neighbors == "ivf" else neighbors
    model = Collection(**SETTINGS | {"metric": metric, "neighbors": method})
    X = made(60)
    model.add(list(range(100, 140)), X[:40])
    ranker = model.fitted()
    ranker.add(X[40:], ids=np.arange(140, 160))
    model.add(list(range(140, 160)), X[40:])
    gone = [101, 115, 139, 140, 159]
    ranker.remove(gone)
    model.remove(gone)
    assert_same(ranker, model.fitted(), atol=1e-4)


def test_from_one_item_to_many_and_back():
    """Lists get longer and shorter with the collection."""
    model = Collection(**SETTINGS)
    X = made(20)
    model.add([0], X[:1])
    ranker = model.fitted()
    for item in range(1, 20):
        ranker.add(X[item], ids=[item])
        model.add([item], X[item : item + 1])
        assert_same(ranker, model.fitted())
    for item in range(18):
        ranker.remove([item])
        model.remove([item])
        assert_same(ranker, model.fitted())


def test_zero_vectors_are_nobodys_neighbours():
    model = Collection(**SETTINGS)
    X = made(30)
    X[[5, 20]] = 0
    model.add(list(range(15)), X[:15])
    ranker = model.fitted()
    ranker.add(X[15:], ids=range(15, 30))
    model.add(list(range(15, 30)), X[15:])
    assert_same(ranker, model.fitted())
    node = ranker.nodes_[5]  # they are copies of each other
    assert ranker.nodes_[20] == node
    assert not ranker.graph_.W[[node]].nnz
    ranker.remove([5, 6])
    model.remove([5, 6])
    assert_same(ranker, model.fitted())


def test_lists_without_vectors_become_shorter():
    """What is left of the given lists, as a fit of them gives it."""
    scores, ids = diffusion.neighbors.nearest_neighbors(made(30), 7)
    ranker = diffusion.Reranker(**SETTINGS).fit_neighbors(scores, ids)
    with pytest.raises(DiffusionError, match=r"add: .*holds no vectors"):
        ranker.add(made(2))
    ranker.remove([4, 29])
    kept = [i for i in range(30) if i not in (4, 29)]
    number = np.full(31, -1)
    number[kept] = np.arange(28)
    left = number[ids[kept]]
    fresh = diffusion.Reranker(**SETTINGS).fit_neighbors(scores[kept], left)
    rows = [ranker.ids_.tolist().index(item) for item in kept]
    np.testing.assert_array_equal(
        ranker.graph_.W.toarray()[np.ix_(rows, rows)], fresh.graph_.W.toarray()
    )


def test_an_index_of_the_callers_is_not_changed():
    import faiss

    X = made(40).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(5)
    index.add(X)
    ranker = diffusion.Reranker(**SETTINGS).fit(X, index=index)
    for change in (lambda: ranker.add(X[:2]), lambda: ranker.remove([1])):
        with pytest.raises(DiffusionError, match="index"):
            change()
    assert ranker.n_items_ == 40


def test_copies_have_turns_of_their_own(ranker):
    for other in (copy.deepcopy(ranker), pickle.loads(pickle.dumps(ranker))):
        other.remove(["item 3"])
        assert (other.n_items_, ranker.n_items_) == (39, 40)


def test_searches_beside_updates_see_one_state_or_the_other():
    X = made(60)
    states = [diffusion.Reranker(**SETTINGS).fit(X[:n], ids=np.arange(n)) for n in (50, 60)]
    queries = made(3, seed=1)
    answers = [state.search(queries, 60) for state in states]
    ranker = diffusion.Reranker(**SETTINGS).fit(X[:50], ids=np.arange(50))
    stop, wrong, seen = threading.Event(), [], 0

    def same(found, answer) -> bool:
        items = (np.sort(found[1]) == np.sort(answer[1])).all()
        return items and np.allclose(found[0], answer[0], atol=1e-4)

    def search() -> None:
        nonlocal seen
        while not stop.is_set():
            found = ranker.search(queries, 60)
            seen += 1
            if not any(
                (np.sort(found[1]) == np.sort(ids)).all()
                and np.allclose(found[0], scores, atol=1e-4)
                for scores, ids in answers
            ):
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        ranker.add(X[50:], ids=np.arange(50, 60))
        ranker.remove(np.arange(50, 60))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen
    assert ranker.n_items_ == 50


def test_updates_of_several_threads_take_turns():
    ranker = diffusion.Reranker(**SETTINGS).fit(made(30), ids=np.arange(30))
    X = made(12, seed=2)
    threads = [
        threading.Thread(target=ranker.add, args=(X[i : i + 3], np.arange(100 + i, 103 + i)))
        for i in range(0, 12, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ranker.ids_.tolist()) == [*range(30), *range(100, 112)]
    model = Collection(**SETTINGS)
    every = np.concatenate([made(30), np.zeros((70, 5)), X])
    model.add(ranker.ids_.tolist(), every[ranker.ids_])  # in the order of their turns
    assert_same(ranker, model.fitted())
