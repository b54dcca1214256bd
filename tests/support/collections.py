"""A collection that changes, as a model of plain Python, and what a fit of its items gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffusion

DIMENSION = 5


class Collection:
    """Vectors by id, in the order in which they were added."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters
        self.vectors: dict[Any, NDArray[np.float64]] = {}

    @property
    def ids(self) -> list[Any]:
        return list(self.vectors)

    def add(self, ids: list[Any], vectors: NDArray[np.float64]) -> None:
        self.vectors |= dict(zip(ids, vectors, strict=True))

    def remove(self, ids: list[Any]) -> None:
        for item in ids:
            del self.vectors[item]

    def fitted(self) -> diffusion.Reranker:
        """Return a Reranker that is fitted to what is left."""
        X = np.array(list(self.vectors.values()))
        return diffusion.Reranker(**self.parameters).fit(X, ids=self.ids)


def assert_same(
    live: diffusion.Reranker, fresh: diffusion.Reranker, *, atol: float = 1e-5, **search: Any
) -> None:
    """Compare the graphs of two Rerankers of the same items, and their answers to some queries.

    Their rows may be in different orders, so that items are compared by id.
    """
    ids = np.array(fresh.ids_)
    node_of = dict(zip(np.array(live.ids_).tolist(), live.nodes_.tolist(), strict=True))
    assert live.n_items_ == fresh.n_items_ == len(ids)
    # Of a node of one, the node of the other: every item says the same.
    pairs = {(node, node_of[item]) for node, item in zip(fresh.nodes_, ids.tolist(), strict=True)}
    assert len(pairs) == fresh.graph_.n_nodes == live.graph_.n_nodes
    rows = [row for _, row in sorted(pairs)]
    np.testing.assert_allclose(
        live.graph_.W.toarray()[np.ix_(rows, rows)], fresh.graph_.W.toarray(), atol=1e-6
    )
    np.testing.assert_allclose(live.graph_.degrees[rows], fresh.graph_.degrees, rtol=1e-5)
    assert live.graph_.n_components == fresh.graph_.n_components
    assert live.graph_.n_isolated == fresh.graph_.n_isolated
    queries = np.random.default_rng(len(ids)).standard_normal((3, DIMENSION))
    assert_same_answers(
        live.search(queries, len(ids), **search), fresh.search(queries, len(ids), **search), atol
    )


def assert_same_answers(one: Any, other: Any, atol: float) -> None:
    """Compare lists of scores by id; items whose scores are close may be in another order."""
    for scores, ids, expected, names in zip(*one, *other, strict=True):
        found = dict(zip(ids.tolist(), scores, strict=True))
        wanted = dict(zip(names.tolist(), expected, strict=True))
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(
            [found[item] for item in wanted], list(wanted.values()), atol=atol
        )
