"""Devices: what torch computes beside the compiled loops, and what happens without one.

Tests run torch on the CPU, with the code that a GPU runs.
"""

from __future__ import annotations

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import CG, Chebyshev, Context, DiffusionError, Reranker
from diffusion.devices.tensors import blocks, context
from diffusion.transfer import RegularizedLaplacian
from tests.support.graphs import mixed_graph, random_observations
from tests.support.oracles import neighbor_lists

DEVICE = "torch:cpu"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def check_equal(settings, other, lists):
    ids, scores = lists
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    for mine, theirs in zip(other.edges(scores, ids), settings.edges(scores, ids), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    for name, array in settings.arrays().items():
        np.testing.assert_array_equal(other.arrays()[name], array)


@settings(max_examples=60, deadline=None)
@given(
    neighbor_lists(max_n=40, max_k=12),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 2000),
)
def test_encodings_are_the_same_to_the_last_bit(lists, scales, size, pairs):
    before, context._PAIRS = context._PAIRS, pairs
    try:
        check_equal(Context(scales, size), Context(scales, size, DEVICE), lists)
    finally:
        context._PAIRS = before


def test_encodings_with_the_largest_scale_and_a_hub():
    rng = np.random.default_rng(0)
    S = rng.random((300, 300)).astype(np.float32)
    S[:, 0] = 2
    S += S.T
    np.fill_diagonal(S, -1)
    ids = np.argsort(-S, axis=1, kind="stable")[:, :255].astype(np.int32)
    lists = ids, np.take_along_axis(S, ids, 1)
    check_equal(Context((5, 255), 30), Context((5, 255), 30, DEVICE), lists)


def test_a_reranker_on_a_device_answers_as_on_the_cpu(vectors, tmp_path):
    expected = Reranker(k=10, solver=CG(tol=1e-9)).fit(vectors)
    ranker = Reranker(k=10, affinity=Context(device=DEVICE), solver=CG(tol=1e-9, device=DEVICE))
    ranker.fit(vectors)
    scores, ids = ranker.search(vectors, k=10)
    other_scores, other_ids = expected.search(vectors, k=10)
    np.testing.assert_allclose(scores, other_scores, rtol=1e-5)
    assert (ids == other_ids).mean() > 0.99  # all but near ties
    ranker.save(tmp_path / "index")
    assert "device" not in json.dumps(
        json.loads((tmp_path / "index" / "manifest.json").read_text())["parameters"]
    )
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.get_params()["affinity"] == "context"
    assert loaded.solver_.device == "cpu"
    np.testing.assert_allclose(loaded.search(vectors, k=10)[0], scores, rtol=1e-5)


@pytest.mark.parametrize("kind", [CG, Chebyshev])
def test_a_block_is_as_wide_as_memory_permits(monkeypatch, kind):
    graph = mixed_graph()
    y = random_observations(graph, 100)
    expected = kind(tol=1e-9).prepare(graph, RegularizedLaplacian()).solve(y).x
    for values, width in ((1, 7), (40 * graph.n_nodes, 32), (1 << 40, 1024)):
        monkeypatch.setattr(blocks, "_VALUES", values)
        solver = kind(tol=1e-9, block_size=7, device=DEVICE).prepare(graph, RegularizedLaplacian())
        assert solver._blocks.width(7) == width
        np.testing.assert_allclose(solver.solve(y).x, expected, rtol=1e-5, atol=1e-9)


def test_a_solver_on_a_device_is_shared_by_threads_and_pickled():
    graph = mixed_graph()
    y = random_observations(graph, 40)
    solver = CG(tol=1e-9, device=DEVICE).prepare(graph, RegularizedLaplacian())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: solver.solve(row).x, y))
    expected = solver.solve(y).x
    np.testing.assert_allclose(np.concatenate(answers), expected, rtol=1e-5, atol=1e-9)
    content = pickle.dumps(solver)
    assert b"torch" not in content.replace(b"torch:cpu", b"").replace(b"torch\x94", b"")
    np.testing.assert_array_equal(pickle.loads(content).solve(y).x, expected)


# --- without a device ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CG, Chebyshev, Context])
@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", None, 0])
def test_names_of_devices(kind, device):
    with pytest.raises(DiffusionError, match=r"device: expected 'cpu', 'cuda' or 'cuda:N', got"):
        kind(device=device)


def uses(vectors, tmp_path, device):
    """Everything that a device is given to."""
    Reranker(k=5).fit(vectors).save(tmp_path / "index")
    lists = diffusion.nearest_neighbors(vectors, 5)
    graph = mixed_graph()
    yield lambda: CG(device=device).prepare(graph, RegularizedLaplacian())
    yield lambda: Chebyshev(device=device).prepare(graph, RegularizedLaplacian())
    yield lambda: Context(device=device).edges(lists[0], lists[1].astype(np.int32))
    yield lambda: diffusion.load(tmp_path / "index", device=device)


@without_gpu
def test_no_gpu_is_an_error_and_never_another_device(vectors, tmp_path):
    for use in uses(vectors, tmp_path, "cuda:1"):
        with pytest.raises(DiffusionError, match=r"^device: torch .* finds no GPU for 'cuda:1'"):
            use()


def test_no_torch_names_the_extra(vectors, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("diffusion.devices.tensors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(diffusion.devices, "tensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    for use in uses(vectors, tmp_path, "cuda"):
        with pytest.raises(DiffusionError, match=r"^device: 'cuda' needs torch; .*\[gpu\]"):
            use()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    CG(device="cuda:1").prepare(mixed_graph(), RegularizedLaplacian())
    with pytest.raises(DiffusionError, match="device: expected one of 2 GPUs"):
        CG(device="cuda:2").prepare(mixed_graph(), RegularizedLaplacian())


def test_an_index_whose_solver_has_no_device(vectors, tmp_path):
    Reranker(k=5, solver="local").fit(vectors).save(tmp_path / "index")
    message = "device: expected 'cpu' for solver 'local', got 'torch:cpu'; only 'cg' and 'chebysh"
    with pytest.raises(DiffusionError, match=message):
        diffusion.load(tmp_path / "index", device=DEVICE)
    Reranker(k=5).fit(vectors).save(tmp_path / "index")
    with pytest.raises(DiffusionError, match=r"^device: expected 'cpu', 'cuda'"):
        diffusion.load(tmp_path / "index", device="gpu")
