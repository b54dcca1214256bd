"""Why an item stands where it does in the ranking of a query."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .confidence import shares_of, tempered
from .copies import Copies
from .errors import DiffusionError
from .fitted import Fitted, Results, first_stage_of
from .graph.explain import neighbors_of, strongest_paths
from .kernels import ranking as kernels
from .kernels.matrix import SparseRows
from .scoring.fusion import Shares, value_of
from .solvers import Solver
from .transfer import RegularizedLaplacian

# The factor by which lists and solves that do not reach an item are made longer.
_MORE = 8

_LOWEST = float(np.finfo(np.float32).min)

# Neighbours that the text of an explanation names.
_SHOWN = 5


@dataclass(frozen=True)
class Chain:
    """A chain of neighbours that carries diffusion from an observed item to another item.

    Attributes
    ----------
    ids : tuple
        From the observed item to the item that is explained; only the latter if it is observed.
    weights : tuple of float
        W of each step, one less than there are ids.
    observed : float
        y of the first item.
    similarity : float or None
        J of the query and the first item; None if the affinity does not compute it.
    share : float or None
        The share of x that this chain carries, of all walks to the item: (1 - α) y Π αW / x.
        None unless the transfer function is the regularised Laplacian.
    """

    ids: tuple[Hashable, ...]
    weights: tuple[float, ...]
    observed: float
    similarity: float | None
    share: float | None


@dataclass(frozen=True)
class Flow:
    """The flow into an item from one of its neighbours.

    Attributes
    ----------
    id : int or str
        The neighbour.
    weight : float
        W of the edge.
    amount : float
        α W x of the neighbour, a summand of x.
    """

    id: Hashable
    weight: float
    amount: float


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why an item stands where it does in the ranking of a query; `str` puts it in words.

    Rank, score, shares, x and the flow are those of one ranking, ``search(q, k=depth)``.

    Attributes
    ----------
    id : int or str
        The item.
    first_rank : int or None
        Its rank in the first stage, from 1; None if the first stage does not list it.
    first_score : float or None
        Its score in the first stage.
    rank : int or None
        Its rank after diffusion, from 1 and among all items; None if it is in no list: diffusion
        does not reach it and the first stage does not list it.
    score : float or None
        Its score, as `search` returns it.
    shares : Shares
        What the score is the sum of: `diffusion`, `neighbourhood` and `first_stage`. They are 0
        for an item that follows by its first-stage score, whose score is not a sum.
    reached : bool
        Whether diffusion reaches it: x > 0.
    x : float
        Its diffused score, h(W) y.
    degree : float
        Sum of the weights of its edges; 0 if it is isolated.
    chains : tuple of Chain
        The strongest chains from the observation of the query to the item, by descending
        strength, at most one for each last step.
    flow : tuple of Flow
        x = own + Σ amount + remainder, by descending amount. Empty, as are the two others, unless
        the transfer function is the regularised Laplacian.
    own : float or None
        (1 - α) y of the item, what it has from the query directly.
    remainder : float or None
        What the flow lacks of x: the residual of the solver at this item. It is near 0 for an
        exact solver. An approximate one may not know all neighbours.
    depth : int
        The `k` of the search whose ranking this is. An item far down needs a deeper solve with
        some solvers.
    copies : int
        Number of other items with the same vector. They have the same score, and ranks next to
        each other. In chains and flows, the first item of a vector stands for all of them.
    n_items : int
        Number of items of the collection.
    """

    id: Hashable
    first_rank: int | None
    first_score: float | None
    rank: int | None
    score: float | None
    shares: Shares
    reached: bool
    x: float
    degree: float
    chains: tuple[Chain, ...]
    flow: tuple[Flow, ...]
    own: float | None
    remainder: float | None
    depth: int
    copies: int
    n_items: int = field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as values that JSON has."""
        return asdict(self) | {"shares": self.shares._asdict()}

    def __repr__(self) -> str:
        first, rank = (r if r is not None else "none" for r in (self.first_rank, self.rank))
        moved = f"rank {first} -> {rank}"
        return f"Explanation({self.id!r}, {moved}, {len(self.chains)} chains)"

    def __str__(self) -> str:
        lines = [
            f"Item {self.id}, of {self.n_items}{self._of_copies()}.",
            f"First stage: {_place(self.first_rank, self.first_score)} "
            f"After diffusion: {_place(self.rank, self.score)}",
            self._of_score(),
        ]
        if self.chains:
            lines.append("Strongest chains from the query, with the weight of each step:")
            lines += [f"  {_in_words(chain)}" for chain in self.chains]
        if self.own is not None and self.reached:
            lines.append("Flow into it, in shares of x:")
            lines += [f"  {part}" for part in self._parts()]
        return "\n".join(lines)

    def _of_copies(self) -> str:
        if not self.copies:
            return ""
        others = "1 other has" if self.copies == 1 else f"{self.copies} others have"
        return f", of which {others} the same vector"

    def _of_score(self) -> str:
        """Say what the score consists of, or why diffusion has no share in it."""
        d, J, e = self.shares
        parts = f"diffusion {d:.4g} + neighbourhood {J:.4g} + first stage {e:.4g}"
        if self.reached:
            return f"Score: {parts}; x = {self.x:.4g}, degree {self.degree:.4g}."
        why = "it is isolated" if not self.degree else "no chain leads to it from the query"
        if any(self.shares):
            return f"Score: {parts}. Diffusion does not reach it: {why}."
        if self.rank is None:
            return f"Diffusion does not reach it: {why}."
        return f"Diffusion does not reach it: {why}. It follows by its first-stage score."

    def _parts(self) -> list[str]:
        assert self.own is not None
        assert self.remainder is not None
        rest = sum(part.amount for part in self.flow[_SHOWN:])
        named = [(f"from {part.id}", part.amount) for part in self.flow[:_SHOWN]]
        if self.flow[_SHOWN:]:
            named.append((f"from {len(self.flow) - _SHOWN} other neighbours", rest))
        named += [("from the query directly", self.own), ("residual", self.remainder)]
        shares = [(name, 100 * amount / self.x) for name, amount in named]
        return [f"{share:6.2f} %  {name}" for name, share in shares if abs(share) >= 0.005]


def _place(rank: int | None, score: float | None) -> str:
    return "not listed." if rank is None else f"rank {rank} with {score:.4g}."


def _in_words(chain: Chain) -> str:
    """Return a chain on one line."""
    first = f"J {chain.similarity:.3g}" if chain.similarity is not None else f"{chain.observed:.3g}"
    text = f"query -({first})-> {chain.ids[0]}"
    for weight, item in zip(chain.weights, chain.ids[1:], strict=True):
        text += f" -({weight:.3g})-> {item}"
    return text if chain.share is None else f"{text}: {100 * chain.share:.3g} % of x"


# --- how an explanation is computed ---------------------------------------------------------------


class _Answer(NamedTuple):
    """The scores of all items for a query, by one solver."""

    solver: Solver
    x: SparseRows  # one row, without values of 0 or less
    scores: SparseRows  # one row, without scores of 0 or less


class FirstStage(NamedTuple):
    """What the first stage found for one query.

    Attributes
    ----------
    lists : tuple of ndarray, shape (1, c)
        Scores and nodes. Those of n and more stand for items that are not of the collection.
    observed : tuple of ndarray
        The neighbours that the observation is computed from.
    candidates : ndarray, shape (1, c)
        The nodes of `lists` that are of the collection.
    given : ndarray, shape (c,), or None
        The items of another engine's results.
    search : callable or None
        Returns lists (1, w) of a given length w, if there is an index to search.
    """

    lists: Results
    observed: Results
    candidates: NDArray[np.int64]
    given: NDArray[np.int64] | None = None
    search: Callable[[int], Results] | None = None

    @classmethod
    def of_query(cls, fitted: Fitted, q: ArrayLike, k: int, query_k: int) -> FirstStage:
        """Search for a query, as `Reranker.search` does for a ranking of k."""
        length = max(k, fitted.solver.shortlist, fitted.score.depth)
        lists, observed = fitted.first_stage(q, length, query_k=query_k, progress=False)
        _check_single(lists, "q")
        index, queries = fitted.searched(q)
        return cls(lists, observed, lists[1], search=lambda width: index.search(queries, width))

    @classmethod
    def of_hits(cls, fitted: Fitted, hits: tuple[Any, Any], query_k: int) -> FirstStage:
        """Take the results of another engine, as `Reranker.rerank` does."""
        if not (isinstance(hits, tuple | list) and len(hits) == 2):
            raise DiffusionError(f"hits: expected a pair of scores and ids, got {hits!r:.40}")
        depth = fitted.depth(query_k)
        found = first_stage_of(*hits, fitted)
        lists, (scores, candidates) = (found.scores, found.codes), found.known
        _check_single(lists, "hits")
        return cls(lists, (scores[:, :depth], candidates[:, :depth]), candidates, found.given[0])

    def rank(self, item: int, nodes: NDArray[np.int64], copies: Copies) -> int | None:
        """Return the rank of an item in a list of nodes (c,), from 1; None if it is not there."""
        node = int(copies.of_items(np.array([item]))[0])
        place = np.flatnonzero(nodes == node)
        if not len(place):
            return None
        if self.given is None:
            return 1 + int(copies.counts(nodes[: place[0]]).sum()) + copies.place(item)
        # Hits may have some of its copies only.
        own = np.flatnonzero(self.given == item)
        alike = np.flatnonzero(copies.of_items(self.given) == node)
        return 1 + int(own[0] if len(own) else alike[0])


def _check_single(lists: Results, name: str) -> None:
    if len(lists[1]) != 1:
        raise DiffusionError(f"{name}: expected one query, got {len(lists[1])}")


class Explainer:
    """The ranking of one query, explained item by item; what items share is computed once.

    Parameters
    ----------
    fitted : Fitted
    first : FirstStage
    k : int >= 1
        Length of the ranking, which is made longer for an item that is not in it.
    query_k : int >= 1
    cautious : bool
    """

    def __init__(
        self, fitted: Fitted, first: FirstStage, *, k: int, query_k: int, cautious: bool
    ) -> None:
        self._fitted, self._first, self._k = fitted, first, k
        self._wide = first.lists
        self._answers: dict[int, _Answer] = {}
        self._observation = fitted.affinity.observe(*first.observed, query_k)
        self._lists = kernels.FirstStage(*first.lists)
        fitted.graph.check()  # of which an explanation reads more than a search
        self._scale = fitted.affinity.scale_of(first.observed[0])
        confidence = fitted.confidence(self._observation, *first.lists)
        self._confidence = confidence if cautious else None
        transfer = fitted.parameters["transfer"]
        known = transfer is not None and transfer["name"] == RegularizedLaplacian.name
        self._alpha: float | None = float(transfer["alpha"]) if known else None

    def _ids_of(self, nodes: Any) -> list[Hashable]:
        """Return the ids of nodes: those of their first items."""
        fitted = self._fitted
        items = fitted.copies.first_items(np.asarray(nodes, np.int64))
        return fitted.items.of_rows(items).tolist()

    def explain(self, item: int, n_chains: int) -> Explanation:
        """Explain the place of an item."""
        copies = self._fitted.copies
        row = int(copies.of_items(np.array([item]))[0])
        id_: Hashable = self._fitted.items.of_rows(np.array([item])).tolist()[0]
        fitted, graph = self._fitted, self._fitted.graph
        scores, ids = self._lists_with(row)
        listed = np.flatnonzero(ids == row)
        first_rank = self._first.rank(item, ids, copies)
        first_score = float(scores[listed[0]]) if len(listed) else None
        answer, rank, depth = self._ranked(item, row, ids)
        x, score, shares = value_of(answer.x, row), value_of(answer.scores, row), Shares()
        if score > 0:
            shares = fitted.score.shares(
                row, answer.x, self._observation, self._lists, self._scale, graph
            )
            if self._confidence is not None:
                part = float(shares_of(self._confidence)[0])
                shares = Shares(
                    part * shares.diffusion, part * shares.neighbourhood, shares.first_stage
                )
        elif rank is not None:
            score = max(float(scores[listed[0]]) - float(scores[0]), _LOWEST)
        own, flow = self._flow(row, answer.x)
        return Explanation(
            id=id_,
            first_rank=first_rank,
            first_score=first_score,
            rank=rank,
            score=None if rank is None else score,
            shares=shares,
            reached=x > 0,
            x=x,
            degree=float(graph.degrees[row]),
            chains=self._chains(row, id_, answer.x, n_chains),
            flow=flow,
            own=own,
            remainder=None if own is None else x - own - sum(part.amount for part in flow),
            depth=depth,
            copies=int(copies.counts(np.array([row]))[0]) - 1,
            n_items=fitted.items.size,
        )

    def _lists_with(self, row: int) -> Results:
        """Return the first stage's list, as long as it takes to have an item in it."""
        first, n = self._first, self._fitted.graph.n_nodes
        while first.search is not None and not (self._wide[1] == row).any():
            width = self._wide[1].shape[1]
            if width >= n or self._wide[1][0, -1] < 0:
                break
            try:
                self._wide = first.search(min(_MORE * width, n))
            except DiffusionError:  # an index of the caller may refuse long lists
                break
        return self._wide[0][0], self._wide[1][0]

    def _ranked(
        self, item: int, row: int, listed: NDArray[np.int64]
    ) -> tuple[_Answer, int | None, int]:
        """Solve deep enough that the rank of an item is that of a search.

        Returns the solution, the rank, and the depth of that search.
        """
        n, depth, copies = self._fitted.graph.n_nodes, self._k, self._fitted.copies
        while True:
            answer = self._answer(depth)
            rank = _rank_of(row, answer.scores, listed, copies)
            rank = None if rank is None else rank + copies.place(item)
            least = n if rank is None else rank
            enough = least <= depth or depth >= n
            if enough or answer.solver.for_depth(least) is answer.solver:
                return answer, rank, max(depth, least)
            depth = min(n, _MORE * depth)

    def _answer(self, depth: int) -> _Answer:
        """Diffuse the observation for a ranking of that many items, as `Fitted.diffuse` does."""
        if depth not in self._answers:
            fitted, observation = self._fitted, self._observation
            solver = fitted.solver.for_depth(depth)
            solution = solver.solve(observation.y, candidates=self._first.candidates)
            x = _positive(solution.values)  # a copy: scores may take the place of the values
            scores = fitted.score.combine(
                solution.values,
                observation,
                self._lists,
                self._scale,
                fitted.graph,
                solution.roots,
            )
            if self._confidence is not None:
                own = fitted.score.evidence(self._lists, self._scale)
                scores = tempered(scores, self._confidence, *self._lists, own)
            self._answers[depth] = _Answer(solver, x, self._with_unknown(_positive(scores)))
        return self._answers[depth]

    def _with_unknown(self, scores: SparseRows) -> SparseRows:
        """Return scores (one row) with those of hits that are not of the collection."""
        own = self._fitted.score.evidence(self._lists, self._scale)[0]
        codes = self._lists.ids[0]
        added = (codes >= self._fitted.graph.n_nodes) & (own > 0)
        ids = np.concatenate([scores.ids, codes[added].astype(np.int32)])
        return SparseRows(
            scores.starts, scores.counts + added.sum(), ids, np.append(scores.values, own[added])
        )

    def _flow(self, row: int, x: SparseRows) -> tuple[float | None, tuple[Flow, ...]]:
        """Return the terms of x_j = (1 - α) y_j + α Σ_i W_ji x_i: the first, and the others."""
        if self._alpha is None:
            return None, ()
        neighbors, weights = neighbors_of(self._fitted.graph, row)
        values = np.zeros(len(neighbors))
        place = np.searchsorted(x.ids, neighbors)
        known = place < len(x.ids)
        known[known] = x.ids[place[known]] == neighbors[known]
        values[known] = x.values[place[known]]
        amounts = self._alpha * weights.astype(float) * values
        order = np.argsort(-amounts, kind="stable")
        ids = self._ids_of(neighbors[order])
        parts = zip(ids, weights[order].tolist(), amounts[order].tolist(), strict=True)
        own = (1.0 - self._alpha) * value_of(self._observation.y, row)
        return own, tuple(Flow(*part) for part in parts)

    def _chains(self, row: int, id_: Hashable, x: SparseRows, most: int) -> tuple[Chain, ...]:
        """Return the strongest chains to an item within the support of x."""
        own = value_of(x, row)
        if not own:
            return ()
        alpha, (y, J) = self._alpha, (self._observation.y, self._observation.J)
        observed = y.packed()[1:]
        factor = 1.0 if alpha is None else alpha
        paths = strongest_paths(self._fitted.graph, observed, x.ids, row, alpha=factor, most=most)
        return tuple(
            Chain(
                ids=(*self._ids_of(path.nodes[:-1]), id_),
                weights=tuple(path.weights),
                observed=value_of(y, path.nodes[0]),
                similarity=None if J is None else value_of(J, path.nodes[0]),
                share=None if alpha is None else (1.0 - alpha) * path.strength / own,
            )
            for path in paths
        )


def _positive(values: NDArray[np.float32] | SparseRows) -> SparseRows:
    """Return the positive values of a single row, with ascending ids."""
    if isinstance(values, SparseRows):
        _, ids, found = values.packed()
        order = np.argsort(ids)
        order = order[found[order] > 0]
        ids, found = ids[order], found[order]
    else:
        ids = np.flatnonzero(values[0] > 0).astype(np.int32)
        found = values[0][ids]
    return SparseRows(np.zeros(1, np.int64), np.full(1, len(ids)), ids, found)


def _rank_of(row: int, scores: SparseRows, listed: NDArray[np.int64], copies: Copies) -> int | None:
    """Return the rank of the first item of a node, as `scoring.ranking.rank` orders nodes.

    It is None if the node has none.
    """
    own = value_of(scores, row)
    if own > 0:
        before = (scores.values > own) | ((scores.values == own) & (scores.ids < row))
        return 1 + int(copies.counts(scores.ids[before]).sum())
    behind = listed[~np.isin(listed, scores.ids)]
    place = np.flatnonzero(behind == row)
    if not len(place):
        return None
    before = np.concatenate([scores.ids, behind[: place[0]]])
    return 1 + int(copies.counts(before).sum())
