"""Affinities: weights of graph edges from neighbour lists, and observations of queries.

An affinity turns the neighbour lists of a collection into weighted edges. Later it turns the
neighbours of a query into the query's observation y, the vector from which diffusion starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import DiffusionError
from ..validation import check_choice, check_real
from .base import Affinity, Edges, Observation, sparse_rows
from .context import Context
from .pointwise import GaussianAffinity, Pointwise, PowerAffinity

AFFINITIES = ("context", "cosine", "gaussian")

# What counts as relevant, and the settings of the contextual affinity that suit it.
GRANULARITIES: dict[str, dict[str, Any]] = {
    "instance": {"scales": (2, 4, 8, 16)},
    "mixed": {},
    "category": {"scales": (6, 12, 24, 48, 96), "size": 100},
}

__all__ = [
    "AFFINITIES",
    "GRANULARITIES",
    "Affinity",
    "Context",
    "Edges",
    "GaussianAffinity",
    "Observation",
    "Pointwise",
    "PowerAffinity",
    "make_affinity",
    "sparse_rows",
]


def make_affinity(
    affinity: object, metric: str, gamma: object, granularity: str = "mixed"
) -> Affinity:
    """Return a new affinity for the scores of a metric, from a name or an object of settings.

    Parameters
    ----------
    affinity : {"context", "cosine", "gaussian"} or Context
    metric : {"cosine", "inner_product", "euclidean"}
    gamma : float > 0
        Exponent of the affinities "cosine" and "gaussian".
    granularity : {"instance", "mixed", "category"}, default "mixed"
        Which settings the affinity "context" has.

    Returns
    -------
    Affinity

    Raises
    ------
    DiffusionError
        If a name is unknown or the affinity does not support the metric or the granularity.
    """
    gamma = check_real(gamma, "gamma", low=0.0, strict=True)
    granularity = check_choice(granularity, "granularity", tuple(GRANULARITIES))
    if isinstance(affinity, str) and affinity == "context":
        return Context(**GRANULARITIES[granularity])
    if granularity != "mixed" and (isinstance(affinity, Context) or affinity in AFFINITIES):
        raise DiffusionError(
            f"granularity: {granularity!r} names the scales of affinity='context', but "
            f"affinity={affinity!r} was given; expected 'mixed' with it"
        )
    if isinstance(affinity, Context):
        return replace(affinity)
    if affinity == "cosine":
        if metric == "euclidean":
            raise DiffusionError(
                "affinity: 'cosine' is a power of a similarity, but metric='euclidean' gives "
                "distances; expected affinity='context' or 'gaussian'"
            )
        return PowerAffinity(gamma, bounded=metric == "cosine")
    if affinity == "gaussian":
        if metric != "euclidean":
            raise DiffusionError(
                f"affinity: 'gaussian' is a function of a distance, but metric={metric!r} gives "
                "similarities; expected affinity='context' or 'cosine' (or metric='euclidean')"
            )
        return GaussianAffinity(gamma)
    names = ", ".join(repr(name) for name in AFFINITIES)
    raise DiffusionError(f"affinity: expected one of {names} or a Context, got {affinity!r}")
