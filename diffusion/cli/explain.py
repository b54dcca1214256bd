"""The verb `explain`: why an item stands where it does."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DiffusionError
from ..reranker import load
from ..storage import read_array, runs
from .command import Verbs
from .files import named, print_facts, print_text


def add_verbs(verbs: Verbs) -> None:
    """Add `explain`."""
    explain = verbs.add("explain", _explain, "Explain the place of an item in a ranking.")
    explain.add_argument("index", metavar="INDEX")
    explain.add_argument(
        "queries",
        metavar="QUERIES",
        help=".npy with query vectors, or first-stage results as `diffusion rerank` takes them",
    )
    explain.add_argument("id", metavar="ID", help="id of the item")
    explain.add_argument(
        "--query", type=int, metavar="N", help="number of the query in QUERIES, if it holds several"
    )
    explain.add_argument("--chains", type=int, default=3, metavar="N", help="default %(default)s")
    explain.add_argument("--json", action="store_true", help="print JSON")


def _explain(options: argparse.Namespace) -> None:
    ranker = load(options.index)
    of_names = ranker.fitted().items.named
    vectors = Path(options.queries).suffix == ".npy"
    if vectors:
        queries = read_array(options.queries)
        queries = queries if queries.ndim == 2 else queries[None]
        count = len(queries)
    else:
        scores, ids = runs.read_results(options.queries, names=of_names)
        count = len(ids)
    row = _row(options, count)
    with named(q=options.queries, Q=options.queries, hits=options.queries):
        explanation = ranker.explain(
            queries[row] if vectors else None,
            options.id if of_names else _as_id(options.id),
            hits=None if vectors else (scores[row], ids[row]),
            n_chains=options.chains,
        )
    if options.json:
        print_facts(explanation.as_dict(), as_json=True)
    else:
        print_text(str(explanation))


def _row(options: argparse.Namespace, count: int) -> int:
    """Return the number of the query among those of the file."""
    if options.query is None and count == 1:
        return 0
    if options.query is None or not 0 <= options.query < count:
        raise DiffusionError(
            f"--query: expected the number of a query in {options.queries}, from 0 to {count - 1}, "
            f"got {options.query}"
        )
    return int(options.query)


def _as_id(text: str) -> int | str:
    """Return an id as an index has it."""
    try:
        return int(text)
    except ValueError:
        return text
