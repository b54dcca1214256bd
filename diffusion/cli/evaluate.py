"""The verb `evaluate`: from result lists and the truth to figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..errors import DiffusionError
from ..storage import read_array, runs
from ..validation import check_integer
from .command import Verbs, say
from .files import named, print_facts

_KEYS = """\
The figures, by the names that --json uses as keys: "queries"; "queries with relevant items", over
which all means are taken; "queries without results", which count as 0; "longest list"; "mAP" and
"mAP (trapezoidal)"; "mP@K" and "recall@K" for each K of --at. If the lists are cut, so that
relevant items are missing, "mAP@L" and "mAP@L (trapezoidal)" take the place of the mAP, where L is
the longest list. A TREC run is ordered by score, as trec_eval does, and may have names for queries
and items if --qrels has the same. So may an .npz file for items, whose queries are row numbers."""


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
    evaluate.epilog = _KEYS


def _evaluate(options: argparse.Namespace) -> None:
    labels = (options.gallery_labels, options.query_labels)
    if (options.qrels is None) == (None in labels) or (options.qrels is not None and any(labels)):
        raise DiffusionError(
            "--qrels, or --gallery-labels and --query-labels: expected one of them"
        )
    ids, hits, relevant, missing = _judge(options)
    if not (relevant > 0).any():
        raise DiffusionError(f"{options.results}: expected a query with something relevant to find")
    longest, lacking = int((ids >= 0).sum(axis=1).max()), int((relevant - hits.sum(axis=1)).sum())
    cut = f"@{longest}" if lacking else ""
    figures = {
        f"mAP{cut}": metrics.average_precision(hits, relevant),
        f"mAP{cut} (trapezoidal)": metrics.trapezoidal_average_precision(hits, relevant),
    }
    for k in options.at:
        check_integer(k, "--at", low=1)
        figures[f"mP@{k}"] = metrics.precision_at(hits, relevant, k)
        figures[f"recall@{k}"] = metrics.recall_at(hits, relevant, k)
    means = {name: float(np.nanmean(values)) for name, values in figures.items()}
    summary = {
        "queries": len(ids),
        "queries with relevant items": int((relevant > 0).sum()),
        "queries without results": missing,
        "longest list": longest,
    }
    if cut:
        say(
            "diffusion",
            f"note: the lists are cut at {longest} results and lack {lacking} of "
            f"{relevant.sum()} relevant items, which count as not found: mAP{cut} is lower than "
            "the mAP of full rankings",
        )
    print_facts({**summary, **means}, options.json)


def _judge(
    options: argparse.Namespace,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int]:
    """Return the ranked ids, their hits, the numbers of relevant items, and of missing queries."""
    is_run = Path(options.results).suffix != ".npz"
    of_names = not is_run and runs.read_results(options.results)[1].dtype.kind == "U"
    if (is_run or of_names) and options.qrels is not None:
        judged = runs.read_judged(options.results, options.qrels)
        hits = metrics.hits_from_lists(judged.ids, judged.relevant, judged.junk)
        return judged.ids, *hits, judged.missing
    scores, ids = runs.read_results(options.results)
    if is_run:
        ids = np.take_along_axis(ids, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    files: Any = {
        "ids": options.results,
        "gallery_labels": options.gallery_labels,
        "query_labels": options.query_labels,
    }
    with named(**files):
        if options.qrels is not None:
            truth = runs.read_qrels(options.qrels, len(ids))
            hits = metrics.hits_from_lists(ids, *truth)
        else:
            labels = map(read_array, (options.gallery_labels, options.query_labels))
            hits = metrics.hits_from_labels(ids, *labels)
    empty = (ids < 0).all(axis=1) & (hits[1] > 0)
    return ids, *hits, int(empty.sum())
