"""Qdrant in local mode: the graph of a collection, and its searches re-ranked.

The reference is the Reranker called directly with the vectors, ids and masks.
"""

import contextlib
import subprocess
import sys
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError

pytest.importorskip("qdrant_client", reason="needs qdrant-client")

from qdrant_client import QdrantClient, models

from diffusion.cli import main
from diffusion.integrations import qdrant, qdrant_points
from diffusion.integrations.qdrant import QdrantReranker, Synced

N, D = 240, 8
RNG = np.random.default_rng(0)
# Clusters, so that diffusion brings in points that were not among the first hits.
X = (
    RNG.standard_normal((12, D)).repeat(N // 12, axis=0) + 0.5 * RNG.standard_normal((N, D))
).astype(np.float32)
QUERIES = (X[::50] + 0.3 * RNG.standard_normal((5, D))).astype(np.float32)
STOCK = np.arange(N) % 3 == 0
RARE = np.arange(N) % 60 == 7
METRICS = {"Cosine": "cosine", "Dot": "inner_product", "Euclid": "euclidean"}


def equals(key, value):
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))]
    )


IN_STOCK, IS_RARE = equals("stock", True), equals("rare", True)


def points_of(rows, ids=None, name=None):
    ids = rows if ids is None else ids
    return [
        models.PointStruct(
            id=point,
            vector=X[row].tolist() if name is None else {name: X[row].tolist()},
            payload={"row": int(row), "stock": bool(STOCK[row]), "rare": bool(RARE[row])},
        )
        for row, point in zip(rows, ids, strict=True)
    ]


@contextlib.contextmanager
def collection(ids=None, distance="Cosine", rows=range(N)):
    client = QdrantClient(":memory:")
    try:
        space = models.VectorParams(size=D, distance=models.Distance(distance))
        client.create_collection("shop", vectors_config=space)
        if rows:
            client.upsert("shop", points_of(rows, ids))
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def shop():
    with collection() as client:
        yield client


@pytest.fixture(scope="module")
def reranker(shop):
    return QdrantReranker(shop, "shop").fit()


@pytest.fixture(scope="module")
def gaps(shop):
    """A reranker whose graph lacks every fourth point."""
    rows = np.flatnonzero(np.arange(N) % 4 != 1)
    return QdrantReranker(shop, "shop", ranker=diffusion.Reranker().fit(X[rows], ids=rows))


def pairs(points, abs=1e-5):
    return [(point.id, pytest.approx(point.score, abs=abs)) for point in points]


def expected(scores, ids):
    real = scores > -np.inf
    return list(zip(ids[real].tolist(), scores[real].tolist(), strict=True))


# --- searches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", METRICS)
def test_a_search_is_that_of_the_reranker(distance):
    with collection(distance=distance) as client:
        own = QdrantReranker(client, "shop").fit()
        direct = diffusion.Reranker(metric=METRICS[distance]).fit(X)
        assert own.ranker.metric == METRICS[distance]
        for q in QUERIES:
            found = own.search(q, limit=12)
            assert expected(*direct.search(q, 12)) == pairs(found)
            assert [point.payload["row"] for point in found] == [point.id for point in found]
        batch = own.search(QUERIES, limit=12)
        assert [pairs(row) for row in batch] == [
            expected(*row) for row in zip(*direct.search(QUERIES, 12), strict=True)
        ]
        # Hits that the user has: the distances of Euclid are recognised as such.
        hits = client.query_points("shop", query=QUERIES[0].tolist(), limit=60).points
        given = {"scores0": [h.score for h in hits]}
        if distance == "Euclid":
            given = {"distances0": [h.score for h in hits], "squared": False}
        wanted = direct.rerank(ids0=[h.id for h in hits], k=60, **given)
        assert pairs(own.rerank(hits)) == expected(*wanted)


@pytest.mark.parametrize(("condition", "mask"), [(IN_STOCK, STOCK), (IS_RARE, RARE)])
def test_a_filter_is_that_of_the_reranker(shop, reranker, condition, mask):
    direct = diffusion.Reranker().fit(X)
    for q in QUERIES:
        found = reranker.search(q, query_filter=condition, limit=10)
        assert pairs(found) == expected(*direct.search(q, 10, allow=mask))
        assert all(mask[point.id] and point.payload["row"] == point.id for point in found)
        for depth in (15, 50):
            hits = shop.query_points("shop", query=q.tolist(), limit=depth, with_payload=False)
            scores, ids = zip(*((h.score, h.id) for h in hits.points), strict=True)
            wanted = expected(*direct.rerank(list(scores), list(ids), k=3, allow=mask))
            found = reranker.rerank(hits, query_filter=condition, limit=3)
            assert pairs(found) == wanted
            # Payloads of what came in are fetched; hits keep theirs, here none.
            assert [point.payload is None for point in found] == [p.id in ids for p in found]


def test_points_that_diffusion_does_not_reach_fill_filtered_results_up(shop):
    # The observation of these has only a few hits, of which none passes.
    direct = diffusion.Reranker(affinity="cosine", k=3, query_k=3).fit(X)
    own = QdrantReranker(shop, "shop", affinity="cosine", k=3, query_k=3).fit()
    filled = 0
    for q in X[7::60] + 0.5 * QUERIES[0]:
        scores, ids = direct.search(q, 4, allow=RARE)
        filled += int((scores <= 0).sum())
        assert pairs(own.search(q, query_filter=IS_RARE, limit=4), 1e-4) == expected(scores, ids)
    assert filled


def test_an_empty_collection_has_no_results():
    with collection() as client:
        own = QdrantReranker(client, "shop").fit()
        client.delete("shop", points_selector=list(range(N)))
        for condition in (None, IN_STOCK):
            assert own.search(X[:2], query_filter=condition) == [[], []]


def test_a_bar_shows_the_points_that_have_been_read(shop, capsys):
    QdrantReranker(shop, "shop", progress=True).fit()
    assert f"{N}/{N}" in capsys.readouterr().err


def test_narrow_filters_are_listed_and_broad_ones_looked_up(shop, reranker, monkeypatch):
    sizes = []
    listed, among = qdrant.Passing.every, qdrant.Passing.among
    monkeypatch.setattr(qdrant.Passing, "every", lambda self: sizes.append("all") or listed(self))
    monkeypatch.setattr(
        qdrant.Passing, "among", lambda self, ids: sizes.append(len(ids)) or among(self, ids)
    )
    hits = shop.query_points("shop", query=QUERIES[0].tolist(), limit=10).points
    reranker.rerank(hits, query_filter=IS_RARE, limit=3)
    assert sizes == ["all"]
    sizes.clear()
    reranker.rerank(hits, query_filter=IN_STOCK, limit=3)
    assert sizes[0] <= 2 * 3 * 3 + 10
    assert "all" not in sizes


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, len(QUERIES) - 1),
    st.integers(1, 20),
    st.integers(1, 40),
    st.sets(st.integers(0, N - 1), max_size=N),
)
def test_any_filter(reranker, number, limit, depth, allowed):
    condition = models.Filter(must=[models.HasIdCondition(has_id=sorted(allowed))])
    hits = reranker.client.query_points(
        "shop", query=QUERIES[number].tolist(), limit=depth, with_payload=False
    ).points
    found = reranker.rerank(hits, query_filter=condition, limit=limit)
    scores, ids = [h.score for h in hits], [h.id for h in hits]
    assert pairs(found) == expected(*reranker.ranker.rerank(scores, ids, k=limit, allow=allowed))


def test_a_broad_filter_of_points_far_away(shop, reranker):
    # None of the first points of the ranking passes, so that a longer one is looked up.
    cosines = X @ X[0] / np.linalg.norm(X, axis=1)
    allowed = np.sort(np.argsort(cosines)[: N // 2]).tolist()
    condition = models.Filter(must=[models.HasIdCondition(has_id=allowed)])
    hits = shop.query_points("shop", query=X[0].tolist(), limit=4).points
    found = reranker.rerank(hits, query_filter=condition, limit=2)
    scores, ids = [h.score for h in hits], [h.id for h in hits]
    assert pairs(found) == expected(*reranker.ranker.rerank(scores, ids, k=2, allow=allowed))
    assert found


def test_no_queries_no_hits_and_batches(shop, reranker):
    assert reranker.search(np.empty((0, D))) == []
    assert reranker.rerank([]) == []
    assert reranker.rerank([[]]) == [[]]
    first, second = (
        shop.query_points("shop", query=q.tolist(), limit=k)
        for q, k in zip(QUERIES, (4, 9), strict=False)
    )
    out = reranker.rerank([first, second])
    assert [len(row) for row in out] == [4, 9]
    assert [pairs(row) for row in out] == [
        [(p.id, p.score) for p in reranker.rerank(row)] for row in (first, second)
    ]


def test_many_queries_are_searched_in_parts(reranker, monkeypatch):
    whole = reranker.search(QUERIES, limit=4, query_filter=IN_STOCK)
    sizes = []
    hits = qdrant.Points.hits
    monkeypatch.setattr(
        qdrant.Points, "hits", lambda self, q, *rest: sizes.append(len(q)) or hits(self, q, *rest)
    )
    monkeypatch.setattr(qdrant, "_QUERIES", 2)
    parts = reranker.search(QUERIES, limit=4, query_filter=IN_STOCK)
    assert sizes == [2, 2, 1]
    assert [pairs(row) for row in parts] == [[(p.id, p.score) for p in row] for row in whole]


def test_payloads_as_asked_for(reranker):
    assert reranker.search(X[0], limit=2, with_payload=["row"])[0].payload == {"row": 0}
    assert reranker.search(X[0], limit=2, with_payload=False)[0].payload is None


# --- ids ------------------------------------------------------------------------------------------

uuids = st.integers(0, 2**128 - 1).map(lambda i: str(UUID(int=i)))
numbers = st.integers(0, 2**64 - 1)


@settings(max_examples=8, deadline=None)
@given(
    st.one_of(
        st.lists(numbers, min_size=30, max_size=30, unique=True),
        st.lists(uuids, min_size=30, max_size=30, unique=True),
        st.lists(st.one_of(numbers, uuids), min_size=30, max_size=30, unique=True),
    )
)
def test_any_ids(ids):
    with collection(ids, rows=range(0, N, 8)) as client:
        own = QdrantReranker(client, "shop", k=5).fit()
        small = all(isinstance(point, int) and point < 2**63 for point in ids)
        assert own.ranker.ids_.dtype == (np.int64 if small else object)
        assert set(own.point_ids(own.ranker.ids_)) == set(ids)
        found = own.search(QUERIES[0], limit=8, query_filter=IN_STOCK)
        rows = [point.payload["row"] for point in found]
        assert rows
        assert all(STOCK[row] for row in rows)
        assert [point.id for point in found] == [ids[row // 8] for row in rows]


def test_points_that_the_graph_does_not_have_are_kept():
    with collection(rows=range(0, N, 2)) as client:
        own = QdrantReranker(client, "shop").fit()
        other = [str(UUID(int=1)), 2**63 + 1]
        client.upsert("shop", points_of([51, 101], other))
        assert other[0] in [point.id for point in own.search(X[51], limit=3)]
        for condition in (None, IN_STOCK):
            found = own.search(X[[51, 101]], limit=5, query_filter=condition)
            rows = [[point.payload["row"] for point in row] for row in found]
            assert [51 in rows[0], 101 in rows[1]] == [True, condition is None]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, len(QUERIES) - 1),
    st.integers(1, 12),
    st.integers(1, 80),
    st.sets(st.integers(0, N - 1), min_size=20, max_size=N),
)
def test_unknown_hits_that_pass_a_filter_are_kept(shop, gaps, number, limit, depth, allowed):
    condition = models.Filter(must=[models.HasIdCondition(has_id=sorted(allowed))])
    hits = shop.query_points("shop", query=QUERIES[number].tolist(), limit=depth).points
    found = gaps.rerank(hits, query_filter=condition, limit=limit)
    scores, ids = [h.score for h in hits], [h.id for h in hits]
    wanted = gaps.ranker.rerank(scores, ids, k=limit, allow=allowed)
    assert pairs(found) == expected(*wanted)


# --- a collection that changes --------------------------------------------------------------------


def test_deleted_points_are_in_no_answer(monkeypatch):
    with collection() as client:
        own = QdrantReranker(client, "shop").fit()
        best = [point.id for point in own.search(X[0], limit=6)]
        client.delete("shop", points_selector=best[:3])
        hits = client.query_points("shop", query=X[0].tolist(), limit=10).points
        for found in (own.search(X[0], limit=6), own.rerank(hits, limit=6)):
            assert len(found) == 6
            assert not {p.id for p in found} & set(best[:3])
            assert all(point.payload for point in found)


def test_sync_adds_removes_and_replaces():
    with collection(rows=range(100)) as client:
        own = QdrantReranker(client, "shop").fit()
        assert own.sync() == Synced(0, 0)
        client.delete("shop", points_selector=[3, 50])
        client.upsert("shop", points_of(range(100, 140)))
        client.upsert("shop", points_of([200], ids=[9]))  # another vector
        assert own.sync(changed=[9, np.int64(7), 3]) == Synced(42, 4)
        ids = [i for i in range(140) if i not in (3, 50)]
        vectors = X[[200 if i == 9 else i for i in ids]]
        direct = diffusion.Reranker().fit(vectors, ids=ids)
        for q in QUERIES:
            assert pairs(own.search(q, limit=10), 1e-3) == expected(*direct.search(q, 10))
        # All others: the graph is built anew.
        client.delete("shop", points_selector=list(range(140)))
        with pytest.raises(DiffusionError, match="points with a vector in 'shop', found none"):
            own.sync()
        client.upsert("shop", points_of(range(140, N)))
        assert own.sync() == Synced(100, 138)
        assert own.ranker.n_items_ == 100
        client.upsert("shop", points_of([0], [str(UUID(int=4))]))
        with pytest.raises(DiffusionError, match="another fit"):
            own.sync()
        assert own.ranker.n_items_ == 100
        with pytest.raises(DiffusionError, match="changed: expected integers and UUIDs, got 'red'"):
            own.sync(changed=["red"])
        assert own.fit().sync(changed=[UUID(int=4)]) == Synced(1, 1)


def test_saving_and_loading(tmp_path, shop, reranker, capsys):
    reranker.save(tmp_path / "index")
    loaded = QdrantReranker.load(tmp_path / "index", shop)
    assert pairs(loaded.search(X[5])) == [(p.id, p.score) for p in reranker.search(X[5])]
    assert main(["remove", str(tmp_path / "index"), "1", "-q"]) == 2
    assert "updated by `QdrantReranker.sync`" in capsys.readouterr().err
    plain = diffusion.load(tmp_path / "index")
    assert plain.n_items_ == N
    plain.save(tmp_path / "plain")
    with pytest.raises(DiffusionError, match=r"QdrantReranker.save .*ranker=diffusion.load"):
        QdrantReranker.load(tmp_path / "plain", shop)
    again = QdrantReranker(shop, "shop", ranker=diffusion.load(tmp_path / "plain"))
    assert pairs(again.search(X[5])) == [(p.id, p.score) for p in reranker.search(X[5])]
    with collection(distance="Dot") as other, pytest.raises(DiffusionError, match="'cosine'"):
        QdrantReranker.load(tmp_path / "index", other)


# --- reading --------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """An interruption that no handler of errors catches."""


class Counting:
    """A client that counts pages with vectors, and is interrupted at one of its calls."""

    def __init__(self, client, stop_at=None):
        self._client, self.calls, self.pages, self.stop_at = client, 0, 0, stop_at

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def called(*args, **kwargs):
            self.calls += 1
            if self.calls == self.stop_at:
                raise Interrupted
            self.pages += name == "scroll" and bool(kwargs.get("with_vectors"))
            return method(*args, **kwargs)

        return called


def test_a_fit_that_is_interrupted_anywhere_resumes(shop, tmp_path, monkeypatch, reranker):
    monkeypatch.setattr(qdrant_points, "_NUMBERS", 0)  # pages of 64 points
    for stop in range(3, 13):
        client, path = Counting(shop, stop), tmp_path / str(stop)
        own = QdrantReranker(client, "shop")
        with contextlib.suppress(Interrupted):
            own.fit(checkpoint=path)
        done = hasattr(own.ranker, "graph_")
        assert not (done and path.exists())
        client.stop_at = None
        if not done:
            own.fit(checkpoint=path)
            assert client.pages == 4  # none was read twice
        assert not path.exists()
        assert pairs(own.search(X[3])) == [(p.id, p.score) for p in reranker.search(X[3])]
    assert done  # the loop went past the last call


def test_what_changes_between_interruption_and_resumption(tmp_path, monkeypatch):
    monkeypatch.setattr(qdrant_points, "_NUMBERS", 0)
    with collection() as client:
        own = QdrantReranker(Counting(client, 6), "shop")
        with pytest.raises(Interrupted):
            own.fit(checkpoint=tmp_path / "checkpoint")
        # Some deleted, one added, one page whose first point has another vector, one damaged page.
        client.delete("shop", points_selector=[205, 150])
        client.upsert("shop", points_of([205, 150], ids=[1000, 64]))
        kept = list((tmp_path / "checkpoint" / "pages").glob("*.npz"))
        damaged = next(f for f in kept if b'"ids": [0,' in np.load(f)["meta"].tobytes())
        assert len(kept) == 2
        damaged.write_bytes(damaged.read_bytes()[:100])
        own.client.stop_at = None
        own.fit(checkpoint=tmp_path / "checkpoint")
        ids = [i for i in range(N) if i not in (205, 150)] + [1000]
        vectors = X[[{64: 150, 1000: 205}.get(i, i) for i in ids]]
        direct = diffusion.Reranker().fit(vectors, ids=ids)
        assert sorted(own.ranker.ids_.tolist()) == ids
        for q in (*QUERIES, X[150]):
            assert pairs(own.search(q)) == expected(*direct.search(q, 10))
        assert own.search(X[150])[0].id == 64


def test_points_that_come_and_go_while_they_are_read(monkeypatch):
    monkeypatch.setattr(qdrant_points, "_NUMBERS", 0)
    with collection(ids=range(10, N + 10)) as client:

        class Busy(Counting):
            def __getattr__(self, name):
                if name == "scroll" and self.pages == 2:
                    client.delete("shop", points_selector=[12, 245])
                    client.upsert("shop", points_of([7], ids=[3]))
                return super().__getattr__(name)

        own = QdrantReranker(Busy(client), "shop").fit()
        assert set(own.ranker.ids_.tolist()) == {3, *range(10, N + 10)} - {12, 245}


def test_a_checkpoint_is_nobody_elses(shop, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DiffusionError, match=r"found 'letter.txt'"):
        QdrantReranker(shop, "shop").fit(checkpoint=tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_named_vectors():
    client = QdrantClient(":memory:")
    with contextlib.closing(client):
        params = models.VectorParams
        client.create_collection(
            "media",
            vectors_config={
                "image": params(size=D, distance="Euclid"),
                "text": params(size=3, distance="Cosine"),
            },
            sparse_vectors_config={"words": models.SparseVectorParams()},
        )
        client.upsert("media", points_of(range(80), name="image"))
        client.upsert("media", [models.PointStruct(id=99, vector={"text": [1.0, 0, 0]})])
        own = QdrantReranker(client, "media", using="image").fit()
        assert own.ranker.n_items_ == 80
        assert own.sync() == Synced(0, 0)
        direct = diffusion.Reranker(metric="euclidean").fit(X[:80])
        assert pairs(own.search(X[3])) == expected(*direct.search(X[3], 10))
        for using, message in (
            (None, r"using: .*'media' \('image', 'text'\), got None"),
            ("imgae", "got 'imgae'"),
            ("words", "'words' is sparse"),
        ):
            with pytest.raises(DiffusionError, match=message):
                QdrantReranker(client, "media", using=using)


def test_a_dense_vector_without_a_name_beside_a_sparse_one():
    client = QdrantClient(":memory:")
    with contextlib.closing(client):
        client.create_collection(
            "texts",
            vectors_config=models.VectorParams(size=D, distance="Cosine"),
            sparse_vectors_config={"words": models.SparseVectorParams()},
        )
        words = models.SparseVector(indices=[3], values=[1.0])
        client.upsert(
            "texts",
            [
                models.PointStruct(id=row, vector={"": X[row].tolist(), "words": words})
                for row in range(80)
            ]
            + [models.PointStruct(id=99, vector={"words": words})],
        )
        own = QdrantReranker(client, "texts").fit()
        assert pairs(own.search(X[3])) == expected(
            *diffusion.Reranker().fit(X[:80]).search(X[3], 10)
        )
        assert own.sync() == Synced(0, 0)


def test_a_collection_on_disk(tmp_path):
    for opened in range(2):
        client = QdrantClient(path=str(tmp_path / "store"))
        with contextlib.closing(client):
            if not opened:
                space = models.VectorParams(size=D, distance="Cosine")
                client.create_collection("shop", vectors_config=space)
                client.upsert("shop", points_of(range(12)))
            own = QdrantReranker(client, "shop", k=4, query_k=2).fit()
            assert own.search(X[3], limit=1)[0].id == 3


# --- errors ---------------------------------------------------------------------------------------


def test_bad_collections():
    with collection(rows=()) as client:
        with pytest.raises(DiffusionError, match=r"collection: expected the name .* got 'shpo'"):
            QdrantReranker(client, "shpo")
        with pytest.raises(DiffusionError, match=r"collection: .* got 3"):
            QdrantReranker(client, 3)
        with pytest.raises(DiffusionError, match="points with a vector in 'shop', found none"):
            QdrantReranker(client, "shop").fit()
        with pytest.raises(DiffusionError, match=r"using: .*no|using: .*None"):
            QdrantReranker(client, "shop", using="image")
        space = models.VectorParams(size=D, distance="Manhattan")
        client.create_collection("streets", vectors_config=space)
        with pytest.raises(DiffusionError, match="Cosine, Dot or Euclid, 'streets' has Manhattan"):
            QdrantReranker(client, "streets")
        late = models.MultiVectorConfig(comparator="max_sim")
        space = models.VectorParams(size=D, distance="Cosine", multivector_config=late)
        client.create_collection("late", vectors_config=space)
        with pytest.raises(DiffusionError, match="'late' has multivectors"):
            QdrantReranker(client, "late")


def test_bad_arguments(shop, reranker):
    with pytest.raises(DiffusionError, match=r"metric: .*'cosine', got 'euclidean'"):
        QdrantReranker(shop, "shop", metric="euclidean")
    with pytest.raises(DiffusionError, match=r"parameters: .*query_kk"):
        QdrantReranker(shop, "shop", query_kk=3)
    with pytest.raises(DiffusionError, match="query_k: expected either a ranker or"):
        QdrantReranker(shop, "shop", ranker=reranker.ranker, query_k=3)
    with pytest.raises(DiffusionError, match="ranker: expected a Reranker, got str"):
        QdrantReranker(shop, "shop", ranker="index")
    other = diffusion.Reranker().fit(X[:, :5])
    with pytest.raises(DiffusionError, match="'cosine' and 8, got 'cosine' and 5"):
        QdrantReranker(shop, "shop", ranker=other)
    for ids in ([f"photo {i}" for i in range(N)], [str(UUID(int=0xABC)).upper()], [-7]):
        other = diffusion.Reranker().fit(X[: len(ids)], ids=ids)
        with pytest.raises(DiffusionError, match=r"ranker: .* ids of the points, .* got the id"):
            QdrantReranker(shop, "shop", ranker=other)
    for condition in ({"must": []}, IN_STOCK.must[0]):
        for search in (reranker.search, lambda q, **rest: reranker.rerank([], **rest)):
            with pytest.raises(DiffusionError, match="query_filter: expected a Filter of Qdrant"):
                search(X[0], query_filter=condition)
    for changed in (7, "red"):
        with pytest.raises(DiffusionError, match="changed: expected a list of ids"):
            reranker.sync(changed=changed)
    with pytest.raises(DiffusionError, match="not fitted yet"):
        QdrantReranker(shop, "shop").search(X[0])
    for query, message in (
        (X[0, :5], "query: expected vectors of dimension 8.* got 5"),
        (X[0] * np.nan, "query: expected finite values"),
        ("red", "query"),
    ):
        with pytest.raises(DiffusionError, match=message):
            reranker.search(query)
    with pytest.raises(DiffusionError, match="limit: expected an integer of at least 1, got 0"):
        reranker.search(X[0], limit=0)
    for points in ([3, 4], "red", [[(1, 0.5)]]):
        with pytest.raises(DiffusionError, match="points: expected the points of a query"):
            reranker.rerank(points)


def test_without_the_client(monkeypatch):
    code = (
        "import sys; sys.modules['qdrant_client'] = None\n"
        "try:\n    import diffusion.integrations.qdrant\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DiffusionError")
    assert "pip install 'diffusion-rerank[qdrant]'" in done.stdout
