"""The verbs `search` and `rerank`: from queries or first-stage results to result lists."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DiffusionError
from ..reranker import Reranker, load
from ..storage import read_array, runs
from .command import Verbs
from .files import named


def add_verbs(verbs: Verbs) -> None:
    """Add `search` and `rerank`."""
    search = verbs.add("search", _search, "Search an index for query vectors.")
    search.add_argument("index", metavar="INDEX")
    search.add_argument("queries", nargs="?", metavar="QUERIES.npy", help="(nq, d) or (d,) array")
    # These have moved to `features search`; they are still parsed to say so.
    search.add_argument("--image", nargs="+", help=argparse.SUPPRESS)
    search.add_argument("--weights", help=argparse.SUPPRESS)

    rerank = verbs.add("rerank", _rerank, "Re-rank the first-stage results of any search engine.")
    rerank.add_argument("index", metavar="INDEX")
    rerank.add_argument(
        "results", metavar="RESULTS", help=".npz with scores and ids, or a TREC run"
    )
    rerank.add_argument(
        "--restrict-to-candidates",
        action="store_true",
        help="only reorder the candidates; bring in no other items",
    )
    for verb in (search, rerank):
        verb.add_argument(
            "--cautious",
            action="store_true",
            help="stay near the first stage where re-ranking may lose against it",
        )
        verb.add_argument("-k", type=int, default=100, help="results per query (%(default)s)")
        verb.add_argument(
            "-o",
            "--output",
            metavar="FILE",
            help=".npz, or any other name for a TREC run (default: a TREC run on stdout)",
        )
        verb.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def _search(options: argparse.Namespace) -> None:
    if options.image or options.weights:
        raise DiffusionError(
            "--image, --weights: photos are searched for by `features search INDEX PHOTO...`"
        )
    _check_output(options)
    if options.queries is None:
        raise DiffusionError("QUERIES.npy: expected a file")
    ranker = _loaded(options)
    with named(Q=options.queries):
        _write(options, *ranker.search(read_array(options.queries), options.k))


def _rerank(options: argparse.Namespace) -> None:
    _check_output(options)
    ranker = _loaded(options)
    names = ranker.fitted().items.named
    scores, ids = runs.read_results(options.results, names=names)
    with named(scores0=options.results, ids0=options.results):
        results = ranker.rerank(
            scores, ids, options.k, restrict_to_candidates=options.restrict_to_candidates
        )
    _write(options, *results)


def _loaded(options: argparse.Namespace) -> Reranker:
    ranker = load(options.index).set_params(progress=not options.quiet)
    return ranker.set_params(cautious=True) if options.cautious else ranker


def _check_output(options: argparse.Namespace) -> None:
    """Report before the work starts an output file that could not be written after it."""
    if options.output is not None:
        path = Path(options.output).absolute()
        if not options.output or path.is_dir() or not path.parent.is_dir():
            raise DiffusionError(
                f"-o {options.output!r}: expected a file in a directory that exists"
            )


def _write(options: argparse.Namespace, scores: Any, ids: Any) -> None:
    scores, ids = np.atleast_2d(scores), np.atleast_2d(ids)
    if options.output is None:
        sys.stdout.writelines(runs.run_lines(scores, ids))
    else:
        runs.write_results(options.output, scores, ids)
