"""The result of fitting a Reranker, and the diffusion of queries with it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .affinity import GRANULARITIES, Affinity, Context
from .affinity.base import Observation
from .confidence import confidence_of, relevant_of, signs_of, tempered
from .copies import Copies
from .distances import similarities
from .errors import DiffusionError
from .graph.graph import Graph
from .ids import ItemIds
from .index_state import IndexState, graph_arrays, graph_of, graph_rows
from .kernels import ranking as kernels
from .kernels.matrix import SparseRows, read_only
from .kernels.ranking import EVERYTHING
from .neighbors import METHODS, Auto, Method, NeighborIndex, SearchIndex
from .neighbors.given import GivenIndex
from .neighbors.methods import Given
from .neighbors.progress import row_blocks
from .scoring.depth import depth_for, too_shallow
from .scoring.fusion import SCORES, Fusion, Score
from .scoring.ranking import Unknown, entries, fill, rank
from .solvers import SOLVERS, Report, Solver
from .transfer import TRANSFERS, CustomTransfer, RegularizedLaplacian, Transfer
from .validation import as_hits, as_vectors, padding_last

Results = tuple[NDArray[np.float32], NDArray[np.int64]]

# Diffused scores held at a time, in values: 256 MiB of float32.
_BATCH_VALUES = 1 << 26

# Queries between two updates of a progress bar.
_BATCH_QUERIES = 4096

_PLAIN_PARAMETERS = ("k", "granularity", "query_k", "gamma", "metric")
_AFFINITY, _SOLVER, _IDS, _COPIES = "affinity_", "solver_", "ids_", "copies_"


class _Asked(NamedTuple):
    """What is solved and ranked for some queries."""

    observation: Observation
    first: kernels.FirstStage
    scale: kernels.LocalScale
    candidates: NDArray[np.int64]  # that the graph knows
    confidence: NDArray[np.float32] | None
    cautious: bool

    def part(self, rows: NDArray[np.int64]) -> _Asked:
        """Return what belongs to some of the queries."""
        y, J = self.observation.y, self.observation.J
        observation = Observation(y.part(rows), None if J is None else J.part(rows))
        first = kernels.FirstStage(self.first.scores[rows], self.first.ids[rows])
        scale = self.scale._replace(queries=read_only(self.scale.queries[rows]))
        confidence = None if self.confidence is None else self.confidence[rows]
        return self._replace(
            observation=observation,
            first=first,
            scale=scale,
            candidates=self.candidates[rows],
            confidence=confidence,
        )


class Components(NamedTuple):
    """The checked objects that a Reranker's parameters name."""

    affinity: Affinity
    score: Score
    solver: Solver
    transfer: Transfer
    method: Method


class Found(NamedTuple):
    """What a search has found.

    Attributes
    ----------
    scores : ndarray, shape (nq, k), float32
        In descending order, padded with -inf.
    rows : ndarray, shape (nq, k), int64
        Items, padded with -1.
    lists : tuple of ndarray, shape (nq, c)
        Scores and nodes of the first stage, without a filter.
    report : Report
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    lists: Results
    report: Report


@dataclass(frozen=True)
class Fitted:
    """The result of a fit; parameters that are set later do not change it.

    Attributes
    ----------
    parameters : dict
        The parameters of the fit, as JSON values; `transfer` is None for a `CustomTransfer`.
    affinity : Affinity
        With the data that it keeps from the neighbour lists.
    score : Score
    solver : Solver
        Prepared.
    graph : Graph
    index : SearchIndex or None
        None for a Reranker that was fitted from neighbour lists alone.
    items : ItemIds
        The ids by which users name the items.
    copies : Copies
        Which items share a node. Everything else is about nodes.
    """

    parameters: dict[str, Any]
    affinity: Affinity
    score: Score
    solver: Solver
    graph: Graph
    index: SearchIndex | None
    items: ItemIds
    copies: Copies

    def searched(self, Q: ArrayLike) -> tuple[SearchIndex, NDArray[np.float32]]:
        """Return the index to search, and queries (nq, d) or (d,) converted to its space.

        Raises
        ------
        DiffusionError
            If there are no vectors to search, or the queries do not fit them.
        """
        if self.index is None:
            raise DiffusionError(
                "search: this index was fitted from neighbour lists and holds no vectors; "
                "expected fit_neighbors(scores, ids, X), or a call of rerank(scores0, ids0)"
            )
        self.index.check()
        return self.index, self._queries(self.index, Q)

    def check_queries(self, Q: ArrayLike) -> None:
        """Raise the error that `searched` raises for queries; the index is not read."""
        if self.index is None:
            self.searched(Q)
        else:
            self._queries(self.index, Q)

    @staticmethod
    def _queries(index: SearchIndex, Q: ArrayLike) -> NDArray[np.float32]:
        return as_vectors(
            Q,
            "Q",
            metric=index.metric,
            dimension=index.dimension,
            center=index.center,
            queries=True,
        )

    def vectors_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the vectors (m, d) of items, as queries that `searched` takes.

        Raises
        ------
        DiffusionError
            If there are none, or they are in an index of the caller's.
        """
        if self.index is None:
            raise DiffusionError(
                "items: this index was fitted from neighbour lists and holds no vectors; expected "
                "vectors, or hits"
            )
        vectors, center = self.index.vectors_of(self.copies.of_items(rows)), self.index.center
        return vectors if center is None else vectors + center

    def depth(self, query_k: int) -> int:
        """Return the number of first-stage neighbours that an observation is computed from."""
        return self.affinity.depth or query_k

    def first_stage(
        self, Q: ArrayLike, length: int, *, query_k: int, progress: bool
    ) -> tuple[Results, Results]:
        """Search for queries.

        Parameters
        ----------
        Q : array_like, shape (nq, d) or (d,)
        length : int
            The lists have at least this length, or n.
        query_k : int
        progress : bool

        Returns
        -------
        lists : tuple of ndarray, shape (nq, c)
            Scores and ids of the nearest items.
        observed : tuple of ndarray
            The neighbours that the observations are computed from. A query of zeros has none
            with a metric that compares directions.
        """
        index, queries = self.searched(Q)
        depth = self.depth(query_k)
        # One more neighbour than the observation needs shows whether there is a tie.
        width = min(max(length, depth + 1), index.size)
        lists = index.search(queries, width, progress=progress)
        observed = index.resolve_ties(queries, *lists, depth)
        if index.metric != "euclidean":
            zero = np.flatnonzero(~np.any(queries, axis=1))
            if len(zero):
                observed = observed[0].copy(), observed[1].copy()
                observed[0][zero], observed[1][zero] = -np.inf, -1
        return lists, observed

    def search(
        self,
        Q: ArrayLike,
        k: int,
        *,
        query_k: int,
        cautious: bool,
        progress: bool = False,
        allowed: NDArray[np.uint8] = EVERYTHING,
    ) -> Found:
        """Search for queries (nq, d) or (d,), as `Reranker.search` does.

        `allowed`, of shape (n_items,) or (0,), is what `allowed_by` returns.
        """
        length = max(k, self.solver.shortlist, self.score.depth)
        lists, observed = self.first_stage(Q, length, query_k=query_k, progress=progress)
        of_nodes = self.copies.allowed(allowed)
        scores, nodes, report = self.diffuse(
            lists,
            observed,
            k,
            query_k=query_k,
            cautious=cautious,
            progress=progress,
            allowed=of_nodes,
        )
        if len(allowed):
            self.fill_up(Q, lists, (scores, nodes), of_nodes)
        return Found(*self.expanded((scores, nodes), k, allowed=allowed), lists, report)

    def first_items(
        self, Q: ArrayLike, lists: Results, k: int, allowed: NDArray[np.uint8] = EVERYTHING
    ) -> Results:
        """Return the lists of the first stage as items: scores and rows (nq, w), w >= k.

        Parameters
        ----------
        Q : array_like
            Queries, as `first_stage` takes them.
        lists : tuple of ndarray
            What it has returned for them.
        k : int
            Number of items that are wanted of each.
        allowed : ndarray, shape (n_items,) or (0,), uint8
            The items that may be among them.
        """
        scores, nodes = lists
        if len(allowed):
            of_nodes = self.copies.allowed(allowed)
            kept = (nodes >= 0) & (of_nodes[nodes] != 0)
            scores, nodes = padding_last(scores, np.where(kept, nodes, -1))
            # The allowed items may begin far down.
            wanted = min(k, int(np.count_nonzero(of_nodes)))
            short = np.flatnonzero(kept.sum(axis=1) < wanted)
            if len(short):
                index, queries = self.searched(Q)
                among = index.among(queries[short], of_nodes, wanted)
                scores[short, :wanted], nodes[short, :wanted] = among
        return self.expanded((scores, nodes), max(k, nodes.shape[1]), allowed=allowed)

    def diffuse(
        self,
        lists: Results,
        observed: Results,
        k: int,
        *,
        query_k: int,
        cautious: bool = False,
        restrict: bool = False,
        progress: bool = False,
        known: NDArray[np.int64] | None = None,
        allowed: NDArray[np.uint8] = EVERYTHING,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], Report]:
        """Compute observations, diffuse them and rank the items.

        Parameters
        ----------
        lists : tuple of ndarray, shape (nq, c)
            Scores and ids of the first stage. Ids of n and more stand for unknown items.
        observed : tuple of ndarray
            The neighbours that the observations are computed from.
        k : int
            Length of the result lists.
        query_k : int
        cautious : bool, default False
            Whether to stay near the first stage where the confidence is low.
        restrict : bool, default False
            Only rank the candidates of the first stage.
        progress : bool, default False
        known : ndarray, shape (nq, c), optional
            The ids of `lists` without the unknown ones, if there are any.
        allowed : ndarray, shape (n + u,) or (0,), uint8, optional
            The items that may be in the results, as `rank` takes them.

        Returns
        -------
        scores, ids : ndarray, shape (nq, k)
        report : Report
        """
        scores, ids = lists
        nq, n = len(ids), self.graph.n_nodes
        out_scores = np.empty((nq, k), np.float32)
        out_ids = np.empty((nq, k), np.int64)
        # A multiple of 32, the width of the solvers' blocks.
        batch = min(_BATCH_QUERIES, max(32, _BATCH_VALUES // n // 32 * 32))
        # Of candidates that are only re-ordered, all are ranked.
        depth = max(k, ids.shape[1]) if restrict else depth_for(k, allowed, n)
        reports = []
        parts = row_blocks(nq, "diffuse", show=progress, size=batch, unit="query")
        for part in parts if nq else [slice(0, 0)]:  # no query has a report, too
            observation = self.affinity.observe(observed[0][part], observed[1][part], query_k)
            scale = self.affinity.scale_of(observed[0][part], ids[part])
            candidates = (ids if known is None else known)[part]
            first = kernels.FirstStage(scores[part], ids[part])
            confidence = self.confidence(observation, *first)
            asked = _Asked(observation, first, scale, candidates, confidence, cautious)
            out = out_scores[part], out_ids[part]
            reports.append(self._rank(asked, out, depth, restrict, known is not None, allowed))
        report = type(reports[0]).concatenate(reports)
        if known is not None:
            report = replace(report, unknown=np.count_nonzero(ids >= n, axis=1))
        return out_scores, out_ids, report

    def _rank(
        self,
        asked: _Asked,
        out: Results,
        depth: int,
        restrict: bool,
        some_unknown: bool,
        allowed: NDArray[np.uint8],
    ) -> Report:
        """Diffuse observations to a depth, or deeper where a filter needs it, and rank."""
        observation, first, scale, candidates, confidence, cautious = asked
        solution = self.solver.for_depth(depth).solve(observation.y, candidates=candidates)
        x, report = solution.values, solution.report
        fused = self.score.combine(x, observation, first, scale, self.graph, solution.roots)
        n = self.graph.n_nodes
        if confidence is not None:
            relevant = self._relevant(fused, candidates if restrict else None, allowed)
            report = replace(report, confidence=confidence, relevant=relevant)
        if confidence is not None and cautious:
            fused = tempered(fused, confidence, *first, self.score.evidence(first, scale))
        unknown = Unknown(n, self.score.evidence(first, scale)) if some_unknown else None
        rank(fused, *first, *out, restrict=restrict, allowed=allowed, unknown=unknown)
        if restrict or not len(allowed) or depth >= n:
            return report
        if not (isinstance(x, SparseRows) and isinstance(fused, SparseRows)):
            return report  # of all items
        rows, deeper = too_shallow(x, fused, observation.y, allowed, self.graph, out[0], depth)
        if len(rows):
            part = out[0][rows], out[1][rows]
            again = self._rank(asked.part(rows), part, deeper, restrict, some_unknown, allowed)
            out[0][rows], out[1][rows] = part
            report = report.replaced(rows, again)
        return report

    def confidence(
        self,
        observation: Observation,
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
    ) -> NDArray[np.float32] | None:
        """Return the confidence in the ranking of each query, None if it is not a fusion."""
        if not isinstance(self.score, Fusion):
            return None
        signs = signs_of(observation, scores, ids, self.graph.n_nodes)
        if signs is None:
            return None
        # Without an observation, the ranking is that of the first stage.
        return np.where(observation.y.counts > 0, confidence_of(signs), np.float32(1))

    def _relevant(
        self,
        fused: NDArray[np.float32] | SparseRows,
        candidates: NDArray[np.int64] | None,
        allowed: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Return how many items belong to each query's own manifold, of the candidates if any."""
        least, items = relevant_of(fused, self.graph.n_nodes, allowed, self.copies.starts)
        if candidates is None:
            return items
        real = (candidates >= 0) & (candidates < self.graph.n_nodes)
        if len(allowed):
            real &= allowed[candidates] != 0
        values = entries(fused, np.where(real, candidates, -1))
        return (self.copies.counts(candidates) * (real & (values >= least[:, None]))).sum(axis=1)

    def fill_up(
        self, Q: ArrayLike, lists: Results, found: Results, allowed: NDArray[np.uint8]
    ) -> None:
        """Fill filtered results up with the allowed items that diffusion has not reached.

        Parameters
        ----------
        Q : array_like
            Queries, as `first_stage` takes them.
        lists : tuple of ndarray
            What `first_stage` has returned for them.
        found : tuple of ndarray, shape (nq, k)
            Ranked scores and ids, which are changed.
        allowed : ndarray, shape (n,), uint8
        """
        wanted = min(found[1].shape[1], int(np.count_nonzero(allowed)))
        if not wanted:
            return
        rows = np.flatnonzero(found[1][:, wanted - 1] < 0)
        if len(rows):
            index, queries = self.searched(Q)
            among = index.among(queries[rows], allowed, wanted)
            part = found[0][rows], found[1][rows]
            fill(*among, lists[0][rows, 0], *part)
            found[0][rows], found[1][rows] = part

    def expanded(
        self,
        found: Results,
        k: int,
        *,
        allowed: NDArray[np.uint8] = EVERYTHING,
        hits: Hits | None = None,
        restrict: bool = False,
    ) -> Results:
        """Expand ranked nodes to items.

        Parameters
        ----------
        found : tuple of ndarray
            Scores and nodes as `diffuse` returns them.
        k : int
            Length of the lists of items.
        allowed : ndarray, shape (n_items + u,) or (0,), uint8
            The items that may be in them.
        hits : Hits, optional
            The first-stage results of another engine.
        restrict : bool, default False
            Only keep items of the hits.

        Returns
        -------
        scores, codes : ndarray, shape (nq, k)
        """
        copies = self.copies
        if copies.plain:
            return found
        if hits is None:
            return copies.expanded(found, k, allowed)
        if restrict:
            out = copies.among(found, hits.given, k, allowed)
        else:
            out = copies.expanded(found, k, allowed)
        if len(hits.unknown):
            # Copies of better items must not push them out.
            near = hits.known[0][:, : self.affinity.depth]
            scale = self.affinity.scale_of(near, hits.codes)
            own = self.score.evidence(kernels.FirstStage(hits.scores, hits.codes), scale)
            first = kernels.FirstStage(hits.scores, copies.first_items(hits.codes))
            kernels.keep_unknown(first, copies.n_items, own, allowed, *out)
        return out

    # --- the plain state --------------------------------------------------------------------------

    def state(self, query_k: int, cautious: bool) -> IndexState:
        """Return the plain state.

        Raises
        ------
        DiffusionError
            If the transfer function is a `CustomTransfer`, which cannot be stored.
        """
        if self.parameters["transfer"] is None:
            raise DiffusionError(
                "transfer: a CustomTransfer holds a function, which no index can store; expected "
                "one of the named transfer functions"
            )
        graph, index = self.graph, self.index
        sizes = {
            "items": self.items.size,
            **({} if self.copies.plain else {"nodes": graph.n_nodes}),
            "dimension": None if index is None else index.dimension,
            "edges": graph.n_edges,
            "components": graph.n_components,
            "isolated": graph.n_isolated,
        }
        arrays = {
            **graph_arrays(graph),
            **({} if index is None else index.arrays()),
            **{_AFFINITY + name: array for name, array in self.affinity.arrays().items()},
            **{_SOLVER + name: array for name, array in self.solver.arrays().items()},
            **{_IDS + name: array for name, array in self.items.arrays().items()},
            **{_COPIES + name: array for name, array in self.copies.arrays().items()},
        }
        recall = {} if index is None or index.recall is None else {"recall": index.recall}
        parameters = {**self.parameters, "query_k": query_k, "cautious": cautious, **recall}
        rows = (
            graph_rows(),
            *(() if index is None else index.rows),
            *(family.with_prefix(_AFFINITY) for family in self.affinity.rows),
        )
        return IndexState(parameters, sizes, arrays, rows=rows)

    @classmethod
    def from_state(
        cls, state: IndexState, components: Components, parameters: Any, given: object = None
    ) -> Fitted:
        """Return the result of a fit from its state; the arrays are not read.

        `given` is the index of the caller that it was fitted with, if it is at hand.
        """
        affinity, score, solver, transfer, asked = components
        with state.described():
            method = used_method(parameters)
            graph = graph_of(state)
            source, n = f"{state.source}: {_AFFINITY[:-1]}", graph.n_nodes
            affinity.restore(state.with_prefix(_AFFINITY), n, source)
            index: SearchIndex | None = None
            if state.sizes["dimension"] is not None:
                shape, metric = (n, state.size("dimension", low=1)), parameters["metric"]
                recall = state.parameters.get("recall")
                if isinstance(method, Given):
                    index = GivenIndex(given, metric, shape)
                else:
                    index = NeighborIndex.restore(
                        state.arrays,
                        metric,
                        method,
                        shape,
                        state.source,
                        _checked_recall(recall),
                        auto=asked if isinstance(asked, Auto) else None,
                        k=affinity.listed(parameters["k"]),
                    )
            source = f"{state.source}: {_SOLVER[:-1]}"
            solver = solver.restore(graph, transfer, state.with_prefix(_SOLVER), source)
            source = f"{state.source}: {_IDS[:-1]}"
            n_items = state.size("items", low=1)
            items = ItemIds.restored(state.with_prefix(_IDS), n_items, source)
            source = f"{state.source}: {_COPIES[:-1]}"
            arrays = state.with_prefix(_COPIES)
            copies = Copies.restored(arrays, n_items, n, source, affinity.ages)
        return cls(parameters, affinity, score, solver, graph, index, items, copies)


# --- first-stage results -------------------------------------------------------------------------


class Hits(NamedTuple):
    """The checked first-stage results of `Reranker.rerank`.

    Attributes
    ----------
    scores : ndarray, shape (nq, m), float32
        In descending order, padded with -inf at the end.
    codes : ndarray, shape (nq, m), int64
        The nodes of the items, each at its best place, or the number of nodes plus i for the id
        ``unknown[i]``; padded with -1.
    given : ndarray, shape (nq, m), int64
        The items as the codes of a `Coded`, padded with -1.
    unknown : ndarray, shape (u,)
        The ids of items that are not of the collection.
    single : bool
        Whether they are of one query.
    known : tuple of ndarray
        Scores and nodes without the unknown items.
    """

    scores: NDArray[np.float32]
    codes: NDArray[np.int64]
    given: NDArray[np.int64]
    unknown: NDArray[Any]
    single: bool
    known: Results


def first_stage_of(
    scores0: Any,
    ids0: Any,
    fitted: Fitted,
    *,
    distances0: Any = None,
    squared: bool | None = None,
) -> Hits:
    """Check the first-stage results of `Reranker.rerank`, and return them as nodes.

    Raises
    ------
    DiffusionError
        If they are not as `Reranker.rerank` describes them.
    """
    items, metric = fitted.items, fitted.parameters["metric"]
    if (scores0 is None) == (distances0 is None):
        given = "neither" if scores0 is None else "both"
        raise DiffusionError(f"scores0, distances0: expected one of them, got {given}")
    if ids0 is None:
        raise DiffusionError("ids0: expected the ids of the hits, got None")
    unknown = np.empty(0, np.int64)
    name = "scores0" if distances0 is None else "distances0"
    fast = items.plain and distances0 is None
    hits = _in_order(scores0, ids0, items.size, metric) if fast else None
    if hits is None:
        codes, unknown = items.coded(ids0, "ids0")
        n = items.size + len(unknown)
        if distances0 is not None:
            scores0, codes = similarities(distances0, codes, metric, squared)
        hits = _in_order(scores0, codes, n, metric)
    if hits is None:
        # Lists in another form, to be put in order, or with an error to be described.
        out, kept, single = as_hits(
            scores0,
            codes,
            n,
            names=(name, "ids0"),
            metric=metric,
            show=lambda code: items.shown(code, unknown),
        )
        hits = *padding_last(out, kept.astype(np.int64, copy=False)), single
    scores, ids, single = hits
    scores, nodes = known = fitted.copies.distinct(scores, ids)
    if len(unknown):
        known = padding_last(scores, np.where(nodes < fitted.graph.n_nodes, nodes, -1))
    return Hits(scores, nodes, ids, unknown, single, known)


def _in_order(
    scores: Any, ids: Any, n: int, metric: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], bool] | None:
    """Return lists that are in order, and whether they are of one query; None for others."""
    if not (isinstance(scores, np.ndarray) and isinstance(ids, np.ndarray)):
        return None
    alike = scores.shape == ids.shape and ids.ndim in (1, 2) and ids.shape[-1] > 0
    if not (alike and scores.dtype.kind == "f" and ids.dtype.kind in "iu"):
        return None
    out = np.empty((1, *ids.shape)[-2:], np.float32)
    given = np.ascontiguousarray(scores.reshape(out.shape), np.float64)
    kept = np.ascontiguousarray(ids.reshape(out.shape), np.int64)
    if not kernels.copy_ordered(given, kept, n, metric == "euclidean", out):
        return None
    return out, kept, ids.ndim == 1


# --- parameters as JSON values -------------------------------------------------------------------


def stored_parameters(
    given: dict[str, Any], components: Components, used: Method
) -> dict[str, Any]:
    """Return the parameters of a Reranker as JSON values, None for a `CustomTransfer`.

    `neighbors` is the method `used`, and `neighbors_from` the parameter if that is another.
    """
    affinity, score, solver, transfer, method = components
    return {
        **{name: given[name] for name in _PLAIN_PARAMETERS},
        "affinity": settings_of(affinity) if isinstance(affinity, Context) else given["affinity"],
        "score": None if given["score"] is None else settings_of(score),
        "solver": settings_of(solver),
        "transfer": None if isinstance(transfer, CustomTransfer) else settings_of(transfer),
        "neighbors": settings_of(used),
        **({} if method == used else {"neighbors_from": settings_of(method)}),
    }


def restored_parameters(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a Reranker that `stored_parameters` described."""
    affinity, score = stored["affinity"], stored["score"]
    stored = {"granularity": "mixed", **stored}  # an earlier version has none
    if not isinstance(affinity, str):
        # Earlier versions ranked lists by the scores themselves.
        affinity = {"scaling": 0.0, **affinity}
        affinity = _from_settings({"context": Context}, affinity, by_name=False)
        if affinity == Context(**GRANULARITIES[stored["granularity"]]):
            affinity = "context"
        else:
            stored["granularity"] = "mixed"  # of a version in which the name stands for others
    arguments = {
        **{name: stored[name] for name in _PLAIN_PARAMETERS},
        "affinity": affinity,
        "cautious": stored.get("cautious", False),  # an earlier version has none
        "score": score and _from_settings(SCORES, score),
        "solver": _from_settings(SOLVERS, stored["solver"]),
        "neighbors": _from_settings(METHODS, stored.get("neighbors_from", stored["neighbors"])),
    }
    transfer = _from_settings(TRANSFERS, stored["transfer"], by_name=False)
    if isinstance(transfer, RegularizedLaplacian):
        contextual = isinstance(affinity, Context) or affinity == "context"
        usual = (Context if contextual else Affinity).alpha
        return {**arguments, "alpha": None if transfer.alpha == usual else transfer.alpha}
    return {**arguments, "transfer": transfer}


def used_method(stored: dict[str, Any]) -> Method:
    """Return the method of neighbour search that `stored_parameters` was told of."""
    used: Method = _from_settings(
        {**METHODS, Given.name: Given}, stored["neighbors"], by_name=False
    )
    return used


def _checked_recall(recall: Any) -> float | None:
    """Return the recall of a state, None if it was not measured; raise ValueError unless it is."""
    if recall is not None and not (isinstance(recall, float) and 0 <= recall <= 1):
        raise ValueError(f"recall: {recall!r:.40}")
    return recall


def settings_of(settings: Any) -> dict[str, Any]:
    """Return the name and the fields of a solver, a method or a transfer function."""
    own = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.init and field.metadata.get("stored", True)
    }
    return {"name": settings.name, **own}


def _from_settings(kinds: dict[str, Any], settings: dict[str, Any], *, by_name: bool = True) -> Any:
    """Return the object that `settings_of` described, or its name if it equals the default."""
    name = settings["name"]
    restored = kinds[name](**{key: value for key, value in settings.items() if key != "name"})
    return name if by_name and restored == kinds[name]() else restored
