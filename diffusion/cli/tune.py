"""The verb `tune`: parameters of an index from labelled queries."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..storage import runs
from .command import Verbs, report
from .files import named, print_facts, print_text
from .update import of_kind, opened

_FILES = """\
QUERIES is a .npy file of vectors (nq, d) of queries from outside of the collection; or ids of items
of it, as `build --ids` takes them; or, for an index without vectors, an .npz file of first-stage
results as `rerank` takes it. RELEVANT has TREC qrels, lines of "query 0 item relevance", where
queries are row numbers of QUERIES and items with a relevance above 0 are relevant; or it is a .npy
file with the id of a relevant item for each query, (nq,), or several, (nq, m), padded with -1.
The index is written anew if other parameters are better."""


def add_verbs(verbs: Verbs) -> None:
    """Add `tune`."""
    tune = verbs.add("tune", _tune, "Choose the parameters of an index from labelled queries.")
    tune.add_argument("index", metavar="INDEX")
    tune.add_argument("queries", metavar="QUERIES", help="at least two; ten are often enough")
    tune.add_argument("relevant", metavar="RELEVANT", help="the relevant items of each query")
    tune.add_argument(
        "--incomplete",
        action="store_true",
        help="the relevant items are some of many, such as clicks",
    )
    tune.add_argument("-k", type=int, help="length of the rankings (default: 1000)")
    tune.add_argument("--dry-run", action="store_true", help="do not write the index")
    tune.add_argument("--json", action="store_true", help="print all settings as JSON")
    tune.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    tune.epilog = _FILES


def _tune(options: argparse.Namespace) -> None:
    ranker = opened(options)
    names = ranker.fitted().items.named
    asked: dict[str, Any]
    if Path(options.queries).suffix == ".npz":
        scores, ids = runs.read_results(options.queries, names=names)
        asked, count = {"hits": (scores, ids)}, len(ids)
    else:
        queries = of_kind(ranker, runs.read_ids(options.queries))
        asked, count = {"queries": queries}, len(queries)
    if Path(options.relevant).suffix == ".npy":
        relevant: Any = runs.read_ids(options.relevant)
    else:
        relevant = runs.read_qrels(options.relevant, count, names=names)[0]
    files = dict.fromkeys(("Q", "queries", "scores0", "ids0"), options.queries)
    with named(**files, relevant=options.relevant):
        tuning = ranker.tune(
            relevant=relevant, complete=not options.incomplete, k=options.k, **asked
        )
    if options.json:
        facts = asdict(tuning)
        del facts["parameters"]  # those of `after` that are not those of `before`
        print_facts(_plain(facts), True)
    else:
        print_text(str(tuning))
    if tuning.parameters and not options.dry_run:
        ranker.save(options.index)
        if not options.json:
            report(f"{options.index}: written anew; {ranker.graph_}")


def _plain(value: Any) -> Any:
    """Return what `asdict` has made with dictionaries in place of named tuples."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
