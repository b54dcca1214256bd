"""Fixtures of the tests of the page: a browser, and a collection whose rankings move."""

from __future__ import annotations

import numpy as np
import pytest

import diffusion
from tests.support.browser import browsing


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def arcs():
    """Vectors (120, 3) on two noisy arcs, of which diffusion follows one, and two queries."""
    rng = np.random.default_rng(3)
    angle = np.tile(np.linspace(0, 2.4, 60), 2)
    side = np.repeat([0.0, 0.35], 60)
    X = np.stack([np.cos(angle), np.sin(angle), side], axis=1) + 0.2 * rng.random((120, 3))
    return X.astype(np.float32), (X[[0, 119]] + [0, 0, 0.1]).astype(np.float32)


@pytest.fixture(scope="module")
def names():
    return [f"{'left' if item < 60 else 'right'}/{item:03}.png" for item in range(120)]


@pytest.fixture(scope="module")
def ranker(arcs, names):
    return diffusion.Reranker(k=12, query_k=4).fit(arcs[0], ids=names)
