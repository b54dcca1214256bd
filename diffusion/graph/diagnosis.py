"""Description of the graph of a collection in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..affinity import Affinity, Context
from ..confidence import confidence_of, signs_of
from .graph import Graph

# Number of nearest neighbours among which hubs and departures are counted.
_NEAREST = 10

# Largest numbers of items sampled: for the shares of the lists, the departure, the confidence.
_SAMPLE, _COMPARED, _ASKED = 1_000_000, 10_000, 1_000


@dataclass(frozen=True)
class Diagnosis:
    """Description of a collection's graph; `str` puts it in words.

    None of these numbers predicts how much re-ranking improves a ranking: choosing parameters by
    such numbers was tried and did not work. They show where to look when it does not improve.
    `confidence` does not tell on which collections queries get worse: in the table of ``python -m
    bench confidence``, predictions from the other 43 collections are wrong by 10.6 points of 100 on
    average, and the mean share of these collections, a constant, by 10.3.

    Attributes
    ----------
    n_items : int
        Number of nodes: of items, of which those with the same vector count once.
    edges_per_item : float
        Mean number of neighbours in the graph.
    isolated : float in [0, 1]
        Share of the items that have no edge.
    n_components : int
        Number of connected components, not counting isolated items.
    largest_component : float in [0, 1]
        Share of the items in the largest component.
    reciprocal : float in [0, 1] or None
        Share of the listed neighbours that list the item back. This and the following attributes
        are None if the affinity keeps no neighbour lists, that is, unless it is `Context`.
    listed_by_none : float in [0, 1] or None
        Share of the items that are not among the ten nearest neighbours of any other item.
    hub_places : float in [0, 1] or None
        Share of the entries in all lists of ten nearest neighbours that refer to the most
        frequently listed 1 % of the items. It is 0.01 if all items are listed equally often.
    largest_hub : float in [0, 1] or None
        Share of the lists of ten that contain the most frequently listed item.
    departure : float in [0, 1] or None
        Share of an item's ten nearest neighbours that are not among its ten most similar items by
        contextual affinity.
    confidence : float in [0, 1] or None
        Estimated share of queries that do not lose more than one point of average precision by
        re-ranking: the mean confidence (`Report.confidence`) of the items as queries.
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
    confidence: float | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.edges_per_item:.1f} edges per item on average.",
            f"{_percent(self.isolated)} of the items are isolated: diffusion does not reach them, "
            "and they are ranked by their first-stage score.",
            f"{self.n_components} components, the largest with "
            f"{_percent(self.largest_component)} of the items: diffusion adds only items that are "
            "connected with the neighbours of the query.",
        ]
        if self.reciprocal is not None:
            lines.append(
                f"{_percent(self.reciprocal)} of the listed neighbours list the item back: the "
                "neighbourhoods that are compared consist of these."
            )
        if self.hub_places is not None:
            lines.append(
                f"{_percent(self.hub_places)} of the entries in the lists of the ten nearest "
                "neighbours refer to 1 % of the items (hubs), "
                f"{_percent(self.largest_hub)} of the lists contain the same item, and "
                f"{_percent(self.listed_by_none)} of the items are in no list: hubs are near many "
                "unrelated items, and items in no list are hard to find."
            )
        if self.departure is not None:
            lines.append(
                f"{_percent(self.departure)} of an item's ten nearest neighbours are not among its "
                "ten most similar items by contextual affinity: this tells how much re-ranking "
                "changes, not whether it improves the ranking."
            )
        if self.confidence is not None:
            lines.append(
                f"About {_percent(round(1 - self.confidence, 2))} of queries like the items may "
                "lose more than a point of average precision by re-ranking. This estimate, made "
                "without labels, is wrong by about 10 points; `cautious` avoids about a third of "
                "such losses at the cost of part of the gain."
            )
        return "\n".join(lines)


def _percent(share: float | None) -> str:
    assert share is not None
    return f"{100 * share:.3g} %"


def diagnose(graph: Graph, affinity: Affinity) -> Diagnosis:
    """Describe a graph and, for the contextual affinity, the lists from which it was built.

    Hubs are counted in up to a million lists, the departure in up to 10,000, and the confidence
    is that of up to 1,000 items, all evenly spaced.

    Parameters
    ----------
    graph : Graph
    affinity : Affinity
        The affinity with which the graph was built.

    Returns
    -------
    Diagnosis
    """
    n = graph.n_nodes
    sizes = graph.component_sizes
    lists: dict[str, float] = {}
    if isinstance(affinity, Context):
        ids, mutual = affinity.lists(slice(None, None, -(-n // _SAMPLE)))
        nearest = ids[:, :_NEAREST]
        counts = np.flip(np.sort(np.bincount(nearest[nearest >= 0], minlength=n)))
        places = max(1, int(counts.sum()))
        compared = np.arange(0, n, -(-n // _COMPARED))
        lists = {
            "reciprocal": float(np.mean(mutual[ids >= 0])) if (ids >= 0).any() else 1.0,
            "listed_by_none": float(np.mean(counts == 0)),
            "hub_places": float(int(counts[: -(-n // 100)].sum()) / places),
            "largest_hub": int(counts[0]) / len(ids),
            "departure": affinity.departure(compared, _NEAREST),
            **_confidence(affinity, n),
        }
    return Diagnosis(
        n_items=n,
        edges_per_item=2 * graph.n_edges / n,
        isolated=graph.n_isolated / n,
        n_components=graph.n_components - graph.n_isolated,
        largest_component=float(sizes.max() / n),
        **lists,
    )


def _confidence(affinity: Context, n: int) -> dict[str, float]:
    """Return the mean confidence of items as queries, if their lists were kept."""
    items = np.arange(0, n, -(-n // _ASKED))
    lists = affinity.scored_lists(items)
    if lists is None:
        return {}
    first = lists[0], lists[1].astype(np.int64)
    signs = signs_of(affinity.observe(*first, 1), *first, n, itself=items)
    return {} if signs is None else {"confidence": float(confidence_of(signs).mean())}
