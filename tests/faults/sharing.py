"""One index, many readers: what children of the server run. Every check is an assertion."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.storage import runs
from tests.support.oracles import similarity

READERS, THREADS = 2, 3


def _equal(one: Any, other: Any) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


# --- readers against a writer ---------------------------------------------------------------------


def replace_under_readers(inputs: Path, home: Path, times: int, seed: int) -> dict[str, int]:
    X, Q = np.load(inputs / "vectors.npy"), np.load(inputs / "queries.npy")
    stop = home / "stop"
    # The readers are forked before any kernel has run in this process.
    readers = [_Reader(home, Q, seed + number) for number in range(READERS)]
    for name, k in (("one", 6), ("two", 9)):
        Reranker(k=k).fit(X).save(home / name)
    versions = [diffusion.load(home / name) for name in ("one", "two")]
    answers = [ranker.search(Q, k=10) for ranker in versions]
    rng = np.random.default_rng(seed)
    for number in range(times):
        versions[number % 2].save(home / "index")
        name = ("found.npz", "found.run")[rng.integers(2)]
        runs.write_results(home / name, *answers[number % 2])
        if number == 0:
            (home / "start").touch()
    stop.touch()
    read = sum(reader.join() for reader in readers)
    assert not list(home.rglob("*.tmp"))
    assert len(list((home / "index").glob("arrays-*"))) == 1
    return {"replacements": times, "answers": read}


class _Reader:
    """A process whose threads read until there is a file named "stop"."""

    def __init__(self, home: Path, Q: Any, seed: int) -> None:
        readable, writable = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(readable)
            try:
                with ThreadPoolExecutor(THREADS) as pool:
                    tasks = [pool.submit(_read, home, Q, seed + 100 * n) for n in range(THREADS)]
                    text = json.dumps(sum(task.result() for task in tasks))
            except BaseException:
                text = json.dumps(traceback.format_exc())
            with open(writable, "w") as stream:
                stream.write(text)
            os._exit(0)
        os.close(writable)
        self._answer = readable

    def join(self) -> int:
        with open(self._answer) as stream:
            answer = json.load(stream)
        os.waitpid(self._child, 0)
        assert isinstance(answer, int), answer
        return answer


def _read(home: Path, Q: Any, seed: int) -> int:
    """Open and query until the end; every answer is that of one of the two versions."""
    rng = np.random.default_rng(seed)
    waiting = threading.Event()
    while not (home / "start").exists():
        waiting.wait(0.01)
    known = [diffusion.load(home / name).search(Q, k=10) for name in ("one", "two")]
    written = [
        runs.read_results(_rewritten(home / f"{seed}{kind}", answer))
        for kind in (".npz", ".run")
        for answer in known
    ]
    count = 0
    while not (home / "stop").exists() or count == 0:
        ranker = diffusion.load(home / "index", verify=bool(rng.integers(2)))
        answers = [ranker.search(Q, k=10) for _ in range(rng.integers(1, 4))]
        assert any(_equal(answers[0], answer) for answer in known), "an answer of neither version"
        assert all(_equal(answers[0], answer) for answer in answers), "an answer that changed"
        for name in ("found.npz", "found.run"):
            if (home / name).exists():
                found = runs.read_results(home / name)
                assert any(_equal(found, answer) for answer in written), f"half of {name}"
        count += len(answers)
    return count


def _rewritten(path: Path, answer: Any) -> Path:
    runs.write_results(path, *answer)
    return path


# --- threads --------------------------------------------------------------------------------------

AFFINITIES = ("context", "cosine", "gaussian")
SOLVERS = ("cg", "spectral", "hybrid", "columns", "truncated", "local", "chebyshev")
METHODS = ("exact", "ivf", "hnsw")


def _random_reranker(rng: np.random.Generator) -> Reranker:
    affinity, solver, method = (rng.choice(names) for names in (AFFINITIES, SOLVERS, METHODS))
    metric = "euclidean" if affinity == "gaussian" else rng.choice(["cosine", "inner_product"])
    return Reranker(
        k=int(rng.integers(4, 20)),
        query_k=int(rng.integers(1, 10)),
        affinity=str(affinity),
        solver=str(solver),
        neighbors=str(method),
        metric=str(metric),
    )


def _first_stage(Q: Any, X: Any, metric: str) -> tuple[Any, Any]:
    scores = similarity(Q, X, metric).astype(np.float32)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    return np.take_along_axis(scores, ids, axis=1), ids


def _random_calls(
    ranker: Reranker, X: Any, rng: np.random.Generator
) -> list[Callable[[], tuple[Any, ...]]]:
    calls: list[Callable[[], tuple[Any, ...]]] = []
    for _ in range(6):
        Q = X[rng.integers(len(X), size=rng.integers(1, 40))] + 0.1
        k = int(rng.integers(1, 60))
        first = _first_stage(Q, X, ranker.metric)
        answers: list[Callable[[], Any]] = [
            partial(ranker.search, Q, k=k),
            partial(ranker.rerank, *first, k),
            partial(ranker.rerank, *first, k, restrict_to_candidates=True),
        ]
        calls += [partial(_reported, ranker, answer) for answer in answers]
        if ranker.solver == "spectral":
            calls.append(partial(_embedded, ranker, Q))
    return calls


def _reported(ranker: Reranker, call: Callable[[], Any]) -> tuple[Any, ...]:
    """Return an answer with the report of this thread on it."""
    answer = call()
    return *answer, ranker.report_.residual, ranker.report_.iterations


def _embedded(ranker: Reranker, Q: Any) -> tuple[Any, ...]:
    return (ranker.embed(Q),)


def share_between_threads(home: Path, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((int(rng.integers(100, 500)), 8)).astype(np.float32)
    settings = _random_reranker(rng)
    ranker = settings.fit(X)
    if rng.integers(2):  # from a memory-mapped index
        ranker.save(home / "index")
        ranker = diffusion.load(home / "index")
    calls = _random_calls(ranker, X, rng)
    alone = [call() for call in calls]
    threads = int(rng.integers(2, 9))
    ready = threading.Barrier(threads)

    def work(number: int) -> int:
        order = np.random.default_rng([seed, number]).permutation(2 * len(calls)) % len(calls)
        ready.wait()
        for one in order:
            assert _equal(calls[one](), alone[one]), f"{settings}: call {one} in thread {number}"
        return len(order)

    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(work, number) for number in range(threads)]
        fitted = pool.submit(lambda: Reranker(**settings.get_params()).fit(X)).result()
        done = sum(task.result() for task in tasks)
    assert _equal(fitted.search(X[:9], k=20), ranker.search(X[:9], k=20)), "a fit among threads"
    return {"threads": threads, "calls": done}


# --- soak -----------------------------------------------------------------------------------------


def _held() -> dict[str, int]:
    """Return what this process holds: bytes of memory, descriptors, mappings and threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": Path("/proc/self/maps").read_text().count("\n"),
        "threads": len(os.listdir("/proc/self/task")),
    }


def soak(inputs: Path, calls: int, seed: int) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    X = np.load(inputs / "vectors.npy")
    home = inputs.parent / f"soak-{seed}"
    shutil.copytree(inputs / "index", home, dirs_exist_ok=True)
    ranker = diffusion.load(home)
    held = []
    for step in _tenths(calls):
        for _ in range(step):
            ranker = _any_call(ranker, home, X, rng)
        held.append(_held())
    shutil.rmtree(home)
    return held


def _tenths(calls: int) -> Iterator[int]:
    yield from (calls // 10 for _ in range(10))


def _any_call(ranker: Reranker, home: Path, X: Any, rng: np.random.Generator) -> Reranker:
    """Do what a service does; return the Reranker to go on with."""
    Q = X[rng.integers(len(X), size=rng.integers(1, 9))] + 0.1
    kind, k = rng.integers(100), int(rng.integers(1, 100))
    if kind < 50:
        ranker.search(Q, k=k)
    elif kind < 90:
        ranker.rerank(*_first_stage(Q, X, ranker.metric), k)
    elif kind < 95:
        with contextlib.suppress(DiffusionError):
            ranker.search(Q[:, :3], k=k)
    elif kind < 98:
        return diffusion.load(home, verify=bool(rng.integers(2)))
    elif kind < 99:
        ranker.save(home)
    else:
        ranker.diagnose()
    return ranker
