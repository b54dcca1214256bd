"""Products of a sparse matrix and a block, against a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffusion.devices import blocks_on
from diffusion.kernels.blocks import Entries, direction_block, recurrence_block
from diffusion.kernels.matrix import Matrix, Nodes, packed
from tests.support.graphs import scattered

WIDTHS = [1, 5, 16, 31, 32, 49, 96]  # of one vector, of several, and with a rest


def problem(n=700, seed=0, *, gaps=False):
    """A matrix of rows of 0 to 12 entries, and of one full row, beside itself as a dense array."""
    rng = np.random.default_rng(seed)
    W = sparse.random_array((n, n), density=0.01, rng=rng, dtype=np.float32).toarray()
    W[n // 2] = rng.random(n)
    W[n // 3] = 0
    csr = sparse.csr_array(W)
    matrix = Matrix.of_csr(csr.indptr.astype(np.int64), csr.indices.astype(np.int32), csr.data)
    position = rng.permutation(n).astype(np.int32)
    nodes = Nodes(np.argsort(position).astype(np.int32), position, np.ones(n))
    if gaps:
        matrix = Matrix(*scattered(*matrix))
    return matrix, nodes, W.astype(float), rng


@pytest.mark.parametrize("b", WIDTHS)
@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("gaps", [False, True])
def test_steps_of_conjugate_gradient_equal_dense_ones(device, b, gaps):
    matrix, nodes, W, rng = problem(gaps=gaps)
    n = len(W)
    blocks = blocks_on(device, matrix, nodes)
    X, P, Q, R = blocks.zeros(b, np.float64), *(blocks.zeros(b) for _ in range(3))

    def fill(block, kind):
        values = rng.standard_normal((n, b)).astype(kind)
        where = np.nonzero(np.ones_like(values))
        blocks.add(1.0, blocks.entries(Entries(*where, values.ravel().astype(float))), block)
        return values.astype(float)

    x, p, r = fill(X, np.float64), fill(P, np.float32), fill(R, np.float32)
    q = p - 0.9 * W @ p
    np.testing.assert_allclose(blocks.laplacian(0.9, P, Q), (p * q).sum(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(Q), q, atol=1e-4)
    step, beta = rng.random((2, b)).astype(np.float32).astype(float)
    r -= step * np.asarray(Q)
    np.testing.assert_allclose(blocks.step(step, R, Q), (r**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(R), r, atol=1e-4)
    blocks.direction(step, beta, X, R, P)
    np.testing.assert_allclose(np.asarray(X), x + step * p, rtol=1e-12)
    p_new = np.asarray(R).astype(float) + beta * p
    np.testing.assert_allclose(np.asarray(P), p_new, atol=1e-5)
    blocks.advance(step, X, P)
    x += step * p + step * np.asarray(P)
    np.testing.assert_allclose(np.asarray(X), x, rtol=1e-12)
    B = Entries(np.array([0, n - 1]), np.array([b - 1, 0]), np.array([2.0, 3.0]))
    right = np.zeros((n, b))
    right[B.rows, B.columns] = B.values
    true = right - (x - 0.9 * W @ x)
    squares = blocks.residual(0.9, X, blocks.entries(B), R)
    np.testing.assert_allclose(squares, (true**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(R), true, rtol=1e-6, atol=1e-6)
    out, scale = np.empty((b, n), np.float32), rng.random(b)
    blocks.rows(X, scale, out)
    np.testing.assert_allclose(out, (scale * x)[nodes.position].T, rtol=1e-6)


@pytest.mark.parametrize("b", WIDTHS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_step_of_a_recurrence_equals_a_dense_one(kind, b, gaps):
    matrix, _, W, rng = problem(gaps=gaps)
    # Rows that begin anywhere in the memory.
    memory = np.empty(2 * len(W) * b + 1, kind)
    P, Q = memory[1:].reshape(2, len(W), b)
    P[:], Q[:] = rng.standard_normal((2, len(W), b))
    expected = 2 * W @ P + 0.5 * P - Q
    recurrence_block(matrix, kind(2), kind(0.5), P, Q)
    tolerance = 1e-4 if kind == np.float32 else 1e-11
    np.testing.assert_allclose(Q, expected, atol=tolerance)


@given(
    st.lists(st.integers(0, 5), max_size=12), st.booleans(), st.integers(1, 9), st.integers(0, 99)
)
def test_packed_rows_are_the_rows_one_after_the_other(counts, gaps, moved, seed):
    stops = np.cumsum(counts, dtype=np.int64)
    starts, data = stops - counts, np.arange(2 * sum(counts)).reshape(-1, 2)
    given = scattered(starts, stops, data, data[:, 0], seed=seed) if gaps else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.kernels.matrix._MOVED", moved)
        indptr, two, one = packed(*(given or (starts, stops, data, data[:, 0])))
    assert indptr.tolist() == [0, *stops]
    np.testing.assert_array_equal(two, data)
    np.testing.assert_array_equal(one, data[:, 0])
    assert gaps or not data.size or np.shares_memory(two, data)


def test_no_value_is_so_small_that_its_products_are_subnormal():
    tiny = np.float32([1e-20, 1e-30, 1e-33, -1e-33, 1e-38, 1e-44, -1e-44, 0])
    kept = np.where(np.abs(tiny) >= 1e-30, tiny, 0)
    R, P, X = np.tile(tiny, (3, 2)).T.copy(), np.zeros((16, 3), np.float32), np.zeros((16, 3))
    direction_block(np.zeros(3), np.zeros(3), X, R, P)
    np.testing.assert_array_equal(P, np.tile(kept, (3, 2)).T)
    none = Matrix.of_csr(np.zeros(17, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    recurrence_block(none, np.float32(1), np.float32(0), P, R)
    np.testing.assert_array_equal(R, -np.tile(kept, (3, 2)).T)
