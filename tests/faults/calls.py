"""State machines of API calls: random sequences of calls on one object, errors among them.

After each call the object is held against oracles: a dense solve, the same call on an object that
was made afresh, and what the documentation promises of any two calls.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.base import clone

import diffusion
from diffusion import DiffusionError, RegionalReranker, Reranker
from tests.support.oracles import dense_function, dense_graph, similarity

from .campaigns import Case
from .mutations import Delta, Files, Rng
from .workers import Outcome

FINE = "held"
# Sequences per case, and calls of rules per sequence.
_EXAMPLES, _STEPS = 3, 25

# Solvers whose settings make them exact on the collections below, of at most 60 items.
EXACT = {
    "cg": diffusion.CG(tol=1e-9, max_iter=1000),
    "spectral": diffusion.Spectral(rank=60, dense_nodes=0),
    "hybrid": diffusion.Hybrid(rank=10, tol=1e-9, max_iter=1000, min_nodes=4),
    "chebyshev": diffusion.Chebyshev(tol=1e-9),
    "columns": diffusion.Columns(size=60, keep=60, tol=1e-9, max_iter=1000),
    "truncated": diffusion.Truncated(size=60, tol=1e-9, max_iter=1000),
    "local": diffusion.Local(tol=1e-9, certify=0),
}
_ANY_TRANSFER = ("spectral", "chebyshev")
TRANSFERS = (
    diffusion.HeatKernel(),
    diffusion.HeatKernel(3.0),
    diffusion.TruncatedRandomWalk(0.8, 5),
    diffusion.RegularizedLaplacian(0.6),
    diffusion.CustomTransfer(np.exp, kind="increasing"),
)


class Collection(NamedTuple):
    """Vectors by what is hard about them."""

    kind: str
    n: int
    d: int
    seed: int

    @property
    def ties(self) -> bool:
        """Whether distances may be equal."""
        return self.kind not in ("normal", "clusters")

    def vectors(self) -> Any:
        rng = np.random.default_rng([self.seed, self.n, self.d])
        X = rng.standard_normal((self.n, self.d))
        if self.kind == "clusters":
            X = rng.standard_normal((3, self.d))[np.arange(self.n) % 3] + 0.3 * X
        elif self.kind == "copies":
            X = X[rng.integers(max(1, self.n // 3), size=self.n)]
        elif self.kind == "zeros":
            X[rng.random(self.n) < 0.3] = 0
        elif self.kind == "lattice":
            X = np.round(X)
        elif self.kind == "large":
            X *= 1e12
        return X

    def queries(self, count: int, seed: int) -> Any:
        rng = np.random.default_rng([seed, self.seed])
        X = self.vectors()
        scale = np.abs(X).max(initial=1e-3)
        near = X[rng.integers(self.n, size=count)]
        noise = rng.standard_normal((count, self.d))
        return np.where(rng.random((count, 1)) < 0.8, near + 0.1 * scale * noise, scale * noise)


collections = st.builds(
    Collection,
    st.sampled_from(
        ["normal", "clusters", "clusters", "clusters", "copies", "zeros", "lattice", "large"]
    ),
    st.integers(2, 60),
    st.integers(2, 6),
    st.integers(0, 50),
)


@st.composite
def parameters(draw: Any, regional: bool = False, solvers: Any = tuple(EXACT)) -> dict[str, Any]:
    """Draw parameters that mostly go together."""
    name = draw(st.sampled_from(solvers))
    solver = draw(st.sampled_from([name, EXACT[name], EXACT[name]]))
    affinities: list[Any] = ["cosine", "gaussian"]
    affinities += ["context", diffusion.Context((2, 5)), diffusion.Context((3, 6, 12), 10)]
    affinity = draw(st.sampled_from(affinities))
    metric = draw(st.sampled_from(["cosine", "inner_product", "euclidean"]))
    together = draw(st.integers(0, 19)) > 0
    if together and affinity == "gaussian":
        metric = "euclidean"
    elif together and affinity == "cosine" and metric == "euclidean":
        metric = "cosine"
    transfer = None
    if not together or (name in _ANY_TRANSFER and draw(st.booleans())):
        transfer = draw(st.sampled_from(TRANSFERS))
    neighbors = draw(
        st.sampled_from([*["exact"] * 7, "hnsw", diffusion.IVF(2, 2), diffusion.IVF(), "nndescent"])
    )
    drawn = {
        "k": draw(st.integers(1, 20)),
        "query_k": draw(st.integers(1, 12)),
        "gamma": draw(st.sampled_from([0.5, 1.0, 3.0, 8.0])),
        "alpha": draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
        "affinity": affinity,
        "metric": metric,
        "solver": solver,
        "transfer": transfer,
        "neighbors": neighbors,
    }
    if regional:
        drawn["pooling"] = draw(st.sampled_from(["gmp", "sum"]))
        drawn["regularization"] = draw(st.sampled_from([0.1, 1.0, 10.0]))
    else:
        drawn["score"] = draw(st.sampled_from([None, None, "diffusion", "fusion"]))
    return drawn


@st.composite
def exact(draw: Any, solvers: Any = tuple(EXACT)) -> tuple[dict[str, Any], Collection]:
    """Draw what dense algebra can compute too: no ties, and no approximation."""
    params = draw(parameters(solvers=solvers))
    if not isinstance(params["affinity"], str) or params["affinity"] == "context":
        params["affinity"] = draw(st.sampled_from(["cosine", "gaussian"]))
    if (params["affinity"] == "gaussian") != (params["metric"] == "euclidean"):
        params["metric"] = "euclidean" if params["affinity"] == "gaussian" else "cosine"
    name = getattr(params["solver"], "name", params["solver"])
    if name not in _ANY_TRANSFER:
        params["transfer"] = None
    params |= {"solver": EXACT[name], "neighbors": "exact", "score": None}
    data = draw(collections)
    return params, data._replace(kind="clusters" if data.ties else data.kind)


# --- what two answers have in common --------------------------------------------------------------


def check_form(scores: Any, ids: Any, shape: tuple[int, ...], known: Any) -> None:
    """Hold an answer against what the documentation says of all answers."""
    assert scores.shape == ids.shape == shape, (scores.shape, ids.shape, shape)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)
    scores, ids = np.atleast_2d(scores), np.atleast_2d(ids)
    real = ids >= 0
    assert set(ids[real].tolist()) <= set(known), "an unknown id"
    assert np.isfinite(scores[real]).all(), "scores that are not finite"
    assert (scores[~real] == -np.inf).all(), "padding with a score"
    assert (np.diff(scores, axis=1)[real[:, 1:]] <= 0).all(), "scores that increase"
    assert not (~real[:, :-1] & real[:, 1:]).any(), "padding before an item"
    for row in ids:
        found = row[row >= 0]
        assert len(set(found.tolist())) == len(found), "an item twice"


def check_same(one: Any, other: Any, what: str) -> None:
    """Compare answers to the last bit."""
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a, b), f"{what}: other answers"


def check_close(one: Any, other: Any, what: str, tol: float = 1e-4) -> None:
    """Compare answers up to rounding, which may exchange items of nearly equal scores."""
    (s, i), (t, j) = (tuple(map(np.atleast_2d, answer)) for answer in (one, other))
    assert s.shape == t.shape, what
    assert ((i >= 0) == (j >= 0)).all(), f"{what}: lists of other lengths"
    for a, b, c, d in zip(s, i, t, j, strict=True):
        real = b >= 0
        if not real.any():
            continue
        # Below 0 are first-stage scores, which have a scale of their own.
        bound = tol * np.abs(a[real]).max()
        if a[0] > 0:  # whether diffusion reached an item at all may be a matter of rounding
            a, c = np.maximum(a, bound), np.maximum(c, bound)
        assert np.allclose(a[real], c[real], rtol=tol, atol=bound), f"{what}: other scores"
        theirs = dict(zip(d[real].tolist(), c[real].tolist(), strict=True))
        for item, score in zip(b[real].tolist(), a[real].tolist(), strict=True):
            expected = theirs.get(item, c[real][-1])
            assert abs(score - expected) <= 2 * bound, f"{what}: another place of item {item}"


def dense_of(params: dict[str, Any], X: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return W, and the logarithm of the weight of a score, of a pointwise affinity."""
    k, metric = min(params["k"], max(1, len(X) - 1)), params["metric"]
    S = similarity(X, X, metric)
    np.fill_diagonal(S, -np.inf)
    ids = np.argsort(-S, axis=1, kind="stable")[:, :k]
    lists = np.take_along_axis(S, ids, axis=1)
    ids[~np.isfinite(lists)] = -1
    gamma = params["gamma"]
    if params["affinity"] == "cosine":
        scale = 1.0 if metric == "cosine" else max(lists.max(), 0.0) or 1.0

        def logarithm(s: Any) -> Any:
            with np.errstate(divide="ignore"):
                return gamma * np.log(np.maximum(s / scale, 0))
    else:
        below = lists[np.isfinite(lists) & (lists < 0)]
        scale = np.median(-below) if len(below) else 1.0

        def logarithm(s: Any) -> Any:
            return s * gamma / (2 * scale)

    return dense_graph(ids, np.where(ids >= 0, np.exp(logarithm(lists)), 0))[1], logarithm


def observed(logs: Any, places: Any, n: int) -> Any:
    """Return the observation (n,) of weights given by their logarithms at places."""
    # Weights below 1e-18 or above 1e18 are scaled together.
    largest = logs.max()
    shift = np.clip(largest, *np.log([1e-18, 1e18])) - largest if np.isfinite(largest) else 0
    y = np.zeros(n)
    np.add.at(y, places, np.exp(logs + shift))
    return y


def transferred(params: dict[str, Any], W: Any, y: Any) -> Any:
    """Return h(W) y for rows of y."""
    transfer = params["transfer"] or diffusion.RegularizedLaplacian(params["alpha"])
    return dense_function(W, transfer, y)


def diffused(params: dict[str, Any], X: Any, Q: Any) -> Any:
    """Return x and y for each query, by dense algebra that shares no code with the library."""
    W, logarithm = dense_of(params, X)
    scores = similarity(Q, X, params["metric"])
    best = np.argsort(-scores, axis=1, kind="stable")[:, : params["query_k"]]
    logs = logarithm(np.take_along_axis(scores, best, axis=1))
    rows = zip(logs, best, strict=True)
    y = np.stack([observed(*row, len(X)) for row in rows])
    return transferred(params, W, y), y


def pooled(params: dict[str, Any], X: Any, images: Any, Q: Any, numbers: Any) -> Any:
    """Return the scores of images 0, 1, ... for each query, of a RegionalReranker."""
    W, logarithm = dense_of(params, X)
    scores = similarity(Q, X, params["metric"])
    depth = max(params["k"], params["query_k"], getattr(params["solver"], "shortlist", 0))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    logs = logarithm(np.take_along_axis(scores, best, axis=1))
    Y = np.stack([
        observed(logs[numbers == q], best[numbers == q], len(X)) for q in range(numbers.max() + 1)
    ])  # fmt: skip
    for y in Y:
        y[np.argsort(-y, kind="stable")[params["query_k"] :]] = 0
    x = transferred(params, W, Y)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    out = np.zeros((len(x), images.max() + 1))
    for image in np.unique(images):
        own = images == image
        weights = np.ones(own.sum())
        if params["pooling"] == "gmp":
            ridge = params["regularization"] * np.eye(own.sum())
            weights = np.linalg.solve(unit[own] @ unit[own].T + ridge, weights)
        out[:, image] = x[:, own] @ weights
    return out


def check_scores(scores: Any, ids: Any, expected: Any, known: Any, what: str, y: Any = 0.0) -> None:
    """Hold the positive scores of answers against those of all items, (nq, n).

    Solvers are accurate relative to their observations `y` (nq, n): where a transfer function is
    as small as their tolerance, as the heat kernel is on isolated nodes, only rounding is left.
    """
    sizes = np.broadcast_to(np.max(y, axis=-1), len(scores))
    for row, listed, full, size in zip(scores, ids, expected, sizes, strict=True):
        bound = 2e-4 * np.abs(full).max() + 1e-8 * size + 1e-30
        reached = (listed >= 0) & (row > 0)
        assert (np.abs(row[reached] - full[listed[reached]]) <= bound).all(), f"{what}: other x"
        left = np.setdiff1d(known, listed[reached])
        least = row[reached].min() if reached.all() else 0.0
        assert (full[left] <= least + bound).all(), f"{what}: an item left out"


# --- the machine of a Reranker --------------------------------------------------------------------

calls = 0


def called(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call the library, and count it."""
    global calls
    calls += 1
    return function(*arguments, **named)


def check_message(error: DiffusionError) -> None:
    """Hold a message against what all are like: one line that names what it is about."""
    assert ":" in str(error), f"an error that names nothing: {error}"
    assert "\n" not in str(error), "an error of several lines"


def refused(function: Any, *arguments: Any, **named: Any) -> str:
    """Call the library with what it has to refuse; return its message."""
    try:
        answer = called(function, *arguments, **named)
    except DiffusionError as error:
        check_message(error)
        return str(error)
    raise AssertionError(f"accepted: {arguments!r:.200} {named!r:.200} -> {answer!r:.200}")


_BAD_COUNTS = (0, -1, 1.5, True, None, "3", np.nan, 2**40)
_folder = Path()


class Machine(RuleBasedStateMachine):
    """One Reranker, which is fitted, asked, set, saved, copied and given bad input."""

    @initialize(params=parameters(), data=collections)
    def begin(self, params: dict[str, Any], data: Collection) -> None:
        self.ranker: Any = None
        self.fit(params, data)

    def teardown(self) -> None:
        shutil.rmtree(_folder / "saved", ignore_errors=True)

    def _made(self) -> Any:
        """Return an object that is made afresh as this one was."""
        params = {**self.params, "query_k": self.query_k}
        return _fitted(params, self.data, self.lists)

    @property
    def has_vectors(self) -> bool:
        return self.lists != "without vectors"

    def _take(self, ranker: Any, params: dict[str, Any], data: Collection, lists: str) -> None:
        self.ranker, self.params, self.data, self.lists = ranker, params, data, lists
        self.query_k = params["query_k"]
        self.n = data.n
        assert ranker.n_items_ == data.n

    # --- offline

    @rule(
        params=parameters(),
        data=collections,
        lists=st.sampled_from(["", "", "with vectors", "without vectors"]),
    )
    def fit(self, params: dict[str, Any], data: Collection, lists: str = "") -> None:
        before = self.ranker
        try:
            ranker = called(_fitted, params, data, lists)
        except DiffusionError as error:
            check_message(error)
            if before is None:
                params = {**params, "affinity": "cosine", "metric": "cosine", "solver": "cg",
                          "transfer": None, "score": None, "neighbors": "exact"}  # fmt: skip
                self._take(called(_fitted, params, data, ""), params, data, "")
            return
        self._take(ranker, params, data, lists)

    @rule(data=collections)
    def fit_again(self, data: Collection) -> None:
        """A second fit of one object is a first one."""
        try:
            self.ranker.set_params(**self.params)
            called(self.ranker.fit, data.vectors())
        except DiffusionError:
            self.ranker.set_params(query_k=self.query_k)
            self.as_it_was()
            return
        self._take(self.ranker, self.params, data, "")
        if data.n > 1:
            self.like_a_new_one(2, 5, 0)

    @rule(seed=st.integers(0, 99), kind=st.integers(0, 8))
    def bad_fit(self, seed: int, kind: int) -> None:
        """Bad input of a fit is refused, and the object stays as it was."""
        X = self.data.vectors()
        with_nan = X.copy()
        with_nan[seed % len(X), 0] = (np.nan, np.inf, 1e300)[seed % 3]
        bad = (
            with_nan if self.params["metric"] != "cosine" or seed % 3 < 2 else X[:0],
            X[:0],
            X[:, :0],
            X[0],
            X[None],
            [["a", "b"]],
            [[1.0, 2.0], [3.0]],
            None,
            X + 1j,
        )[kind]
        refused(self.ranker.fit, bad)
        self.as_it_was()

    @rule(kind=st.integers(0, 6), seed=st.integers(0, 99))
    def bad_lists(self, kind: int, seed: int) -> None:
        """Bad neighbour lists are refused, and the object stays as it was."""
        n = 6
        ids = np.array([[(i + 1) % n, (i + 2) % n] for i in range(n)])
        scores = np.tile(np.float32([-1.0, -2.0]), (n, 1))
        row = seed % n
        if kind == 0:
            ids[row, 0] = (n, -2, 2**40)[seed % 3]
        elif kind == 1:
            ids[row] = ids[row, 0]
        elif kind == 2:
            scores[row, 0] = np.nan
        elif kind == 3:
            ids = ids.astype(float)
        elif kind == 4:
            scores = scores[:, :1]
        elif kind == 5:
            ids = ids[0]
        else:
            scores = scores.astype(str)
        refused(self.ranker.fit_neighbors, scores, ids)
        self.as_it_was()

    # --- online

    def _ask(self, count: int = 3, k: int = 7, seed: int = 1, ranker: Any = None) -> Any:
        ranker = self.ranker if ranker is None else ranker
        if self.has_vectors:
            return called(ranker.search, self.data.queries(count, seed), k)
        return called(ranker.rerank, *self._first(count, seed), k)

    def _first(self, count: int, seed: int) -> Any:
        """Return first-stage lists of all items, in the order of exact scores."""
        S = similarity(self.data.queries(count, seed), self.data.vectors(), self.params["metric"])
        S = np.minimum(S, 0) if self.params["metric"] == "euclidean" else S
        S = S.astype(np.float32)
        ids = np.argsort(-S, axis=1, kind="stable")
        return np.take_along_axis(S, ids, axis=1), ids

    def as_it_was(self) -> None:
        if self.n > 1:
            check_same(self._ask(), self._ask(ranker=self._made()), "after an error")

    @rule(count=st.integers(1, 40), k=st.integers(1, 70), seed=st.integers(0, 99))
    def like_a_new_one(self, count: int, k: int, seed: int) -> None:
        answer = self._ask(count, k, seed)
        check_form(*answer, (count, k), range(self.n))
        assert (answer[1] >= 0).sum(axis=1).max() <= min(k, self.n)
        check_same(answer, self._ask(count, k, seed, self._made()), "an object made afresh")
        report = self.ranker.report_
        assert len(report.residual) == count

    @precondition(lambda self: self.has_vectors)
    @rule(count=st.integers(2, 36), k=st.integers(1, 20), seed=st.integers(0, 99))
    def one_at_a_time(self, count: int, k: int, seed: int) -> None:
        Q = self.data.queries(count, seed)
        together = called(self.ranker.search, Q, k)
        single = [called(self.ranker.search, q, k) for q in Q[:6]]
        check_close(
            [a[:6] for a in together],
            [np.stack(a) for a in zip(*single, strict=True)],
            "one at a time",
        )
        order = np.random.default_rng(seed).permutation(count)
        other = called(self.ranker.search, Q[order], k)
        check_close([a[order] for a in together], other, "queries in another order")

    @rule(made=exact(), count=st.integers(1, 5), k=st.integers(1, 70), seed=st.integers(0, 99))
    def dense(self, made: Any, count: int, k: int, seed: int) -> None:
        """Exact solvers of pointwise affinities equal dense algebra."""
        params, data = made
        self._take(called(_fitted, params, data, ""), params, data, "")
        if seed % 2:  # takes effect at once
            self.query_k = seed % 9 + 1
            called(self.ranker.set_params, query_k=self.query_k)
        Q = data.queries(count, seed)
        x, y = diffused({**params, "query_k": self.query_k}, data.vectors(), Q)
        check_scores(*called(self.ranker.search, Q, k), x, np.arange(self.n), "dense", y)

    @precondition(lambda self: self.has_vectors)
    @rule(count=st.integers(1, 5), k=st.integers(1, 30), seed=st.integers(0, 99))
    def rerank_is_search(self, count: int, k: int, seed: int) -> None:
        """The lists of an exact first stage, re-ranked, are what a search returns."""
        if self.data.ties or self.params["neighbors"] != "exact":
            return
        first = self._first(count, seed)
        found = called(self.ranker.rerank, *first, k)
        check_form(*found, (count, k), range(self.n))
        expected = called(self.ranker.search, self.data.queries(count, seed), k)
        check_close(found, expected, "rerank of the first stage", 2e-3)

    @rule(count=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 99))
    def only_candidates(self, count: int, width: int, seed: int) -> None:
        scores, ids = (a[:, :width] for a in self._first(count, seed))
        found = called(self.ranker.rerank, scores, ids, None, restrict_to_candidates=True)
        check_form(*found, ids.shape, range(self.n))
        assert (np.sort(found[1], axis=1) == np.sort(ids, axis=1)).all(), "other candidates"

    @rule(place=st.integers(0, 4), seed=st.integers(0, 99))
    def unknown_hits(self, place: int, seed: int) -> None:
        """A hit that the collection does not have is not lost."""
        scores, ids = (a[:, :5].copy() for a in self._first(2, seed))
        place %= ids.shape[1]
        ids[0, place] = (self.n, -7, 2**40)[seed % 3]
        found = called(self.ranker.rerank, scores, ids, place + 1)
        assert ids[0, place] in found[1][0], "an unknown hit is lost"
        assert self.ranker.report_.unknown.tolist() == [1, 0]

    @rule(share=st.sampled_from([0.0, 0.1, 0.9]), k=st.integers(1, 50), seed=st.integers(0, 99))
    def filtered(self, share: float, k: int, seed: int) -> None:
        """A filtered answer is full, and holds what is allowed."""
        if self.has_vectors:
            mask = np.random.default_rng(seed).random(self.n) < share
            scores, ids = called(self.ranker.search, self.data.queries(2, seed), k, allow=mask)
            assert (np.count_nonzero(ids >= 0, axis=1) == min(k, mask.sum())).all(), "not full"
            check_form(scores, ids, (2, k), np.flatnonzero(mask))

    @rule(kind=st.integers(0, 9), seed=st.integers(0, 99))
    def bad_search(self, kind: int, seed: int) -> None:
        Q = self.data.queries(2, seed)
        if not self.has_vectors:
            refused(self.ranker.search, Q)
            return
        k: Any = 5
        with_nan = Q.copy()
        with_nan[seed % 2, seed % self.data.d] = (np.nan, np.inf)[seed % 2]
        bad = (with_nan, Q[:, :-1], np.hstack([Q, Q]), Q[None], "a", None, [["x"] * 2], Q + 1j)
        if kind < len(bad):
            Q = bad[kind]
        else:
            k = _BAD_COUNTS[seed % len(_BAD_COUNTS)]
        refused(self.ranker.search, Q, k)
        self.as_it_was()

    @rule(kind=st.integers(0, 6), seed=st.integers(0, 99))
    def bad_rerank(self, kind: int, seed: int) -> None:
        scores, ids = (a[:, :4].copy() for a in self._first(2, seed))
        named: dict[str, Any] = {}
        if kind == 0:
            ids = ids.astype(np.uint64) + np.uint64(2**63)
        elif kind == 1:
            ids = np.zeros((2, 4), int)
        elif kind == 2:
            scores[1, 0] = np.nan
        elif kind == 3:
            scores = scores[:, :-1]
        elif kind == 4:
            ids = ids + 0.5
        elif kind == 5:
            named["k"] = _BAD_COUNTS[seed % len(_BAD_COUNTS)]
            if named["k"] is None:  # the length of the lists
                named["k"] = 0
        else:
            ids, scores = ids[None], scores[None]
        refused(self.ranker.rerank, scores, ids, **named)
        self.as_it_was()

    # --- parameters and copies

    @rule(query_k=st.integers(1, 15))
    def set_query_k(self, query_k: int) -> None:
        """It takes effect at once."""
        called(self.ranker.set_params, query_k=query_k)
        self.query_k = query_k
        self.as_it_was()

    @rule(other=parameters())
    def set_the_others(self, other: dict[str, Any]) -> None:
        """They change nothing before the next fit, and are what a clone is made with."""
        del other["query_k"]
        called(self.ranker.set_params, **other)
        assert all(self.ranker.get_params()[name] is value for name, value in other.items())
        self.as_it_was()
        called(self.ranker.set_params, **{**self.params, "query_k": self.query_k})

    @rule(value=st.sampled_from([0, -3, 2.5, "x", None, True]))
    def bad_parameters(self, value: Any) -> None:
        refused(self.ranker.set_params, no_such_parameter=1)
        called(self.ranker.set_params, query_k=value)
        first = self._first(2, 0)
        refused(self.ranker.rerank, *first)
        called(self.ranker.set_params, query_k=self.query_k)
        self.as_it_was()

    @rule()
    def cloned(self) -> None:
        """A clone has the parameters and nothing else."""
        made = called(clone, self.ranker)
        own, theirs = made.get_params(), self.ranker.get_params()
        assert {n: repr(v) for n, v in own.items()} == {n: repr(v) for n, v in theirs.items()}
        refused(made.search, self.data.queries(1, 0))
        refused(made.rerank, *self._first(1, 0))
        refused(made.save, _folder / "nothing")
        assert not (_folder / "nothing").exists()

    @rule(deep=st.booleans())
    def copied(self, deep: bool) -> None:
        """A copy goes on where the object was, and neither disturbs the other."""
        made = called(copy.deepcopy if deep else copy.copy, self.ranker)
        check_same(self._ask(), self._ask(ranker=made), "a copy")
        called(made.set_params, query_k=self.query_k % 7 + 1)
        self._ask(ranker=made)
        self.as_it_was()
        called(made.set_params, query_k=self.query_k)
        self.ranker = made

    @rule(verify=st.booleans(), twice=st.booleans())
    def saved(self, verify: bool, twice: bool) -> None:
        """What is loaded answers as what was saved."""
        path = _folder / "saved"
        if isinstance(self.params["transfer"], diffusion.CustomTransfer):
            before = path.exists()
            refused(self.ranker.save, path)
            assert path.exists() == before
            return
        before = self._ask()
        for _ in range(1 + twice):
            called(self.ranker.save, path)
            self.ranker = called(diffusion.load, path, verify=verify)
        check_same(before, self._ask(), "what was loaded")
        loaded, params = self.ranker.get_params(), {**self.params, "query_k": self.query_k}
        assert loaded["k"] == params["k"]
        assert loaded["query_k"] == self.query_k
        assert loaded["metric"] == params["metric"]
        refused(RegionalReranker.load, path)

    # --- what else there is

    @rule(made=exact(solvers=("spectral",)), seed=st.integers(0, 99), count=st.integers(1, 6))
    def embedded(self, made: Any, seed: int, count: int) -> None:
        """Inner products of embeddings are the scores of a search."""
        spectral = self.ranker.solver_.name == "spectral"
        if not (spectral and self.has_vectors):
            refused(lambda: self.ranker.embed(self.data.queries(count, seed)))
        if not spectral:
            refused(lambda: self.ranker.embedding_)
        params, data = made
        self._take(called(_fitted, params, data, ""), params, data, "")
        Q = data.queries(count, seed)
        q, items = called(self.ranker.embed, Q), called(lambda: self.ranker.embedding_)
        assert q.shape == (count, items.shape[1])
        assert len(items) == self.n
        scores, ids = called(self.ranker.search, Q, self.n)
        degrees = self.ranker.graph_.degrees  # isolated nodes have no embedding
        for row, listed, inner in zip(scores, ids, q @ items.T, strict=True):
            reached = (row > 0) & (degrees[listed] > 0)
            bound = 1e-4 * np.abs(inner).max() + 1e-30
            assert (np.abs(row[reached] - inner[listed[reached]]) <= bound).all(), "embedding"

    @rule()
    def diagnosed(self) -> None:
        assert str(called(self.ranker.diagnose))
        W = self.ranker.graph_.W.toarray().astype(float)
        nodes = self.ranker.nodes_  # items with the same vector share one
        assert nodes.shape == (self.n,)
        assert W.shape == (len(np.unique(nodes)),) * 2
        assert np.array_equal(W, W.T), "W is not symmetric"
        assert (W >= 0).all()
        assert not W.diagonal().any()
        assert np.abs(np.linalg.eigvalsh(W)).max() < 1 + 1e-5
        isolated = (W == 0).all(axis=1).sum()
        assert isolated == self.ranker.graph_.n_isolated
        assert repr(self.ranker)
        assert repr(self.ranker.graph_)


def _fitted(params: dict[str, Any], data: Collection, lists: str) -> Any:
    X = data.vectors()
    ranker = Reranker(**params)
    if not lists:
        return ranker.fit(X)
    S = similarity(X, X, params["metric"]).astype(np.float32)
    S = np.minimum(S, 0) if params["metric"] == "euclidean" else S
    ids = np.argsort(-S, axis=1, kind="stable")[:, : params["k"] + 1]
    scores = np.take_along_axis(S, ids, axis=1)
    return ranker.fit_neighbors(scores, ids, X if lists == "with vectors" else None)


# --- the machine of a RegionalReranker ------------------------------------------------------------


class RegionalMachine(RuleBasedStateMachine):
    """One RegionalReranker, with images of up to four regions."""

    @initialize(params=parameters(regional=True), data=collections, seed=st.integers(0, 99))
    def begin(self, params: dict[str, Any], data: Collection, seed: int) -> None:
        self.ranker: Any = None
        self.fit(params, data, seed)

    def teardown(self) -> None:
        shutil.rmtree(_folder / "saved", ignore_errors=True)

    @rule(params=parameters(regional=True), data=collections, seed=st.integers(0, 99))
    def fit(self, params: dict[str, Any], data: Collection, seed: int) -> None:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, max(1, data.n // (seed % 4 + 1)), size=data.n)
        try:
            ranker = called(RegionalReranker(**params).fit, data.vectors(), images)
        except DiffusionError as error:
            check_message(error)
            if self.ranker is None:
                params = {**params, "affinity": "cosine", "metric": "cosine", "solver": "cg",
                          "transfer": None, "neighbors": "exact"}  # fmt: skip
                ranker = called(RegionalReranker(**params).fit, data.vectors(), images)
            else:
                return
        self.ranker, self.params, self.data, self.images = ranker, dict(params), data, images
        assert ranker.n_images_ == len(set(images.tolist()))
        assert ranker.n_regions_ == data.n

    def _asked(self, count: int, seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        numbers = np.concatenate([np.arange(count), rng.integers(0, count, size=count)])
        return self.data.queries(len(numbers), seed), numbers

    def _ask(self, count: int = 3, k: int = 5, seed: int = 1, ranker: Any = None) -> Any:
        ranker = self.ranker if ranker is None else ranker
        return called(ranker.search, *self._asked(count, seed), k)

    def as_it_was(self) -> None:
        made = RegionalReranker(**self.params).fit(self.data.vectors(), self.images)
        check_same(self._ask(), self._ask(ranker=made), "an object made afresh")

    @rule(count=st.integers(1, 8), k=st.integers(1, 40), seed=st.integers(0, 99))
    def searched(self, count: int, k: int, seed: int) -> None:
        answer = self._ask(count, k, seed)
        check_form(*answer, (count, k), self.images.tolist())
        found = (answer[1] >= 0).sum(axis=1)
        assert (found == min(k, self.ranker.n_images_)).all(), "images that are not found"
        Q, numbers = self._asked(count, seed)
        singles = [called(self.ranker.search, Q[numbers == q], k=k) for q in range(count)]
        alone = [np.stack(parts) for parts in zip(*singles, strict=True)]
        check_close(answer, alone, "one query at a time")

    @rule(
        made=exact(),
        pooling=st.sampled_from(["gmp", "sum"]),
        ridge=st.sampled_from([0.1, 1.0, 10.0]),
        k=st.integers(1, 40),
        seed=st.integers(0, 99),
    )
    def dense(self, made: Any, pooling: str, ridge: float, k: int, seed: int) -> None:
        """Exact solvers equal dense algebra, and images have the sums that are documented."""
        params, data = made
        del params["score"]
        params |= {"pooling": pooling, "regularization": ridge}
        self.fit(params, data, seed)
        if self.data is not data:  # the parameters do not go together
            return
        Q, numbers = self._asked(seed % 3 + 1, seed)
        answer = called(self.ranker.search, Q, numbers, k)
        expected = pooled(self.params, data.vectors(), self.images, Q, numbers)
        check_scores(*answer, expected, np.unique(self.images), "regions")

    @rule(
        pooling=st.sampled_from(["gmp", "sum"]),
        query_k=st.integers(1, 20),
    )
    def set_what_takes_effect(self, pooling: str, query_k: int) -> None:
        called(self.ranker.set_params, pooling=pooling, query_k=query_k)
        self.params |= {"pooling": pooling, "query_k": query_k}
        self.as_it_was()

    @rule(kind=st.integers(0, 7), seed=st.integers(0, 99))
    def bad_search(self, kind: int, seed: int) -> None:
        Q, numbers = self._asked(2, seed)
        k: Any = 5
        if kind == 0:
            Q = np.where(np.arange(Q.size).reshape(Q.shape) == 1, np.nan, Q)
        elif kind == 1:
            Q = Q[:, :-1]
        elif kind == 2:
            numbers = numbers[:-1]
        elif kind == 3:
            numbers = numbers + 1
        elif kind == 4:
            numbers = numbers - 1
        elif kind == 5:
            numbers = numbers + 0.5
        elif kind == 6:
            Q = Q[None]
        else:
            k = _BAD_COUNTS[seed % len(_BAD_COUNTS)]
        refused(self.ranker.search, Q, numbers, k)
        self.as_it_was()

    @rule(kind=st.integers(0, 4))
    def bad_fit(self, kind: int) -> None:
        X, images = self.data.vectors(), self.images
        if kind == 0:
            X = np.full_like(X, np.nan)
        elif kind == 1:
            images = images[:-1]
        elif kind == 2:
            images = images - 1000
        elif kind == 3:
            images = images + 0.5
        else:
            X = X[0]
        refused(self.ranker.fit, X, images)
        self.as_it_was()

    @rule(verify=st.booleans())
    def saved(self, verify: bool) -> None:
        path = _folder / "saved"
        if isinstance(self.params["transfer"], diffusion.CustomTransfer):
            refused(self.ranker.save, path)
            return
        before = self._ask()
        called(self.ranker.save, path)
        refused(diffusion.load, path)
        self.ranker = called(RegionalReranker.load, path, verify=verify)
        check_same(before, self._ask(), "what was loaded")

    @rule()
    def copied(self) -> None:
        made = called(copy.deepcopy, self.ranker)
        check_same(self._ask(), self._ask(ranker=made), "a copy")
        refused(called(clone, self.ranker).search, *self._asked(1, 0))
        self.ranker = made

    @rule(k=st.integers(1, 20), seed=st.integers(0, 99))
    def one_region_each(self, k: int, seed: int) -> None:
        """With one region per image and per query, it is a Reranker, up to the pooling's scale."""
        if self.data.ties or self.params["neighbors"] != "exact":
            return
        X, Q = self.data.vectors(), self.data.queries(2, seed)
        own = {"pooling": "sum"}
        regional = RegionalReranker(**{**self.params, **own}).fit(X, np.arange(self.data.n))
        shared = {n: v for n, v in self.params.items() if n not in ("pooling", "regularization")}
        plain = called(Reranker(**shared).fit, X)
        found = called(regional.search, Q, [0, 1], k)
        check_close(found, called(plain.search, Q, k), "regions that are images")


# --- the campaign ---------------------------------------------------------------------------------


def build(folder: Path) -> None:
    """Do nothing: there are no files."""


def originals(folder: Path) -> dict[str, Files]:
    """Return a target for each machine."""
    return {"reranker": {}, "regional": {}}


def draw(files: dict[str, Files], rng: Rng) -> Case:
    """Draw the seed of a case, which is kept in the name of its only file."""
    target = "regional" if rng.random() < 0.15 else "reranker"
    delta: Delta = {str(rng.integers(1 << 40)): None}
    return Case(target, delta)


def prepare(folder: Path) -> None:
    """Compile the loops that the methods compile in every process."""
    global _folder
    _folder = folder / f"worker-{os.getpid()}"
    _folder.mkdir(exist_ok=True)
    perform(Case("reranker", {"0": None}))
    diffusion.nearest_neighbors(np.random.default_rng(0).random((60, 4)), k=5, method="nndescent")


def perform(case: Case) -> Outcome:
    """Run some sequences of calls."""
    global calls
    calls = 0
    machine = {"reranker": Machine, "regional": RegionalMachine}[case.target]
    seeded = hypothesis.seed(int(next(iter(case.delta), "0")))(type("Seeded", (machine,), {}))
    how = settings(
        max_examples=_EXAMPLES,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seeded, settings=how)
    except Exception as error:
        steps = " ".join(" ".join(getattr(error, "__notes__", ())).split())
        return Outcome("broken", f"{type(error).__name__}: {error}"[:300] + " | " + steps[:3000])
    return Outcome(FINE, calls=calls)


def allowed(case: Case, outcome: Outcome) -> bool:
    """Return whether a sequence of calls may end so."""
    return outcome.kind == FINE
