"""Plain search, diffusion with the papers' settings and with the defaults, on many collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion.baselines import expansion

from ..data.collections import Collection
from ..data.synthetic import everything
from ..measure import precision_of
from ..table import Table

Makers = Sequence[Callable[[], Collection]]
Ids = NDArray[np.int64]
# Takes the gallery (n, d) and returns a function that takes queries (nq, d), L2-normalised both,
# and returns the ids (nq, n) of their full rankings.
Preparation = Callable[[NDArray[np.float32]], Callable[[NDArray[np.float32]], Ids]]

# A query or a collection is worse than cosine below these differences, in points of AP and of mAP.
QUERY_WORSE, COLLECTION_WORSE = 1.0, 0.3


def cosine(X: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], Ids]:
    """Return plain search, as a `Preparation` does."""
    return lambda Q: expansion.search(Q, X, len(X))[1]


def diffused(X: NDArray[np.float32], **parameters: Any) -> Callable[[NDArray[np.float32]], Ids]:
    """Return search by a Reranker of given parameters, as a `Preparation` does."""
    ranker = diffusion.Reranker(**parameters).fit(X)
    return lambda Q: ranker.search(Q, len(X))[1]


def survey(collections: Makers | None = None) -> Table:
    """Rank every collection by cosine, by diffusion with k = 50 and α = 0.99, and by the defaults.

    Parameters
    ----------
    collections : sequence of callables that return a Collection, optional
        By default `synthetic.everything()`.

    Returns
    -------
    Table
        Class mAP of full rankings in percent, and the share of queries that lose: a row per
        collection, a row of means, and a row that counts the collections below cosine.
    """
    makers = everything() if collections is None else collections
    methods: list[Preparation] = [partial(diffused, affinity="cosine"), diffused]
    heads: list[list[str | int | None]] = []
    figures = []
    for make in tqdm(makers, desc="survey", unit="collection"):
        collection = make()
        labels, sizes = np.unique(collection.gallery_labels, return_counts=True)
        asked = np.isin(labels, collection.query_labels)
        heads.append([collection.name, len(collection.gallery), int(np.median(sizes[asked]))])
        figures.append(compared(collection, methods))
    values = np.array(figures)
    heads.append([f"mean of {len(makers)}", None, None])
    rows = [
        [*head, *(round(float(figure), 1) for figure in row), round(float(row[3] - row[0]), 1)]
        for head, row in zip(heads, [*values, values.mean(axis=0)], strict=True)
    ]
    papers, default = below_cosine(values)
    rows.append(["below cosine: collections", None, None, None, papers, None, default, None, None])
    return Table(
        "**Survey**, class mAP",
        (
            "collection",
            "items",
            "per class",
            "cosine",
            "cosine diffusion",
            "lose, %",
            "defaults",
            "lose, %",
            "gain",
        ),
        rows,
        [
            "per class: the median number of items in the gallery over the classes of the queries. "
            "cosine diffusion: affinity = cosine, k = 50, α = 0.99. defaults: Reranker(). lose: "
            "share of the queries that lose more than one point of AP against cosine. gain: of the "
            "defaults over cosine. below cosine: number of collections whose mAP is more than "
            f"{COLLECTION_WORSE} below that of cosine. No query is in a graph."
        ],
    )


def compared(collection: Collection, methods: Sequence[Preparation]) -> list[float]:
    """Return the mAP of cosine, and the mAP and the share of losing queries of each method.

    All are percentages; the queries without a relevant item do not count.
    """
    X, Q = expansion.normalize(collection.gallery), expansion.normalize(collection.queries)

    def precision(prepare: Preparation) -> NDArray[np.float64]:
        labels = collection.gallery_labels, collection.query_labels
        values = 100 * precision_of(prepare(X)(Q), *labels)
        return values[~np.isnan(values)]

    plain = precision(cosine)
    figures = [float(plain.mean())]
    for prepare in methods:
        values = precision(prepare)
        figures.append(float(values.mean()))
        figures.append(100 * float(np.mean(values < plain - QUERY_WORSE)))
    return figures


def below_cosine(figures: NDArray[np.float64]) -> list[int]:
    """Count for each method the rows of `compared` in which its mAP is below that of cosine."""
    means = figures[:, 1::2]
    return [int(n) for n in (means < figures[:, :1] - COLLECTION_WORSE).sum(axis=0)]
