"""Plain search, diffusion with the papers' settings and with the defaults, on many collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def survey(collections: Makers | None = None) -> Table:
    """Rank every collection by cosine, by diffusion with k = 50 and α = 0.99, and by the defaults.

    Parameters
    ----------
    collections : sequence of callables that return a Collection, optional
        By default `synthetic.everything()`.

    Returns
    -------
    Table
        Class mAP of full rankings in percent: a row per collection, and a row of means.
    """
    heads: list[list[str | int | None]] = []
    figures = []
    makers = everything() if collections is None else collections
    for make in tqdm(makers, desc="survey", unit="collection"):
        collection = make()
        labels, sizes = np.unique(collection.gallery_labels, return_counts=True)
        asked = np.isin(labels, collection.query_labels)
        heads.append([collection.name, len(collection.gallery), int(np.median(sizes[asked]))])
        figures.append(_figures(collection))
    values = np.array(figures)
    papers, default = (int((values[:, column] < values[:, 0]).sum()) for column in (1, 2))
    heads.append([f"mean; {default} of {len(makers)} below cosine", None, None])
    return Table(
        "**Survey**, class mAP",
        (
            "collection",
            "items",
            "images per class",
            "cosine",
            "cosine diffusion",
            "defaults",
            "gain over cosine",
            "queries that lose, %",
        ),
        [
            [*head, *(round(float(figure), 1) for figure in row)]
            for head, row in zip(heads, [*values, values.mean(axis=0)], strict=True)
        ],
        [
            "images per class: the median in the gallery over the classes of the queries. "
            f"cosine diffusion: affinity = cosine, k = 50, α = 0.99; {papers} of {len(makers)} "
            "below cosine. defaults: Reranker(). queries that lose: share of the queries that lose "
            "more than one point of AP with the defaults. No query is in a graph."
        ],
    )


def _figures(collection: Collection) -> tuple[float, ...]:
    """Return the mAP of the three rankings, the gain, and the percentage of queries that lose."""
    X, Q = collection.gallery, collection.queries
    n = len(X)

    def precision(ids: NDArray[np.int64]) -> NDArray[np.float64]:
        return 100 * precision_of(ids, collection.gallery_labels, collection.query_labels)

    plain = precision(expansion.search(expansion.normalize(Q), expansion.normalize(X), n)[1])
    papers = precision(diffusion.Reranker(affinity="cosine").fit(X).search(Q, n)[1])
    default = precision(diffusion.Reranker().fit(X).search(Q, n)[1])
    means = [float(np.nanmean(values)) for values in (plain, papers, default)]
    return (*means, means[2] - means[0], 100 * float(np.mean(default < plain - 1)))
