"""Scores: what a list is ranked by, made of diffusion, contextual similarity and first stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .affinity import Affinity, Context, Observation
from .affinity.base import observations
from .errors import DiffusionError
from .graph import Graph

Diffused: TypeAlias = NDArray[np.float32] | sparse.csr_array


class Score(ABC):
    """A way to make the score of a list from all that is known of its items."""

    name: ClassVar[str]

    #: First-stage candidates whose scores are made use of.
    depth: int = 0

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

        `scores`, `ids` (m, c) are the first stage's, best first, -1 padded.
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
    """TODO."""

    name: ClassVar[str] = "fusion"
    depth: ClassVar[int] = 200

    def weights(self, graph: Graph) -> NDArray[np.float32]:
        """Return D^-1/2, 0 for an isolated node."""
        d = graph.degrees
        return np.divide(1, np.sqrt(d), out=np.zeros(len(d), np.float32), where=d > 0)

    def combine(
        self,
        x: Diffused,
        observation: Observation,
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        graph: Graph,
    ) -> Diffused:
        """TODO."""
        J = observation.J
        assert J is not None
        scores, ids = scores[:, : self.depth], ids[:, : self.depth]
        first = observations(np.where(ids >= 0, np.clip(scores, 0, 1), 0), ids, J.shape[1])
        beside = sparse.csr_array(0.35 * J + 0.15 * first)
        w = self.weights(graph)
        if isinstance(x, np.ndarray):
            x *= w
            x /= np.maximum(x.max(axis=1, keepdims=True), 1e-30)
            np.sqrt(np.maximum(x, 0), out=x)
            row = np.repeat(np.arange(len(x)), np.diff(beside.indptr))
            x[row, beside.indices] += beside.data
            return x
        raise NotImplementedError


SCORES = {kind.name: kind for kind in (Fusion, Diffusion)}


def make_score(score: object, affinity: Affinity) -> Score:
    """Return the score of that name, or the affinity's own for None.

    Raises
    ------
    DiffusionError
        If the name is unknown or the affinity knows no neighbourhoods to put in.
    """
    if score is None:
        return Fusion() if isinstance(affinity, Context) else Diffusion()
    if isinstance(score, str) and score in SCORES:
        score = SCORES[score]()
    if not isinstance(score, Score):
        names = ", ".join(repr(name) for name in SCORES)
        raise DiffusionError(f"score: expected one of {names}, or a Fusion, got {score!r}")
    if isinstance(score, Fusion) and not isinstance(affinity, Context):
        raise DiffusionError(
            f"score: 'fusion' needs affinity='context', got affinity={affinity.name!r}"
        )
    return score
