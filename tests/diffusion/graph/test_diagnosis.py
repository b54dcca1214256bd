"""The diagnosis of graphs whose numbers are known."""

import json

import numpy as np
import pytest

import diffusion
from diffusion import Context, DiffusionError, Reranker, cli


def test_a_ring_by_hand():
    # Every item lists the three on either side: nothing is lopsided, nothing a hub.
    n = 60
    steps = np.array([1, -1, 2, -2, 3, -3])
    ids = (np.arange(n)[:, None] + steps) % n
    scores = np.tile([0.9, 0.9, 0.8, 0.8, 0.7, 0.7], (n, 1))
    found = Reranker(affinity=Context(scales=[6])).fit_neighbors(scores, ids).diagnose()
    assert found.n_items == n
    assert found.reciprocal == 1
    assert found.isolated == 0
    assert found.n_components == 1
    assert found.largest_component == 1
    assert found.listed_by_none == 0
    assert found.hub_places == pytest.approx(1 / n)
    assert found.largest_hub == pytest.approx(6 / n)
    # Neighbourhoods of equal shape: those that share most are those that lie nearest.
    assert found.departure == 0
    # All but some where the ring closes: there, equal scores stand in another order.
    assert found.edges_per_item == pytest.approx(6, abs=0.1)


def test_a_hub_and_those_that_nobody_lists():
    # Item 0 lists 1 to 3, and everybody lists 0 first and then their own pair.
    n = 9
    ids = np.array([[1, 2, 3]] + [[0, i % 2 * 2 + i - 1, -1] for i in range(1, n)])
    ids[ids >= n] = -1
    scores = np.where(ids >= 0, [0.9, 0.5, 0.4], -np.inf)
    found = Reranker(affinity=Context(scales=[3])).fit_neighbors(scores, ids).diagnose()
    assert found.largest_hub == pytest.approx(8 / 9)
    listed = np.bincount(ids[ids >= 0], minlength=n)
    assert found.listed_by_none == pytest.approx(np.mean(listed == 0))
    assert found.hub_places == pytest.approx(listed.max() / listed.sum())
    mutual = sum(i in ids[j] for i in range(n) for j in ids[i] if j >= 0)
    assert found.reciprocal == pytest.approx(mutual / (ids >= 0).sum())


def test_the_graph_of_another_affinity_and_isolated_items():
    X = np.zeros((12, 3))
    X[:4, 0], X[4:10, 1] = 1, 1
    found = Reranker(affinity="cosine").fit_rows(X).diagnose()
    assert found.isolated == pytest.approx(2 / 12)
    assert found.n_components == 2
    assert found.largest_component == pytest.approx(6 / 12)
    assert found.edges_per_item == pytest.approx((4 * 3 + 6 * 5) / 12)
    assert found.reciprocal is None
    assert "isolated" in str(found)
    assert "list the item back" not in str(found)


def test_departure_of_items_whose_neighbourhoods_contradict_their_scores():
    rng = np.random.default_rng(0)
    ordered = Reranker().fit(np.sort(rng.random(200))[:, None] + [[0.0, 2.0]])
    noisy = Reranker().fit(rng.standard_normal((200, 60)))
    assert 0 <= ordered.diagnose().departure < noisy.diagnose().departure <= 1


def test_the_command_prints_it(tmp_path, capsys):
    ranker = Reranker().fit(np.random.default_rng(1).random((40, 4)))
    ranker.save(tmp_path / "index")
    assert cli.main(["info", str(tmp_path / "index"), "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)["graph"]
    assert graph["reciprocal"] == ranker.diagnose().reciprocal
    assert cli.main(["info", str(tmp_path / "index")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in printed for line in str(ranker.diagnose()).split("\n"))


def test_not_fitted():
    with pytest.raises(DiffusionError, match="not fitted"):
        diffusion.Reranker().diagnose()
