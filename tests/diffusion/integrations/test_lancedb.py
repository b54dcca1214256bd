"""LanceDB on disk: its own searches with the reranker, and the graph of a table.

The reference is the Reranker called directly with the vectors, keys and masks.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError

pytest.importorskip("lancedb", reason="needs lancedb")

import lancedb
import pyarrow as pa

from diffusion.integrations import lancedb as lance
from diffusion.integrations.lancedb import DiffusionReranker

N, D = 240, 8
RNG = np.random.default_rng(0)
X = (
    RNG.standard_normal((12, D)).repeat(N // 12, axis=0) + 0.5 * RNG.standard_normal((N, D))
).astype(np.float32)
QUERIES = (X[::50] + 0.3 * RNG.standard_normal((5, D))).astype(np.float32)
KEYS = [f"p{i}" for i in range(N)]
PRICE = np.arange(N) * 7 % 100
METRICS = {"l2": "euclidean", "cosine": "cosine", "dot": "inner_product"}

HOSTILE = [
    "a'b", "a''b", "'", "''", "\\'", "a\\", '"', "`", "' OR 1=1 --", "'; DROP TABLE a; --", "x\ny",
    "tab\t", "nul\0", "%", "_", "$1", "?", "{x}", "é漢😀", "/* */", "--", " ", "a,b", "NULL", "1",
]  # fmt: skip


def arrow(keys=KEYS, vectors=X, **columns):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"id": keys, **columns, "vector": lists})


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return lancedb.connect(tmp_path_factory.mktemp("lance"))


@pytest.fixture(scope="module")
def table(db):
    words = [f"word{i % 7} thing{i}" for i in range(N)]
    made = db.create_table("shop", data=arrow(price=PRICE, text=words))
    made.create_index("text", config=lancedb.index.FTS())
    return made


@pytest.fixture(scope="module")
def direct():
    return diffusion.Reranker(metric="euclidean").fit(X, ids=KEYS)


@pytest.fixture(scope="module")
def reranker(table):
    return DiffusionReranker.from_table(table)


def run(search, reranker):
    return search.rerank(reranker, query_string="").to_arrow()


def pairs(out):
    scores = out["_relevance_score"].to_pylist()
    return [
        (key, None if score is None else pytest.approx(score, abs=1e-4))
        for key, score in zip(out["id"].to_pylist(), scores, strict=True)
    ]


def expected(scores, ids):
    real = scores > -np.inf
    return list(zip(ids[real].tolist(), scores[real].tolist(), strict=True))


def reranked(direct, rows, k=None, **options):
    """Return what the Reranker makes of the rows of a search."""
    distances = np.array([row["_distance"] for row in rows], np.float64)
    first = {"scores0": 1 - distances}
    if direct.metric == "euclidean":
        first = {"distances0": distances, "squared": True}
    ids = [row["id"] for row in rows]
    return expected(*direct.rerank(ids0=ids, k=k or len(ids), **first, **options))


# --- vector searches ------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", METRICS)
def test_a_search_is_reranked_as_the_reranker_does(table, distance):
    own = DiffusionReranker.from_table(table, distance_type=distance, restrict_to_candidates=False)
    direct = diffusion.Reranker(metric=METRICS[distance]).fit(X, ids=KEYS)
    candidates = DiffusionReranker(own.ranker)
    for q in QUERIES:
        search = table.search(q).distance_type(distance).limit(12)
        rows = search.to_list()
        out = run(search, own)
        assert pairs(out) == reranked(direct, rows)
        assert out.column_names == ["id", "price", "text", "vector", "_relevance_score"]
        # Rows that came in are whole.
        place = [KEYS.index(key) for key in out["id"].to_pylist()]
        assert out["price"].to_pylist() == PRICE[place].tolist()
        assert np.array_equal(np.array(out["vector"].to_pylist(), np.float32), X[place])
        out = run(search, candidates)
        assert pairs(out) == reranked(direct, rows, restrict_to_candidates=True)


@pytest.mark.parametrize(
    "condition", ["price < 50", "price < 4", "price < 50 -- half", "price > 1000"]
)
def test_a_condition_holds_for_all_rows(table, direct, condition):
    limit = {"price < 4": 4, "price > 1000": -1}.get(condition, 50)
    mask = limit > PRICE
    own = DiffusionReranker.from_table(table, where=condition)
    for q in QUERIES:
        for depth in (3, 20):
            search = table.search(q).limit(depth)
            rows = search.to_list()
            out = run(search, own)
            assert pairs(out) == reranked(direct, rows, allow=mask)
            assert all(price < limit for price in out["price"].to_pylist())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.integers(1, 40), st.integers(0, 100), st.booleans())
def test_any_condition(table, direct, number, depth, price, restrict):
    own = DiffusionReranker(
        direct, table, where=f"price < {price}", restrict_to_candidates=restrict
    )
    search = table.search(QUERIES[number]).limit(depth)
    wanted = reranked(
        direct, search.to_list(), allow=price > PRICE, restrict_to_candidates=restrict
    )
    assert pairs(run(search, own)) == wanted


def test_the_condition_of_the_search_is_kept_by_default(table, reranker):
    for condition in ("price < 30", "id != 'p0'"):
        search = table.search(QUERIES[0]).where(condition).limit(25)
        rows = search.to_list()
        out = run(search, reranker)
        assert sorted(out["id"].to_pylist()) == sorted(row["id"] for row in rows)


def test_several_vectors_at_once(table):
    own = DiffusionReranker.from_table(table, restrict_to_candidates=False)
    out = run(table.search(QUERIES[:3]).limit(9), own)
    assert out["query_index"].to_pylist() == [0] * 9 + [1] * 9 + [2] * 9
    for number in range(3):
        part = out.slice(9 * number, 9)
        assert pairs(part) == [
            (key, approximate.expected) for key, approximate in
            pairs(run(table.search(QUERIES[number]).limit(9), own))
        ]  # fmt: skip


def test_columns_that_are_selected(table, direct):
    own = DiffusionReranker(direct, table, restrict_to_candidates=False, return_score="all")
    search = table.search(QUERIES[1]).select(["id", "price", "_distance"]).limit(8)
    out = run(search, own)
    assert out.column_names == ["id", "price", "_distance", "_rowid", "_relevance_score"]
    first = {row["id"]: row["_distance"] for row in search.to_list()}
    for row in out.to_pylist():
        assert row["_distance"] == first.get(row["id"])
        assert row["_rowid"] is not None
        assert row["price"] == PRICE[KEYS.index(row["id"])]
    with pytest.raises(DiffusionError, match=r"id: expected this column .*select"):
        run(table.search(QUERIES[1]).select(["price", "_distance"]).limit(8), own)


def test_no_results(table, reranker, direct):
    for own in (reranker, DiffusionReranker(direct, table, where="price < 50")):
        out = run(table.search(QUERIES[0]).where("id = 'none'").limit(5), own)
        assert out.num_rows == 0
        assert "_relevance_score" in out.column_names


def test_an_index_of_the_table(db):
    made = db.create_table("indexed", data=arrow())
    made.create_index("vector", config=lancedb.index.IvfFlat("cosine", num_partitions=2))
    own = DiffusionReranker.from_table(made)
    assert own.ranker.metric == "cosine"
    search = made.search(QUERIES[0]).nprobes(2).limit(9)
    wanted = reranked(own.ranker, search.to_list(), restrict_to_candidates=True)
    assert pairs(run(search, own)) == wanted


# --- keys -----------------------------------------------------------------------------------------


def test_hostile_keys_and_names(db):
    keys = HOSTILE + [f"k{i}" for i in range(N - len(HOSTILE))]
    data = arrow(keys).rename_columns(["the 'id'; --", "vector"])
    made = db.create_table("hostile", data=data)
    own = DiffusionReranker.from_table(
        made, id="the 'id'; --", restrict_to_candidates=False, k=5, query_k=2
    )
    came_in = set()
    for q in X[: len(HOSTILE)]:
        search = made.search(q).limit(4)
        rows = search.to_list()
        out = run(search, own)["the 'id'; --"].to_pylist()
        assert len(set(out)) == 4
        came_in |= set(out) - {row["the 'id'; --"] for row in rows}
    assert came_in & set(HOSTILE)
    found = lance._Passing(made, "the 'id'; --", None).rows(HOSTILE, ["the 'id'; --", "vector"])
    at = [keys.index(key) for key in found["the 'id'; --"].to_pylist()]
    assert sorted(at) == list(range(len(HOSTILE)))
    assert np.array_equal(np.array(found["vector"].to_pylist(), np.float32), X[at])
    assert made.count_rows() == N


@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1, max_size=12))
def test_any_text_is_a_literal(table, key):
    assert lance._Passing(table, "id", None).among([key, "p7"]) == {key, "p7"} & set(KEYS)


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint64(), pa.large_string()])
def test_kinds_of_keys(db, kind):
    numbers = pa.types.is_integer(kind)
    signed = numbers and kind != pa.uint64()
    keys = [(-5 if signed else 5) * (i + 1) if numbers else f"p{i}" for i in range(N)]
    made = db.create_table("kinds", data=arrow(pa.array(keys, kind)), mode="overwrite")
    own = DiffusionReranker.from_table(made, restrict_to_candidates=False)
    assert own.ranker.ids_.dtype == (np.int64 if numbers else object)
    out = run(made.search(QUERIES[2]).limit(9), own)
    direct = diffusion.Reranker(metric="euclidean").fit(X, ids=keys)
    assert pairs(out) == reranked(direct, made.search(QUERIES[2]).limit(9).to_list())
    assert out.schema.field("id").type == kind


# --- the table ------------------------------------------------------------------------------------


def test_nulls_are_left_out_of_the_graph_and_never_lost(db):
    keys = [None if i % 10 == 3 else f"p{i}" for i in range(N)]
    vectors = pa.array([None if i % 10 == 4 else X[i].tolist() for i in range(N)],
                       pa.list_(pa.float32(), D))  # fmt: skip
    made = db.create_table("nulls", data=pa.table({"id": keys, "v": vectors}))
    own = DiffusionReranker.from_table(made, vector="v")
    rows = [i for i in range(N) if i % 10 not in (3, 4)]
    assert own.ranker.ids_.tolist() == [f"p{i}" for i in rows]
    search = made.search(X[3]).limit(10)
    found = search.to_list()
    assert any(row["id"] is None for row in found)
    out = run(search, own)
    assert out.num_rows == 10
    known = [row for row in found if row["id"] is not None]
    wanted = reranked(own.ranker, known, restrict_to_candidates=True)
    assert pairs(out) == wanted + [(None, None)] * (10 - len(known))


@pytest.mark.parametrize(("keys", "none"), [(KEYS, ""), (list(range(N)), -1)])
def test_rows_with_keys_that_stand_for_nothing_are_not_lost(db, keys, none):
    made = db.create_table("padding", data=arrow(pa.array(keys)), mode="overwrite")
    own = DiffusionReranker.from_table(made)
    made.add(arrow(pa.array([none]), X[:1]))
    search = made.search(X[0]).limit(6)
    assert none in [row["id"] for row in search.to_list()]
    known = [row for row in search.to_list() if row["id"] != none]
    assert pairs(run(search, own)) == [
        *reranked(own.ranker, known, restrict_to_candidates=True),
        (none, None),
    ]


def test_rows_with_one_key(db, reranker):
    made = db.create_table("repeated", data=arrow([*KEYS[1:], KEYS[5]]))
    with pytest.raises(DiffusionError, match=r"id: .* two rows have id = 'p5'"):
        run(made.search(X[4]).limit(N), DiffusionReranker(reranker.ranker, made))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float16(), D),
        pa.list_(pa.float64(), D),
        pa.large_list(pa.float64()),
    ],
)
def test_kinds_of_vectors(db, kind):
    vectors = pa.array(X.astype(np.float16).tolist(), kind)
    made = db.create_table(
        "lists", data=pa.table({"id": KEYS, "vector": vectors}), mode="overwrite"
    )
    own = DiffusionReranker.from_table(made, k=5)
    assert own.ranker.n_features_in_ == D
    direct = diffusion.Reranker(metric="euclidean", k=5).fit(X.astype(np.float16), ids=KEYS)
    assert abs(own.ranker.graph_.W - direct.graph_.W).max() == 0


def test_rows_added_and_deleted_since(db):
    made = db.create_table("moving", data=arrow(KEYS[:200], X[:200]))
    own = DiffusionReranker.from_table(made, restrict_to_candidates=False)
    best = run(made.search(X[0]).limit(6), own)["id"].to_pylist()
    made.delete("id IN ({})".format(", ".join(f"'{key}'" for key in best[:3])))
    made.add(arrow(["late"], X[:1]))
    out = run(made.search(X[0]).limit(6), own)["id"].to_pylist()
    assert len(out) == 6
    assert "late" in out
    assert not set(out) & set(best[:3])


# --- hybrid and other searches --------------------------------------------------------------------


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("score", ["relevance", "all"])
@pytest.mark.parametrize("normalize", ["score", "rank"])
def test_a_hybrid_search(table, distance, score, normalize):
    if distance != "l2" and score == "all":
        return
    q = QUERIES[1]
    own = DiffusionReranker.from_table(table, distance_type=distance, return_score=score)
    search = table.search(query_type="hybrid").vector(q).text("word3").distance_type(distance)
    out = search.limit(6).rerank(own.with_query(q), normalize=normalize).to_arrow()
    near = table.search(q).distance_type(distance).limit(6).to_arrow()["id"].to_pylist()
    said = table.search("word3", query_type="fts").limit(6).to_arrow()["id"].to_pylist()
    union = [KEYS.index(key) for key in dict.fromkeys(near + said)]
    vectors, query = X[union].astype(float), q.astype(float)
    if distance == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        query /= np.linalg.norm(query)
    scores = vectors @ query
    if distance == "l2":
        scores = -((vectors - query) ** 2).sum(axis=1)
    wanted = diffusion.Reranker(metric=METRICS[distance]).fit(X, ids=KEYS).rerank(
        scores, [KEYS[i] for i in union], k=6, restrict_to_candidates=True
    )  # fmt: skip
    assert pairs(out) == expected(*wanted)
    assert ("_score" in out.column_names) == (score == "all")
    with pytest.raises(DiffusionError, match=r"query: .*with_query"):
        search.limit(6).rerank(own).to_arrow()


def test_a_hybrid_search_with_rows_that_come_in(table, direct):
    own = DiffusionReranker(direct, table, where="price < 50", return_score="all")
    search = table.search(query_type="hybrid").vector(QUERIES[1]).text("word3").limit(8)
    out = search.rerank(own.with_query(QUERIES[1])).to_arrow()
    assert out.num_rows == 8
    assert all(price < 50 for price in out["price"].to_pylist())
    alone = table.search(query_type="hybrid").vector(QUERIES[1]).text("nothing").limit(8)
    out = alone.rerank(DiffusionReranker(direct).with_query(QUERIES[1])).to_arrow()
    assert out.num_rows == 8


def test_searches_that_have_no_similarities(table, reranker):
    with pytest.raises(DiffusionError, match="rerank_fts: "):
        table.search("word3", query_type="fts").limit(5).rerank(reranker).to_arrow()
    lists = [table.search(q).limit(3).to_arrow() for q in QUERIES[:2]]
    with pytest.raises(DiffusionError, match="rerank_multivector: "):
        reranker.rerank_multivector(lists, None)


# --- errors ---------------------------------------------------------------------------------------


def test_a_search_with_another_distance(table):
    own = DiffusionReranker.from_table(table, distance_type="cosine")
    with pytest.raises(DiffusionError, match=r"_distance: .*\.distance_type\('cosine'\)"):
        run(table.search(10 * QUERIES[0]).limit(5), own)
    own = DiffusionReranker.from_table(table)
    with pytest.raises(DiffusionError, match=r"_distance: .*\.distance_type\('l2'\)"):
        run(table.search(10 * QUERIES[0]).distance_type("dot").limit(5), own)


def test_bad_tables(db):
    made = db.create_table(
        "bad", data=arrow(KEYS[:6], np.full((6, 4), np.nan, np.float32)), on_bad_vectors="null"
    )
    for options, message in (
        ({"id": "key"}, "id: expected one of the columns"),
        ({"vector": "v"}, "vector: expected one of the columns"),
        ({"id": "vector"}, "id: expected a column of integers or strings"),
        ({"vector": "id"}, "vector: expected a column of vectors, 'id' is string"),
        ({"distance_type": "hamming"}, "distance_type: expected one of 'l2', 'cosine', 'dot'"),
        ({"metric": "cosine"}, "metric: expected distance_type instead"),
        ({"query_kk": 3}, "parameters: .*query_kk"),
        ({}, "table: expected rows with 'id' and 'vector', found none"),
    ):
        with pytest.raises(DiffusionError, match=message):
            DiffusionReranker.from_table(made, **options)
    with pytest.raises(DiffusionError, match="table: expected a Table of LanceDB, got str"):
        DiffusionReranker.from_table("bad")
    several = pa.array([[[1.0, 2.0], [3.0, 4.0]]], pa.list_(pa.list_(pa.float32(), 2)))
    made = db.create_table("several", data=pa.table({"id": ["a"], "vector": several}))
    with pytest.raises(DiffusionError, match="'vector' holds several vectors in a row"):
        DiffusionReranker.from_table(made)
    for lists, message in (
        ([[1.0, 2.0], [3.0]], r"one length, 'v' has \[1, 2\]"),
        ([[1.0, 2.0], [3.0, np.nan]], "the row with id = 'b' holds NaN"),
        ([[1.0, None], [3.0, 2.0]], "the row with id = 'a' holds NaN, null"),
    ):
        column = pa.array(lists, pa.list_(pa.float32()))
        data = pa.table({"id": ["a", "b"], "v": column})
        made = db.create_table("of_v", data=data, mode="overwrite")
        with pytest.raises(DiffusionError, match=message):
            DiffusionReranker.from_table(made, vector="v")
    made = db.create_table("empty", data=arrow([], np.empty((0, 4), np.float32)).cast(
        pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), 4))])))  # fmt: skip
    with pytest.raises(DiffusionError, match="table: expected rows"):
        DiffusionReranker.from_table(made)
    made = db.create_table("twice", data=arrow(["a", "a"], X[:2]))
    with pytest.raises(DiffusionError, match="'a'"):
        DiffusionReranker.from_table(made)


def test_bad_arguments(table, direct):
    for arguments, options, message in (
        (("index",), {}, "ranker: expected a Reranker, got str"),
        ((diffusion.Reranker(),), {}, "not fitted yet"),
        ((direct, "shop"), {}, "table: expected a Table of LanceDB, got str"),
        ((direct,), {"where": "price < 3"}, "table: expected the table"),
        ((direct,), {"restrict_to_candidates": False}, "table: expected the table"),
        ((direct, table), {"where": " "}, "where: expected a condition"),
        ((direct, table), {"where": "cost < 3"}, r"where: expected a condition .*cost"),
        ((direct, table), {"where": "price <"}, "where: expected a condition in SQL"),
        ((direct, table), {"restrict_to_candidates": 3}, "restrict_to_candidates: "),
        ((direct, table), {"id": "key"}, "id: expected one of the columns"),
        ((direct, table), {"return_score": "most"}, "return_score: "),
        ((direct,), {"query": X[0, :3]}, "query: expected vectors of dimension 8"),
        ((direct,), {"query": X[:2]}, "query: expected one vector, got 2"),
        ((direct,), {"query": X[0] * np.nan}, "query: expected finite"),
    ):
        with pytest.raises(DiffusionError, match=message):
            DiffusionReranker(*arguments, **options)
    with pytest.raises(DiffusionError, match="where: expected a condition in SQL"):
        DiffusionReranker.from_table(table, where="price <")


def test_without_lancedb():
    code = (
        "import sys; sys.modules['lancedb'] = None\n"
        "try:\n    import diffusion.integrations.lancedb\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DiffusionError")
    assert "pip install 'diffusion-rerank[lancedb]'" in done.stdout
