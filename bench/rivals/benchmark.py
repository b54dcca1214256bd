"""The benchmark `rivals`: published methods beside the defaults, in the mean of the survey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.synthetic import everything
from ..quality.methods import METHODS, Method
from ..quality.survey import COLLECTION_WORSE, Makers, Preparation, below_cosine, compared
from ..table import Table, show
from . import c_crf, cheb_gr, lpmt


@dataclass(frozen=True)
class Rival:
    """A method, and the settings of it of which the best one is looked for.

    Attributes
    ----------
    method : Method
    settings : list of dict
        Keyword arguments of the rival's `rank`; none for a method that is run as published only.
    module : module, optional
        The rival's module, if there are settings.
    """

    method: Method
    settings: Sequence[dict[str, Any]] = ()
    module: ModuleType | None = None

    def preparations(self) -> list[Preparation]:
        """Return the published setting and those of the grid, as `compared` takes them."""
        if self.module is None:
            return [self.method.prepare]
        tried = [partial(partial, partial(self.module.rank, **each)) for each in self.settings]
        return [self.method.prepare, *tried]


def settings_of(module: ModuleType) -> list[dict[str, Any]]:
    """Return all combinations of the values in the grid of a rival."""
    values = product(*module.GRID.values())
    return [dict(zip(module.GRID, chosen, strict=True)) for chosen in values]


def field() -> list[Rival]:
    """Return all methods but plain search, and DQE, which trains a classifier for each query."""
    modules = {"Cheb-GR": cheb_gr, "C-CRF": c_crf, "LPMT": lpmt}
    rivals = []
    for method in METHODS:
        name = method.name.split(" ")[0]
        if name in modules:
            rivals.append(Rival(method, settings_of(modules[name]), modules[name]))
        elif name not in ("cosine", "DQE"):
            rivals.append(Rival(method))
    return rivals


def run(collections: Makers | None = None, rivals: Sequence[Rival] | None = None) -> list[Table]:
    """Rank all collections of the survey with every method.

    By default the collections are those of `everything`, and the methods those of `field`. The best
    setting of a grid is the one with the highest mean mAP over all the collections: one setting for
    all of them. It is chosen with the labels on which it is judged.
    """
    makers = everything() if collections is None else collections
    rivals = field() if rivals is None else rivals
    preparations = [rival.preparations() for rival in rivals]
    every = [prepare for group in preparations for prepare in group]
    figures = np.array(
        [compared(make(), every) for make in tqdm(makers, desc="rivals", unit="collection")]
    )
    means, below = figures.mean(axis=0), below_cosine(figures)
    rows: list[list[Any]] = [["cosine", round(float(means[0]), 1), 0.0, 0, None, None, "no"]]
    first = 0
    for rival, group in zip(rivals, preparations, strict=True):
        best, setting = None, None
        mAP, lose = means[1::2], means[2::2]
        if len(group) > 1:
            chosen = int(np.argmax(mAP[first + 1 : first + len(group)]))
            best = round(float(mAP[first + 1 + chosen]), 1)
            setting = ", ".join(f"{key}={value}" for key, value in rival.settings[chosen].items())
        rows.append(
            [
                rival.method.name,
                round(float(mAP[first]), 1),
                round(float(lose[first]), 1),
                below[first],
                best,
                setting,
                "yes" if rival.method.queries_in_graph else "no",
            ]
        )
        first += len(group)
    return [show(_table(len(makers), rows))]


def _table(count: int, rows: list[list[Any]]) -> Table:
    return Table(
        f"**Rivals**, means over the {count} collections of the survey",
        ("method", "mAP", "lose, %", "below cosine", "best mAP", "its setting", "queries in graph"),
        rows,
        [
            "mAP: class mAP of full rankings, at the settings in the first column. lose: share of "
            "the queries that lose more than one point of AP against cosine. below cosine: number "
            f"of collections whose mAP is more than {COLLECTION_WORSE} below that of cosine. best "
            "mAP: the highest mean of a grid of settings, chosen on these collections with their "
            "labels; the other columns know no labels."
        ],
    )
