"""A node postprocessor for LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import DiffusionError
from .frameworks import Question, reranked

try:
    from llama_index.core.bridge.pydantic import ConfigDict, Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import NodeWithScore, QueryBundle
    from llama_index.core.storage.docstore.types import BaseDocumentStore
except ImportError as error:
    raise DiffusionError(
        "diffusion.integrations.llama_index needs llama-index-core; expected "
        "pip install 'diffusion-rerank[llama-index]'"
    ) from error


class DiffusionPostprocessor(BaseNodePostprocessor):
    """Re-rank retrieved nodes by diffusion, as one of the `node_postprocessors` of a query engine.

    All parameters are keywords.

    Parameters
    ----------
    ranker : Reranker
        Fitted to the embeddings of the nodes, with their node ids. Its ids may also be int64, if
        the node ids are the texts of integers.
    top_n : int >= 1, optional
        Number of nodes to return. By default, as many as were retrieved.
    store : object, optional
        Where nodes that were not retrieved are fetched: a docstore, such as ``index.docstore``, or
        a vector store that has `get_nodes`. Nodes that it does not have are left out. Without a
        store, the retrieved nodes are only reordered.
    embed : callable, optional
        Takes the `QueryBundle` and returns the query's embedding (d,), of the kind of the
        Reranker's vectors, such as ``lambda bundle: model.get_query_embedding(bundle.query_str)``,
        or what describes the photo ``bundle.image_path``.
    allow : array_like, set or callable, optional
        A filter of the results by id, as `Reranker.search` takes it. If the retriever has filters
        and there is a store, the same filter is needed here.
    distances : bool, default False
        Whether the scores of the nodes are distances (1 - cosine, or Euclidean distances).
    squared : bool, optional
        Whether Euclidean distances are squared; required for them, and only for them.

    Notes
    -----
    The query's embedding comes from `embed`, or else from the bundle. A vector index writes it
    there when it retrieves, but not when it retrieves asynchronously (`aquery`), and a retriever by
    keywords has none: these need `embed`. With an embedding, the Reranker searches the whole
    collection for the query, so that the order does not depend on how many nodes were retrieved.
    Without an embedding, and if nodes are not in the collection of the Reranker, the nodes are
    re-ranked by their scores, which must be those of its metric: cosines for the default.

    Nodes that are not in the collection are never left out for that reason. Without scores, they
    take the last places. The scores that are returned are those of the Reranker, not cosines: a
    `SimilarityPostprocessor` belongs before this one.
    """

    # A keyword that is misspelt is an error.
    model_config = ConfigDict(extra="forbid")

    ranker: Any = Field(exclude=True, repr=False)
    top_n: int | None = None
    store: Any = Field(default=None, exclude=True, repr=False)
    embed: Callable[[QueryBundle], Any] | None = Field(default=None, exclude=True, repr=False)
    allow: Any = Field(default=None, exclude=True, repr=False)
    distances: bool = False
    squared: bool | None = None

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores the settings."""
        return "DiffusionPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        found: dict[str, NodeWithScore] = {}
        for node in nodes:
            found.setdefault(node.node_id, node)
        question = Question(
            self._embedding(query_bundle) if found else None,
            [node.score for node in found.values()],
            self.distances,
            self.squared,
            self.allow,
        )
        documents = {node_id: node.node for node_id, node in found.items()}
        fetch = None if self.store is None else self._fetched
        results = reranked(self.ranker, documents, question, self.top_n, fetch)
        return [NodeWithScore(node=node, score=score) for node, score in results]

    def _embedding(self, bundle: QueryBundle | None) -> Any:
        if bundle is None:
            return None
        return bundle.embedding if self.embed is None else self.embed(bundle)

    def _fetched(self, ids: list[str]) -> dict[str, Any]:
        # Unless it is told not to, a docstore raises an error for a node that it does not have.
        option = {"raise_error": False} if isinstance(self.store, BaseDocumentStore) else {}
        return {node.node_id: node for node in self.store.get_nodes(ids, **option)}
