"""Indexes of faiss, compared with Rerankers that are given the vectors."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.integrations.faiss import fit_index, load_index

N, D = 240, 8
OWN = np.random.default_rng(1).permutation(N) * 7 + 3  # neither ascending nor row numbers


def vectors(scale):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, D))[np.arange(N) % 6] + 0.7 * rng.standard_normal((N, D))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return (X * scale(rng)).astype(np.float32)


UNIT = vectors(lambda rng: 1)
LONG = vectors(lambda rng: rng.uniform(0.5, 2, (N, 1)))
QUERIES = np.random.default_rng(2).standard_normal((5, D)).astype(np.float32)


def made(description, X, measure, ids=None):
    """Return a trained index with vectors, which searches all cells."""
    index = faiss.index_factory(D, description, measure)
    index.train(X)
    _ = index.add(X) if ids is None else index.add_with_ids(X, ids)
    _nprobe(index)
    return index


def _nprobe(index):
    inner = faiss.try_extract_index_ivf(index)
    if inner is not None:
        inner.nprobe = inner.nlist


# The descriptions of indexes, and whether vectors can be added with ids of one's own.
KINDS = [
    ("Flat", False),
    ("HNSW16", False),
    ("NSG16", False),
    ("IVF4,Flat", False),
    ("IVF4,Flat", True),
    ("IVF4,Flat,Refine(Flat)", False),
    ("IVF4,PQ4x4,RFlat", False),
    ("L2norm,Flat", False),
    ("IDMap,Flat", True),
    ("IDMap2,Flat", True),
    ("IDMap,HNSW16", True),
    ("IDMap,IVF4,Flat", True),
    ("IDMap2,IVF4,Flat", True),
    ("IDMap,L2norm,Flat", True),
    ("IDMap,IVF4,Flat,RFlat", True),
]
CASES = [
    ("cosine", UNIT, faiss.METRIC_INNER_PRODUCT),
    ("cosine", UNIT, faiss.METRIC_L2),
    ("inner_product", LONG, faiss.METRIC_INNER_PRODUCT),
    ("euclidean", LONG, faiss.METRIC_L2),
]


class ByHand:
    """An index and what its ids stand for, as one writes it who has the vectors."""

    def __init__(self, index, ids, halved):
        self.index, self.rows, self.halved = index, {int(i): r for r, i in enumerate(ids)}, halved
        self.rows[-1] = -1

    def search(self, Q, k):
        scores, ids = self.index.search(Q, k)
        scores = 1 - scores / 2 if self.halved else scores
        return scores, np.vectorize(self.rows.get)(ids)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(("metric", "X", "measure"), CASES)
@pytest.mark.parametrize(("description", "own"), KINDS)
def test_as_with_the_vectors_at_hand(description, own, metric, X, measure):
    if "L2norm" in description:
        metric = "cosine"
    ids = OWN if own else np.arange(N)
    index = made(description, X, measure, OWN if own else None)
    before = faiss.serialize_index(index).tobytes()
    ranker = fit_index(index, k=6, query_k=3)
    assert ranker.metric == metric
    assert faiss.serialize_index(index).tobytes() == before

    order = np.argsort(ids)
    halved = metric == "cosine" and measure == faiss.METRIC_L2
    by_hand = Reranker(k=6, query_k=3, metric=metric).fit(
        X[order], ids=ids[order], index=ByHand(index, ids[order], halved)
    )
    assert ranker.ids_.tolist() == ids[order].tolist()
    out, expected = ranker.search(QUERIES, 30), by_hand.search(QUERIES, 30)
    np.testing.assert_array_equal(out[1], expected[1])
    np.testing.assert_allclose(out[0], expected[0], rtol=1e-5)
    # The first stage is the index's own search.
    Q = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True) if metric == "cosine" else QUERIES
    scores, rows = ranker.fitted().index.search(Q, 20)
    own_scores, own_ids = index.search(Q, 20)
    np.testing.assert_array_equal(np.where(rows < 0, -1, ids[order][rows]), own_ids)
    similar = -own_scores if metric == "euclidean" else own_scores
    real = own_ids >= 0
    np.testing.assert_allclose(
        scores[real], (1 - own_scores / 2 if halved else similar)[real], atol=1e-5
    )


@pytest.mark.parametrize("own", [False, True])
def test_an_index_that_the_caller_drops_lives_on(own):
    def dropped():
        made_index = made("IDMap,Flat" if own else "Flat", UNIT, 0, OWN if own else None)
        return faiss.deserialize_index(faiss.serialize_index(made_index))

    index = dropped()
    ranker = fit_index(index, k=6, query_k=3)
    expected = ranker.search(QUERIES, 10)[1]
    del index
    gc.collect()
    assert ranker.search(QUERIES, 10)[1].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("description", "own"), [("Flat", False), ("IDMap,Flat", True), ("IVF4,Flat", True)]
)
def test_saved_and_loaded(description, own, tmp_path):
    index = made(description, UNIT, faiss.METRIC_L2, OWN if own else None)
    ranker = fit_index(index, k=6, query_k=3)
    ranker.save(tmp_path / "index")
    faiss.write_index(index, str(tmp_path / "faiss"))
    again = load_index(tmp_path / "index", faiss.read_index(str(tmp_path / "faiss")), verify=True)
    for out, expected in zip(again.search(QUERIES, 30), ranker.search(QUERIES, 30), strict=True):
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("description", ["Flat", "IDMap,Flat", "IVF4,Flat"])
def test_ids_of_the_callers_own(description, tmp_path):
    own = OWN if description != "Flat" else np.arange(N)
    index = made(description, UNIT, 0, None if description == "Flat" else OWN)
    names = {int(i): f"photo {i}" for i in own}
    ranker = fit_index(index, ids=names, k=6, query_k=3)
    plain = fit_index(index, k=6, query_k=3).search(QUERIES, 9)[1]
    named = ranker.search(QUERIES, 9)[1]
    assert named.tolist() == [[names[i] for i in row] for row in plain.tolist()]
    if description == "Flat":
        listed = fit_index(index, ids=list(names.values()), k=6, query_k=3)
        assert listed.search(QUERIES, 9)[1].tolist() == named.tolist()
    ranker.save(tmp_path)
    assert load_index(tmp_path, index, ids=names).search(QUERIES, 9)[1].tolist() == named.tolist()
    with pytest.raises(DiffusionError, match=r"index: expected the index and the ids"):
        load_index(tmp_path, index)
    narrow = faiss.IndexIDMap(faiss.IndexFlatIP(3))
    narrow.add_with_ids(UNIT[:, :3].copy(), own)
    with pytest.raises(DiffusionError, match=r"index: .*of dimension 8; got 240 of dimension 3"):
        load_index(tmp_path, narrow, ids=names)


def test_removed_items(tmp_path):
    index = made("IDMap,Flat", UNIT, 0, OWN)
    fit_index(index, k=6, query_k=3).save(tmp_path)
    index.remove_ids(OWN[:20])
    ranker = fit_index(index, k=6, query_k=3)
    assert set(ranker.ids_.tolist()) == set(OWN[20:].tolist())
    _scores, ids = ranker.search(UNIT[30], 1)
    assert ids.tolist() == [OWN[30]]
    with pytest.raises(DiffusionError, match=r"index: .*240 items of dimension 8; got 220"):
        load_index(tmp_path, index)


@settings(max_examples=25)
@given(
    st.sampled_from(["IDMap,Flat", "IDMap2,Flat", "IVF4,Flat"]),
    st.lists(st.integers(0, 2**62), min_size=30, max_size=60, unique=True),
    st.data(),
)
def test_after_any_changes_each_id_has_its_vector(description, ids, data):
    index = faiss.index_factory(D, description, faiss.METRIC_INNER_PRODUCT)
    index.train(UNIT)
    _nprobe(index)
    first = data.draw(st.integers(1, len(ids) - 1))
    index.add_with_ids(UNIT[:first], np.array(ids[:first]))
    removed = data.draw(st.lists(st.sampled_from(ids[:first]), unique=True, max_size=20))
    index.remove_ids(np.array(removed, np.int64))
    index.add_with_ids(UNIT[first : len(ids)], np.array(ids[first:]))
    kept = {i: UNIT[row] for row, i in enumerate(ids) if i not in removed}
    own = np.array(sorted(kept))
    V = np.array([kept[i] for i in own.tolist()])
    ranker = fit_index(index, k=4, query_k=3, affinity="cosine")
    by_hand = Reranker(k=4, query_k=3, affinity="cosine")
    by_hand.fit(V, ids=own, index=ByHand(index, own, False))
    assert ranker.ids_.tolist() == own.tolist()
    assert (ranker.graph_.W != by_hand.graph_.W).nnz == 0


def test_an_index_that_grew_after_the_fit():
    index = made("IVF4,Flat", UNIT, 0, OWN)
    ranker = fit_index(index, k=6, query_k=3)
    index.add_with_ids(UNIT[:1], np.array([10**6]))
    with pytest.raises(DiffusionError, match=r"^index: expected it as .*the id 1000000"):
        ranker.search(UNIT[0], 3)


def test_the_metric_can_be_chosen():
    index = made("Flat", UNIT, faiss.METRIC_L2)
    ranker = fit_index(index, metric="euclidean", k=6, query_k=3)
    direct = Reranker(metric="euclidean", k=6, query_k=3).fit(UNIT, index=index)
    assert ranker.metric == "euclidean"
    np.testing.assert_array_equal(ranker.search(QUERIES, 5), direct.search(QUERIES, 5))
    halves = UNIT.astype(np.float16).astype(np.float32)  # unit vectors, as they are often stored
    assert fit_index(made("Flat", halves, 0), k=6, query_k=3).metric == "cosine"


def test_a_checkpoint_is_passed_on(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffusionError, match="checkpoint"):
        fit_index(made("Flat", UNIT, 0), checkpoint=tmp_path / "file")


def repeated():
    index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
    index.add_with_ids(UNIT, np.maximum(OWN, 50))
    return index


def shifted():
    """An index whose ids faiss itself has lost."""
    index = made("IDMap,IVF4,Flat", UNIT, 0, OWN)
    index.remove_ids(OWN[:2])
    return index


BAD = [
    (lambda: 7, {}, r"index: expected a faiss index .*got int"),
    (lambda: UNIT, {}, r"index: expected a faiss index .*got ndarray"),
    (lambda: faiss.IndexBinaryFlat(16), {}, r"index: expected a faiss index .*got IndexBinaryFlat"),
    (lambda: made("SQ8", UNIT, 0), {}, r"got IndexScalarQuantizer; with the vectors at hand"),
    (lambda: made("PQ4x4", UNIT, 0), {}, r"got IndexPQ;"),
    (lambda: made("IVF4,SQ8", UNIT, 0), {}, r"got IndexIVFScalarQuantizer;"),
    (lambda: made("HNSW16_SQ8", UNIT, 0), {}, r"got IndexHNSWSQ;"),
    (lambda: made("LSH", UNIT, 1), {}, r"got IndexLSH;"),
    (lambda: made("PCA4,Flat", UNIT, 1), {}, r"got IndexPreTransform;"),
    (lambda: made("IDMap,SQ8", UNIT, 0, OWN), {}, r"got IndexScalarQuantizer;"),
    (lambda: made("Flat", UNIT, faiss.METRIC_L1), {}, r"index: .*metric type 2 of faiss"),
    (lambda: faiss.IndexFlatIP(D), {}, r"index: .*got an empty IndexFlatIP"),
    (lambda: faiss.index_factory(D, "IVF4,Flat"), {}, r"index: .*got an empty IndexIVFFlat"),
    (repeated, {}, r"index: expected each id once, this IndexIDMap has 50 more than once"),
    (shifted, {}, r"index: .*lost them"),
    (lambda: made("Flat", UNIT, 0), {"metric": "euclidean"}, r"metric: .*'inner_product', which"),
    (
        lambda: made("IDMap,Flat", UNIT, 1, OWN),
        {"metric": "inner_product"},
        r"metric: .*'euclidean'",
    ),
    (lambda: made("Flat", LONG, 1), {"metric": "cosine"}, r"metric: expected vectors of norm 1"),
    (lambda: made("Flat", UNIT, 0), {"metric": "manhattan"}, r"metric: expected"),
    (lambda: made("Flat", UNIT, 0), {"ids": ["a"]}, r"ids: expected 240 ids"),
    (lambda: made("Flat", UNIT, 0), {"ids": {0: "a"}}, r"ids: .*1 has none"),
    (lambda: made("IDMap,Flat", UNIT, 0, OWN), {"ids": ["a"] * N}, r"ids: .*mapping .*got list"),
    (lambda: made("Flat", UNIT, 0), {"alpha": 2}, r"alpha: expected"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), BAD)
def test_what_is_refused(make, arguments, message):
    with pytest.raises(DiffusionError, match=message):
        fit_index(make(), **arguments)


def test_a_reranker_of_its_own_vectors_takes_no_index(tmp_path):
    Reranker(k=6).fit(UNIT).save(tmp_path)
    with pytest.raises(DiffusionError, match=r"index: .*not fitted with an index of yours"):
        load_index(tmp_path, made("Flat", UNIT, 0))
    assert diffusion.load(tmp_path).n_items_ == N
