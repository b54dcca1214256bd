"""Items with the same vector: one node in the graph, and items like others in answers."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion import copies as module
from diffusion.change import Change
from diffusion.copies import Copies
from diffusion.index_state import save_state
from tests.support.forgery import change_array

KINDS = {
    "context": {"k": 8, "query_k": 4, "solver": diffusion.CG(tol=1e-8, max_iter=400)},
    "cosine": {"affinity": "cosine", "k": 5, "query_k": 3, "alpha": 0.9, "solver": "cg"},
    "euclidean": {"metric": "euclidean", "k": 6, "query_k": 4, "solver": "local"},
}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def collection(rng):
    """Vectors around some centres, how often each is there, and which one each item has."""
    X = (rng.standard_normal((6, 8))[np.arange(60) % 6] + 0.4 * rng.standard_normal((60, 8))).round(
        3
    )
    times = np.where(np.arange(60) % 7 == 3, 15, np.where(np.arange(60) % 5 == 0, 3, 1))
    return X.astype(np.float32), rng.permutation(np.repeat(np.arange(60), times))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def pair_of(X, of, kind):
    """Return a Reranker of all items, one of each vector once, and the node of each vector."""
    ranker = Reranker(**kind).fit(X[of])
    order = of[np.sort(np.unique(of, return_index=True)[1])]  # nodes in the order of their items
    return ranker, Reranker(**kind).fit(X[order]), order


def expand(scores, nodes, order, of, allowed=None):
    """Return the items of ranked nodes, in plain Python."""
    out = []
    for score, node in zip(scores.tolist(), nodes.tolist(), strict=True):
        if node >= 0:
            items = np.flatnonzero(of == order[node]).tolist()
            out += [(score, item) for item in items if allowed is None or item in allowed]
    return out


def listed(scores, ids):
    real = [(s, i) for s, i in zip(scores.tolist(), ids.tolist(), strict=True) if i >= 0]
    assert (ids[len(real) :] == -1).all()
    assert np.isneginf(scores[len(real) :]).all()
    return real


def assert_close(one, other):
    assert [item for _, item in one] == [item for _, item in other]
    np.testing.assert_allclose([s for s, _ in one], [s for s, _ in other], atol=2e-6)


def test_answers_are_those_of_distinct_vectors_expanded(collection, kind, rng):
    X, of = collection
    ranker, plain, order = pair_of(X, of, kind)
    assert ranker.n_items_ == len(of) == len(ranker.ids_)
    assert ranker.graph_.n_nodes == 60
    assert (order[ranker.nodes_] == of).all()
    if kind.get("metric") != "euclidean":  # another centre, another rounding
        np.testing.assert_array_equal(ranker.graph_.W.toarray(), plain.graph_.W.toarray())
    Q = rng.standard_normal((5, 8))
    scores, nodes = plain.search(Q, 60)
    for k in (1, 7, 40, len(of), len(of) + 3):
        found = ranker.search(Q, k)
        assert found[0].shape == found[1].shape == (5, k)
        for row in range(5):
            expected = expand(scores[row], nodes[row], order, of)[:k]
            assert_close(listed(found[0][row], found[1][row]), expected)
    allowed = set(rng.choice(len(of), 40, replace=False).tolist())
    found = ranker.search(Q, 30, allow=allowed)
    for row in range(5):
        expected = expand(scores[row], nodes[row], order, of, allowed)[:30]
        assert_close(listed(found[0][row], found[1][row]), expected)


def test_hits_are_one_node_and_come_back_as_items(collection, kind, rng):
    X, of = collection
    ranker, plain, order = pair_of(X, of, kind)
    distinct = rng.choice(60, 9, replace=False)  # nodes
    given_scores = -np.sort(rng.random(9)).astype(np.float32)
    # All but one of the items of each, and unknown hits between them.
    hits, hit_scores = [], []
    for score, node in zip(given_scores, distinct, strict=True):
        items = rng.permutation(np.flatnonzero(of == order[node]))
        items = items[1:] if len(items) > 1 else items
        hits += items.tolist()
        hit_scores += [score] * len(items)
    scores, nodes = plain.rerank([given_scores], [distinct], 60)
    expected = expand(scores[0], nodes[0], order, of)
    found = ranker.rerank([hit_scores], [hits], len(of))
    assert_close(listed(found[0][0], found[1][0]), expected)
    # Only what was given, equal scores in the order in which they were given.
    scores, nodes = plain.rerank([given_scores], [distinct], 60, restrict_to_candidates=True)
    value = {int(node): score for score, node in zip(scores[0], nodes[0], strict=True)}
    ranked = [int(node) for node in nodes[0] if node >= 0]
    expected = [(value[node], item) for node in ranked for item in hits if of[item] == order[node]]
    found = ranker.rerank([hit_scores], [hits], None, restrict_to_candidates=True)
    assert found[1].shape == (1, len(hits))
    assert_close(listed(found[0][0], found[1][0]), expected)
    # A filter of items: those of a node that are not allowed are not there.
    allowed = hits[::2]
    found = ranker.rerank([hit_scores], [hits], 12, restrict_to_candidates=True, allow=allowed)
    expected = [pair for pair in expected if pair[1] in allowed][:12]
    assert_close(listed(found[0][0], found[1][0]), expected)


def test_unknown_hits_are_not_pushed_out_by_copies(collection, kind):
    X, of = collection
    ranker = Reranker(**kind).fit(X[of])
    many = np.flatnonzero(np.bincount(of) == 15)[0]
    hits = [*np.flatnonzero(of == many)[:2].tolist(), 9001, 9000]
    for restrict in (False, True):
        scores, ids = ranker.rerank(
            [[-0.1, -0.1, -0.2, -0.3]], [hits], 4, restrict_to_candidates=restrict
        )
        assert set(hits[2:]) <= set(ids[0].tolist())
        assert (np.diff(scores[0][:2]) <= 0).all()
        assert ranker.report_.unknown.tolist() == [2]


def test_explanations_rank_items(collection, kind, rng):
    X, of = collection
    ranker = Reranker(**kind).fit(X[of])
    q = X[3] + 0.1 * rng.standard_normal(8)
    scores, ids = ranker.search(q, len(of))
    for place in (0, 1, 14, 15, 40, len(of) - 1):
        item = int(ids[place])
        explanation = ranker.explain(q, item)
        assert explanation.id == item
        assert explanation.rank == place + 1
        np.testing.assert_allclose(explanation.score, scores[place], atol=1e-4)
        assert explanation.copies == np.count_nonzero(of == of[item]) - 1
        assert explanation.n_items == len(of)
        assert all(chain.ids[-1] == item for chain in explanation.chains)
        if explanation.copies > 1:
            assert f"of which {explanation.copies} others have the same vector" in str(explanation)
    # The place among hits of which some are copies.
    hits = np.flatnonzero(of == 3)[::-1][:5].tolist()
    explained = ranker.explain(id=hits[3], hits=([-0.1, -0.1, -0.1, -0.1, -0.1], hits))
    assert explained.first_rank == 4


def test_adding_and_removing_copies_leaves_the_graph_as_it_is(collection, kind):
    X, _ = collection
    ranker = Reranker(**kind).fit(X, ids=[f"v{i}" for i in range(60)])
    graph, solver = ranker.graph_, ranker.solver_
    assert (ranker.nodes_ == np.arange(60)).all()
    ranker.add(X[[7, 7, 9]], ids=["a", "b", "c"])
    assert ranker.graph_ is graph
    assert ranker.solver_ is solver
    assert ranker.nodes_.tolist() == [*range(60), 7, 7, 9]
    ranker.remove(["b", "c"])
    assert ranker.graph_ is graph
    found = dict(zip(ranker.ids_.tolist(), ranker.nodes_.tolist(), strict=True))
    assert (found["v7"], found["a"], found["v9"]) == (7, 7, 9)
    ranker.remove("v7")
    assert (ranker.graph_.n_nodes, ranker.n_items_) == (60, 60)
    ranker.remove("a")
    assert ranker.graph_.n_nodes == 59


def assert_same_graph(live, fresh):
    """Compare to the last bit, by the items of each node."""
    node_of = dict(zip(live.ids_.tolist(), live.nodes_.tolist(), strict=True))
    pairs = {
        (node, node_of[item])
        for node, item in zip(fresh.nodes_.tolist(), fresh.ids_.tolist(), strict=True)
    }
    rows = [row for _, row in sorted(pairs)]
    W = live.graph_.W.toarray()[np.ix_(rows, rows)]
    np.testing.assert_array_equal(W, fresh.graph_.W.toarray())


def lived(seed, path=None, steps=8):
    """Remove the oldest items of nodes, and add items; compare with a fit after each step."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((30, 5))
    of = {item: int(rng.integers(30)) for item in range(70)}
    affinity = diffusion.Context((2, 4, 7), 9)
    settings = {"k": 7, "affinity": affinity, "solver": diffusion.CG(tol=1e-9, max_iter=500)}
    ranker = Reranker(**settings).fit(pool[list(of.values())], ids=list(of))
    for step in range(steps):
        oldest = list({kind: item for item, kind in reversed(of.items())}.values())
        gone = rng.choice(oldest, 5, replace=False).tolist()
        ranker.remove(gone)
        for item in gone:
            del of[item]
        if path is not None:
            ranker.save(path)
            ranker = diffusion.load(path)
        new = {100 * (step + 1) + i: int(rng.integers(30)) for i in range(5)}
        ranker.add(pool[list(new.values())], ids=list(new))
        of |= new
        fresh = Reranker(**settings).fit(pool[list(of.values())], ids=list(of))
        assert_same_graph(ranker, fresh)
        Q = rng.standard_normal((3, 5))
        found, expected = ranker.search(Q, len(of)), fresh.search(Q, len(of))
        np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
        np.testing.assert_array_equal(found[1], expected[1])
    return ranker


@pytest.mark.parametrize("stored", [False, True])
def test_without_the_oldest_of_its_items_a_node_is_as_old_as_the_next(stored, tmp_path):
    """Ties are resolved as by a fit of the items that are left, and copies are in its order."""
    for seed in range(2 if stored else 4):
        lived(seed, tmp_path / str(seed) if stored else None)


def test_ages_are_counted_anew_before_they_overflow(monkeypatch):
    monkeypatch.setattr("diffusion.change._MOST_AGES", 110)
    assert lived(4, steps=12).fitted().copies.ages.max() < 110


def test_an_index_from_before_ages_of_items_is_updated(rng):
    """Its items are in the order of their rows."""
    pool, of = rng.standard_normal((30, 5)), rng.permutation(np.repeat(np.arange(30), 2))
    settings = {"k": 7, "affinity": diffusion.Context((2, 4, 7), 9)}
    ranker = Reranker(**settings).fit(pool[of], ids=np.arange(60)).remove([0, 1, 2])
    state = ranker.state()
    del state.arrays["copies_ages"]
    loaded = Reranker.from_state(state).remove([20])
    left = loaded.ids_
    assert_same_graph(loaded, Reranker(**settings).fit(pool[of[left]], ids=left))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_ages_are_those_of_the_oldest_items(kinds, data):
    pool = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    copies, first = Copies.of(pool[kinds])
    vectors = pool[kinds] if first is None else pool[kinds][first]
    rows = list(enumerate(kinds))  # by row, when an item was added and which vector it has
    for step in range(3):
        if data.draw(st.booleans()):
            new = data.draw(st.lists(st.integers(0, 5), max_size=4))
            copies, fresh = copies.added(pool[new], vectors.__getitem__)
            vectors = np.concatenate([vectors, pool[new][fresh]])
            rows += [(100 * (step + 1) + i, kind) for i, kind in enumerate(new)]
        else:
            gone = data.draw(st.sets(st.sampled_from(range(len(rows))), max_size=len(rows) - 1))
            change = Change.removal(len(rows), np.array(sorted(gone), int))
            copies, of_nodes = copies.removed(change)
            vectors, rows = of_nodes.rows_of(vectors), [rows[row] for row in change.source]
        nodes: dict[int, list[tuple[int, int]]] = {}
        for row, (age, _) in enumerate(rows):
            nodes.setdefault(int(copies.nodes[row]), []).append((age, row))
        expected = sorted(nodes, key=lambda node: min(nodes[node]))
        assert np.argsort(copies.ages).tolist() == expected
        for node, items in nodes.items():
            assert copies.first_items(np.array([node])).tolist() == [min(items)[1]]
            assert [copies.place(row) for _, row in sorted(items)] == list(range(len(items)))


def test_new_copies_of_a_new_vector_are_one_node(kind, rng):
    X = rng.standard_normal((30, 8)).astype(np.float32)
    new = rng.standard_normal((1, 8)).astype(np.float32)
    ranker = Reranker(**kind).fit(X).add(np.concatenate([new, X[:1], new]))
    assert ranker.nodes_.tolist() == [*range(30), 30, 0, 30]
    assert ranker.graph_.n_nodes == 31


@pytest.mark.parametrize("neighbors", ["ivf", "hnsw", "nndescent"])
def test_copies_are_found_with_other_methods(neighbors, rng, tmp_path):
    X = rng.standard_normal((300, 8)).astype(np.float32)
    ranker = Reranker(k=8, neighbors=neighbors).fit(np.concatenate([X, X[:50]]))
    assert ranker.graph_.n_nodes == 300
    ranker.add(X[100:110])
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index", verify=True).add(X[200:205])
    assert loaded.graph_.n_nodes == 300
    assert loaded.nodes_[300:].tolist() == [*range(50), *range(100, 110), *range(200, 205)]


def test_copies_are_stored(collection, kind, tmp_path):
    X, of = collection
    path = tmp_path / "index"
    ranker = Reranker(**kind).fit(X[of])
    ranker.save(path)
    loaded = diffusion.load(path, verify=True)
    assert (loaded.nodes_ == ranker.nodes_).all()
    assert loaded.n_items_ == len(of)
    for one, other in zip(loaded.search(X[:4], 50), ranker.search(X[:4], 50), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded.add(X[[5, 6]]).save(path)
    again = diffusion.load(path, verify=True)
    assert again.n_items_ == len(of) + 2
    plain = Reranker(**kind).fit(X)
    assert "nodes" not in plain.state().sizes
    assert not [name for name in plain.state().arrays if name.startswith("copies")]


@pytest.mark.parametrize("value", [60, -1])
def test_forged_nodes_are_an_error(collection, tmp_path, value):
    X, of = collection
    Reranker(k=5).fit(X[of]).save(tmp_path / "index")
    change_array(tmp_path / "index", "copies_nodes", lambda a: a.__setitem__(3, value))
    with pytest.raises(DiffusionError, match="altered"):
        diffusion.load(tmp_path / "index").search(X[:1])


def test_a_node_without_an_item_is_an_error(collection, tmp_path):
    X, of = collection
    state = Reranker(k=5).fit(X[of]).state()
    state.arrays["copies_nodes"] = np.where(state.arrays["copies_nodes"] == 5, 6, 5).astype("i4")
    save_state(tmp_path / "index", state)
    with pytest.raises(DiffusionError, match="altered"):
        diffusion.load(tmp_path / "index").search(X[:1])


def test_lists_and_indexes_of_the_caller_have_a_node_for_each_row(collection):
    X, of = collection
    lists = diffusion.nearest_neighbors(X[of], 8)
    for ranker in (
        Reranker(k=8).fit_neighbors(*lists),
        Reranker(k=8).fit_neighbors(*lists, X[of]),
        Reranker(k=8).fit_rows(X[of]),
    ):
        assert ranker.graph_.n_nodes == ranker.n_items_ == len(of)
    # What is added to them joins a node nevertheless.
    ranker = Reranker(k=8).fit_neighbors(*diffusion.nearest_neighbors(X, 8), X).add(X[4])
    assert ranker.nodes_[-1] == 4


def test_zeros_and_signs_of_zeros_are_equal(rng):
    X = np.eye(8, dtype=np.float32)
    signed, zeros = np.where(X == 0, np.float32(-0.0), X), np.zeros((2, 8))
    X = np.concatenate([X, signed, zeros, -zeros[:1]])
    ranker = Reranker(k=3).fit(X)
    assert ranker.nodes_.tolist() == [*range(8), *range(8), 8, 8, 8]
    assert ranker.graph_.W.toarray()[8].sum() == 0
    _, ids = ranker.search(X[0], 19)
    assert ids[:2].tolist() == [0, 8]
    assert sorted(ids.tolist()) == list(range(19))
    ranker.add(-np.zeros((1, 8)))
    assert ranker.nodes_[-1] == 8


def test_embedding_has_a_row_for_each_item(collection):
    X, of = collection
    ranker = Reranker(k=8, solver="spectral").fit(X[of])
    assert len(ranker.embedding_) == len(of)
    solver = diffusion.Spectral(rank=40, dense_nodes=0)
    alone = Reranker(k=8, solver=solver, score="diffusion").fit(X[of])
    scores, ids = alone.search(X[0], 10)
    product = alone.embedding_ @ alone.embed(X[0])
    np.testing.assert_allclose(product[ids], scores, rtol=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5),
    st.booleans(),
)
def test_groups_are_those_of_a_dict(additions, colliding):
    """Also if all hashes are equal."""
    pool = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    before = module._hashes
    if colliding:
        module._hashes = lambda vectors: np.zeros(len(vectors), np.uint64)
    try:
        additions[0] = additions[0] or [0]
        copies, first = Copies.of(pool[additions[0]])
        vectors = pool[additions[0]] if first is None else pool[additions[0]][first]
        for more in additions[1:]:
            copies, fresh = copies.added(pool[more], vectors.__getitem__)
            vectors = np.concatenate([vectors, pool[more][fresh]])
    finally:
        module._hashes = before
    numbers: dict[int, int] = {}
    expected = [numbers.setdefault(kind, len(numbers)) for kind in chain(*additions)]
    assert copies.nodes.tolist() == expected
    assert (copies.n_items, copies.n_nodes) == (len(expected), len(numbers))
    assert len(vectors) == len(numbers)
