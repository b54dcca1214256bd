"""The benchmark `confidence`: predicted and actual losses, their price, and the cut of results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion.baselines import expansion
from diffusion.confidence import signs_of

from ..data.collections import Collection
from ..data.synthetic import everything
from ..measure import precision_of
from ..quality.survey import QUERY_WORSE, Makers
from ..table import Table, show

Values = NDArray[np.float64]

# The bins of the predicted risk in the table of the calibration.
_BINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0)

# The cuts that the number of relevant results is compared with.
_FIXED, _NEAR = 10, 0.9


class Measured(NamedTuple):
    """Figures of one collection; average precisions are in percent."""

    name: str
    n_items: int
    first: Values  # (nq,) AP of the first stage
    default: Values  # (nq,) AP of the defaults
    cautious: Values  # (nq,) AP of the cautious ranking
    confidence: Values  # (nq,) of the library
    signs: Values  # (nq, 2) what it is computed from
    cuts: dict[str, Values]  # (nq, 3) precision and recall of a cut, and its ratio to the class

    def lost(self) -> NDArray[np.bool_]:
        """Return which queries lose more than a point with the defaults."""
        return self.default < self.first - QUERY_WORSE


def run(collections: Makers | None = None) -> list[Table]:
    """Measure collections, by default those of the survey, and fit the model of the confidence."""
    makers = everything() if collections is None else collections
    measured = [measure(make()) for make in tqdm(makers, desc="confidence", unit="collection")]
    held_out = [
        risk(fit([other for other in measured if other is not one]), one.signs) for one in measured
    ]
    tables = (losses(measured, held_out), calibration(measured, held_out), extents(measured))
    return [show(table) for table in tables]


def measure(collection: Collection) -> Measured:
    """Rank a collection by its first stage, by the defaults, and cautiously."""
    X, Q, n = collection.gallery, collection.queries, len(collection.gallery)
    labels, asked = collection.gallery_labels, collection.query_labels
    scores, plain = expansion.search(expansion.normalize(Q), expansion.normalize(X), n)
    ranker = diffusion.Reranker().fit(X)
    found = ranker.search(Q, n)[1]
    report = ranker.report_
    assert report.confidence is not None
    assert report.relevant is not None
    fitted = ranker.fitted()
    lists, observed = fitted.first_stage(Q, 100, query_k=ranker.query_k, progress=False)
    observation = fitted.affinity.observe(*observed, ranker.query_k)
    signs = signs_of(observation, *lists, fitted.graph.n_nodes)
    assert signs is not None
    careful = ranker.set_params(cautious=True).search(Q, n)[1]
    first, default, cautious = (
        100 * precision_of(ids, labels, asked) for ids in (plain, found, careful)
    )
    real = np.isfinite(first)  # a query without an item of its class has no precision
    near = np.count_nonzero(scores > _NEAR * scores[:, :1], axis=1)
    cuts = {
        "report_.relevant": _cut(found, report.relevant, labels, asked),
        f"the first {_FIXED}": _cut(found, np.full(len(Q), _FIXED), labels, asked),
        f"first stage, {_NEAR} of the best score": _cut(plain, near, labels, asked),
    }
    return Measured(
        collection.name,
        n,
        first[real],
        default[real],
        cautious[real],
        report.confidence[real].astype(np.float64),
        signs[real],
        {name: values[real] for name, values in cuts.items()},
    )


def _cut(
    ids: NDArray[np.int64], lengths: NDArray[np.int64], labels: NDArray[Any], asked: NDArray[Any]
) -> Values:
    """Return precision and recall of the first results, and their number over the class size."""
    relevant = labels[ids] == asked[:, None]
    lengths = np.clip(lengths, 1, ids.shape[1])
    hits = np.take_along_axis(np.cumsum(relevant, axis=1), lengths[:, None] - 1, axis=1)[:, 0]
    sizes = np.maximum(1, relevant.sum(axis=1))
    return np.stack([hits / lengths, hits / sizes, lengths / sizes], axis=1)


def fit(measured: Sequence[Measured]) -> Values:
    """Return the model (3,) that maximises the likelihood; collections have the same weight.

    Its logit is that of not losing: a constant and the weights of the signs. Newton's method.
    """
    signs = np.concatenate([one.signs for one in measured])
    kept = np.concatenate([~one.lost() for one in measured]).astype(np.float64)
    weights = np.concatenate([np.full(len(one.signs), 1 / len(one.signs)) for one in measured])
    A = np.column_stack([np.ones(len(signs)), signs])
    model = np.zeros(A.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(A @ model)))
        # A millionth of a prior, for collections in which every query or none loses.
        gradient = A.T @ (weights * (kept - p)) - 1e-6 * model
        hessian = (A.T * (weights * p * (1 - p))) @ A + 1e-6 * np.eye(len(model))
        step = np.linalg.solve(hessian, gradient)
        model += step
        if np.abs(step).max() < 1e-9:
            break
    return model


def risk(model: Values, signs: Values) -> Values:
    """Return the probability of losing that a model gives."""
    return 1 / (1 + np.exp(model[0] + signs @ model[1:]))


def losses(measured: Sequence[Measured], held_out: Sequence[Values]) -> Table:
    """Return who loses by the defaults and cautiously, at what price, and what was predicted."""
    heads: list[list[str | int | None]] = []
    figures: list[list[float]] = []
    for one, other in zip(measured, held_out, strict=True):
        least = one.first - QUERY_WORSE
        share = [100 * float(np.mean(ap < least)) for ap in (one.default, one.cautious)]
        means = [float(ap.mean()) for ap in (one.first, one.default, one.cautious)]
        predicted = [100 * float(1 - one.confidence.mean()), 100 * float(other.mean())]
        heads.append([one.name, one.n_items])
        figures.append([*means, *share, *predicted])
    heads.append(["mean", None])
    figures.append(np.mean(figures, axis=0).tolist())
    model = ", ".join(f"{value:.2f}" for value in fit(measured))
    return Table(
        "**Losses**",
        (
            "collection",
            "items",
            "first stage",
            "defaults",
            "cautious",
            "lose, %",
            "lose, cautious, %",
            "predicted, %",
            "predicted from the others, %",
        ),
        [[*head, *values] for head, values in zip(heads, figures, strict=True)],
        [
            "Class mAP; share of queries that lose more than a point of AP against the first "
            f"stage. The model fitted to these collections (`diffusion.confidence`): {model}."
        ],
    )


def calibration(measured: Sequence[Measured], held_out: Sequence[Values]) -> Table:
    """Return the predicted and the actual share of losing queries by predicted risk."""
    predicted = np.concatenate(held_out)
    lost = np.concatenate([one.lost() for one in measured])
    weights = np.concatenate([np.full(len(one.signs), 1 / len(one.signs)) for one in measured])
    bins = np.digitize(predicted, _BINS[1:-1])
    rows = []
    for number, (low, high) in enumerate(pairwise(_BINS)):
        here = bins == number
        if here.any():
            shares = [float(np.average(v[here], weights=weights[here])) for v in (predicted, lost)]
            part = float(weights[here].sum() / weights.sum())
            rows.append([f"{low:g} to {high:g}", *(round(100 * v, 1) for v in (part, *shares))])
    return Table(
        "**Calibration**",
        ("predicted risk", "queries, %", "predicted, %", "actual, %"),
        rows,
        ["Each collection by the model of the others; collections have the same weight."],
    )


def extents(measured: Sequence[Measured]) -> Table:
    """Return precision, recall and size of the cuts: for each collection ours, and the means."""
    rows: list[list[str | float]] = []
    means: dict[str, list[list[float]]] = {}
    for one in measured:
        for name, values in one.cuts.items():
            precision, recall, ratio = values.T
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            figures = [100 * float(v.mean()) for v in (precision, recall, f1)]
            figures.append(float(np.median(ratio)))
            means.setdefault(name, []).append(figures)
        rows.append([one.name, *means["report_.relevant"][-1]])
    for name, all_figures in means.items():
        values = np.array(all_figures)
        typical = float(np.exp(np.log(values[:, 3]).mean()))
        rows.append([f"mean: {name}", *values[:, :3].mean(axis=0).tolist(), typical])
    return Table(
        "**How many are real**: `report_.relevant` against the classes",
        ("collection", "precision, %", "recall, %", "F1, %", "median ratio to the class"),
        rows,
        ["The mean of the ratios is geometric."],
    )
