"""Affinities: weights of graph edges from neighbour lists, and observations of queries.

An affinity turns the neighbour lists of a collection into weighted edges. Later it turns the
neighbours of a query into the query's observation y, the vector from which diffusion starts.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import DiffusionError
from ..validation import check_real
from .base import Affinity, Edges, Observation, sparse_rows
from .context import Context
from .pointwise import GaussianAffinity, Pointwise, PowerAffinity

AFFINITIES = ("context", "cosine", "gaussian")

__all__ = [
    "AFFINITIES",
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


def make_affinity(affinity: object, metric: str, gamma: object) -> Affinity:
    """Return a new affinity for the scores of a metric, from a name or an object of settings.

    Parameters
    ----------
    affinity : {"context", "cosine", "gaussian"} or Context
    metric : {"cosine", "inner_product", "euclidean"}
    gamma : float > 0
        Exponent of the affinities "cosine" and "gaussian".

    Returns
    -------
    Affinity

    Raises
    ------
    DiffusionError
        If the name is unknown or the affinity does not support the metric.
    """
    gamma = check_real(gamma, "gamma", low=0.0, strict=True)
    if isinstance(affinity, Context):
        return replace(affinity)
    if affinity == "context":
        return Context()
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
