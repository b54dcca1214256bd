"""Options for the parameters of a Reranker, for the verbs that build an index."""

from __future__ import annotations

import argparse

from ..affinity import AFFINITIES, GRANULARITIES
from ..neighbors import METHODS
from ..reranker import Reranker
from ..solvers import SOLVERS
from ..validation import METRICS

_NAMES = (
    "k",
    "granularity",
    "alpha",
    "gamma",
    "query_k",
    "metric",
    "affinity",
    "neighbors",
    "solver",
)


def add_parameters(verb: argparse._ActionsContainer) -> None:
    """Add an option for each parameter that has a simple value."""
    default = Reranker().get_params()

    def add(option: str, text: str = "", **how: object) -> None:
        name = option.lstrip("-").replace("-", "_")
        help = f"{text} (default {default[name] or 'what the affinity uses'})".lstrip()
        verb.add_argument(option, default=default[name], help=help, **how)  # type: ignore[arg-type]

    add("-k", "neighbours per item", type=int)
    add("--granularity", "what counts as relevant", choices=tuple(GRANULARITIES))
    add("--alpha", "weight of the graph, 0 to below 1", type=float)
    add("--gamma", "exponent of the affinities cosine and gaussian", type=float)
    add("--query-k", "items in the observation of a query", type=int)
    add("--metric", choices=METRICS)
    add("--affinity", choices=AFFINITIES)
    add("--neighbors", choices=tuple(METHODS))
    add("--solver", choices=tuple(SOLVERS))


def reranker_of(options: argparse.Namespace, *, progress: bool) -> Reranker:
    """Return the Reranker that the options of `add_parameters` describe."""
    return Reranker(**{name: getattr(options, name) for name in _NAMES}, progress=progress)
