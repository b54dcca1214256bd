"""Affinities that depend on the score alone: a power of the similarity, and a Gaussian."""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..change import Ages, Change
from ..kernels import updates
from ..kernels.matrix import read_only
from ..storage.contents import COMPUTED, Array, Between, Contents
from .base import Affinity, Edges, Lists, Observation, lists_layout, sparse_rows
from .updates import reached

# Neighbours per item unless another number is asked for, as in the papers.
_NEIGHBORS = 50

# Number of scores from which a scale is fitted: a sample of a million gives a stable median.
_SAMPLE = 1_000_000

# Logarithms of the smallest and the largest maximum of an observation, 1e-18 and 1e18.
_LEAST, _MOST = -18 * np.log(10), 18 * np.log(10)

_SCALE = Between(float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max))


# float32 holds exponents and factors of scores within these bounds, and they are not 0.
_SMALLEST, _LARGEST = 1e-38, 1e38


def _powers(logarithms: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return exp(exponent * logarithms) of rows (m, k), 0 where a logarithm is -inf.

    A row whose largest value is not in [1e-18, 1e18] is scaled. The difference to the largest
    logarithm is multiplied, which cannot overflow to infinity.
    """
    largest = logarithms.max(axis=1, keepdims=True, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(over="ignore"):
        relative = exponent * (logarithms - largest)
        return np.exp(relative + np.clip(exponent * largest, _LEAST, _MOST))


def _reverse(
    rows: NDArray[Any],
    among: NDArray[np.bool_],
    scores: NDArray[np.float32],
    ids: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Return the scores (m, k) of some items in the lists of their neighbours, -inf where absent.

    They are looked up where the item or the neighbour is `among` (n,) those marked.
    """
    reverse = np.full((len(rows), ids.shape[1]), -np.inf, np.float32)
    rows = rows.astype(np.int64, copy=False)
    updates.reverse_scores(rows, among, read_only(ids), read_only(scores), reverse)
    return reverse


class Pointwise(Affinity):
    """Base class of affinities that are a function of the score alone.

    Memory: 8 k bytes per item for the lists, which only `changed` reads.
    """

    scale: float
    # The scores and ids of the lists, unless an index of an earlier version did not store them.
    _lists: dict[str, NDArray[Any]]
    _contents: Contents

    def depth_of(self, k: int | None) -> int:
        """Return k, 50 for None: all neighbours of the lists are used."""
        return _NEIGHBORS if k is None else k

    def listed(self, k: int | None) -> int:
        """Return the same: a list that loses an item is searched again."""
        return self.depth_of(k)

    @abstractmethod
    def fit(self, scores: NDArray[np.float32]) -> None:
        """Set `scale` from neighbour scores (n, k), -inf where padded."""

    @abstractmethod
    def weights(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map scores of any shape to weights >= 0, 0 where padded (-inf)."""

    @abstractmethod
    def observation(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Map the scores of queries (m, k) to the values of their observations y, in float64.

        A row whose largest weight is outside [1e-18, 1e18] is scaled so that the largest weight
        is the nearest bound. This keeps the values, and results computed from them, within the
        range of float32.
        """

    def edges(
        self, scores: NDArray[np.float32], ids: NDArray[np.int32], *, progress: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Give every listed neighbour the weight of its score; fit the scale first."""
        self.fit(scores)
        self._lists, self._contents = {"scores": scores, "ids": ids}, COMPUTED
        return ids, self.weights(scores)

    def neighbor_lists(self) -> Lists | None:
        """Return the lists that the edges were made from, None if they were not kept."""
        self._contents.check()
        return (self._lists["scores"], self._lists["ids"]) if self._lists else None

    def changed(
        self,
        scores: NDArray[np.float32],
        ids: NDArray[np.int32],
        dirty: NDArray[np.bool_],
        change: Change,
        ages: Ages,
        *,
        progress: bool = False,
    ) -> tuple[Affinity, Edges]:
        """Return the affinity of a changed collection, and the edges that are not as before.

        Edges are weighed again where one of their scores has changed; all are if the scale is
        another one, or if those of more than half of the items are. Parameters and shapes are those
        of `Affinity.changed`.
        """
        new, lists = copy(self), self.neighbor_lists()
        new.fit(scores)
        if lists is not None and lists[1].shape[1] == ids.shape[1] and new.scale == self.scale:
            others = np.flatnonzero(reached(dirty, ids, lists[1], change) & ~dirty)
            gone = np.where(change.target >= 0, dirty[change.target], True)
            now = _reverse(others, dirty, scores, ids)
            then = _reverse(change.source[others], gone, *lists)
            weighed = dirty.copy()
            weighed[others[np.any(now != then, axis=1)]] = True
            rows = np.flatnonzero(weighed)
            if 2 * len(rows) <= len(weighed):
                new._lists, new._contents = {"scores": scores, "ids": ids}, COMPUTED
                reverse = _reverse(rows, np.ones(len(ids), bool), scores, ids)
                weights = np.minimum(new.weights(scores[rows]), new.weights(reverse))
                return new, Edges(ids[rows], weights, rows)
        return super().changed(scores, ids, dirty, change, ages, progress=progress)

    def observe(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query_k: int
    ) -> Observation:
        """Make observations from the weights of the `query_k` best neighbours."""
        best = scores[:, :query_k], ids[:, :query_k]
        return Observation(sparse_rows(self.observation(best[0]), best[1]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store: the scale, and the lists."""
        return {"scale": np.array([self.scale]), **self._lists}

    def restore(self, arrays: dict[str, NDArray[Any]], n_items: int, source: str = "state") -> None:
        """Restore the scale, and the lists, whose content is checked on first use."""
        contents = Contents(arrays, {"scale": Array(np.float64, (1,), _SCALE)}, source)
        contents.check()  # now, for it is one number
        self.scale = float(arrays["scale"][0])
        layout = lists_layout(n_items, "k") if "ids" in arrays else {}
        self._contents = Contents(arrays, layout, source)
        self._lists = {name: arrays[name] for name in layout}


@dataclass
class PowerAffinity(Pointwise):
    """Power of a similarity s: w = max(s / scale, 0)^γ.

    For cosines the scale is 1. For inner products it is the largest one in the neighbour lists.
    The normalised adjacency W does not depend on the scale, which only keeps the powers within the
    range of float32.

    Source: Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds.
    CVPR 2017, section 3.
    """

    gamma: float = 3.0
    bounded: bool = True
    scale: float = 1.0

    name: ClassVar[str] = "cosine"

    def fit(self, scores: NDArray[np.float32]) -> None:
        """Set the scale to 1 for a bounded similarity and to the largest score otherwise."""
        largest = float(scores.max(initial=0.0))
        if largest == 0 or (self.bounded and self._fits(largest)):
            self.scale = 1.0
        else:
            self.scale = largest

    def _fits(self, largest: float) -> bool:
        """Return whether the power of the largest score is far from the limits of float32."""
        return _LEAST <= self.gamma * np.log(largest) <= _MOST

    def weights(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map scores of any shape to weights >= 0."""
        similarity = np.maximum(scores, np.float32(0))
        if self.scale != 1.0:
            similarity /= np.float32(self.scale)
        exponent = np.float32(np.clip(self.gamma, _SMALLEST, _LARGEST))
        return np.power(similarity, exponent, out=similarity)

    def observation(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Map the scores of queries (m, k) to the values of their observations, in float64."""
        similarity = np.maximum(scores.astype(np.float64), 0) / self.scale
        with np.errstate(divide="ignore"):
            return _powers(np.log(similarity), self.gamma)


@dataclass
class GaussianAffinity(Pointwise):
    """Gaussian of a distance d: w = exp(-γ d² / (2 σ²)). The score of d is -d².

    σ² is the median squared distance in the neighbour lists, without exact duplicates. For unit
    vectors and σ = 1 this equals, to first order, the power of the cosine: cos^γ = (1 - d²/2)^γ.
    """

    gamma: float = 3.0
    scale: float = 1.0

    name: ClassVar[str] = "gaussian"

    def fit(self, scores: NDArray[np.float32]) -> None:
        """Set σ² to the median positive squared distance of a sample of the lists, or to 1."""
        rows = max(1, _SAMPLE // scores.shape[1])
        sample = scores[:: max(1, len(scores) // rows)]
        sample = sample[(sample > -np.inf) & (sample < 0)]
        # In float64, because the median of an even number adds two distances.
        self.scale = float(-np.median(sample.astype(np.float64))) if len(sample) else 1.0

    def weights(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map negative squared distances of any shape to weights in [0, 1]."""
        exponent = np.minimum(scores, np.float32(0))
        with np.errstate(over="ignore"):  # to -inf, a weight of 0
            exponent /= np.float32(self.scale)
            exponent *= np.float32(np.clip(self.gamma / 2, _SMALLEST, _LARGEST))
        return np.exp(exponent, out=exponent)

    def observation(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Map negative squared distances (m, k) to the values of observations, in float64."""
        distances = np.minimum(scores.astype(np.float64), 0)
        return _powers(distances, float(np.clip(self.gamma / (2 * self.scale), 1e-300, 1e300)))
