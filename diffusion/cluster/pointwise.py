"""The edges of affinities that depend on the score alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..affinity import GaussianAffinity, Pointwise
from .final import Final, Source
from .graph import mutual_edges
from .numbering import positions_of
from .shards import Shards, save
from .shuffle import records_of
from .stages import Stages

# The number of scores from which the scale of a Gaussian is fitted, see `GaussianAffinity.fit`.
_SAMPLE = 1_000_000


def make_edges(stages: Stages, affinity: Pointwise, final: Final) -> dict[str, NDArray[Any]]:
    """Make the stage `edges` from the stage `lists`, and write the arrays of the affinity.

    The scale of the affinity is fitted first.

    Returns
    -------
    dict of str to ndarray
        The arrays of the affinity that are not written.
    """
    scores = stages.fact("scale", lambda: _fitted(stages.shards, affinity))
    affinity.scale = scores
    stages.run("weighed", weighed, affinity)
    final.by_row(
        {
            "affinity_scores": Source("lists", "scores"),
            "affinity_ids": Source("lists", "ids", items=True),
        }
    )
    stages.drop("lists")
    stages.run("edges", mutual_edges, "weighed")
    stages.drop("weighed")
    return {"scale": np.array([affinity.scale])}


def _fitted(shards: Shards, affinity: Pointwise) -> float:
    """Return the scale of an affinity, from scores that have the same one as those of all lists."""
    rows = shards.rows("lists", "scores")
    if isinstance(affinity, GaussianAffinity):
        step = max(1, shards.n // max(1, _SAMPLE // rows.shard(0).shape[1]))
        scores = rows.take(positions_of(shards)[np.arange(0, shards.n, step)])
    else:
        largest = [rows.shard(p).max(initial=0.0) for p in range(shards.count)]
        scores = np.array([largest], np.float32)
    affinity.fit(scores)
    return float(affinity.scale)


def weighed(path: str, shards: Shards, p: int, affinity: Pointwise) -> str:
    """Weigh the lists of a shard, and send the weights to the items that are listed."""
    ids = shards.array("lists", p, "ids")
    weights = affinity.weights(shards.array("lists", p, "scores"))
    sent = records_of(ids, weights, shards.bounds(p)[0], shards)
    return save(path, {"ids": ids, "weights": weights, **sent})
