"""What the graph of a collection looks like, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..affinity import Affinity, Context
from .graph import Graph

# The nearest neighbours that hubs and departures are counted among.
_NEAREST = 10

# Items looked at: the shares of so many are as good as those of all.
_SAMPLE, _COMPARED = 1_000_000, 10_000


@dataclass(frozen=True)
class Diagnosis:
    """The state of a collection's graph; `str` says it in words.

    None of these numbers tells whether re-ranking will gain: choosing parameters by such numbers
    was tried, and did not work. They tell where to look when it does not.

    Attributes
    ----------
    n_items : int
    edges_per_item : float
        Mean number of neighbours in the graph.
    isolated : float in [0, 1]
        Share of the items without an edge.
    n_components : int
        Connected components, isolated items left out.
    largest_component : float in [0, 1]
        Share of the items in the largest component.
    reciprocal : float in [0, 1] or None
        Share of the listed neighbours that list the item back. None, like all below, where the
        affinity keeps no lists.
    listed_by_none : float in [0, 1] or None
        Share of the items that are among the ten nearest of no other.
    hub_places : float in [0, 1] or None
        Share of all places among the ten nearest that the most listed hundredth of the items
        takes: 0.01 where all are listed alike.
    largest_hub : float in [0, 1] or None
        Share of the lists of ten that hold the most listed item.
    departure : float in [0, 1] or None
        Share of an item's ten nearest that are not among the ten most like it in context.
    """

    n_items: int
    edges_per_item: float
    isolated: float
    n_components: int
    largest_component: float
    reciprocal: float | None = None
    listed_by_none: float | None = None
    hub_places: float | None = None
    largest_hub: float | None = None
    departure: float | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.edges_per_item:.1f} edges an item on average.",
            f"{_percent(self.isolated)} of the items are isolated: diffusion neither reaches nor "
            "leaves them; they keep their place in the first stage's order.",
            f"{self.n_components} components, the largest with "
            f"{_percent(self.largest_component)} of the items: a query brings in what is "
            "connected with its neighbours, and nothing else.",
        ]
        if self.reciprocal is not None:
            lines.append(
                f"{_percent(self.reciprocal)} of the listed neighbours list the item back: the "
                "neighbourhoods that are compared are made of these."
            )
        if self.hub_places is not None:
            lines.append(
                f"{_percent(self.hub_places)} of the places among the ten nearest are taken by "
                f"one item in a hundred, {_percent(self.largest_hub)} of the lists hold the same "
                f"item, {_percent(self.listed_by_none)} of the items are in no list: hubs are near "
                "to much that has little to do with them, and items in no list are hard to find."
            )
        if self.departure is not None:
            lines.append(
                f"{_percent(self.departure)} of an item's ten nearest are not among the ten most "
                "like it in context: how much re-ranking changes, not whether for the better."
            )
        return "\n".join(lines)


def _percent(share: float | None) -> str:
    assert share is not None
    return f"{100 * share:.3g} %"


def diagnose(graph: Graph, affinity: Affinity) -> Diagnosis:
    """Describe a graph and, where the affinity is contextual, the lists that it was made of.

    Hubs are counted in up to a million lists, departures in up to 10,000, both evenly spaced.
    """
    n = graph.n_nodes
    sizes = graph.component_sizes
    lists: dict[str, float] = {}
    if isinstance(affinity, Context):
        ids, mutual = affinity.lists
        ids, mutual = ids[:: -(-n // _SAMPLE)], mutual[:: -(-n // _SAMPLE)]
        nearest = ids[:, :_NEAREST]
        counts = np.flip(np.sort(np.bincount(nearest[nearest >= 0], minlength=n)))
        places = max(1, int(counts.sum()))
        compared = np.arange(0, n, -(-n // _COMPARED))
        lists = {
            "reciprocal": float(np.mean(mutual[ids >= 0] > 0)) if (ids >= 0).any() else 1.0,
            "listed_by_none": float(np.mean(counts == 0)),
            "hub_places": float(int(counts[: -(-n // 100)].sum()) / places),
            "largest_hub": int(counts[0]) / len(ids),
            "departure": affinity.departure(compared, _NEAREST),
        }
    return Diagnosis(
        n_items=n,
        edges_per_item=2 * graph.n_edges / n,
        isolated=graph.n_isolated / n,
        n_components=graph.n_components - graph.n_isolated,
        largest_component=float(sizes.max() / n),
        **lists,
    )
