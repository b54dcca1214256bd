"""Adding items to a fitted collection, and removing items from it.

An update makes a new `Fitted` beside the old one, which other threads may search meanwhile. What it
contains equals what a fit of the items that are left would compute: neighbour lists that an item
enters or leaves are changed, then what is computed from them, one step after the other. Each step
copies what has not changed, and computes the rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .change import Ages, Change
from .copies import Copies
from .errors import DiffusionError
from .fitted import Fitted, settings_of
from .neighbors.updates import changed_lists
from .validation import as_vectors


def added(fitted: Fitted, X: ArrayLike, ids: ArrayLike | None, *, progress: bool) -> Fitted:
    """Return the result of a fit with further items.

    Parameters
    ----------
    fitted : Fitted
    X : array_like, shape (m, d) or (d,)
    ids : array_like, shape (m,), or None
    progress : bool

    Raises
    ------
    DiffusionError
        If there are no vectors, or X or ids do not fit them.
    """
    index = fitted.index
    if index is None:
        raise DiffusionError(
            "add: this index was fitted from neighbour lists and holds no vectors; expected "
            "fit(X), or fit_neighbors(scores, ids, X)"
        )
    index.contents.check()
    vectors = as_vectors(
        X, "X", metric=index.metric, dimension=index.dimension, center=index.center, queries=True
    )
    items = fitted.items.added(ids, len(vectors))
    if not len(vectors):
        return fitted
    copies, fresh = fitted.copies.added(vectors, index.vectors_of)
    change = Change.addition(fitted.graph.n_nodes, len(fresh))
    changed = _changed(fitted, copies, change, vectors[fresh], progress=progress)
    return replace(changed, items=items, copies=copies)


def removed(fitted: Fitted, ids: ArrayLike, *, progress: bool) -> Fitted:
    """Return the result of a fit without some items.

    Raises
    ------
    DiffusionError
        If an id is unknown or repeated, or no item would be left.
    """
    rows = fitted.items.rows_to_remove(ids)
    n = fitted.items.size
    if len(rows) == n:
        raise DiffusionError(
            f"ids: expected at least one of the {n} items to be left, got all of them"
        )
    if not len(rows):
        return fitted
    change = Change.removal(n, rows)
    items = fitted.items.changed(change)
    copies, of_nodes = fitted.copies.removed(change)
    changed = _changed(fitted, copies, of_nodes, None, progress=progress)
    return replace(changed, items=items, copies=copies)


def _changed(
    fitted: Fitted,
    copies: Copies,
    change: Change,
    vectors: NDArray[np.float32] | None,
    *,
    progress: bool,
) -> Fitted:
    """Return a fit with everything but the items and their copies changed.

    `change` and `vectors` are of nodes, and `copies` those after the change. If only copies have
    come or gone, nodes may have another order, by which ties are resolved.
    """
    ages = Ages(fitted.copies.ages, copies.ages)
    if change.empty and not (fitted.affinity.by_age and (ages.before != ages.after).any()):
        return fitted
    parameters, index = fitted.parameters, fitted.index
    if index is not None:
        index = index.changed(change, vectors, progress=progress)
        parameters = {**parameters, "neighbors": settings_of(index.method)}
    lists = fitted.affinity.neighbor_lists()
    if lists is None:
        # An earlier version has not kept them: lists of another length are computed again.
        if index is None:
            raise DiffusionError(
                "remove: this index, of an earlier version, holds neither vectors nor neighbour "
                "lists; expected one that is built again"
            )
        lists = np.empty((change.before, 0), np.float32), np.empty((change.before, 0), np.int32)
    k = parameters["k"]
    length, least = fitted.affinity.listed(k), fitted.affinity.depth_of(k)
    width = lists[1].shape[1]
    if width not in (0, min(length, max(1, change.before - 1))):
        length = width  # that of lists which were given
    scores, ids, dirty = changed_lists(
        index, *lists, change, length, least=least, progress=progress
    )
    affinity, edges = fitted.affinity.changed(scores, ids, dirty, change, ages, progress=progress)
    graph, touched = fitted.graph.changed(change, edges, progress=progress)
    solver = fitted.solver.changed(graph, change, touched, progress=progress)
    return replace(
        fitted, parameters=parameters, affinity=affinity, solver=solver, graph=graph, index=index
    )
