"""Time from the start of a process to its first answer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from ..table import Table

_CODE = """
import time
begin = time.perf_counter()
import numpy as np
from diffusion import Reranker
imported = time.perf_counter()
X = np.random.default_rng(0).standard_normal((1000, 32))
ranker = Reranker(solver={solver!r}).fit(X)
fitted = time.perf_counter()
ranker.search(X[0] + 0.1)
end = time.perf_counter()
print(imported - begin, fitted - imported, end - fitted)
"""


def measure(solvers: tuple[str, ...]) -> Table:
    """Time the first answer of new processes, without and with compiled loops in the cache."""
    rows = []
    for solver in solvers:
        with tempfile.TemporaryDirectory() as cache:
            for name in ("compiled", "from the cache"):
                steps = _first_answer(solver, cache)
                rows.append([f"{solver}, {name}", *steps, sum(steps)])
    return Table(
        "**First answer of a new process**, 1,000 items, seconds",
        ("solver, loops", "import", "fit", "search", "total"),
        rows,
        ["The import includes numpy's. Loops are compiled once per machine; see `warm_up`."],
    )


def _first_answer(solver: str, cache: str) -> list[float]:
    """Return the seconds of the import, the fit and the search of a new process."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(solver=solver)],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(step) for step in done.stdout.split()]
