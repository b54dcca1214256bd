"""After any sequence of changes, a collection is what a fit of its items would be."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import diffusion
from diffusion.affinity import Context
from diffusion.solvers import CG, Columns, Local
from tests.support.collections import DIMENSION, Collection, assert_same
from tests.support.disk import Crash, Disk

CONTEXT = {"affinity": Context(scales=(2, 4, 7), size=9), "k": 7, "query_k": 4}
COSINE = {"affinity": "cosine", "k": 5, "query_k": 3, "alpha": 0.9}
SOLVERS = {
    "cg": CG(tol=1e-9, max_iter=500),
    "local": Local(tol=1e-5, certify=0),
    # The fusion takes the power 3/8 of small scores, which magnifies their errors.
    "columns": Columns(tol=1e-7, keep=200),
}


class Living(RuleBasedStateMachine):
    """Adds, removes, saves, loads and searches, and compares with a fit of what is left."""

    parameters: dict[str, Any]
    named = True
    repeated = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.next = 0
        self.changed = True

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _made(self, count: int, seed: int) -> tuple[list[Any], np.ndarray]:
        rng = np.random.default_rng(seed)
        numbers = range(self.next, self.next + count)
        self.next += count
        # Around a few centres, which are the same every time.
        centres = np.random.default_rng(7).standard_normal((4, DIMENSION))
        vectors = centres[rng.integers(0, 4, count)] + 0.5 * rng.standard_normal((count, DIMENSION))
        if self.repeated:
            # One of a few vectors, among them one without a direction.
            pool = np.random.default_rng(8).standard_normal((12, DIMENSION))
            vectors = (pool * (np.arange(12) > 0)[:, None])[rng.integers(0, 12, count)]
        # Neither in ascending order nor dense.
        ids = [
            f"item {number * 7919 % 1000:03}é" if self.named else -2 - 3 * number
            for number in numbers
        ]
        return ids, vectors

    @initialize(count=st.integers(1, 25), seed=st.integers(0, 1 << 16))
    def fit(self, count, seed):
        self.model = Collection(**self.parameters)
        self.model.add(*self._made(count, seed))
        self.ranker = self.model.fitted()
        self.saved = None

    @rule(count=st.integers(0, 6), seed=st.integers(0, 1 << 16))
    def add(self, count, seed):
        ids, vectors = self._made(count, seed)
        self.ranker.add(vectors, ids=ids)
        self.model.add(ids, vectors)
        self.changed = True

    @precondition(lambda self: len(self.model.ids) > 1)
    @rule(data=st.data())
    def remove(self, data):
        ids = data.draw(
            st.lists(
                st.sampled_from(self.model.ids),
                unique=True,
                max_size=min(8, len(self.model.ids) - 1),
            )
        )
        self.ranker.remove(ids)
        self.model.remove(ids)
        self.changed = True

    @rule()
    def save_and_load(self):
        self.ranker.save(self.folder / "index")
        self.saved = dict(self.model.vectors)
        self.ranker = diffusion.load(self.folder / "index", verify=True)
        self.changed = True

    @precondition(lambda self: self.saved is not None)
    @rule(at=st.integers(0, 60))
    def be_killed_while_saving(self, at):
        """The index on disk is the one before or the new one."""
        disk = Disk(self.folder, "crash before", at)
        try:
            with disk():
                self.ranker.save(self.folder / "index")
            self.saved = dict(self.model.vectors)
        except Crash:
            pass
        self.ranker = diffusion.load(self.folder / "index", verify=True)
        ids = set(np.array(self.ranker.ids_).tolist())
        assert ids in (set(self.saved), set(self.model.ids))
        if ids != set(self.model.ids):
            self.model.vectors = dict(self.saved)
        self.saved = dict(self.model.vectors)
        self.changed = True

    @rule(data=st.data(), seed=st.integers(0, 1 << 16), k=st.integers(1, 30))
    def search_some(self, data, seed, k):
        """A filtered answer is what remains of the whole one."""
        allowed = data.draw(st.lists(st.sampled_from(self.model.ids), unique=True))
        query = np.random.default_rng(seed).standard_normal((1, DIMENSION))
        scores, ids = self.ranker.search(query, len(self.model.ids))
        kept = [item in set(allowed) for item in ids[0].tolist()]
        expected = scores[:, kept][:, :k], ids[:, kept][:, :k]
        found = self.ranker.search(query, k, allow=allowed)
        real = np.isfinite(found[0][0])
        assert np.count_nonzero(real) == min(k, len(allowed))
        # The best k: items whose scores are close may stand for each other.
        np.testing.assert_allclose(found[0][0][real], expected[0][0], atol=1e-4)
        assert set(found[1][0][real].tolist()) <= set(allowed)

    @invariant()
    def is_a_fit_of_its_items(self):
        if self.changed:
            assert_same(self.ranker, self.model.fitted(), atol=3e-4)
            self.changed = False


def machine(
    affinity: dict[str, Any], solver: str, named: bool, repeated: bool = False
) -> type[Living]:
    parameters = {**affinity, "solver": SOLVERS[solver], "neighbors": "exact"}
    kind = {"parameters": parameters, "named": named, "repeated": repeated}
    return type("Living", (Living,), kind)


VARIANTS = [
    (affinity, solver)
    for affinity in ("context", "cosine")
    for solver in ("cg", "local", "columns")
]
AFFINITIES = {"context": CONTEXT, "cosine": COSINE}


@pytest.mark.parametrize(("affinity", "solver"), VARIANTS)
def test_a_collection_that_changes_equals_one_that_is_fitted(affinity, solver):
    run_state_machine_as_test(
        machine(AFFINITIES[affinity], solver, named=solver != "local"),
        settings=settings(max_examples=3, stateful_step_count=12),
    )


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_a_collection_with_copies_equals_one_that_is_fitted(affinity):
    run_state_machine_as_test(
        machine(AFFINITIES[affinity], "cg", named=affinity == "context", repeated=True),
        settings=settings(max_examples=3, stateful_step_count=12),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("affinity", "solver"), VARIANTS)
@pytest.mark.parametrize("repeated", [False, True], ids=["different", "repeated"])
def test_thousands_of_steps(affinity, solver, repeated):
    run_state_machine_as_test(
        machine(AFFINITIES[affinity], solver, named=solver == "local", repeated=repeated),
        settings=settings(max_examples=10, stateful_step_count=50),
    )
