"""The demo's page: one query before and after diffusion, and the table of all methods."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pages import rendering


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    descriptors, method : str
    mean_ap : float
        Mean average precision in percent.
    milliseconds : float
        Online time per query.
    """

    descriptors: str
    method: str
    mean_ap: float
    milliseconds: float


@dataclass(frozen=True)
class Ranking:
    """The first results of a query by one method.

    Attributes
    ----------
    title : str
    average_precision : float
        In percent, over the full ranking.
    images : ndarray, shape (r, h, w), float
        In [0, 1], best first.
    labels : ndarray, shape (r,), int
    """

    title: str
    average_precision: float
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A query with its results before and after diffusion.

    Attributes
    ----------
    number : int
        The query's number.
    image : ndarray, shape (h, w), float
        In [0, 1].
    label : int
    before, after : Ranking
    """

    number: int
    image: NDArray[np.float32]
    label: int
    before: Ranking
    after: Ranking


@dataclass(frozen=True)
class Gains:
    """Changes in average precision due to diffusion, over all queries.

    Attributes
    ----------
    better, worse : int
        Numbers of queries that improve and that get worse.
    median, largest_loss : float
        In percentage points.
    """

    better: int
    worse: int
    median: float
    largest_loss: float

    @classmethod
    def of(cls, gain: NDArray[np.float64]) -> Gains:
        """Summarise the gains per query, shape (q,), in percentage points."""
        return cls(
            int(np.count_nonzero(gain > 0)),
            int(np.count_nonzero(gain < 0)),
            float(np.median(gain)),
            float(-gain.min()),
        )


def write(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    example: Example,
    *,
    gains: Gains,
    nodes: int,
    graph: str,
    settings: object,
    search: str,
) -> None:
    """Write the page. The file is complete or is not written at all.

    Parameters
    ----------
    path : path-like
    rows : sequence of Row
        Rows of the same descriptors follow each other; the last of them is emphasised.
    example : Example
    gains : Gains
    nodes : int
        Number of nodes in the graph.
    graph : str
        Description of the graph: the numbers of its nodes, edges and components.
    settings : Settings
        Settings of the run.
    search : str
        Address of the page with the results of some queries.
    """
    groups = [(name, list(group)) for name, group in groupby(rows, lambda row: row.descriptors)]
    rendering.write(
        path,
        "features.demo",
        "digits.html",
        groups=groups,
        example=example,
        gains=gains,
        nodes=nodes,
        graph=graph,
        settings=settings,
        search=search,
        ink=ink,
    )


def ink(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels (h, w), uint8, of an image in [0, 1]: 0 becomes white and 1 black."""
    return np.round(255 * (1 - np.clip(image, 0, 1))).astype(np.uint8)
