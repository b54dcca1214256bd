"""Scores by which lists are ranked: the diffused score alone, or a fusion with other evidence."""

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

# Number of distinct first-stage scores whose range is the unit of a query's list.
_PLACE = 12

Diffused: TypeAlias = NDArray[np.float32] | sparse.csr_array


class Score(ABC):
    """Interface of a score: combines the evidence on each item into one number."""

    name: ClassVar[str]

    #: Number of first-stage candidates whose scores are used.
    depth: ClassVar[int] = 0

    def weights(self, graph: Graph) -> NDArray[np.float32] | None:
        """Return the factor of each item's diffused score, shape (n,), or None if it is 1."""
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
        """Return the score of every item (m, n), 0 for items without evidence.

        Parameters
        ----------
        x : ndarray or csr_array, shape (m, n), float32
            Diffused scores; may be overwritten.
        observation : Observation
            Observations of the m queries.
        scores : ndarray, shape (m, c), float32
            First-stage scores, best first.
        ids : ndarray, shape (m, c), int64
            First-stage ids, padded with -1 at the end.
        graph : Graph
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
        """Return x unchanged."""
        return x


@dataclass(frozen=True)
class Fusion(Score):
    """Fusion of diffused score, similarity of neighbourhoods and first-stage score.

    The score of an item j for a query q is::

        f_qj = sqrt(x_j / max x) + weight (J_qj + e_qj),     x = D^-1/2 h(W) y
        e_qj = exp((s_qj - s_(1)) / (s_(1) - s_(12)))

    Here x is the diffused score, which reaches items along the manifold; J is the similarity of the
    neighbourhoods of q and j, which is reliable near the query; and e is the evidence of the first
    stage, in units of the query's own list. s_(1) and s_(12) are the highest and the twelfth
    highest of the distinct first-stage scores of the query (or the lowest, if there are fewer). If
    diffusion reaches the wrong neighbourhood, J and e determine the head of the list. Any
    similarity can be used, because e does not depend on the scale and the offset of the scores.

    The factor D^-1/2 removes the bias of x towards nodes of large degree, as dividing the columns
    of h(W) by their norms would. The x of an isolated node is not changed. e is computed for the
    best 100 candidates of the first stage. The e of the last of them is subtracted from all, so
    that an item without evidence has score 0.

    Parameters
    ----------
    weight : float >= 0, default 0.5
        Weight of J and e. With 1, fewer queries get worse, and the gain along thin manifolds is
        smaller.
    """

    weight: float = 0.5

    name: ClassVar[str] = "fusion"
    depth: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_real(self.weight, "weight", low=0.0)

    def weights(self, graph: Graph) -> NDArray[np.float32]:
        """Return the diagonal of D^-1/2, shape (n,), with 1 for isolated nodes."""
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
    """Return the row of each stored entry."""
    return np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))


def first_stage_evidence(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return e of descending scores (m, c), padded with -inf, minus the e of the last candidate."""
    real = np.isfinite(scores)
    s = np.where(real, scores.astype(np.float64), 0)
    fresh = np.zeros(scores.shape, bool)
    fresh[:, 1:] = real[:, 1:] & (s[:, 1:] < s[:, :-1])
    # The place among the distinct scores; the score at the twelfth place, or the last, is used.
    place = np.cumsum(fresh, axis=1)
    unit = np.argmax(np.where(real & (place < _PLACE), place, -1), axis=1)
    spread = s[:, :1] - np.take_along_axis(s, unit[:, None], axis=1)
    exponent = np.divide(s - s[:, :1], spread, out=np.zeros_like(s), where=spread > 0)
    e = np.where(real, np.exp(exponent), 1)
    return np.where(real, e - e.min(axis=1, keepdims=True), 0)


SCORES: dict[str, type[Score]] = {kind.name: kind for kind in (Fusion, Diffusion)}


def make_score(score: object, affinity: Affinity) -> Score:
    """Return the score given by a name or an object, or the affinity's default for None.

    The default is the fusion for the contextual affinity, and the diffused score for the others.

    Raises
    ------
    DiffusionError
        If the name is unknown, or the fusion is requested for an affinity that does not compute
        similarities of neighbourhoods.
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
            f"score: the fusion requires affinity='context', got affinity={affinity.name!r}"
        )
    return score
