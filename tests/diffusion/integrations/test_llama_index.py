"""The node postprocessor, behind LlamaIndex's own retrievers and query engine."""

from __future__ import annotations

import asyncio
import importlib
import sys

import numpy as np
import pytest

from diffusion import DiffusionError, Reranker
from diffusion.integrations import hits

pytest.importorskip("llama_index.core")

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from diffusion.integrations.llama_index import DiffusionPostprocessor

N, D = 60, 6


def vectors():
    rng = np.random.default_rng(4)
    return rng.standard_normal((5, D))[np.arange(N) % 5] + 0.6 * rng.standard_normal((N, D))


X = vectors()
NAMES = [f"node {i}" for i in range(N)]
QUERY = X[0] + 0.4 * np.random.default_rng(9).standard_normal(D)


class Numbers(BaseEmbedding):
    """The vector of "n" is X[n], that of the query "q" is QUERY."""

    def _get_query_embedding(self, query):
        return QUERY.tolist()

    async def _aget_query_embedding(self, query):
        return QUERY.tolist()

    def _get_text_embedding(self, text):
        return X[int(text.split()[-1])].tolist()  # after its metadata


@pytest.fixture(scope="module")
def ranker():
    return Reranker(k=6, query_k=4).fit(X, ids=NAMES)


@pytest.fixture(scope="module")
def index():
    nodes = [TextNode(text=str(i), id_=NAMES[i], metadata={"rest": i % 2}) for i in range(N)]
    return VectorStoreIndex(nodes=nodes, embed_model=Numbers())


def given(scores, names=NAMES):
    return [
        NodeWithScore(node=TextNode(text="t", id_=name), score=score)
        for name, score in zip(names, scores, strict=False)
    ]


def shown(nodes):
    return [(n.node_id, pytest.approx(n.score, abs=1e-5)) for n in nodes]


def pairs(scores, ids):
    return list(zip(ids.tolist(), scores.tolist(), strict=True))


# --- with the query's embedding -------------------------------------------------------------------


def engine(index, ranker, **settings):
    postprocessor = DiffusionPostprocessor(ranker=ranker, top_n=5, store=index.docstore, **settings)
    return RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=8), llm=MockLLM(), node_postprocessors=[postprocessor]
    )


def test_behind_a_query_engine(index, ranker):
    nodes = engine(index, ranker).query("q").source_nodes
    assert shown(nodes) == pairs(*ranker.search(QUERY, 5))
    assert [f"node {n.node.text}" for n in nodes] == [n.node_id for n in nodes]
    retrieved = {n.node_id for n in index.as_retriever(similarity_top_k=8).retrieve("q")}
    assert {n.node_id for n in nodes} - retrieved  # some had to be fetched


def test_behind_an_asynchronous_query_engine(index, ranker):
    described = engine(index, ranker, embed=lambda bundle: QUERY)
    nodes = asyncio.run(described.aquery("q")).source_nodes
    assert shown(nodes) == pairs(*ranker.search(QUERY, 5))
    # LlamaIndex then keeps the embedding to itself, and scores are all that there is.
    nodes = asyncio.run(engine(index, ranker).aquery("q")).source_nodes
    hit = index.as_retriever(similarity_top_k=8).retrieve("q")
    expected = hits.rerank(ranker, [n.node_id for n in hit], [n.score for n in hit], k=5)
    assert shown(nodes) == list(zip(expected.ids, expected.scores, strict=True))


def test_without_a_store_the_nodes_are_reordered(index, ranker):
    bundle = QueryBundle("q")
    nodes = index.as_retriever(similarity_top_k=8).retrieve(bundle)
    out = DiffusionPostprocessor(ranker=ranker).postprocess_nodes(nodes, bundle)
    scores, ids = ranker.search(QUERY, N)
    retrieved = {n.node_id for n in nodes}
    assert shown(out) == [pair for pair in pairs(scores, ids) if pair[0] in retrieved]
    assert [n.node_id for n in out] != [n.node_id for n in nodes]


def test_filters(index, ranker):
    even = MetadataFilters(
        filters=[MetadataFilter(key="rest", value=0, operator=FilterOperator.EQ)]
    )
    retriever = index.as_retriever(similarity_top_k=6, filters=even)
    allowed = {name for i, name in enumerate(NAMES) if i % 2 == 0}
    bundle = QueryBundle("q")
    nodes = retriever.retrieve(bundle)
    expected = pairs(*ranker.search(QUERY, 6, allow=allowed))
    for allow in (allowed, lambda ids: np.isin(ids, list(allowed)), np.arange(N) % 2 == 0):
        postprocessor = DiffusionPostprocessor(ranker=ranker, store=index.docstore, allow=allow)
        assert shown(postprocessor.postprocess_nodes(nodes, bundle)) == expected
        few = DiffusionPostprocessor(ranker=ranker, allow=allow)
        everything = index.as_retriever(similarity_top_k=9).retrieve(QueryBundle("q"))
        kept = {n.node_id for n in everything} & allowed
        assert {n.node_id for n in few.postprocess_nodes(everything, bundle)} == kept


def test_nodes_that_the_store_does_not_have_give_way(index, ranker):
    class Partial:
        """A vector store that has few nodes, and is asked for each once."""

        def __init__(self):
            self.asked = []

        def get_nodes(self, node_ids=None, filters=None):
            self.asked += node_ids
            return [n for n in index.docstore.get_nodes(node_ids) if int(n.text) % 7 == 0]

    store, bundle = Partial(), QueryBundle("q", embedding=QUERY.tolist())
    nodes = index.as_retriever(similarity_top_k=3).retrieve(bundle)
    out = DiffusionPostprocessor(ranker=ranker, store=store, top_n=8).postprocess_nodes(
        nodes, bundle
    )
    there = {n.node_id for n in nodes} | {NAMES[i] for i in range(0, N, 7)}
    everything = pairs(*ranker.search(QUERY, N))
    assert shown(out) == [pair for pair in everything if pair[0] in there][:8]
    assert len(store.asked) == len(set(store.asked))


def test_an_embedding_of_the_callers_own(ranker):
    seen = []

    def embed(bundle):
        seen.append((bundle.query_str, bundle.image_path))
        return QUERY

    bundle = QueryBundle("q", image_path="photo.jpg", embedding=[1.0, 2.0])  # of another model
    postprocessor = DiffusionPostprocessor(ranker=ranker, embed=embed)
    out = postprocessor.postprocess_nodes(given([None] * 5), bundle)
    assert shown(out) == pairs(*ranker.search(QUERY, 5, allow=NAMES[:5]))
    assert seen == [("q", "photo.jpg")]


# --- with scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [None, QueryBundle("q")])
def test_scores(ranker, bundle):
    cosines = [0.9, 0.85, 0.7, 0.6]
    postprocessor = DiffusionPostprocessor(ranker=ranker)
    expected = hits.rerank(ranker, NAMES[:4], cosines, restrict_to_candidates=True)
    out = postprocessor.postprocess_nodes(given(cosines), bundle)
    assert shown(out) == list(zip(expected.ids, expected.scores, strict=True))
    near = DiffusionPostprocessor(ranker=ranker, distances=True)
    assert shown(near.postprocess_nodes(given([1 - c for c in cosines]), bundle)) == shown(out)


def test_euclidean_distances():
    ranker = Reranker(k=6, query_k=4, metric="euclidean").fit(X, ids=NAMES)
    postprocessor = DiffusionPostprocessor(ranker=ranker, distances=True, squared=True)
    expected = hits.rerank(
        ranker, NAMES[:3], distances=[1.0, 4.0, 9.0], squared=True, restrict_to_candidates=True
    )
    out = postprocessor.postprocess_nodes(given([1.0, 4.0, 9.0]))
    assert shown(out) == list(zip(expected.ids, expected.scores, strict=True))
    with pytest.raises(DiffusionError, match="squared: expected True or False"):
        DiffusionPostprocessor(ranker=ranker, distances=True).postprocess_nodes(given([1.0]))


def test_new_nodes_are_fetched_for_scores_too(index, ranker):
    expected = hits.rerank(ranker, NAMES[:2], [0.9, 0.8], k=9)
    postprocessor = DiffusionPostprocessor(ranker=ranker, top_n=9, store=index.docstore)
    out = postprocessor.postprocess_nodes(given([0.9, 0.8]))
    assert expected.new_ids
    assert shown(out) == list(zip(expected.ids, expected.scores, strict=True))


# --- nodes that are not in the collection ---------------------------------------------------------


def test_unknown_nodes_stay(ranker):
    names = ["new", *NAMES[:3]]
    bundle = QueryBundle("q", embedding=QUERY.tolist())
    postprocessor = DiffusionPostprocessor(ranker=ranker)
    out = postprocessor.postprocess_nodes(given([0.9, 0.8, 0.7, 0.6], names), bundle)
    by_scores = postprocessor.postprocess_nodes(given([0.9, 0.8, 0.7, 0.6], names))
    assert shown(out) == shown(by_scores)
    assert {n.node_id for n in out} == set(names)
    # Without scores, they come last, also where the list is cut.
    known = [n.node_id for n in postprocessor.postprocess_nodes(given([None] * 3), bundle)]
    out = postprocessor.postprocess_nodes(given([None] * 4, names), bundle)
    assert [n.node_id for n in out] == [*known, "new"]
    assert [n.score for n in out] == sorted((n.score for n in out), reverse=True)
    out = DiffusionPostprocessor(ranker=ranker, top_n=2).postprocess_nodes(
        given([None] * 4, names), bundle
    )
    assert [n.node_id for n in out] == [known[0], "new"]
    # A filter may not allow them.
    filtered = DiffusionPostprocessor(ranker=ranker, allow=NAMES)
    assert [
        n.node_id for n in filtered.postprocess_nodes(given([None] * 4, names), bundle)
    ] == known


def test_only_unknown_nodes(ranker):
    bundle = QueryBundle("q", embedding=QUERY.tolist())
    for scores in ([None, None], [0.9, 0.8]):
        nodes = given(scores, ["one", "two"])
        out = DiffusionPostprocessor(ranker=ranker).postprocess_nodes(nodes, bundle)
        assert [n.node_id for n in out] == ["one", "two"]


# --- the rest -------------------------------------------------------------------------------------


def test_numbers_as_ids():
    ranker = Reranker(k=6, query_k=4).fit(X, ids=np.arange(N) + 100)
    names = [str(i + 100) for i in range(N)]
    bundle = QueryBundle("q", embedding=QUERY.tolist())
    out = DiffusionPostprocessor(ranker=ranker).postprocess_nodes(given([None] * 9, names), bundle)
    expected = ranker.search(QUERY, 9, allow=np.arange(100, 109))[1]
    assert [n.node_id for n in out] == [str(i) for i in expected]
    for bad in ("node", "1.0", "+5", "007", "-1", str(2**63)):
        with pytest.raises(DiffusionError, match="ids: expected the texts of int64 ids"):
            DiffusionPostprocessor(ranker=ranker).postprocess_nodes(given([0.5], [bad]))


def test_nothing_retrieved(ranker):
    def embed(bundle):
        raise AssertionError("the embedding is not needed")

    postprocessor = DiffusionPostprocessor(ranker=ranker, embed=embed)
    assert postprocessor.postprocess_nodes([], query_str="q") == []


def test_nothing_given_is_changed(ranker):
    nodes = given([0.9, 0.8, 0.7])
    DiffusionPostprocessor(ranker=ranker).postprocess_nodes(nodes)
    assert [(n.node_id, n.score) for n in nodes] == list(zip(NAMES, [0.9, 0.8, 0.7], strict=False))


@pytest.mark.parametrize(
    ("settings", "nodes", "bundle", "message"),
    [
        ({}, given([None]), None, r"scores: expected a score of each hit, or the embedding"),
        ({}, given([0.5]), QueryBundle("q", embedding=[1.0]), r"dimension 6, .*got 1"),
        ({}, given([0.5], [""]), None, r"ids: expected ids other than ''"),
        ({"top_n": 0}, given([0.5]), None, r"top_n: expected an integer of at least 1"),
        ({"ranker": 7}, given([0.5]), None, r"ranker: expected a Reranker, got int"),
        ({"embed": lambda b: [QUERY]}, given([0.5]), QueryBundle("q"), r"embedding: .*\(d,\)"),
        ({"allow": 7}, given([0.5]), None, r"allow: "),
    ],
)
def test_errors(ranker, settings, nodes, bundle, message):
    with pytest.raises(DiffusionError, match=message):
        DiffusionPostprocessor(**{"ranker": ranker, **settings}).postprocess_nodes(nodes, bundle)


def test_a_reranker_without_vectors_uses_scores():
    ranker = Reranker(k=6, query_k=4).fit(X)
    scores, ids = ranker.search(X, 10)
    bare = Reranker(k=6, query_k=4).fit_neighbors(scores, ids, item_ids=None)
    bundle = QueryBundle("q", embedding=QUERY.tolist())
    nodes = given([0.9, 0.8], ["3", "8"])
    out = DiffusionPostprocessor(ranker=bare).postprocess_nodes(nodes, bundle)
    expected = hits.rerank(bare, [3, 8], [0.9, 0.8], restrict_to_candidates=True)
    assert [n.node_id for n in out] == [str(i) for i in expected.ids]


def test_the_settings_are_stored_without_the_ranker(ranker):
    stored = DiffusionPostprocessor(ranker=ranker, top_n=3).to_dict()
    assert stored["class_name"] == "DiffusionPostprocessor"
    assert stored["top_n"] == 3
    assert "ranker" not in stored


def test_a_keyword_that_is_misspelt(ranker):
    with pytest.raises(ValueError, match="topn"):
        DiffusionPostprocessor(ranker=ranker, topn=3)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.core.schema", None)
    monkeypatch.delitem(sys.modules, "diffusion.integrations.llama_index")
    with pytest.raises(DiffusionError, match=r"pip install 'diffusion-rerank\[llama-index\]'"):
        importlib.import_module("diffusion.integrations.llama_index")
