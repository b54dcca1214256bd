from __future__ import annotations

import numpy as np
import pytest

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion
from tests.support.oracles import similarity


def unit(v):
    return np.asarray(v, float) / np.linalg.norm(v)


def test_average_query_expansion_by_hand():
    X = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    expanded = expansion.average([[1.0, 0.0]], X, [[1.0, 0.6]], [[0, 1]])
    np.testing.assert_allclose(expanded[0], unit([1 + 1 + 0.6, 0.8]), rtol=1e-6)


def test_alpha_query_expansion_by_hand():
    X = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    scores, ids = [[1.0, 0.6, -1.0]], [[0, 1, -1]]
    expanded = expansion.average([[1.0, 0.0]], X, scores, ids, alpha=3.0)
    w = 0.6**3
    np.testing.assert_allclose(expanded[0], unit([1 + 1 + w * 0.6, w * 0.8]), rtol=1e-6)


def test_negative_similarities_weigh_nothing():
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    expanded = expansion.average([[1.0, 0.0]], X, [[1.0, -1.0]], [[0, 1]], alpha=1.0)
    np.testing.assert_allclose(expanded[0], [1, 0], atol=1e-7)


def test_database_augmentation_equals_a_loop(vectors):
    X = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    s = similarity(X, X, "cosine")
    expected = []
    for i in range(len(X)):
        others = np.argsort(-s[i])
        others = others[others != i][:4]
        expected.append(unit(X[i] + sum(max(s[i, j], 0) ** 3 * X[j] for j in others)))
    np.testing.assert_allclose(
        expansion.augment_database(vectors, 4, alpha=3.0), expected, rtol=1e-4, atol=1e-5
    )


def test_gather_blocks_do_not_change_the_answer(vectors, monkeypatch):
    whole = expansion.augment_database(vectors, 4)
    monkeypatch.setattr(expansion, "_GATHER_VALUES", 500)
    np.testing.assert_array_equal(expansion.augment_database(vectors, 4), whole)


def test_every_expansion_beats_plain_search_on_clusters(rng):
    # Wide clusters, whose means say more than a member does.
    centres = rng.standard_normal((5, 30))
    labels = np.repeat(np.arange(5), 60)
    X = expansion.normalize(centres[labels] + 1.5 * rng.standard_normal((300, 30)))
    X, Q, gallery, queries = X[::2], X[1::2], labels[::2], labels[1::2]

    def mean_ap(Q, X=X):
        ids = expansion.search(Q, X, 150)[1]
        return metrics.average_precision(*metrics.hits_from_labels(ids, gallery, queries)).mean()

    first = expansion.search(Q, X, 150)
    ten = tuple(part[:, :10] for part in first)
    plain = mean_ap(Q)
    assert mean_ap(expansion.average(Q, X, *ten)) > plain + 0.03
    assert mean_ap(expansion.average(Q, X, *ten, alpha=3.0)) > plain + 0.03
    assert mean_ap(expansion.discriminative(Q, X, first[1], n_negative=50)) > plain + 0.03
    assert mean_ap(Q, expansion.augment_database(X)) > plain + 0.03


def test_discriminative_expansion_separates_what_it_was_shown():
    X = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    normal = expansion.discriminative([[1.0, 0.05]], X, [[0, 1, 2, 3]], C=100.0)
    assert (normal @ X[:2].T > 0).all()
    assert (normal @ X[2:].T < 0).all()


def test_a_list_too_short_to_learn_from_leaves_the_query():
    normal = expansion.discriminative([[0.0, 2.0]], np.eye(2), [[1, -1]])
    np.testing.assert_allclose(normal, [[0, 1]])


def test_bad_input():
    with pytest.raises(diffusion.DiffusionError, match="alpha"):
        expansion.average(np.eye(2), np.eye(2), [[1.0]] * 2, [[0]] * 2, alpha=-1)
    with pytest.raises(diffusion.DiffusionError, match="X: expected vectors of dimension 2"):
        expansion.average(np.eye(2), np.eye(3), [[1.0]] * 2, [[0]] * 2)
    with pytest.raises(diffusion.DiffusionError, match="ids: expected ids in"):
        expansion.average(np.eye(2), np.eye(2), [[1.0]] * 2, [[2]] * 2)
