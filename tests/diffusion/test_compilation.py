"""Compilation in advance."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import diffusion

# Compiled versions are counted whether they were compiled or found in a cache of an earlier run.
CODE = """
import gc, sys
import numpy as np, diffusion
from numba.core.dispatcher import Dispatcher

def compiled():
    loops = (d for d in gc.get_objects() if isinstance(d, Dispatcher))
    return {
        (d.py_func.__qualname__, str(signature))
        for d in loops
        if d.py_func.__module__.startswith("diffusion")
        for signature in d.overloads
    }

diffusion.warm_up()
before = compiled()
X = np.random.default_rng(0).standard_normal((300, 6))
for settings in ({}, {"affinity": "cosine"}, {"neighbors": diffusion.IVF(nlist=4)}):
    ranker = diffusion.Reranker(**settings).fit(X)
    ranker.search(X[0])
    ranker.rerank(*ranker.search(X[:40]))
    ranker.save(sys.argv[1])
    diffusion.load(sys.argv[1]).search(X[:3])
    ranker.add(X[:2] + 0.1).remove([5, 7])
    ranker.search(X[:3], allow=np.arange(20, 60))
    # Items at places from 30 on, for which diffusion goes deeper.
    ranker.search(X[:3], 1, allow=np.setdiff1d(ranker.ids_, ranker.search(X[0], 30)[1]))
    ranker.explain(X[0], 3)
    ranker.save(sys.argv[1])
    changed = diffusion.load(sys.argv[1])
    changed.remove([11]).search(X[:3])
    if "affinity" not in settings:
        ranker.set_params(cautious=True).search(X[0])
        ranker.search(X[:3])
print(len(before) > 50, sorted(compiled() - before))
"""


def test_nothing_is_compiled_after_a_warm_up(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "index")],
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "True []", done.stderr


def test_an_unknown_solver_is_refused():
    with pytest.raises(diffusion.DiffusionError, match="solver"):
        diffusion.warm_up("gauss")
