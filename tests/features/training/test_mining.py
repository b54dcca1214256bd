"""Mining, what an epoch is made of, and the measure, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError
from features.training.evaluation import leave_one_out
from features.training.mining import (
    Mined,
    groups_of_pairs,
    hard_negatives,
    mine_manifold,
    same_label,
)
from features.training.samples import draw_tuples, draw_views, from_folders, from_pairs, mine


def two_arcs(n=60, gap=0.35):
    """Return two arcs side by side on a sphere, and which is which.

    Points of one arc are nearer to those beside them on the other than to those far along.
    """
    along = np.tile(np.linspace(0, np.pi, n), 2)
    side = np.repeat([0, 1], n)
    height = np.where(side == 0, gap, -gap) / 2
    X = np.stack([np.cos(along), np.sin(along), np.tan(height)], axis=1)
    return X, side


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


# --- mining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 20])
def test_hard_negatives_equal_a_loop(rng, n):
    X, labels = unit(rng.standard_normal((50, 4))), rng.integers(0, 6, 50)
    labels[:30] = 0  # so many of one label that lists must be lengthened
    got = hard_negatives(X, labels, n)
    for row in range(50):
        expected, seen = [], {labels[row]}
        for other in np.argsort(-(X @ X[row]), kind="stable"):
            if labels[other] not in seen:
                seen.add(labels[other])
                expected.append(other)
        assert got[row].tolist() == expected[:n]


def test_of_one_label_there_is_no_negative(rng):
    assert all(len(found) == 0 for found in hard_negatives(rng.random((4, 3)), np.zeros(4)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=15))
def test_images_of_the_same_label(labels):
    got = same_label(labels)
    for row, label in enumerate(labels):
        expected = [i for i, other in enumerate(labels) if other == label and i != row]
        assert got[row].tolist() == expected


def test_chains_of_pairs_are_groups():
    groups = groups_of_pairs([[0, 3], [3, 5], [1, 2]], 7)
    assert groups[0] == groups[3] == groups[5]
    assert groups[1] == groups[2]
    assert len(set(groups.tolist())) == 4


def test_the_manifold_tells_what_the_distance_confuses():
    X, side = two_arcs()
    ranker = diffusion.Reranker(k=4, affinity="cosine", alpha=0.99, query_k=1)
    mined = mine_manifold(X, 20, ranker=ranker)
    positives = np.concatenate([side[p] == side[i] for i, p in enumerate(mined.positives)])
    negatives = np.concatenate([side[n] == side[i] for i, n in enumerate(mined.negatives)])
    assert len(positives) > 200
    assert positives.all()
    assert len(negatives) > 200
    assert not negatives.any()


@pytest.mark.parametrize("k", [3, 10, 500])
def test_the_manifolds_pairs_are_where_two_rankings_differ(rng, k):
    X = unit(rng.standard_normal((40, 5)))
    mined = mine_manifold(X, k, ranker=diffusion.Reranker(k=6, affinity="cosine"))
    _, ids = diffusion.Reranker(k=6, affinity="cosine").fit(X).search(X, 40)
    for row in range(40):
        near = [i for i in np.argsort(-(X @ X[row]), kind="stable") if i != row][:k]
        walk = [i for i in ids[row].tolist() if i != row][:k]
        assert mined.positives[row].tolist() == [i for i in walk if i not in near]
        assert set(mined.negatives[row].tolist()) == {i for i in near if i not in walk}
        assert row not in mined.positives[row]


def test_by_default_mining_has_no_parameter_to_choose(rng):
    X = unit(np.repeat(rng.standard_normal((6, 8)), 10, axis=0) + rng.standard_normal((60, 8)) / 2)
    mined = mine_manifold(X, 9)
    assert len(mined.anchors) > 0
    assert len(mined.positives) == len(mined.negatives) == 60
    with pytest.raises(DiffusionError, match=r"^X:"):
        mine_manifold(X[:2])
    with pytest.raises(DiffusionError, match=r"^k:"):
        mine_manifold(X, 0)


# --- what is known, and what an epoch is made of -------------------------------------------------


def test_folders_are_classes():
    known = from_folders(["a/1.jpg", "a/2.jpg", "b/c/1.jpg", "b/1.jpg", "b/2.jpg"])
    assert known.labels.tolist() == [0, 0, 2, 1, 1]
    assert known.classes == 3
    for files in (["a/1.jpg", "a/2.jpg"], ["a/1.jpg", "b/2.jpg"]):
        with pytest.raises(DiffusionError, match=r"^folder: expected a folder for each class"):
            from_folders(files)


def test_pairs_of_files(tmp_path, rng):
    files = ["a.jpg", "b c.jpg", "d.jpg", "e.jpg", "f.jpg"]
    (tmp_path / "pairs.txt").write_text("a.jpg\tb c.jpg\n\nb c.jpg\td.jpg\nd.jpg\tb c.jpg\n")
    known = from_pairs(tmp_path / "pairs.txt", files)
    assert [p.tolist() for p in known.positives] == [[1], [0, 2], [1], [], []]
    X = unit(rng.standard_normal((5, 3)))
    mined = mine(known, X, negatives=5, k=3)
    # A chain of pairs holds no negatives, though its ends are no pair.
    assert [sorted(n.tolist()) for n in mined.negatives[:3]] == [[3, 4]] * 3
    assert mined.anchors.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none"),
        ("a.jpg b.jpg\n", "line 1: expected two file names"),
        ("a.jpg\tb.jpg\nb.jpg\tz.jpg\n", r"line 2: 'z\.jpg' is not a readable photo"),
        ("a.jpg\ta.jpg\n", "line 1: expected two different"),
    ],
)
def test_bad_pairs_are_named(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DiffusionError, match=rf"pairs\.txt: .*{message}"):
        from_pairs(tmp_path / "pairs.txt", ["a.jpg", "b.jpg"])
    with pytest.raises(DiffusionError, match="cannot be read"):
        from_pairs(tmp_path / "absent.txt", ["a.jpg"])


def test_tuples_are_anchor_positive_and_hardest_negatives(rng):
    rows = [np.array(r, np.int64) for r in ([1, 2], [0], [], [0])]
    negatives = [np.array(r, np.int64) for r in ([3], [], [3], [1, 2, 0])]
    mined = Mined(rows, negatives)
    assert mined.anchors.tolist() == [0, 3]
    tuples = draw_tuples(mined, 9, 2, rng)
    assert sorted(tuples[:, 0].tolist()) == [0, 3]
    by_anchor = {row[0]: row[1:] for row in tuples.tolist()}
    assert by_anchor[0][0] in (1, 2)
    assert by_anchor[0][1:] == [3, 3]
    assert by_anchor[3] == [0, 1, 2]
    assert len(draw_tuples(mined, 1, 2, rng)) == 1
    with pytest.raises(DiffusionError, match="found none"):
        draw_tuples(Mined(rows[2:3], negatives[:1]), 9, 2, rng)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 99))
def test_views_are_parts_of_the_image(height, width, seed):
    for view in draw_views([(height, width)] * 5, np.random.default_rng(seed)):
        top, left, bottom, right = view.box
        assert 0 <= top < bottom <= 1 + 1e-12
        assert 0 <= left < right <= 1 + 1e-12
        high, wide = (bottom - top) * height, (right - left) * width
        area = high * wide / (height * width)
        # As large as asked for, unless the image is too narrow for a part of such sides.
        if max(height, width) <= 1.05 * min(height, width):
            assert 0.28 <= area <= 1 + 1e-9
            assert 0.7 <= high / wide <= 1.43
        assert 0.8 <= view.gain <= 1.2
        assert -0.1 <= view.offset <= 0.1


# --- the measure ---------------------------------------------------------------------------------


def test_leave_one_out_equals_a_loop(rng):
    X, labels = unit(rng.standard_normal((30, 4))), rng.integers(0, 5, 30)
    labels[7] = 99
    got = leave_one_out(X, labels)
    assert np.isnan(got[7])
    for row in set(range(30)) - {7}:
        order = [i for i in np.argsort(-(X @ X[row])) if i != row]
        hits = labels[order] == labels[row]
        precision = np.cumsum(hits) / np.arange(1, 30)
        assert got[row] == pytest.approx(precision[hits].mean())
    with pytest.raises(DiffusionError, match=r"^labels:"):
        leave_one_out(X, labels[:5])
