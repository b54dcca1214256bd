"""The benchmark `tune`: what parameters chosen from ten labelled queries gain on other queries.

The settings are compared on all queries of a collection once. A choice depends on the figures of
the labelled queries alone, so that it is then made for many draws of ten of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion import Reranker
from diffusion.tuning import Choice, Labelled, choose, judged

from ..data.collections import Collection
from ..data.synthetic import everything
from ..quality.survey import Makers
from ..table import Table, show

# Labelled queries per draw, and draws.
LABELLED, DRAWS = 10, 20

COLUMNS = (
    "collection",
    "items",
    "defaults, mAP",
    "most that a setting gains",
    "gain, mean",
    "quartile 1",
    "median",
    "quartile 3",
    "worst draw",
    "kept, %",
    "expected gain",
    "in its interval, %",
)

_NOTE = (
    f"{DRAWS} draws of {LABELLED} labelled queries from each collection; gains over Reranker() in "
    "points of mAP of full rankings of the other queries. most that a setting gains: the best of "
    "all settings, by all queries. kept: draws that kept the defaults. expected gain and in its "
    "interval: what `tune` reports of the draws that changed them, and how often the gain was in "
    "the reported interval."
)


class Draw(NamedTuple):
    """What came of a choice.

    Attributes
    ----------
    choice : Choice
    gain : float
        Mean over the queries that were not labelled.
    """

    choice: Choice
    gain: float

    @property
    def held(self) -> bool:
        """Whether the reported interval has the gain."""
        low, high = self.choice.interval
        return low <= self.gain <= high


def run(
    *,
    labelled: int = LABELLED,
    draws: int = DRAWS,
    collections: Makers | None = None,
) -> list[Table]:
    """Choose parameters for every collection of the survey, draw by draw."""
    heads, figures = [], []
    makers = everything() if collections is None else collections
    for make in tqdm(makers, desc="tune", unit="collection"):
        collection = make()
        table = precisions(collection)
        gains = table - table[0]
        drawn = [draw(table, labelled, seed) for seed in range(draws)]
        heads.append([collection.name, len(collection.gallery)])
        figures.append([table[0].mean(), gains.mean(axis=1).max(), *_figures(drawn)])
    values = np.array(figures)
    lowest = values[:, COLUMNS.index("gain, mean") - 2].min()
    heads.append([f"mean; the lowest mean gain is {lowest:.2f}", None])
    rows = [
        [*head, *(None if np.isnan(figure) else round(float(figure), 2) for figure in row)]
        for head, row in zip(heads, [*values, np.nanmean(values, axis=0)], strict=True)
    ]
    return [show(Table("**Tuning**, class mAP", COLUMNS, rows, [_NOTE]))]


def precisions(collection: Collection) -> NDArray[np.float64]:
    """Return the average precision of every setting for every query, the defaults in row 0."""
    labels, n = collection.gallery_labels, len(collection.gallery)
    asked = np.isin(collection.query_labels, labels)
    relevant = [np.flatnonzero(labels == label) for label in collection.query_labels[asked]]
    # For rankings of all items, which "auto" finds in several times the time.
    ranker = Reranker(solver="cg").fit(collection.gallery)
    queries = collection.queries[asked]
    return judged(Labelled.of(ranker, queries, relevant, None, complete=True, k=n)).table


def draw(table: NDArray[np.float64], labelled: int, seed: int) -> Draw:
    """Choose a setting from some queries, drawn at random, and measure it on the others."""
    order = np.random.default_rng(seed).permutation(table.shape[1])
    choice = choose(table[:, order[:labelled]])
    others = order[labelled:]
    return Draw(choice, float((table[choice.best, others] - table[0, others]).mean()))


def _figures(drawn: list[Draw]) -> list[float]:
    gains = np.array([one.gain for one in drawn])
    changed = [one for one in drawn if one.choice.best]
    return [
        gains.mean(),
        *np.quantile(gains, (0.25, 0.5, 0.75)),
        gains.min(),
        100 * (1 - len(changed) / len(drawn)),
        float(np.mean([one.choice.gain for one in changed])) if changed else np.nan,
        100 * float(np.mean([one.held for one in changed])) if changed else np.nan,
    ]
