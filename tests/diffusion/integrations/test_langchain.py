"""The document compressor, behind the retrievers of langchain-core."""

from __future__ import annotations

import asyncio
import importlib
import sys
import uuid

import faiss
import numpy as np
import pytest

from diffusion import DiffusionError, Reranker
from diffusion.integrations import hits
from diffusion.integrations.faiss import fit_index

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from diffusion.integrations.langchain import DiffusionCompressor

N, D = 60, 6


def vectors():
    rng = np.random.default_rng(4)
    return rng.standard_normal((5, D))[np.arange(N) % 5] + 0.6 * rng.standard_normal((N, D))


X = vectors()
NAMES = [str(uuid.UUID(int=i + 1)) for i in range(N)]
QUERY = X[0] + 0.4 * np.random.default_rng(9).standard_normal(D)


class Numbers(Embeddings):
    """The vector of "n" is X[n], that of the query "q" is QUERY."""

    def embed_documents(self, texts):
        return [X[int(text)].tolist() for text in texts]

    def embed_query(self, text):
        return QUERY.tolist()


EMBED = Numbers().embed_query


@pytest.fixture(scope="module")
def ranker():
    return Reranker(k=6, query_k=4).fit(X, ids=NAMES)


@pytest.fixture(scope="module")
def store():
    store = InMemoryVectorStore(Numbers())
    store.add_texts(
        [str(i) for i in range(N)], metadatas=[{"rest": i % 2} for i in range(N)], ids=NAMES
    )
    return store


def given(names=NAMES, scores=None):
    return [
        Document(page_content="t", id=name, metadata={} if score is None else {"score": score})
        for name, score in zip(names, scores or [None] * len(names), strict=True)
    ]


def shown(documents):
    return [(d.id, pytest.approx(d.metadata["relevance_score"], abs=1e-5)) for d in documents]


def pairs(scores, ids):
    return list(zip(ids.tolist(), scores.tolist(), strict=True))


def test_behind_a_retriever(store, ranker):
    compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, store=store, top_n=5)
    retriever = store.as_retriever(search_kwargs={"k": 6})
    chain = {"documents": retriever, "query": RunnablePassthrough()} | RunnableLambda(
        lambda found: compressor.compress_documents(**found)
    )
    documents = chain.invoke("q")
    assert shown(documents) == pairs(*ranker.search(QUERY, 5))
    assert [NAMES[int(d.page_content)] for d in documents] == [d.id for d in documents]
    assert {d.metadata["rest"] for d in documents} <= {0, 1}
    assert {d.id for d in documents} - {d.id for d in retriever.invoke("q")}  # some were fetched


def test_asynchronously(store, ranker):
    compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, store=store, top_n=5)

    async def answer():
        retriever = store.as_retriever(search_kwargs={"k": 6})
        return await compressor.acompress_documents(await retriever.ainvoke("q"), "q")

    assert shown(asyncio.run(answer())) == pairs(*ranker.search(QUERY, 5))


def test_without_a_store_the_documents_are_reordered(store, ranker):
    documents = store.as_retriever(search_kwargs={"k": 6}).invoke("q")
    out = DiffusionCompressor(ranker=ranker, embed=EMBED).compress_documents(documents, "q")
    among = {d.id for d in documents}
    assert shown(out) == [p for p in pairs(*ranker.search(QUERY, N)) if p[0] in among]
    assert [d.id for d in out] != [d.id for d in documents]
    assert all("relevance_score" not in d.metadata for d in documents)


def test_filters(store, ranker):
    allowed = set(NAMES[::2])
    documents = store.similarity_search("q", k=6, filter=lambda d: d.metadata["rest"] == 0)
    assert {d.id for d in documents} <= allowed
    for allow in (allowed, lambda ids: np.isin(ids, list(allowed)), np.arange(N) % 2 == 0):
        compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, store=store, allow=allow)
        out = compressor.compress_documents(documents, "q")
        assert shown(out) == pairs(*ranker.search(QUERY, 6, allow=allowed))
        assert {d.metadata["rest"] for d in out} == {0}


def test_scores_in_the_metadata(store, ranker):
    def scored(query):
        for document, score in store.similarity_search_with_score(query, k=6):
            yield document.model_copy(update={"metadata": {**document.metadata, "cosine": score}})

    documents = list(scored("q"))
    cosines = [d.metadata["cosine"] for d in documents]
    compressor = DiffusionCompressor(ranker=ranker, store=store, score_key="cosine", top_n=8)
    expected = hits.rerank(ranker, [d.id for d in documents], cosines, k=8)
    out = compressor.compress_documents(documents, "q")
    assert expected.new_ids
    assert shown(out) == list(zip(expected.ids, expected.scores, strict=True))


def test_distances(ranker):
    cosines = [0.9, 0.85, 0.7, 0.6]
    expected = hits.rerank(ranker, NAMES[:4], cosines, restrict_to_candidates=True)
    documents = given(NAMES[:4], [1 - c for c in cosines])
    out = DiffusionCompressor(ranker=ranker, distances=True).compress_documents(documents, "q")
    assert shown(out) == list(zip(expected.ids, expected.scores, strict=True))


def test_documents_that_the_store_does_not_have_give_way(store, ranker):
    few = InMemoryVectorStore(Numbers())
    few.add_texts([str(i) for i in range(0, N, 7)], ids=NAMES[::7])
    documents = store.as_retriever(search_kwargs={"k": 3}).invoke("q")
    compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, store=few, top_n=8)
    there = {d.id for d in documents} | set(NAMES[::7])
    out = compressor.compress_documents(documents, "q")
    assert shown(out) == [p for p in pairs(*ranker.search(QUERY, N)) if p[0] in there][:8]


def test_unknown_documents_stay(ranker):
    compressor = DiffusionCompressor(ranker=ranker, embed=EMBED)
    known = compressor.compress_documents(given(NAMES[:3]), "q")
    out = compressor.compress_documents(given(["new", *NAMES[:3]]), "q")
    assert [d.id for d in out] == [*(d.id for d in known), "new"]
    scored = given(["new", *NAMES[:3]], [0.9, 0.8, 0.7, 0.6])
    expected = hits.rerank(
        ranker, ["new", *NAMES[:3]], [0.9, 0.8, 0.7, 0.6], restrict_to_candidates=True
    )
    assert shown(compressor.compress_documents(scored, "q")) == list(
        zip(expected.ids, expected.scores, strict=True)
    )


@pytest.mark.parametrize("scored", [False, True])
def test_unknown_documents_stay_where_others_give_way(ranker, scored):
    best = ranker.search(QUERY, 8)[1].tolist()
    retrieved = [*best[4:8], "fresh"]
    scores = [0.9, 0.8, 0.7, 0.6, -0.9] if scored else None
    if scored:
        best = hits.rerank(ranker, retrieved, scores, k=20).new_ids
    gone = best[:3]
    left = InMemoryVectorStore(Numbers())
    rows = [i for i in range(N) if NAMES[i] not in gone]
    left.add_texts([str(i) for i in rows], ids=[NAMES[i] for i in rows])
    here = [NAMES[i] for i in rows]
    if scored:
        compressor = DiffusionCompressor(ranker=ranker, store=left)
        found = hits.rerank(ranker, retrieved, scores, allow=[*here, "fresh"])
        wanted = list(zip(found.ids, found.scores, strict=True))
    else:
        compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, store=left)
        wanted = [*pairs(*ranker.search(QUERY, 4, allow=here)), ("fresh", 0.0)]
    assert "fresh" in dict(wanted)
    assert shown(compressor.compress_documents(given(retrieved, scores), "q")) == wanted


def test_a_keyword_that_is_misspelt(ranker):
    with pytest.raises(ValueError, match="topn"):
        DiffusionCompressor(ranker=ranker, topn=3)


def test_documents_that_a_search_does_not_reach_stay():
    # Two groups far from each other, in two cells, of which a search sees one.
    far = (X + np.where(np.arange(N) % 2, 50, -50)[:, None]).astype(np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(D), D, 2)
    index.train(far)
    index.add(far)
    ranker = fit_index(index, ids=NAMES, k=4, query_k=3)
    assert set(ranker.search(far[0], N)[1].tolist()) - {None} == set(NAMES[::2])
    compressor = DiffusionCompressor(ranker=ranker, embed=lambda query: far[0])
    out = compressor.compress_documents(given(NAMES[:6]), "q")
    assert {d.id for d in out[:3]} == set(NAMES[0:6:2])
    assert [d.id for d in out[3:]] == NAMES[1:6:2]


def test_ids_in_the_metadata(ranker):
    documents = [
        Document(page_content="t", id="other", metadata={"key": uuid.UUID(NAMES[0])}),
        Document(page_content="t", id="third", metadata={"key": NAMES[1]}),
        Document(page_content="t", id=NAMES[2]),
        Document(page_content="t", id="again", metadata={"key": NAMES[0]}),
    ]
    compressor = DiffusionCompressor(ranker=ranker, embed=EMBED, id_key="key")
    out = compressor.compress_documents(documents, "q")
    best = ranker.search(QUERY, 3, allow=NAMES[:3])[1]
    assert [d.id for d in out] == [
        {**dict(zip(NAMES, ["other", "third"], strict=False)), NAMES[2]: NAMES[2]}[i] for i in best
    ]


def test_numbers_as_ids():
    ranker = Reranker(k=6, query_k=4).fit(X, ids=np.arange(N) + 100)
    documents = given([str(i + 100) for i in range(9)])
    out = DiffusionCompressor(ranker=ranker, embed=EMBED).compress_documents(documents, "q")
    expected = ranker.search(QUERY, 9, allow=np.arange(100, 109))[1]
    assert [d.id for d in out] == [str(i) for i in expected]


def test_nothing_retrieved(ranker):
    def embed(query):
        raise AssertionError("the embedding is not needed")

    assert DiffusionCompressor(ranker=ranker, embed=embed).compress_documents([], "q") == []


def test_the_settings_are_shown_without_the_ranker(ranker):
    compressor = DiffusionCompressor(ranker=ranker, top_n=3)
    assert "ranker" not in compressor.model_dump()
    assert "ranker" not in repr(compressor)


@pytest.mark.parametrize(
    ("settings", "documents", "message"),
    [
        ({}, given(NAMES[:2]), r"scores: expected a score of each hit, or the embedding"),
        ({}, given(NAMES[:1], [0.9]) + given(NAMES[1:2]), r"scores: expected a score of each"),
        ({}, [Document(page_content="one")], r"documents: expected an id of each, .*'one'"),
        ({"id_key": "key"}, [Document(page_content="one")], r"documents: expected an id"),
        ({"embed": lambda query: [1.0]}, given(NAMES[:1]), r"dimension 6, .*got 1"),
        ({"embed": lambda query: [QUERY]}, given(NAMES[:1]), r"embedding: .*\(d,\)"),
        ({"top_n": 0, "embed": EMBED}, given(NAMES[:1]), r"top_n: expected an integer"),
        ({"ranker": 7}, given(NAMES[:1]), r"ranker: expected a Reranker, got int"),
        ({"squared": True}, given(NAMES[:1], [0.9]), r"squared: expected None"),
    ],
)
def test_errors(ranker, settings, documents, message):
    compressor = DiffusionCompressor(**{"ranker": ranker, **settings})
    with pytest.raises(DiffusionError, match=message):
        compressor.compress_documents(documents, "q")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.documents", None)
    monkeypatch.delitem(sys.modules, "diffusion.integrations.langchain")
    with pytest.raises(DiffusionError, match=r"pip install 'diffusion-rerank\[langchain\]'"):
        importlib.import_module("diffusion.integrations.langchain")
