"""The edges of affinities that depend on the score alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..affinity import GaussianAffinity, Pointwise
from .graph import mutual_edges
from .shards import Part, Shards, parts_of_stage, save
from .shuffle import records_of
from .stages import Stages

# The number of scores from which the scale of a Gaussian is fitted, see `GaussianAffinity.fit`.
_SAMPLE = 1_000_000


def make_edges(
    stages: Stages, affinity: Pointwise
) -> tuple[dict[str, NDArray[Any]], dict[str, Part]]:
    """Make the stage `edges` from the stage `lists`; fit the scale of the affinity first.

    Returns
    -------
    whole : dict of str to ndarray
        Arrays of the affinity.
    parts : dict of str to callable
        How the part of a shard is read of the others.
    """
    shards = stages.shards
    affinity.fit(_scale_scores(shards, affinity))
    stages.run("weighed", weighed, affinity)
    stages.run("edges", mutual_edges, "weighed")
    whole = {"scale": np.array([affinity.scale])}
    return whole, parts_of_stage(shards, "lists", ("scores", "ids"))


def _scale_scores(shards: Shards, affinity: Pointwise) -> NDArray[np.float32]:
    """Return scores that have the same scale as those of all lists."""
    rows = shards.rows("lists", "scores")
    if isinstance(affinity, GaussianAffinity):
        step = max(1, shards.n // max(1, _SAMPLE // rows.shard(0).shape[1]))
        return rows.take(np.arange(0, shards.n, step))
    largest = [rows.shard(p).max(initial=0.0) for p in range(shards.count)]
    return np.array([largest], np.float32)


def weighed(path: str, shards: Shards, p: int, affinity: Pointwise) -> str:
    """Weigh the lists of a shard, and send the weights to the items that are listed."""
    ids = shards.array("lists", p, "ids")
    weights = affinity.weights(shards.array("lists", p, "scores"))
    sent = records_of(ids, weights, shards.bounds(p)[0], shards)
    return save(path, {"ids": ids, "weights": weights, **sent})
