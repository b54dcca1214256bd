"""The random walk with restart, against the dense equation solved in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.networks.frame import Frame
from features.objects import walk as module
from features.objects.walk import resampled, walk


def unit(rng, *shape, shift=0.5):
    V = rng.standard_normal(shape) + shift
    return (V / np.linalg.norm(V, axis=-1, keepdims=True)).astype(np.float32)


def solved(S, V, restart, reach=np.inf):
    """Solve x = restart S + (1 - restart) D^-1 A x, element by element of A."""
    width, n = S.shape[1], S.size
    A = np.zeros((n, n))
    for p in range(n):
        for q in range(n):
            dy, dx = p // width - q // width, p % width - q % width
            if p == q or max(abs(dy), abs(dx)) > reach:
                continue
            cosine = float(V[divmod(p, width)].astype(float) @ V[divmod(q, width)])
            A[p, q] = max(cosine, 0) ** 3 * np.exp(-(dy**2 + dx**2) / 32)
    D = A.sum(axis=1)
    P = A / np.where(D > 0, D, 1)[:, None]
    return np.linalg.solve(np.eye(n) - (1 - restart) * P, restart * S.ravel()).reshape(S.shape)


@pytest.mark.parametrize("restart", [0.001, 0.02, 0.5, 0.99])
def test_walk_solves_its_equation(restart):
    rng = np.random.default_rng(0)
    S, V = rng.random((7, 12)), unit(rng, 7, 12, 6)
    x = walk(S, V, restart=restart)
    assert x.dtype == np.float32
    assert x.shape == S.shape
    np.testing.assert_allclose(x, solved(S, V, restart), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 14), (1, 20), (13, 1)])
def test_walk_of_tiles_is_that_of_pairs_within_reach(monkeypatch, shape):
    rng = np.random.default_rng(1)
    S, V = rng.random(shape), unit(rng, *shape, 5)
    monkeypatch.setattr(module, "_DENSE_CELLS", 0)
    monkeypatch.setattr(module, "_TILE", 4)
    monkeypatch.setattr(module, "_REACH", 5)
    module._gaussian.cache_clear()
    x = walk(S, V)
    np.testing.assert_allclose(x, solved(S, V, 0.02, reach=5), rtol=1e-4, atol=1e-5)


def test_tiles_leave_out_next_to_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    S, V = rng.random((38, 21)), unit(rng, 38, 21, 5)
    whole = walk(S, V)
    monkeypatch.setattr(module, "_DENSE_CELLS", 0)
    np.testing.assert_allclose(walk(S, V), whole, atol=2e-3)


def test_constant_saliency_stays_constant():
    V = unit(np.random.default_rng(3), 8, 9, 4, shift=2)
    np.testing.assert_allclose(walk(np.full((8, 9), 0.3), V), 0.3, rtol=1e-5)


def test_mass_stays_within_cells_that_are_alike():
    V = np.zeros((6, 10, 2), np.float32)
    V[:, :4, 0] = V[:, 4:, 1] = 1
    S = np.zeros((6, 10))
    S[2, 1] = 1
    x = walk(S, V)
    assert (x[:, :4] > 0).all()
    assert (x[:, 4:] == 0).all()


def test_walk_fills_an_object_that_saliency_marks_in_part():
    V = np.tile(np.float32([0, 1]), (20, 20, 1))
    V[5:13, 6:14] = 1, 0
    S = np.zeros((20, 20))
    S[6, 7] = 1
    x = walk(S, V)
    inside = np.zeros((20, 20), bool)
    inside[5:13, 6:14] = True
    assert x[inside].min() > 0.3 * np.median(x[inside])
    assert x[~inside].max() == 0


def test_cell_without_neighbours_keeps_its_share_of_saliency():
    V = np.zeros((2, 3, 3), np.float32)
    V[0, :2, 0], V[0, 2, 1] = 1, 1  # a pair, one unlike all others, and cells of zeros
    x = walk([[1, 1, 1], [0, 2, 0]], V, restart=0.1)
    np.testing.assert_allclose(x, [[1, 1, 0.1], [0, 0.2, 0]], rtol=1e-5)
    assert walk([[3.0]], np.ones((1, 1, 1)), restart=0.1) == pytest.approx(0.3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    restart=st.floats(0.001, 0.99),
    scale=st.sampled_from([0, 1e-6, 1, 1e6]),
)
def test_walk_stays_within_saliency(seed, height, width, restart, scale):
    rng = np.random.default_rng(seed)
    S = (scale * rng.random((height, width)) ** 4).astype(np.float32)
    x = walk(S, unit(rng, height, width, 3, shift=0), restart=restart)
    assert np.isfinite(x).all()
    assert x.min() >= 0
    assert x.max() <= S.max()


def test_resampled_is_linear_between_centres():
    fine = resampled([[0, 1, 2], [3, 4, 5]], Frame(32, 0, 0), Frame(16, 0, 0), (4, 6))
    across = [0, 0.25, 0.75, 1.25, 1.75, 2]
    down = [0, 0.75, 2.25, 3]
    np.testing.assert_allclose(fine, np.add.outer(down, across), rtol=1e-6)
    assert fine.dtype == np.float32


def test_resampled_follows_both_offsets():
    values = np.add.outer(10 * np.arange(4.0), np.arange(5.0))
    same = Frame(8, -3, 5)
    np.testing.assert_allclose(resampled(values, same, same, (4, 5)), values)
    # Cells one to the right and half a cell further down.
    moved = resampled(values, same, Frame(8, 5, 9), (3, 4))
    np.testing.assert_allclose(moved, values[:3, 1:] + 5)


@pytest.mark.parametrize(
    ("saliency", "vectors", "restart", "named"),
    [
        (np.ones(3), np.ones((3, 1, 1)), 0.02, "saliency"),
        (-np.ones((2, 2)), np.ones((2, 2, 1)), 0.02, "saliency"),
        (np.ones((2, 2)), np.ones((2, 3, 1)), 0.02, "vectors"),
        (np.ones((2, 2)), np.ones((2, 2, 0)), 0.02, "vectors"),
        (np.ones((2, 2)), np.full((2, 2, 1), np.nan), 0.02, "vectors"),
        (np.ones((2, 2)), [[["a"]]], 0.02, "vectors"),
        (np.ones((2, 2)), np.ones((2, 2, 1)), 0, "restart"),
        (np.ones((2, 2)), np.ones((2, 2, 1)), 1, "restart"),
    ],
)
def test_walk_names_bad_input(saliency, vectors, restart, named):
    with pytest.raises(DiffusionError, match=f"^{named}: expected"):
        walk(saliency, vectors, restart=restart)


def test_resampled_names_bad_input():
    frame = Frame(1, 0, 0)
    with pytest.raises(DiffusionError, match=r"^values: expected"):
        resampled(np.ones(3), frame, frame, (1, 1))
