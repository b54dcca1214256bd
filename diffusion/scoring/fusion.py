"""Scores by which lists are ranked: the diffused score alone, or a fusion with other evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..affinity import Affinity, Context, Observation
from ..errors import DiffusionError
from ..graph import Graph
from ..kernels import ranking as kernels
from ..kernels.matrix import SparseRows, read_only
from ..kernels.ranking import FirstStage, LocalScale
from ..validation import check_real

# The power of the diffused score in a fusion. With a larger one, items far along a thin manifold
# would have less than the first stage gives to items of other manifolds.
_POWER = 3 / 8

Diffused: TypeAlias = NDArray[np.float32] | SparseRows


class Shares(NamedTuple):
    """What the score of an item is the sum of.

    Attributes
    ----------
    diffusion : float
        Of the diffused score: (x_j / max x)^(3/8) in a fusion, x_j itself otherwise.
    neighbourhood : float
        Of the similarity of neighbourhoods: weight J_qj.
    first_stage : float
        Of the first stage: weight e_qj.
    """

    diffusion: float = 0.0
    neighbourhood: float = 0.0
    first_stage: float = 0.0


class Score(ABC):
    """Interface of a score: combines the evidence on each item into one number."""

    name: ClassVar[str]

    #: Number of first-stage candidates whose scores are used.
    depth: ClassVar[int] = 0

    def weights(self, graph: Graph) -> NDArray[np.float32] | None:
        """Return the factor of each item's diffused score, shape (n,), or None if it is 1."""
        return None

    def evidence(self, first: FirstStage, scale: LocalScale) -> NDArray[np.float32]:
        """Return the score of first-stage candidates (m, c) that the first stage alone gives."""
        return np.zeros(first.scores.shape, np.float32)

    @abstractmethod
    def combine(
        self,
        x: Diffused,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
        roots: NDArray[np.float32] | None = None,
    ) -> Diffused:
        """Return the score of every item (m, n), 0 for items without evidence.

        Parameters
        ----------
        x : ndarray, shape (m, n), float32, or SparseRows
            Diffused scores; may be overwritten.
        observation : Observation
            Observations of the m queries.
        first : FirstStage
            Scores, float32 (m, c), best first, and ids, int64 (m, c), padded with -1 at the end.
            Those of n and more stand for items that the graph does not know: they count among the
            candidates and get no score.
        scale : LocalScale
            As `Affinity.scale_of` returns it.
        graph : Graph
        roots : ndarray, float32, optional
            Those of a `Solution` x. By default, they are computed from the degrees of the graph.
        """

    @abstractmethod
    def shares(
        self,
        item: int,
        x: SparseRows,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
    ) -> Shares:
        """Return what the score of an item for a single query is the sum of.

        Parameters
        ----------
        item : int
        x : SparseRows
            The diffused scores of all items; one row, as all arguments that `combine` takes.
        observation, first, scale, graph
            As `combine` takes them.
        """


@dataclass(frozen=True)
class Diffusion(Score):
    """The diffused score x alone, as in the papers."""

    name: ClassVar[str] = "diffusion"

    def combine(
        self,
        x: Diffused,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
        roots: NDArray[np.float32] | None = None,
    ) -> Diffused:
        """Return x unchanged."""
        return x

    def shares(
        self,
        item: int,
        x: SparseRows,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
    ) -> Shares:
        """Return x as the only share."""
        return Shares(diffusion=value_of(x, item))


@dataclass(frozen=True)
class Fusion(Score):
    """Fusion of diffused score, similarity of neighbourhoods and first-stage score.

    The score of an item j for a query q is::

        f_qj = (x_j / max x)^(3/8) + weight (J_qj + e_qj),     x = D^-1/2 h(W) y
        e_qj = 1 / (1 + z_qj)²,     z_qj = (max s'_q - s'_qj) / (s_(1) - s_(12))

    Here x is the diffused score, which reaches items along the manifold; J is the similarity of the
    neighbourhoods of q and j, which is reliable near the query; and e is the evidence of the first
    stage, in units of the query's own list. s_(1) and s_(12) are the highest and the twelfth
    highest of the distinct first-stage scores of the query (or the lowest, if there are fewer). s'
    are the scores less the local scales of q and j, as `Context` computes them, so that items near
    everything get less. If diffusion reaches the wrong neighbourhood, J and e determine the head of
    the list; far down, where x says little, e keeps the order of the first stage. Any
    similarity can be used, because e does not depend on the scale and the offset of the scores.

    The factor D^-1/2 removes the bias of x towards nodes of large degree, as dividing the columns
    of h(W) by their norms would. The x of an isolated node is not changed. e is computed for the
    best 500 candidates of the first stage, or for all if there are fewer, whatever the length of
    the ranking: a shorter ranking is the beginning of a longer one. The least e of them is
    subtracted from all, so that an item without evidence has score 0.

    Parameters
    ----------
    weight : float >= 0, default 0.75
        Weight of J and e. With 1.5, fewer queries get worse, and the gain along thin manifolds is
        smaller; with 0.5, the other way round.
    """

    weight: float = 0.75

    name: ClassVar[str] = "fusion"
    depth: ClassVar[int] = 500

    def __post_init__(self) -> None:
        check_real(self.weight, "weight", low=0.0)

    def weights(self, graph: Graph) -> NDArray[np.float32]:
        """Return the diagonal of D^-1/2, shape (n,), with 1 for isolated nodes."""
        graph.contents.check()
        return _unbiased(graph.degrees)

    def evidence(self, first: FirstStage, scale: LocalScale) -> NDArray[np.float32]:
        """Return weight e of each candidate."""
        out = np.empty(first.scores.shape, np.float32)
        kernels.evidence(first, scale, self.depth, float(self.weight), out)
        return out

    def combine(
        self,
        x: Diffused,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
        roots: NDArray[np.float32] | None = None,
    ) -> Diffused:
        """Return the fused score of every item."""
        assert observation.J is not None
        if roots is None:
            graph.contents.check()
        return self.fused(x, observation.J, first, scale, graph.degrees, roots)

    def fused(
        self,
        x: Diffused,
        J: SparseRows,
        first: FirstStage,
        scale: LocalScale,
        degrees: NDArray[np.float64],
        roots: NDArray[np.float32] | None = None,
    ) -> Diffused:
        """Return what `combine` does, for items of any kind with these degrees (n,).

        They are not read if the `roots` of the entries of sparse x are given.
        """
        beside = kernels.Beside(J, first, scale, self.depth, float(self.weight))
        if isinstance(x, np.ndarray):
            kernels.fuse(x, _unbiased(degrees), beside)
            return x
        out = SparseRows.of_at_most(x.counts + J.counts + min(self.depth, first.ids.shape[1]))
        if roots is None:
            indptr, ids, values = x.packed()
            x, own = SparseRows(indptr[:-1], np.diff(indptr), ids, values), degrees[ids]
            roots = np.sqrt(np.where(own > 0, own, 1)).astype(np.float32)
        kernels.fuse_sparse(x, read_only(roots), len(degrees), beside, out)
        return out

    def shares(
        self,
        item: int,
        x: SparseRows,
        observation: Observation,
        first: FirstStage,
        scale: LocalScale,
        graph: Graph,
    ) -> Shares:
        """Return the three summands of the fused score."""
        assert observation.J is not None
        graph.contents.check()
        _, reached, values = x.packed()
        degrees = graph.degrees[reached]
        scaled = np.maximum(values, 0) / np.sqrt(np.where(degrees > 0, degrees, 1))
        own = scaled[reached == item].sum()  # of one value, or of none
        alone = self.evidence(first, scale)
        return Shares(
            diffusion=float((own / scaled.max()) ** _POWER) if own > 0 else 0.0,
            neighbourhood=self.weight * value_of(observation.J, item),
            first_stage=float(alone[first.ids == item].sum()),
        )


def _unbiased(degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the diagonal of D^-1/2, with 1 where a degree is 0."""
    return (1 / np.sqrt(np.where(degrees > 0, degrees, 1))).astype(np.float32)


def value_of(rows: SparseRows, item: int) -> float:
    """Return the value of an item in a single sparse row, 0 if it has none."""
    _, ids, values = rows.packed()
    return float(values[ids == item].sum())


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
