"""Rankers to draw, and pyplot without figures."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion import Reranker

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def figures():
    """Draw without a display; pyplot has no figures before a test, those of others neither."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    yield plt
    plt.close("all")


@pytest.fixture
def ax():
    """Axes that pyplot does not know."""
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def arcs(n=120, seed=0):
    """Return points of two arcs in the plane, half of the points on each, far from each other."""
    angle = np.linspace(0, np.pi, n // 2)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    X = np.concatenate([upper, upper + np.array([0.0, 5.0])])
    return X + np.random.default_rng(seed).normal(0, 1e-3, X.shape)


@pytest.fixture(scope="session")
def plane():
    return Reranker(metric="euclidean", granularity="instance").fit(arcs())


@pytest.fixture(scope="session")
def clusters():
    X = np.random.default_rng(1).standard_normal((150, 6))
    names = [f"item {i}" for i in range(150)]
    return Reranker(affinity="cosine", k=8, solver="cg").fit(X, ids=names)


def artist(axes, gid):
    """Return the only artist of Axes with a name."""
    found = axes.findobj(lambda a: a.get_gid() == gid)
    assert len(found) == 1, [a.get_gid() for a in axes.findobj(lambda a: a.get_gid())]
    return found[0]


def texts(axes):
    """Return all that is written in Axes."""
    return {t.get_text() for t in axes.findobj(matplotlib.text.Text)}
