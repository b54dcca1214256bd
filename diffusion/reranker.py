"""The Reranker: re-ranking of search results by diffusion over a neighbour graph."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import storage, updates
from .affinity import Affinity, Context, make_affinity
from .affinity.base import Lists
from .copies import Copies
from .errors import DiffusionError
from .explanation import Explainer, Explanation, FirstStage
from .filters import Allow, allowed_by
from .fitted import (
    Components,
    Fitted,
    Results,
    first_stage_of,
    restored_parameters,
    stored_parameters,
    used_method,
)
from .graph.diagnosis import Diagnosis, diagnose
from .graph.graph import Graph
from .ids import ItemIds
from .index_state import IndexState, open_state, save_state
from .neighbors import Method, SearchIndex, check_metric, make_method, tidy_lists
from .neighbors.index import without_groups, without_items
from .neighbors.lists import indexed, listed
from .neighbors.methods import Given
from .parameters import Parameters
from .reporting import Reporting, Turns
from .scoring.fusion import Fusion, Score, make_score
from .solvers import Solver, Spectral, make_solver, on_device
from .storage.rows import discard_fit, of_solver
from .transfer import TRANSFERS, CustomTransfer, RegularizedLaplacian, Transfer
from .tuning import Labelled, Tuning, lists_for, tuned
from .validation import (
    as_lists,
    check_integer,
    check_switch,
    count_of,
    is_single,
)


class Reranker(Reporting, Parameters):
    """Re-rank search results by diffusion over the collection's own neighbour graph.

    Offline, `fit` lists the k nearest neighbours of every item and builds a graph from the lists.
    By default, it joins items whose neighbourhoods are similar at several scales (`Context`).
    With `affinity="cosine"`, it joins items that list each other, with the weight
    ``A_ij = min(w_i(j), w_j(i))``, ``w = max(s, 0)^γ``. The adjacency A is normalised,
    ``W = D^-1/2 A D^-1/2``, with the degrees D = diag(A 1).

    Online, a query is described by its observation y: a weight for each of the `query_k` items
    that are most similar to it. Diffusion computes ``x = h(W) y``, where h is the transfer
    function; the default, ``h(λ) = (1 - α) / (1 - α λ)``, is a random walk with restart. Results
    are ranked by x combined with the similarities that it started from (`Fusion`), or by x
    alone. A query is never part of the graph.

    Parameters
    ----------
    k : int >= 1, optional
        Neighbours per item in the lists. By default, the contextual affinity has as many as the
        largest of its scales, 48 for `granularity="mixed"`, and a few to spare; fewer cut the
        scales, and more are not used. For the other affinities, the default is 50, which suits
        collections with tens of images per object.
    granularity : {"instance", "mixed", "category"}, default "mixed"
        What counts as a relevant result, on which the scales of the contextual affinity depend:
        `"instance"` is the same object or scene (scales 2, 4, 8 and 16), `"category"` is anything
        of the same broad class (6, 12, 24, 48 and 96; encodings of 100 entries take twice the
        memory). The default (3, 6, 12, 24 and 48) suits both. Labelled queries tell which is best
        (`tune`).
    affinity : {"context", "cosine", "gaussian"} or Context, default "context"
        How edges and their weights are computed. `"context"` compares the neighbourhoods of
        items at several scales, up to `k`, and works with any metric; pass a `Context` to change
        its settings. The others depend on the score alone: `"cosine"` is max(s, 0)^γ of a cosine
        or inner product s, as in the papers, and `"gaussian"` is exp(-γ d² / (2 σ²)) of a
        Euclidean distance d, where σ² is the median squared distance in the lists.
    score : {"fusion", "diffusion"} or Fusion, optional
        What results are ranked by: `"diffusion"` is x alone, `"fusion"` combines it with the
        similarity of neighbourhoods and the first-stage score. The default is the fusion for the
        contextual affinity and x for the others.
    solver : str or solver object, default "auto"
        How x is computed. "auto" takes the fastest solver for the size of the graph; its best
        hundred items are those of an exact solution to 99 %, and `report_.solver` names the solver
        that was used. Others are "cg", "spectral", "hybrid",
        "columns", "truncated", "local" and "chebyshev", or an object with settings, such as
        ``CG(tol=1e-6, max_iter=200)``. Exact solvers: "cg" (any size), "hybrid" (fewer
        iterations, with a basis computed offline), "chebyshev" (any transfer function).
        Approximate solvers: "spectral" (a dot product online), "columns" (offline work and 8 n
        keep bytes), "truncated" (only the shortlist), "local" (only a neighbourhood, independent
        of n; reports which rankings are certainly exact). The page "Which solver, which
        parameters" of the documentation says what each is for, with measured figures.
    alpha : float in [0, 1) or None, default None
        Short for ``transfer=RegularizedLaplacian(alpha)``; ignored if `transfer` is given. None
        stands for 0.995 with the contextual affinity, and for 0.99 with the others.
    transfer : transfer function, optional
        The transfer function h: a `RegularizedLaplacian`, a `HeatKernel`, a
        `TruncatedRandomWalk`, or a `CustomTransfer` with any callable. The solvers "spectral" and
        "chebyshev" apply all of them, the others only the first.
    query_k : int >= 1, default 10
        Number of items in a query's observation: with `affinity="context"` those with the most
        similar neighbourhoods and the best first-stage scores, otherwise the best of the first
        stage. Setting it on a fitted Reranker takes effect immediately.
    cautious : bool, default False
        Stay near the first stage where re-ranking may lose against it: the evidence of diffusion
        and neighbourhoods counts the less, the lower `report_.confidence` is.
        Fewer queries get worse, and the others gain less. Requires the fusion. Setting it on a
        fitted Reranker takes effect immediately.
    gamma : float > 0, default 3.0
        The exponent γ of the affinities "cosine" and "gaussian".
    metric : {"cosine", "inner_product", "euclidean"}, default "cosine"
        Similarity of vectors. The scores of `"euclidean"` are negative squared distances.
    neighbors : {"auto", "exact", "ivf", "hnsw", "nndescent"} or object, default "auto"
        How neighbours are found: a name or an object of `diffusion.neighbors`, such as
        ``IVF(nprobe=32)``. It is used both for the graph and for the first stage of `search`.
        "auto" is exact for collections up to tens of thousands of vectors; for larger ones, it is
        an inverted file with a recall of 0.98 at `k`, which is measured
        (`diffusion.neighbors.Auto`).
    progress : bool, default False
        Show progress bars on standard error.

    Attributes
    ----------
    graph_ : Graph
        The graph; `graph_.W` is the normalised adjacency, a scipy CSR array in the user's order,
        with one row for all items with the same vector (`nodes_`).
    solver_ : solver
        The prepared solver.
    n_items_ : int
        Number of items.
    n_features_in_ : int
        Dimension of the vectors; not set if the Reranker was fitted from lists alone.
    report_ : Report
        Residual, iterations and convergence of the last `search` or `rerank` of the calling
        thread, and the sizes of its observations.

    Notes
    -----
    Threads: any number of threads may call `search`, `rerank`, `explain`, `embed`, `diagnose`,
    `save`, `state`, `add`, `remove` and `tune` of a fitted Reranker at the same time; each has its
    own `report_`. A search that runs beside an update answers from the state before it or after it;
    updates, and `tune` is one, take turns.
    `fit`, `fit_neighbors` and `set_params` change the object, and no other call may run beside
    them.

    scikit-learn: `clone`, `check_is_fitted` and pipelines accept a Reranker. A pipeline fits it to
    the transformed vectors, but has no verb that passes queries on to `search`; they are
    transformed by the steps before: ``pipe[-1].search(pipe[:-1].transform(Q))``.

    Memory: the vectors (4 n d bytes), 8 bytes per entry of W (at most 8 n k in total) and 44
    bytes per item, 64 where there are copies; with the contextual affinity, another 510 bytes per
    item (362 for the granularity "instance", 976 for "category"). What only `add` and `remove` read
    takes 592 bytes per item with the contextual affinity (272 and 1,072) and 8 k with the others;
    in an index that was loaded, it stays on disk. Building takes at most 12 n k bytes in addition
    to the neighbour lists; with the contextual affinity, at most 1,400 bytes per item, twice that
    for "category". Own ids take 21 bytes per item as int64, and 12 to 16 bytes more than their text
    as str.

    Zero vectors have no direction. With the metrics "cosine" and "inner_product", they have
    similarity 0 with everything and become isolated nodes, which are in no neighbour list. A query
    of zeros has no observation: its results are those of the first stage, with scores of 0, and
    `report_.observed` is 0. With "euclidean", a zero vector is a point like any other.

    Edges need a positive weight: with `affinity="cosine"`, an item whose scores are all 0 or less
    becomes an isolated node. The contextual affinity only compares scores; neither their sign
    nor their scale matters, and equal scores share a rank. If k >= n, every
    item is a neighbour of every other.

    Copies: `fit` makes one node of all items whose vectors are identical as they are stored
    (float32, for the cosine divided by their norms). Without that, a group of more than k + 1
    copies would fill each other's lists and be cut off from everything else. In answers, they are
    items like others: they have equal scores and follow each other in the order in which they were
    added. `graph_.n_nodes` is the number of nodes, and `n_items_` that of items. Vectors that are
    nearly identical remain nodes of their own: which of them belong together would depend on the
    order in which they are added and removed. `fit_neighbors`, and `fit` with an index of the
    caller's, refer to rows, and make a node of each.

    References
    ----------
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
    Zhong, Zheng, Cao, Li. Re-ranking Person Re-identification with k-reciprocal Encoding.
    CVPR 2017.
    Zhou, Weston, Gretton, Bousquet, Schölkopf. Ranking on Data Manifolds. NIPS 2003.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> ranker = diffusion.Reranker(k=4, query_k=2).fit(X)
    >>> scores, ids = ranker.search(X[0], k=5)
    >>> sorted(ids.tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        *,
        k: int | None = None,
        granularity: str = "mixed",
        affinity: str | Context = "context",
        score: str | Fusion | None = None,
        solver: str | Solver = "auto",
        alpha: float | None = None,
        transfer: Transfer | None = None,
        query_k: int = 10,
        cautious: bool = False,
        gamma: float = 3.0,
        metric: str = "cosine",
        neighbors: str | Method = "auto",
        progress: bool = False,
    ) -> None:
        self.k = k
        self.granularity = granularity
        self.affinity = affinity
        self.score = score
        self.solver = solver
        self.alpha = alpha
        self.transfer = transfer
        self.query_k = query_k
        self.cautious = cautious
        self.gamma = gamma
        self.metric = metric
        self.neighbors = neighbors
        self.progress = progress

    # --- offline ---------------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        *,
        ids: ArrayLike | None = None,
        index: object = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Build the graph of a collection from its vectors.

        Parameters
        ----------
        X : array_like, shape (n, d)
            One row per item, finite, of any real dtype. They are stored as float32, and
            L2-normalised for `metric="cosine"`. Torch tensors are accepted, on any device; sparse
            arrays are not.
        y : object, optional
            Ignored; scikit-learn's pipelines pass it.
        ids : array_like, shape (n,), int or str, optional
            The ids by which all calls name the items: different integers of 64 bits, or different
            strings, in any order. -1 and "" stand for padding and are no ids. By default, ids are
            row numbers.
        index : object, optional
            An index that the rows of X are in already. It is used instead of `neighbors`, for the
            graph and for the first stage of `search`; it is not changed, and `save` does not store
            it. Either a faiss index of float32 vectors with ids that are row numbers: for
            `metric="cosine"` of unit vectors, with METRIC_INNER_PRODUCT or METRIC_L2; for
            `"inner_product"` with METRIC_INNER_PRODUCT; for `"euclidean"` with METRIC_L2. Its
            search settings, such as `nprobe`, are used as they are. Or any object with
            ``search(Q, k)``, which takes queries (m, d), float32 and for the cosine divided by
            their norms, and returns scores and row numbers of X, (m, k) or narrower, padded with
            -1 at the end: similarities in descending order, for `"euclidean"` squared distances
            in ascending order. An item may be in its own list. One thread calls `search` at a
            time if one thread calls this Reranker.
            Each row of X becomes a node, as it is in the index (see the notes of the class).
        checkpoint : path-like, optional
            A directory for the neighbour lists while they are being computed (8 n k bytes). The
            offline work of a slow solver is kept in a second directory, whose name has ".solver"
            appended. Both are removed at the end. After an interrupted fit, the same call resumes.

        Returns
        -------
        Reranker
            Itself.

        Raises
        ------
        DiffusionError
            If a parameter or X is not as described; the message names the argument and the row.
            If the checkpoint cannot be written. If `index` is not one of X and the metric, or its
            results are not as described.
        """
        components = self._components()
        items = None if ids is None else ItemIds.of(ids, count_of(X), "ids")
        self._fit_vectors(components, X, items, index, checkpoint, collapse=index is None)
        return self

    def fit_rows(
        self,
        X: ArrayLike,
        *,
        index: object = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit as `fit` does, with a node for each row of X, for the other modules of this package.

        Identical vectors are nodes of their own.
        """
        self._fit_vectors(self._components(), X, None, index, checkpoint, collapse=False)
        return self

    def fit_groups(
        self,
        X: ArrayLike,
        groups: NDArray[np.integer],
        width: int,
        *,
        index: object = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Lists:
        """Fit as `fit_rows` does; rows of the same group are not in each other's lists.

        `groups` (n,) has the numbers of the groups, from 0 on. Returns the neighbour lists, of
        which the graph uses the beginning: they have `width` entries if that is more.
        """
        components = self._components()
        return self._fit_vectors(
            components, X, None, index, checkpoint, collapse=False, groups=groups, width=width
        )

    def _fit_vectors(
        self,
        components: Components,
        X: ArrayLike,
        items: ItemIds | None,
        index: object,
        checkpoint: str | os.PathLike[str] | None,
        *,
        collapse: bool,
        groups: NDArray[np.integer] | None = None,
        width: int = 0,
    ) -> Lists:
        if checkpoint is not None:
            checkpoint = storage.as_path(checkpoint, "checkpoint")
        k = components.affinity.listed(self._k)
        width = max(k, width)
        # Where a group fills more than half of a list, what is left is shorter.
        own = 0 if groups is None else min(width, int(np.bincount(groups).max(initial=1)) - 1)
        found, zero, lists, copies = listed(
            X,
            width + own,
            self.metric,
            components.method,
            index=index,
            collapse=collapse,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        if groups is not None:
            lists = without_groups(*lists, groups, width)
        scores, ids = lists = without_items(*lists, zero)
        self._fit_lists(components, scores[:, :k], ids[:, :k], found, items, copies, checkpoint)
        return lists

    def fit_neighbors(
        self,
        scores: ArrayLike,
        ids: ArrayLike,
        X: ArrayLike | None = None,
        *,
        item_ids: ArrayLike | None = None,
    ) -> Self:
        """Build the graph of a collection from neighbour lists computed elsewhere.

        Each list becomes a node, also where vectors are identical.

        Parameters
        ----------
        scores : array_like, shape (n, m), float
            Similarities, best first; for `metric="euclidean"`, negative squared distances. A list
            that is not in order is sorted; equal scores keep their order.
        ids : array_like, shape (n, m), int
            Row i has the neighbours of item i: ids in [0, n), padded with -1. An item may be in
            its own list, at any place; it is ignored there. The best `k` others are used. Lists
            may be short or empty, as approximate methods leave them; a sequence of lists may
            have different lengths. An item with an empty list becomes an isolated node. With
            `item_ids`, the lists hold these ids, padded with -1, or None or "" for str.
        X : array_like, shape (n, d), optional
            The vectors, for `search`. Without them, only `rerank` is available. Items whose
            vector is zero are taken out of all lists (see the notes of the class).
        item_ids : array_like, shape (n,), int or str, optional
            The ids of the items, as `fit` takes them: row i of the lists and of X is that of the
            item ``item_ids[i]``. By default, ids are row numbers.

        Returns
        -------
        Reranker
            Itself.

        Raises
        ------
        DiffusionError
            If the lists are not as described; the message names the argument and the row.
        """
        components = self._components()
        items = None if item_ids is None else ItemIds.of(item_ids, None, "item_ids")
        if items is not None:
            ids = items.only_known(ids, "ids")
        scores, ids = as_lists(
            scores,
            ids,
            None if items is None else items.size,
            names=("scores", "ids"),
            metric=self.metric,
            show=str if items is None else lambda row: items.shown(row),
        )
        if items is not None and items.size != len(ids):
            raise DiffusionError(
                f"item_ids: expected {len(ids)} ids, one for each neighbour list, got {items.size}"
            )
        index, length = None, components.affinity.listed(self._k)
        if X is not None:
            index, zero, _ = indexed(
                X, self.metric, components.method, k=length, progress=self.progress
            )
            if index.size != len(ids):
                raise DiffusionError(
                    f"X: expected {len(ids)} rows, one for each neighbour list, got {index.size}"
                )
            scores, ids = without_items(scores, ids, zero)
        lists = tidy_lists(scores, ids, min(length, ids.shape[1]))
        copies = Copies.none(len(ids))
        return self._fit_lists(components, *lists, index, items, copies)

    def _components(self) -> Components:
        """Check the parameters, and return the objects that they name."""
        if self.k is not None:
            check_integer(self.k, "k", low=1)
        solver, method = make_solver(self.solver), make_method(self.neighbors)
        check_metric(self.metric, method)
        affinity = make_affinity(self.affinity, self.metric, self.gamma, self.granularity)
        transfer = self._make_transfer(affinity)
        score = make_score(self.score, affinity)
        self._check_queries(score)
        return Components(affinity, score, solver, transfer, method)

    def _check_queries(self, score: Score) -> None:
        """Check the parameters that take effect without a fit."""
        check_integer(self.query_k, "query_k", low=1)
        if check_switch(self.cautious, "cautious") and not isinstance(score, Fusion):
            raise DiffusionError(
                f"cautious: only a fusion has a confidence, got score={score.name!r}; expected "
                "cautious=False or score='fusion'"
            )

    def _make_transfer(self, affinity: Affinity) -> Transfer:
        if self.transfer is None:
            return RegularizedLaplacian(affinity.alpha if self.alpha is None else self.alpha)
        if not isinstance(self.transfer, Transfer):
            names = ", ".join(kind.__name__ for kind in (*TRANSFERS.values(), CustomTransfer))
            raise DiffusionError(
                f"transfer: expected None or one of {names}, got {self.transfer!r}"
            )
        return self.transfer

    def _fit_lists(
        self,
        components: Components,
        scores: NDArray[np.float32],
        ids: NDArray[np.int32],
        index: SearchIndex | None,
        items: ItemIds | None,
        copies: Copies,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        affinity, score, solver, transfer, _ = components
        # Recorded now: parameters that are set later do not change what has been fitted.
        parameters = self._stored(components, index)
        edges = affinity.edges(scores, ids, progress=self.progress)
        graph = Graph.from_neighbors(*edges, overwrite=True, progress=self.progress)
        partial = None if checkpoint is None else of_solver(checkpoint)
        solver = solver.prepare(graph, transfer, progress=self.progress, checkpoint=partial)
        items = items or ItemIds.rows(copies.n_items)
        self._set(Fitted(parameters, affinity, score, solver, graph, index, items, copies))
        if checkpoint is not None:
            discard_fit(checkpoint)
        return self

    def _stored(self, components: Components, index: SearchIndex | None) -> dict[str, Any]:
        used = components.method if index is None else index.method
        return stored_parameters({**self.get_params(), "k": self._k}, components, used)

    @property
    def _k(self) -> int | None:
        return None if self.k is None else int(self.k)  # faiss takes no integers of numpy

    def with_parameters(self, lists: Lists | None, **parameters: Any) -> Self:
        """Return a Reranker of the same items with other parameters, for `diffusion.tuning`.

        Its graph is made from neighbour lists. Without them it is that of this one, and the
        parameters may only be those of queries: `score`, `query_k` and `progress`.
        """
        other, fitted = type(self)(**{**self.get_params(), **parameters}), self.fitted()
        components = other._components()
        if lists is not None:
            return other._fit_lists(components, *lists, fitted.index, fitted.items, fitted.copies)
        stored = other._stored(components, fitted.index)
        other._set(replace(fitted, parameters=stored, score=components.score))
        return other

    def _set(self, fitted: Fitted) -> None:
        self._take(fitted)
        self._begin_reports()
        self._turns = Turns()

    def _take(self, fitted: Fitted) -> None:
        """Replace the state: searches that run at the time go on with the one that they began."""
        self._fitted = fitted
        self.graph_ = fitted.graph
        self.n_items_ = fitted.items.size
        self.solver_ = fitted.solver
        self.__dict__.pop("n_features_in_", None)
        if fitted.index is not None:
            self.n_features_in_ = fitted.index.dimension

    def tune(
        self,
        queries: ArrayLike | None = None,
        relevant: Any = None,
        *,
        hits: tuple[ArrayLike, ArrayLike] | None = None,
        complete: bool = True,
        k: int | None = None,
    ) -> Tuning:
        """Choose `granularity`, the weight of the fusion and `query_k` from labelled queries.

        Ten queries are enough where much can be gained. If they do not suffice to show that other
        parameters are better, the present ones are kept. Otherwise, the parameters are set, and
        this Reranker is that of a fit with them.

        Parameters
        ----------
        queries : array_like, shape (nq, d), or (nq,) int or str
            At least two. Either vectors, of queries from outside of the collection, or ids of items
            of the collection. Queries that are items are taken out of the collection for the time
            of the comparison, so that they are queries from outside as well; they should be a small
            part of it.
        relevant : sequence of nq sequences of ids, or array_like, shape (nq,)
            The items that are relevant to each query, or one of them: pairs of a query and a good
            result. From class labels, they are ``[ids[labels == c] for c in query_labels]``.
        hits : tuple of array_like, shape (nq, m), optional
            First-stage scores and ids of the queries, as `rerank` takes them, in place of
            `queries`.
        complete : bool, default True
            Whether `relevant` has all relevant items, so that the average precision says what is
            gained. With False, they are a few of many, such as clicks: the mean of
            ``1 / log2(1 + rank)`` of these is used, to which the order of the others matters less.
            More queries are needed then, about 30 pairs.
        k : int >= 1, optional
            Length of the rankings that are compared; by default 1000, or the number of items.

        Returns
        -------
        Tuning
            What was chosen, the expected gain with its interval, and the table of all settings.
            Printing it explains it.

        Raises
        ------
        DiffusionError
            If an argument is not as described, or a query has no relevant item (other than
            queries, if these are items); the message names the queries. If the affinity is not the
            contextual one, or parameters were set that have not been fitted yet. Nothing is changed
            then.

        Notes
        -----
        27 settings are compared: the granularities, each with the present weight and `query_k`,
        half of them and twice. A setting is chosen if it gains on the queries with a certainty of
        90 % and if the choice gains in leave-one-out cross-validation too (`tuning.choose`). Over
        20 draws of 10 queries from each collection of the survey, ``python -m bench tune`` prints
        what is gained on the other queries.

        Each other granularity needs a graph of its own, which takes the time of `fit` without the
        search for neighbours; lists are searched for again if they are too short for "category".
        The graphs are made one after the other, beside the present one. If `affinity` is a
        `Context`, only the weight and `query_k` are chosen.

        Examples
        --------
        >>> import numpy as np, diffusion
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat(np.arange(5), 40)
        >>> X = rng.standard_normal((5, 8))[labels] + rng.standard_normal((200, 8))
        >>> ranker = diffusion.Reranker().fit(X[::2])
        >>> relevant = [np.flatnonzero(labels[::2] == label) for label in labels[1::20]]
        >>> tuning = ranker.tune(X[1::20], relevant)
        >>> tuning.n_queries, len(tuning.candidates)
        (10, 27)
        """
        self.fitted()  # an error unless there is one
        with self._turns:
            fitted, components = self.fitted(), self._components()
            later = {**self._stored(components, fitted.index), "query_k": self.query_k}
            if later != {**fitted.parameters, "query_k": self.query_k}:
                raise DiffusionError(
                    "tune: parameters were set after the fit; expected another fit"
                )
            labelled = Labelled.of(self, queries, relevant, hits, complete=complete, k=k)
            tuning = tuned(labelled)
            if tuning.parameters:
                lists = None
                if "granularity" in tuning.parameters:
                    granularity = tuning.parameters["granularity"]
                    lists = lists_for(fitted, granularity, progress=self.progress)
                    # Long enough without the queries only: a fit uses what there is.
                    lists = lists or fitted.affinity.neighbor_lists()
                chosen = self.with_parameters(lists, **tuning.parameters).fitted()
                self.set_params(**tuning.parameters)._take(chosen)
        return tuning

    # --- a collection that changes ---------------------------------------------------------------

    def add(self, X: ArrayLike, ids: ArrayLike | None = None) -> Self:
        """Add items to the collection.

        Afterwards, neighbour lists, graph and rankings are those of a fit of all items. Only what
        the new items change is computed.

        Parameters
        ----------
        X : array_like, shape (m, d) or (d,)
            Vectors of the new items, as `fit` takes them.
        ids : array_like, shape (m,), int or str, optional
            Their ids, of the same kind as those of the collection and none of them in use. They are
            required if `fit` was given ids. Otherwise, items are numbered on from the largest id.
            An item with the vector of another one joins its node, and the graph stays as it is.

        Returns
        -------
        Reranker
            Itself.

        Raises
        ------
        DiffusionError
            If an argument is not as described, or the Reranker holds no vectors (it was fitted from
            neighbour lists alone) or an index of the caller's. Nothing is changed then.

        Notes
        -----
        Other threads may search meanwhile: they get the answers of the collection as it was, until
        the update is complete. Updates by several threads take turns. While one runs, the
        collection takes memory twice, apart from what the two states share.

        The result equals that of a fit up to equal scores, and up to rounding where the scores of
        the affinity are used themselves. With an approximate method, new items enter the lists of
        those that the method compares them with, and the cells of an inverted file stay where they
        are until the collection has doubled.

        The time grows with the number of items whose neighbourhoods change, and not with that of
        others, apart from copying the arrays.
        """
        self.fitted()  # an error unless there is one
        with self._turns:
            self._take(updates.added(self.fitted(), X, ids, progress=self.progress))
        return self

    def remove(self, ids: ArrayLike) -> Self:
        """Remove items from the collection.

        Afterwards, neighbour lists, graph and rankings are those of a fit of the other items. Items
        that listed a removed one are searched for another neighbour; only what changes thereby is
        computed. No other item changes its id.

        Parameters
        ----------
        ids : array_like, shape (m,), or one id
            Ids of items of the collection, each once. At least one item has to be left.

        Returns
        -------
        Reranker
            Itself.

        Raises
        ------
        DiffusionError
            If an id is unknown or repeated, or no item would be left. Nothing is changed then.

        Notes
        -----
        What is said of `add` holds for `remove` as well. A Reranker that was fitted from neighbour
        lists alone has no vectors to search: its lists become shorter.
        """
        self.fitted()  # an error unless there is one
        with self._turns:
            self._take(updates.removed(self.fitted(), ids, progress=self.progress))
        return self

    def fitted(self) -> Fitted:
        """Return the result of the fit, for the other modules of this package.

        Raises
        ------
        DiffusionError
            If nothing has been fitted, `query_k` is not a positive integer, or `cautious` is not a
            boolean or requires a fusion.
        """
        if not hasattr(self, "_fitted"):
            raise DiffusionError("Reranker: not fitted yet; expected a call of fit before this one")
        self._check_queries(self._fitted.score)
        return self._fitted

    # --- online ----------------------------------------------------------------------------------

    def search(self, Q: ArrayLike, k: int = 100, *, allow: Allow = None) -> Results:
        """Search the collection for queries that are not part of its graph.

        Parameters
        ----------
        Q : array_like, shape (nq, d) or (d,)
            Query vectors, of the same kind as the collection's. There may be none, (0, d).
        k : int >= 1, default 100
            Length of the result lists.
        allow : array_like, set or callable, optional
            A filter, the same for all queries: only the items that it allows are in the results.
            Ids, of which unknown ones are ignored; or a mask, booleans of shape (n,) in the order
            of `ids_`; or a function that takes an array of ids and returns as many booleans.
            Diffusion passes through all items nevertheless, and the result equals that of ranking
            everything and leaving out what is not allowed. Do not filter hits before `rerank`:
            see the notes.

        Returns
        -------
        scores : ndarray, shape (nq, k) or (k,), float32
            Descending, padded with -inf, which JSON cannot hold: ``scores[scores > -inf]`` leaves
            the padding out. A positive score is the fused or diffused score. Items
            that diffusion did not reach follow in the order of the first stage; their scores are
            zero or negative: the first-stage score minus the query's best one.
        ids : ndarray, shape (nq, k) or (k,), int64 or object
            The ids that `fit` was given, or row numbers of X, padded with -1, or None for str: if
            k exceeds the number of items that are allowed. Equal scores are ordered by ascending
            row of `graph_.W`, and items of one row by when they were added.

        Raises
        ------
        DiffusionError
            If the queries do not match the index, or it contains no vectors, or `allow` is not as
            described.

        Notes
        -----
        A filter needs a deeper ranking: about k / s items for one that allows a share s. Time grows
        accordingly, up to that of ranking everything. A function is called with all ids; to use it
        many times, pass its mask, ``function(ranker.ids_)``. With an index of the caller's, the
        results are as many as its lists contain.
        """
        k = check_integer(k, "k", low=1)
        fitted = self.fitted()
        allowed = allowed_by(allow, fitted.items)
        found = fitted.search(
            Q,
            k,
            query_k=int(self.query_k),
            cautious=bool(self.cautious),
            progress=self.progress,
            allowed=allowed,
        )
        self._keep_report(found.report)
        scores, rows = found.scores, found.rows
        ids = fitted.items.of_rows(rows)
        return (scores[0], ids[0]) if is_single(Q) else (scores, ids)

    def rerank(
        self,
        scores0: ArrayLike | None = None,
        ids0: ArrayLike | None = None,
        k: int | None = 100,
        *,
        distances0: ArrayLike | None = None,
        squared: bool | None = None,
        restrict_to_candidates: bool = False,
        allow: Allow = None,
    ) -> Results:
        """Re-rank the first-stage results of any search engine.

        Parameters
        ----------
        scores0 : array_like, shape (nq, m) or (m,), float
            First-stage scores, best first, in the metric that the graph was built with (negative
            squared distances for `"euclidean"`). The contextual affinity ranks them among the
            scores of the collection's own lists. A list that is not in order is sorted by
            descending score; equal scores keep their order.
        ids0 : array_like, shape (nq, m) or (m,), int or str
            The items' ids, padded with -1, or None or "" for str, each at most once in a list.
            Floats are refused, as they may be scores. Lists may be empty, and a sequence of lists
            may have different lengths; a query without hits gets an empty list back. The
            observation is computed from the best `query_k`, or from the best 48 with the contextual
            affinity. The fusion uses the scores of the best 500: more hits make the order further
            down more accurate. Ids that are not in the collection are allowed; see the notes.
        k : int >= 1 or None, default 100
            Length of the result lists; None means m, or 1 if there are no hits.
        distances0 : array_like, shape (nq, m) or (m,), float, optional
            Distances, nearest first, instead of `scores0`: for `metric="cosine"` cosine distances,
            1 - cosine; for `"euclidean"` Euclidean distances, of which `squared` says whether they
            are squared. `"inner_product"` has none.
        squared : bool, optional
            Required for distances of `metric="euclidean"`, and only for them. True for faiss,
            hnswlib and Milvus, which return squared distances; False for Qdrant, pgvector and
            scikit-learn.
        restrict_to_candidates : bool, default False
            Only reorder the candidates. By default, diffusion may bring in any item.
        allow : array_like, set or callable, optional
            A filter of the results, as `search` takes it. Pass the first stage unfiltered. Ids and
            functions may allow items that are not in the collection; a mask allows none of them.

        Returns
        -------
        scores, ids : ndarray, shape (nq, k) or (k,)
            As `search` returns them. With `restrict_to_candidates`, equal scores keep their
            first-stage order. With a filter, they have the allowed items that diffusion reaches,
            and the other allowed candidates.

        Raises
        ------
        DiffusionError
            If the lists are not as described; the message names the argument and the row. Also if
            the scores of a call rise ten times or more along the lists and fall nowhere, as those
            of distances do.

        Notes
        -----
        Hits that are not in the collection, such as items that the engine has and the graph does
        not have yet, are never lost, and `report_.unknown` counts them. Diffusion is that of the
        other hits. With the fusion, the score of an unknown hit is its first-stage evidence,
        weight e, which is computed over the whole list; otherwise, it stands among the candidates
        that diffusion did not reach, in their order. Hits with the same vector count once, with the
        best of their scores. If k would cut off unknown hits that are among
        the k best candidates, they take the last places instead.

        A filter belongs here and not into the search for the hits: diffusion finds items along
        chains of neighbours, which a filter of the hits breaks.
        """
        fitted = self.fitted()
        hits = first_stage_of(scores0, ids0, fitted, distances0=distances0, squared=squared)
        k = hits.codes.shape[1] if k is None else check_integer(k, "k", low=1)
        depth = fitted.depth(int(self.query_k))
        allowed = allowed_by(allow, fitted.items, hits.unknown)
        # A node that a filter allows may have no candidate that it allows.
        every = restrict_to_candidates and not fitted.copies.plain
        scores, nodes, report = fitted.diffuse(
            (hits.scores, hits.codes),
            (hits.known[0][:, :depth], hits.known[1][:, :depth]),
            max(k, hits.codes.shape[1]) if every else k,
            query_k=self.query_k,
            cautious=bool(self.cautious),
            restrict=restrict_to_candidates,
            progress=self.progress,
            known=hits.known[1] if len(hits.unknown) else None,
            allowed=fitted.copies.allowed(allowed),
        )
        self._keep_report(report)
        scores, rows = fitted.expanded(
            (scores, nodes), k, allowed=allowed, hits=hits, restrict=restrict_to_candidates
        )
        ids = fitted.items.of_rows(rows, hits.unknown)
        return (scores[0], ids[0]) if hits.single else (scores, ids)

    def explain(
        self,
        q: ArrayLike | None = None,
        id: Any = None,
        *,
        hits: tuple[ArrayLike, ArrayLike] | None = None,
        k: int = 100,
        n_chains: int = 3,
    ) -> Explanation:
        """Explain why an item stands where it does in the ranking of a query.

        Parameters
        ----------
        q : array_like, shape (d,), optional
            The query, as `search` takes it.
        id : int or str
            The item.
        hits : tuple of array_like, shape (m,), optional
            First-stage scores and ids of the query, as `rerank` takes them, in place of `q`. Those
            of unknown items count in the ranking.
        k : int >= 1, default 100
            Length of the ranking. A solver whose accuracy follows the length of a ranking, as that
            of "auto" does, solves deeper for an item that is further down.
        n_chains : int >= 1, default 3
            Number of chains.

        Returns
        -------
        Explanation
            Its rank and score in the first stage and after diffusion, the shares that diffusion,
            neighbourhood and first stage have in its score, the strongest chains of neighbours from
            the query to it, and the flow through each of its neighbours. It can be printed, and
            `as_dict` returns it as values that JSON has.

        Raises
        ------
        DiffusionError
            If the item is not in the collection, or `q` or `hits` are not of one query. In the
            cases in which `search` and `rerank` raise it.

        Notes
        -----
        The regularised Laplacian sums over all walks from the observation y of the query,
        ``x = (1 - α) Σ_t (αW)^t y``. A chain i_0, ..., i_t is one of them; its strength is its term
        of this sum, ``y_{i_0} Π αW``. The strongest chains are found by Dijkstra's algorithm for
        the costs -log(αW) and, at the beginning, -log y. Each of them takes another last step to
        the item. They are chains of the solver's x: each of their nodes has x > 0. One chain
        carries a small share of x, because there are very many walks.

        The flow is the equation that x satisfies, ``x_j = (1 - α) y_j + α Σ_i W_ji x_i``, term by
        term. An approximate solver satisfies it up to `remainder`.

        Other transfer functions than the regularised Laplacian have chains by the product of y and
        W, without α, and neither shares of chains nor a flow: their walks have another factor for
        each number of steps.

        An explanation takes the time of a search. It takes longer for an item far down: the first
        stage and, with some solvers, diffusion are repeated for longer lists until the item is
        found.

        Examples
        --------
        >>> import numpy as np, diffusion
        >>> angle = np.linspace(0, np.pi, 60)
        >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> ranker = diffusion.Reranker(k=4, query_k=2).fit(X)
        >>> explanation = ranker.explain(X[0], 9)
        >>> explanation.rank, explanation.chains[0].ids[-1]
        (10, 9)
        """
        fitted = self.fitted()
        check_integer(k, "k", low=1)
        check_integer(n_chains, "n_chains", low=1)
        item = fitted.items.row_of(id, "id")
        query_k = int(self.query_k)
        if q is not None and hits is None:
            first = FirstStage.of_query(fitted, q, k, query_k)
        elif q is None and hits is not None:
            first = FirstStage.of_hits(fitted, hits, query_k)
        else:
            raise DiffusionError("q: expected either a query or hits, a pair of scores and ids")
        explainer = Explainer(fitted, first, k=k, query_k=query_k, cautious=bool(self.cautious))
        return explainer.explain(item, n_chains)

    @property
    def ids_(self) -> NDArray[Any]:
        """The ids of the items, shape (n,), int64 or object (str), computed when they are read.

        They are in the order of X until items are removed; `nodes_` has the row of `graph_.W` of
        each.
        """
        return self.fitted().items.all()

    @property
    def nodes_(self) -> NDArray[np.int32]:
        """The row of `graph_.W` of each item, shape (n,), int32, in the order of `ids_`.

        Items with the same vector have one row. Without any, these are the numbers from 0 to n - 1
        (after copies have been removed, they may be in another order).
        """
        return self.fitted().copies.nodes.copy()

    @property
    def embedding_(self) -> NDArray[np.float32]:
        """Spectral embedding of the items, U h(Λ)^½, shape (n, r), float32; solver "spectral" only.

        The rows are in the order of `ids_`, and equal for items with the same vector. The inner
        product of the embeddings of an item and of a query (`embed`) is the diffused
        score of the item for the query. Any engine for inner-product search can therefore serve
        diffusion.
        """
        embedding, fitted = self._spectral().embedding_, self.fitted()
        weights = fitted.score.weights(self.graph_)
        embedding = embedding if weights is None else embedding * weights[:, None]
        return embedding if fitted.copies.plain else embedding[fitted.copies.nodes]

    def embed(self, Q: ArrayLike) -> NDArray[np.float32]:
        """Embed queries for an inner-product search in `embedding_`.

        Parameters
        ----------
        Q : array_like, shape (nq, d) or (d,)
            As `search` takes them.

        Returns
        -------
        ndarray, shape (nq, r) or (r,), float32
            h(Λ)^½ Uᵀ y, where y is the observation of the query.

        Raises
        ------
        DiffusionError
            If the solver is not "spectral", or in the cases in which `search` raises it.
        """
        solver, fitted, query_k = self._spectral(), self.fitted(), int(self.query_k)
        _, observed = fitted.first_stage(Q, 0, query_k=query_k, progress=self.progress)
        embedded = solver.embed(fitted.affinity.observe(*observed, query_k).y)
        return embedded[0] if is_single(Q) else embedded

    def _spectral(self) -> Spectral:
        solver = self.fitted().solver
        if not isinstance(solver, Spectral):
            raise DiffusionError(
                f"solver: {solver.name!r} has no embedding; expected a Reranker with 'spectral'"
            )
        return solver

    def diagnose(self) -> Diagnosis:
        """Return figures about the graph of the collection; printing them explains them."""
        fitted = self.fitted()
        return diagnose(fitted.graph, fitted.affinity)

    # --- storage ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory, replacing an earlier index there.

        Parameters
        ----------
        path : path-like
            An earlier index, an empty directory, or a directory that does not exist yet. It
            receives .npy files and one manifest. An interrupted save leaves the earlier index
            intact.

        Raises
        ------
        DiffusionError
            If `path` is anything else, or cannot be written.

        Notes
        -----
        If the directory holds an earlier state of the same collection, what differs from it is
        written, row by row. An array is written anew when what was changed in it outgrows a quarter
        of it, and an index of less than 4 MiB is always written whole.
        """
        save_state(path, self.state())

    def state(self) -> IndexState:
        """Return the fitted state as plain values and arrays, which `from_state` takes.

        Raises
        ------
        DiffusionError
            If nothing has been fitted, or the transfer function is a `CustomTransfer`.
        """
        return self.fitted().state(self.query_k, bool(self.cautious))

    @classmethod
    def from_state(cls, state: IndexState, *, device: str = "cpu", index: object = None) -> Self:
        """Return a fitted Reranker from its state; the arrays are not read.

        Parameters
        ----------
        state : IndexState
        device : {"cpu", "cuda", "cuda:N"}, default "cpu"
            Where the solver computes, which a state does not contain.
        index : object, optional
            The index that `fit` was given, as it takes it.

        Raises
        ------
        DiffusionError
            If the state is not that of a Reranker, the solver cannot use the device, or `index`
            is not of its collection.
        """
        with state.described():
            arguments = restored_parameters(state.parameters)
        if device != "cpu":
            other = "transfer" in arguments
            arguments["solver"] = on_device(arguments["solver"], device, any_transfer=other)
        with state.described():
            ranker = cls(**arguments)
            components = ranker._components()
            used = used_method(state.parameters)
        if index is not None and not isinstance(used, Given):
            raise DiffusionError(
                f"index: {state.source} was not fitted with an index of yours, and needs none; "
                "expected None"
            )
        parameters = stored_parameters(ranker.get_params(), components, used)
        ranker._set(Fitted.from_state(state, components, parameters, index))
        return ranker


def load(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    device: str = "cpu",
    index: object = None,
) -> Reranker:
    """Open a saved index.

    The arrays are memory-mapped and only read when they are used, so loading takes the same time
    for an index of any size.

    Parameters
    ----------
    path : path-like
        A directory that `Reranker.save` has written.
    verify : bool, default False
        First read every file and compare its checksum with the manifest's. This detects a
        damaged copy. It does not detect tampering, because the checksums are part of the index.
    device : {"cpu", "cuda", "cuda:N"}, default "cpu"
        Where the solver computes: "cg" and "chebyshev" may do so on a GPU; the default, "auto",
        then stands for one of these two. An index does not store the device, so that an index
        fitted with a GPU can be used without one.
    index : object, optional
        The index that `Reranker.fit` was given, if it was given one, for the first stage of
        `search`. Without it, `rerank` works.

    Returns
    -------
    Reranker

    Raises
    ------
    DiffusionError
        If there is no index, or it is truncated, altered, of another format or of a newer
        version. If the device is not present, or the solver cannot use it. If `index` is not an
        index of its collection.

    Notes
    -----
    Types, shapes and sizes are checked on loading, with or without `verify`. The first use of an
    array checks once that its values are possible: ids are in range, offsets never decrease,
    numbers are finite, and so on. Where a query reads little of a large index, it checks what it
    reads instead, so that its time does not depend on the size of the index: edges and neighbour
    lists, and in an index of more than some 10^5 items all that the solvers "auto" and "local", the
    contextual affinity and the search of cells read. A damaged or forged index is therefore a
    `DiffusionError`, from `load` or from the first call that uses it, and no memory outside its
    arrays is accessed.

    Values that are possible but false give false results. How long a query takes depends on the
    settings of the index, such as `max_iter` of its solver. The files must not be changed while
    they are open: a process that reads a mapped file which is being truncated is ended by the
    operating system. `Reranker.save` never changes what an
    index names: it writes further files, or behind the end of a file, so that saving over an index
    that is open is safe.
    """
    state = open_state(path, verify=verify)
    if state.kind == "regional":
        raise DiffusionError(
            f"{path}: an index of images by their regions; expected RegionalReranker.load"
        )
    return Reranker.from_state(state, device=device, index=index)
