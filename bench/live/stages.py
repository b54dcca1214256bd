"""Seconds of the stages of a fit and of an update."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from diffusion import reranker, updates
from diffusion.affinity import Context
from diffusion.graph.graph import Graph
from diffusion.neighbors import NeighborIndex
from diffusion.solvers import Auto

SEARCH, LISTS, GRAPH, SOLVER = "search", "lists", "affinity and graph", "solver"

# The functions that the time of each stage is spent in, by their owners. A function that another
# one calls is not counted twice.
_FUNCTIONS: dict[str, list[tuple[Any, str]]] = {
    SEARCH: [
        (reranker, "listed"),
        (NeighborIndex, "neighbors"),
        (NeighborIndex, "neighbors_at"),
        (NeighborIndex, "compared"),
    ],
    LISTS: [(updates, "changed_lists"), (NeighborIndex, "changed")],
    GRAPH: [
        (Context, "edges"),
        (Context, "changed"),
        (Graph, "from_neighbors"),
        (Graph, "changed"),
    ],
    SOLVER: [(Auto, "prepare"), (Auto, "changed")],
}


class Stages:
    """Measures the stages of fits and updates of a default `Reranker` within a `with` block.

    Attributes
    ----------
    whole : float
        Seconds of the block.
    seconds : dict
        Seconds of each stage, without those of other stages that it calls.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.whole = 0.0
        self._nested = 0.0
        self._patches = ExitStack()

    def __enter__(self) -> Stages:
        for stage, functions in _FUNCTIONS.items():
            for owner, name in functions:
                function = getattr(owner, name)
                timed = self._timed(stage, function)
                # What is bound already, as a class method is, is not bound again.
                bound = hasattr(function, "__self__")
                replacement = staticmethod(timed) if bound else timed
                self._patches.enter_context(mock.patch.object(owner, name, replacement))
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.whole = time.perf_counter() - self._start
        self._patches.close()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            outer, self._nested = self._nested, 0.0
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds = time.perf_counter() - start
                self.seconds[stage] += seconds - self._nested
                self._nested = outer + seconds

        return call

    @property
    def beyond_search(self) -> float:
        """Seconds of the block that are not those of the search."""
        return self.whole - self.seconds[SEARCH]

    def row(self) -> list[float]:
        """Return the seconds of the block, of each stage and of the rest."""
        each = [self.seconds[stage] for stage in _FUNCTIONS]
        return [self.whole, *each, self.whole - sum(each)]


#: What `Stages.row` has the seconds of.
COLUMNS = ("seconds", *_FUNCTIONS, "rest")
