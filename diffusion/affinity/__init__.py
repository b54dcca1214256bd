"""Affinities: from neighbour lists to the edges of a graph, and to a query's observation.

An affinity is given the collection's neighbour lists, makes weighted edges of them and keeps what
it needs to make, later, the observation y of a query from the query's own neighbours.
"""

from __future__ import annotations

from ..errors import DiffusionError
from ..validation import check_real
from .base import Affinity, Observation, sparse_rows
from .context import Context
from .pointwise import GaussianAffinity, Pointwise, PowerAffinity

AFFINITIES = ("context", "cosine", "gaussian")

__all__ = [
    "AFFINITIES",
    "Affinity",
    "Context",
    "GaussianAffinity",
    "Observation",
    "Pointwise",
    "PowerAffinity",
    "make_affinity",
    "sparse_rows",
]


def make_affinity(affinity: object, metric: str, gamma: object) -> Affinity:
    """Return a new affinity for the scores of `metric`, from a name or an object of settings.

    Raises
    ------
    DiffusionError
        If the name is unknown or does not go with the metric.
    """
    gamma = check_real(gamma, "gamma", low=0.0, strict=True)
    if isinstance(affinity, Context):
        return Context(affinity.scales, affinity.size)
    if affinity == "context":
        return Context()
    if affinity == "cosine":
        if metric == "euclidean":
            raise DiffusionError(
                "affinity: 'cosine' is a power of a similarity and metric='euclidean' gives "
                "distances; expected affinity='context' or 'gaussian'"
            )
        return PowerAffinity(gamma, bounded=metric == "cosine")
    if affinity == "gaussian":
        if metric != "euclidean":
            raise DiffusionError(
                f"affinity: 'gaussian' is a function of a distance and metric={metric!r} gives "
                "similarities; expected affinity='context' or 'cosine' (or metric='euclidean')"
            )
        return GaussianAffinity(gamma)
    names = ", ".join(repr(name) for name in AFFINITIES)
    raise DiffusionError(f"affinity: expected one of {names} or a Context, got {affinity!r}")
