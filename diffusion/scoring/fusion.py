"""Scores: what a list is ranked by, made of diffusion, neighbourhoods and first stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..affinity import Affinity, Context, Observation, sparse_rows
from ..errors import DiffusionError
from ..graph import Graph
from ..validation import check_real

# The first-stage scores that are told apart for the unit of a query's list.
_PLACE = 12

Diffused: TypeAlias = NDArray[np.float32] | sparse.csr_array


class Score(ABC):
    """A way to make the score of a list from all that is known of its items."""

    name: ClassVar[str]

    #: First-stage candidates whose scores are made use of.
    depth: ClassVar[int] = 0

    def weights(self, graph: Graph) -> NDArray[np.float32] | None:
        """Return the factor on the diffused score of every item, (n,), None for 1."""
        return None

    @abstractmethod
    def combine(
        self,
        x: Diffused,
        observation: Observation,
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        graph: Graph,
    ) -> Diffused:
        """Return the score of every item, (m, n), 0 where nothing is known; may overwrite `x`.

        `scores`, `ids` (m, c) are the first stage's, best first, -1 padded at the end.
        """


@dataclass(frozen=True)
class Diffusion(Score):
    """The diffused score x alone, as in the papers."""

    name: ClassVar[str] = "diffusion"

    def combine(
        self,
        x: Diffused,
        observation: Observation,
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        graph: Graph,
    ) -> Diffused:
        """Return x as it is."""
        return x


@dataclass(frozen=True)
class Fusion(Score):
    """Diffusion, similarity of neighbourhoods and first stage in one score.

    For a query q and an item j::

        f_qj = sqrt(x_j / max x) + weight (J_qj + e_qj),     x = D^-1/2 h(W) y
        e_qj = exp((s_qj - s_(1)) / (s_(1) - s_(12)))

    x reaches along the manifold, J is sure of the query's own neighbourhood, and e keeps what
    the first stage was sure of, in units of the query's own list: s_(1) and s_(12) are the
    highest and the twelfth highest of its different scores (the last one if there are fewer).
    Where diffusion has found the wrong neighbourhood, J and e hold the head of the list. Any
    similarity will do: e does not change with the scale or the offset of the scores.

    D^-1/2 undoes the preference of x for nodes of large degree, as dividing the columns of
    h(W) by their norms would; an isolated node keeps its x. All but the best 100 candidates of
    the first stage have the e of the last of them, which is subtracted from every score, so that
    an item of which nothing is known has the score 0.

    Parameters
    ----------
    weight : float >= 0, default 0.5
        Weight of J and e. 1 is more cautious: fewer queries lose, and less is gained along thin
        manifolds.
    """

    weight: float = 0.5

    name: ClassVar[str] = "fusion"
    depth: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_real(self.weight, "weight", low=0.0)

    def weights(self, graph: Graph) -> NDArray[np.float32]:
        """Return D^-1/2, 1 for an isolated node, shape (n,)."""
        return (1 / np.sqrt(np.where(graph.degrees > 0, graph.degrees, 1))).astype(np.float32)

    def combine(
        self,
        x: Diffused,
        observation: Observation,
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        graph: Graph,
    ) -> Diffused:
        """Return the fused score of every item."""
        assert observation.J is not None
        ids = ids[:, : self.depth]
        first = sparse_rows(first_stage_evidence(scores[:, : self.depth]), ids, graph.n_nodes)
        first.sort_indices()
        beside = sparse.csr_array((observation.J + first) * self.weight).astype(np.float32)
        weights = self.weights(graph)
        if isinstance(x, np.ndarray):
            x *= weights
            np.maximum(x, 0, out=x)
            x /= _positive(x.max(axis=1, keepdims=True))
            np.sqrt(x, out=x)
            x[_rows(beside), beside.indices] += beside.data
            return x
        values = np.maximum(x.data * weights[x.indices], 0)
        highest = np.zeros(len(ids), np.float32)
        np.maximum.at(highest, _rows(x), values)
        values /= _positive(highest)[_rows(x)]
        return sparse.csr_array((np.sqrt(values), x.indices, x.indptr), shape=x.shape) + beside


def _positive(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(values > 0, values, np.float32(1))


def _rows(x: sparse.csr_array) -> NDArray[np.int64]:
    """Return the row of every stored entry."""
    return np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))


def first_stage_evidence(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return e of descending scores (m, c), -inf where padded, less that of the last one."""
    real = np.isfinite(scores)
    s = np.where(real, scores.astype(np.float64), 0)
    fresh = np.zeros(scores.shape, bool)
    fresh[:, 1:] = real[:, 1:] & (s[:, 1:] < s[:, :-1])
    # The place among the different scores; the twelfth, or the last, sets the unit.
    place = np.cumsum(fresh, axis=1)
    unit = np.argmax(np.where(real & (place < _PLACE), place, -1), axis=1)
    spread = s[:, :1] - np.take_along_axis(s, unit[:, None], axis=1)
    exponent = np.divide(s - s[:, :1], spread, out=np.zeros_like(s), where=spread > 0)
    e = np.where(real, np.exp(exponent), 1)
    return np.where(real, e - e.min(axis=1, keepdims=True), 0)


SCORES: dict[str, type[Score]] = {kind.name: kind for kind in (Fusion, Diffusion)}


def make_score(score: object, affinity: Affinity) -> Score:
    """Return the score of that name or object, or the affinity's own for None.

    Raises
    ------
    DiffusionError
        If the name is unknown, or the affinity knows no neighbourhoods to put in.
    """
    if score is None:
        return Fusion() if isinstance(affinity, Context) else Diffusion()
    if isinstance(score, str) and score in SCORES:
        score = SCORES[score]()
    if not isinstance(score, Score):
        names = ", ".join(repr(name) for name in SCORES)
        raise DiffusionError(f"score: expected one of {names} or a Fusion, got {score!r}")
    if isinstance(score, Fusion) and not isinstance(affinity, Context):
        raise DiffusionError(
            f"score: the fusion needs affinity='context', got affinity={affinity.name!r}"
        )
    return score
