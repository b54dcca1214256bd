"""The verb `evaluate`: from result lists and the truth to figures."""

from __future__ import annotations

import argparse

import numpy as np

from .. import metrics
from ..errors import DiffusionError
from ..storage import read_array, runs
from ..validation import check_integer
from .command import Verbs
from .files import named, print_facts


def add_verbs(verbs: Verbs) -> None:
    """Add `evaluate`."""
    evaluate = verbs.add("evaluate", _evaluate, "Score result lists against the truth.")
    evaluate.add_argument(
        "results", metavar="RESULTS", help=".npz with scores and ids, or a TREC run"
    )
    evaluate.add_argument(
        "--qrels", metavar="FILE", help="TREC qrels; items with a relevance below 0 are junk"
    )
    evaluate.add_argument("--gallery-labels", metavar="FILE.npy", help="(n,) array")
    evaluate.add_argument("--query-labels", metavar="FILE.npy", help="(nq,) array")
    evaluate.add_argument("--at", type=int, nargs="+", default=[1, 5, 10], metavar="K")
    evaluate.add_argument("--json", action="store_true", help="print JSON")


def _evaluate(options: argparse.Namespace) -> None:
    labels = (options.gallery_labels, options.query_labels)
    if (options.qrels is None) == (None in labels) or (options.qrels is not None and any(labels)):
        raise DiffusionError(
            "--qrels, or --gallery-labels and --query-labels: expected one of them"
        )
    _, ids = runs.read_results(options.results)
    if options.qrels is not None:
        with named(ids=options.results):
            hits, relevant = metrics.hits_from_lists(ids, *runs.read_qrels(options.qrels, len(ids)))
    else:
        with named(ids=options.results, gallery_labels=labels[0], query_labels=labels[1]):
            hits, relevant = metrics.hits_from_labels(ids, *map(read_array, labels))
    if not (relevant > 0).any():
        raise DiffusionError(f"{options.results}: expected a query with something relevant to find")
    figures = {
        "mAP": metrics.average_precision(hits, relevant),
        "mAP (trapezoidal)": metrics.trapezoidal_average_precision(hits, relevant),
    }
    for k in options.at:
        check_integer(k, "--at", low=1)
        figures[f"mP@{k}"] = metrics.precision_at(hits, relevant, k)
        figures[f"recall@{k}"] = metrics.recall_at(hits, relevant, k)
    means = {name: float(np.nanmean(values)) for name, values in figures.items()}
    summary = {"queries": len(ids), "queries with relevant items": int((relevant > 0).sum())}
    print_facts({**summary, **means}, options.json)
