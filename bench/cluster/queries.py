"""Queries of an index that is opened from disk: milliseconds, pages and memory.

    python -m bench.cluster.queries INDEX HITS.npz

`HITS.npz` has the first-stage lists of queries, `scores0` and `ids0`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion import Reranker
from diffusion.fitted import first_stage_of
from diffusion.index_state import open_state

from ..measure import timed
from ..table import Table, show
from . import pages

# Arrays of at least this many pages on the average are listed in the table.
_LISTED = 1.0

Figures = dict[str, Any]


def measure_queries(
    path: str | os.PathLike[str],
    scores0: ArrayLike,
    ids0: ArrayLike,
    *,
    k: int = 100,
    cold: int | None = None,
) -> Figures:
    """Measure queries of an index in a process of their own, one at a time.

    Parameters
    ----------
    path : path-like
        The index.
    scores0, ids0 : array_like, shape (nq, m)
        First-stage lists, as `Reranker.rerank` takes them.
    k : int, default 100
    cold : int, optional
        Number of queries that are also measured with no page of the index in memory, by default
        all.

    Returns
    -------
    dict
        JSON values: `n`; `load_ms` and `first_ms`, until the index is open and the first query is
        answered, from a cold cache; `warm_ms`, `cold_ms` and `cold_read_ahead_ms`, each with
        `median` and `p90`, the second as the library advises the system and the third with all
        arrays read ahead; `pages` by array, with nothing read ahead, `pages_median`, `pages_p90`
        and `read_ahead_median` of all arrays; `support` and `pushes`, the nodes and the
        multiplications of a solve, each with `median` and `p90`; `solver`; `anonymous_mb`, what the
        process holds beside the mapped files, `before_mb` of which it holds before it opens the
        index; `index_mb`.
    """
    with tempfile.TemporaryDirectory() as folder:
        hits = f"{folder}/hits.npz"
        np.savez(hits, scores0=np.asarray(scores0), ids0=np.asarray(ids0))
        options = ["--k", str(k), *([] if cold is None else ["--cold", str(cold)])]
        command = [sys.executable, "-m", __name__, os.fspath(path), hits, *options, "--figures"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def table_of(figures: list[Figures]) -> Table:
    """Return the table of the figures of several indexes."""
    columns = ["n", "warm ms", "90 %", "cold ms", "90 %", "read ahead, ms", "pages", "read ahead"]
    columns += ["support", "products", "anonymous MB", "first ms"]
    rows = [
        [
            f"{f['n']:,}",
            *(f[name][part] for name in ("warm_ms", "cold_ms") for part in ("median", "p90")),
            f["cold_read_ahead_ms"]["median"],
            int(f["pages_median"]),
            int(f["read_ahead_median"]),
            int(f["support"]["median"]),
            int(f["pushes"]["median"]),
            int(f["anonymous_mb"]),
            int(f["first_ms"]),
        ]
        for f in figures
    ]
    return Table("Queries of an index on disk", columns, rows, [_NOTE])


_NOTE = (
    f"Pages have {pages.PAGE} bytes. *pages* are those that a query reads, *read ahead* those that "
    "are in memory after it if the system reads ahead. *anonymous* is the memory of the process "
    "beside mapped files."
)


def pages_table(figures: list[Figures]) -> Table:
    """Return the table of the pages of a query by array."""
    names = {name for f in figures for name, count in f["pages"].items() if count >= _LISTED}
    last = figures[-1]["pages"]
    rows: list[list[Any]] = [
        [name, *(round(f["pages"].get(name, 0), 1) for f in figures)]
        for name in sorted(names, key=lambda name: -last.get(name, 0))
    ]
    columns = ["array", *(f"n = {f['n']:,}" for f in figures)]
    return Table("Pages of a query by array, mean", columns, rows)


def anonymous_mb() -> float:
    """Return the memory of this process that is no file, in MB (10^6 bytes)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/smaps_rollup has no line 'Anonymous:'")


def measured(
    path: Path, scores0: NDArray[Any], ids0: NDArray[Any], k: int, cold: int | None
) -> Figures:
    """Return what `measure_queries` does, measured in this process."""
    files, before = pages.mapped_files(path), anonymous_mb()
    # The code of compiled loops is loaded by an index that is closed again.
    Reranker.from_state(open_state(path)).rerank(scores0[0], ids0[0], k=k)
    state, load = timed(lambda: open_state(path))
    arrays = state.arrays
    pages.make_cold(arrays, files)
    ranker, made = timed(lambda: Reranker.from_state(state))

    def ask(query: int) -> Callable[[], Any]:
        return lambda: ranker.rerank(scores0[query], ids0[query], k=k)

    first = timed(ask(0))[1]
    every = range(len(scores0))
    few = every[: len(scores0) if cold is None else cold]
    times: dict[str, list[float]] = {}
    read: dict[str, list[dict[str, int]]] = {}
    for name, advice in (
        ("cold_ms", None),
        ("cold_read_ahead_ms", pages.READ_AHEAD),
        ("cold_read_one_ms", pages.READ_ONE),
    ):
        if advice is not None:
            pages.advise(arrays, advice)
        times[name], read[name] = [], []
        for query in few:
            pages.make_cold(arrays, files)
            times[name].append(timed(ask(query))[1])
            read[name].append(pages.resident(arrays))
    for query in every:
        ask(query)()
    times["warm_ms"] = [timed(ask(query))[1] for query in every]
    work = [ask(query)() and int(ranker.report_.work[0]) for query in every]
    counts, ahead = read["cold_read_one_ms"], read["cold_read_ahead_ms"]
    totals = [sum(count.values()) for count in counts]
    return {
        "n": int(ranker.n_items_),
        "load_ms": 1e3 * (load + made),
        "first_ms": 1e3 * first,
        **{name: _both([1e3 * value for value in values]) for name, values in times.items()},
        "pages": {name: statistics.fmean(count[name] for count in counts) for name in arrays},
        "pages_median": statistics.median(totals),
        "pages_p90": float(np.percentile(totals, 90)),
        "read_ahead_median": statistics.median(sum(count.values()) for count in ahead),
        "support": _both(_supports(ranker, scores0, ids0, k)),
        "pushes": _both(work),
        "solver": ranker.report_.solver,
        "before_mb": before,
        "anonymous_mb": anonymous_mb(),
        "index_mb": sum(file.stat().st_size for file in files.values()) / 1e6,
    }


def _both(values: list[Any]) -> dict[str, float]:
    return {
        "median": float(statistics.median(values)),
        "p90": float(np.percentile(values, 90)),
    }


def _supports(ranker: Reranker, scores0: NDArray[Any], ids0: NDArray[Any], k: int) -> list[int]:
    """Return the number of nodes at which the solution of each query is not 0."""
    fitted, query_k = ranker.fitted(), int(ranker.query_k)
    depth, solver = fitted.depth(query_k), fitted.solver.for_depth(k)
    counts = []
    for scores, ids in zip(scores0, ids0, strict=True):
        near = first_stage_of(scores, ids, fitted).known
        y = fitted.affinity.observe(near[0][:, :depth], near[1][:, :depth], query_k).y
        x = solver.solve(y, candidates=near[1]).values
        counts.append(int(np.count_nonzero(x)) if isinstance(x, np.ndarray) else int(x.counts[0]))
    return counts


def main() -> int:
    """Measure queries, and print the figures as tables or as JSON."""
    command = argparse.ArgumentParser("python -m bench.cluster.queries", description=__doc__)
    command.add_argument("index", type=Path)
    command.add_argument("hits", type=Path, help="an .npz file of scores0 and ids0")
    command.add_argument("--k", type=int, default=100, help="length of the rankings")
    command.add_argument("--cold", type=int, help="number of queries with a cold cache")
    command.add_argument("--figures", action="store_true", help="print JSON")
    options = command.parse_args()
    with np.load(options.hits) as hits:
        scores0, ids0 = hits["scores0"], hits["ids0"]
    figures = measured(options.index, scores0, ids0, options.k, options.cold)
    if options.figures:
        print(json.dumps(figures))
    else:
        show(table_of([figures]))
        show(pages_table([figures]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
