"""A document compressor for LangChain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DiffusionError
from .frameworks import Question, reranked

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field
except ImportError as error:
    raise DiffusionError(
        "diffusion.integrations.langchain needs langchain-core; expected "
        "pip install 'diffusion-rerank[langchain]'"
    ) from error


class DiffusionCompressor(BaseDocumentCompressor):
    """Re-rank retrieved documents by diffusion.

    It is used alone, ``compressor.compress_documents(documents, query)``, in a runnable, or as the
    `base_compressor` of a `ContextualCompressionRetriever`. All parameters are keywords.

    Parameters
    ----------
    ranker : Reranker
        Fitted to the embeddings of the documents, with their ids. Its ids may also be int64, if the
        ids of the documents are the texts of integers.
    top_n : int >= 1, optional
        Number of documents to return. By default, as many as were retrieved.
    embed : callable, optional
        Takes the query and returns its embedding (d,), of the kind of the Reranker's vectors, such
        as ``embeddings.embed_query``. Retrievers of LangChain pass neither embeddings nor scores
        on, so that this is usually needed.
    store : object, optional
        Where documents that were not retrieved are fetched: a vector store that has `get_by_ids`.
        Documents that it does not have are left out. Without a store, the retrieved documents are
        only reordered.
    allow : array_like, set or callable, optional
        A filter of the results by id, as `Reranker.search` takes it. If the retriever has filters
        and there is a store, the same filter is needed here.
    id_key : str, optional
        The key of the metadata that has the id of a document. By default, and where a document does
        not have the key, it is `Document.id`.
    score_key : str, default "score"
        The key of the metadata that has the score of a document, for a retriever that writes it
        there.
    distances : bool, default False
        Whether these are distances (1 - cosine, or Euclidean distances).
    squared : bool, optional
        Whether Euclidean distances are squared; required for them, and only for them.

    Notes
    -----
    With an embedding of the query, the Reranker searches the whole collection for it, so that the
    order does not depend on how many documents were retrieved. Without one, and if documents are
    not in the collection of the Reranker, they are re-ranked by their scores, which must be those
    of its metric: cosines for the default.

    Documents that are not in the collection are never left out for that reason. Without scores,
    they take the last places.

    The documents that are returned are copies, with their new score in the metadata, under the key
    `relevance_score`.
    """

    # A keyword that is misspelt is an error.
    model_config = ConfigDict(extra="forbid")

    ranker: Any = Field(exclude=True, repr=False)
    top_n: int | None = None
    embed: Callable[[str], Any] | None = Field(default=None, exclude=True, repr=False)
    store: Any = Field(default=None, exclude=True, repr=False)
    allow: Any = Field(default=None, exclude=True, repr=False)
    id_key: str | None = None
    score_key: str = "score"
    distances: bool = False
    squared: bool | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the best documents, best first.

        Parameters
        ----------
        documents : sequence of Document
            Those that were retrieved.
        query : str
            Passed to `embed`.
        callbacks : optional
            Ignored; the interface has them.

        Raises
        ------
        DiffusionError
            If a document has no id, or there is neither an embedding nor a score of each document;
            in the cases in which `Reranker.search` and `Reranker.rerank` raise it.
        """
        found: dict[str, Document] = {}
        for document in documents:
            found.setdefault(self._id(document), document)
        question = Question(
            self.embed(query) if self.embed is not None and found else None,
            [document.metadata.get(self.score_key) for document in found.values()],
            self.distances,
            self.squared,
            self.allow,
        )
        fetch = None if self.store is None else self._fetched
        return [
            document.model_copy(
                update={"metadata": {**document.metadata, "relevance_score": score}}
            )
            for document, score in reranked(self.ranker, found, question, self.top_n, fetch)
        ]

    def _id(self, document: Document) -> str:
        value = document.metadata.get(self.id_key, document.id) if self.id_key else document.id
        if value is None or value == "":
            raise DiffusionError(
                f"documents: expected an id of each, got one without: {document.page_content!r:.60}"
            )
        return str(value)

    def _fetched(self, ids: list[str]) -> dict[str, Document]:
        return {self._id(document): document for document in self.store.get_by_ids(ids)}
