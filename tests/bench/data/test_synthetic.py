from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from bench.data import synthetic
from bench.data.collections import Collection, grocery
from bench.quality.survey import below_cosine, survey

GENERATORS = {
    "turntable": (lambda seed: synthetic.turntable(3, 8, seed, size=6), [8] * 3, 108),
    "curves": (lambda seed: synthetic.curves(4, 7, 12, seed), [7] * 4, 12),
    "walks": (lambda seed: synthetic.walks(4, 7, 5, seed), [7] * 4, 5),
    "swiss roll": (lambda seed: synthetic.swiss_roll(4, 7, 6, seed), [7] * 4, 6),
    "clusters": (lambda seed: synthetic.clusters([5, 1, 9], 8, seed), [5, 1, 9], 8),
    "hubs": (lambda seed: synthetic.hubs(3, 6, 20, seed=seed), [6] * 3, 20),
    "documents": (lambda seed: synthetic.documents(3, 6, 40, seed), [6] * 3, 40),
    "faces": (lambda seed: synthetic.faces(3, 6, 30, seed), [6] * 3, 30),
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_seeded_and_make_what_was_asked(name):
    make, sizes, d = GENERATORS[name]
    X, labels = make(0)
    assert X.shape == (sum(sizes), d)
    assert X.dtype == np.float32
    assert np.isfinite(X).all()
    assert np.linalg.norm(X, axis=1).min() > 0
    assert labels.tolist() == [label for label, size in enumerate(sizes) for _ in range(size)]
    assert np.array_equal(X, make(0)[0])
    assert not np.isclose(X, make(1)[0]).all(axis=1).any()


def test_turntable_views_are_in_order_and_close_the_circle():
    X, _ = synthetic.turntable(6, 36)
    assert X.min() == 0
    assert X.max() <= 1
    views = X.reshape(6, 36, -1)

    def apart(steps):
        return np.linalg.norm(views - np.roll(views, steps, axis=1), axis=2).mean(axis=1)

    # The roll goes round the end: the last view is as near to the first as any two in a row.
    assert (apart(1) < 0.8 * apart(3)).all()
    assert (apart(1) < 0.5 * apart(18)).all()
    seam = np.linalg.norm(views[:, 0] - views[:, -1], axis=1)
    steps = np.linalg.norm(np.diff(views, axis=1), axis=2)
    assert (seam <= 1.5 * steps.max(axis=1)).all()


def test_turntable_views_depend_on_the_angle_alone():
    fine, coarse = synthetic.turntable(3, 12)[0], synthetic.turntable(3, 6)[0]
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-6)


def test_a_curve_spans_the_four_waves_it_is_made_of():
    X, labels = synthetic.curves(5, 60, 24)
    for label in range(5):
        spread = np.linalg.svd(X[labels == label] - X[labels == label].mean(0), compute_uv=False)
        assert spread[3] > 2 * spread[4]
        np.testing.assert_allclose(spread[4:].mean() / np.sqrt(60), 0.15, atol=0.05)


def test_frames_of_a_walk_drift_apart_with_time():
    walk = synthetic.walks(8, 100)[0].reshape(8, 100, 10)
    apart = [((walk[:, steps:] - walk[:, :-steps]) ** 2).sum(-1).mean() for steps in (1, 4, 16)]
    # E |w_{t+s} - w_t|² = d (0.35² s + 2 · 0.05²)
    expected = [10 * (0.35**2 * steps + 2 * 0.05**2) for steps in (1, 4, 16)]
    np.testing.assert_allclose(apart, expected, rtol=0.3)


def test_swiss_roll_is_a_sheet_and_its_classes_follow_the_roll():
    X, labels = synthetic.swiss_roll(8, 50)
    spread = np.linalg.svd(X - X.mean(0), compute_uv=False)
    np.testing.assert_allclose(spread[3:].mean() / np.sqrt(400), 0.3, atol=0.05)
    assert spread[2] > 5 * spread[3]
    distances = np.linalg.norm(X[:, None] - X[None], axis=-1)
    nearest = labels[np.argsort(distances, axis=1)[:, 1]]
    # The nearest other item is of the same stretch or of the next, not a turn of the roll away.
    assert np.mean(np.abs(nearest - labels) <= 1) > 0.97


def test_clusters_are_uneven_and_sizes_follow_zipf():
    X, labels = synthetic.clusters([200] * 12, 32)
    spreads = [X[labels == label].std(axis=0).mean() for label in range(12)]
    assert max(spreads) > 2 * min(spreads)
    np.testing.assert_allclose(np.log(spreads).mean(), np.log(1.3), atol=0.35)
    assert synthetic.zipf_sizes(7, 12) == [12, 6, 4, 3, 2, 2, 2]


def test_hubs_are_in_many_more_lists_than_others():
    def most_often_listed(X):
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        similarity = X @ X.T
        np.fill_diagonal(similarity, -np.inf)
        return np.bincount(np.argsort(-similarity, axis=1)[:, :10].ravel()).max()

    n = 400
    plain = np.random.default_rng(0).standard_normal((n, 10))
    assert most_often_listed(synthetic.hubs(20, 20)[0]) > 100 > 2 * most_often_listed(plain)


def _nearest_is_right(X, labels):
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    similarity = X @ X.T
    np.fill_diagonal(similarity, -np.inf)
    return np.mean(labels[similarity.argmax(axis=1)] == labels)


def test_documents_are_sparse_and_their_words_tell_the_class():
    X, labels = synthetic.documents(10, 20, 300)
    assert X.min() == 0
    assert np.mean(X > 0) < 0.3
    assert _nearest_is_right(X, labels) > 0.8


def test_pose_of_a_face_is_stronger_than_the_person():
    X, labels = synthetic.faces(25, 10, 120)
    people = np.array([X[labels == label].mean(0) for label in range(25)])
    within, between = X - people[labels], people[labels] - X.mean(0)
    strength, directions = np.linalg.eigh(within.T @ within)
    # The strongest direction within persons against the strongest between them.
    assert strength[-1] > 1.5 * np.linalg.eigvalsh(between.T @ between)[-1]
    assert _nearest_is_right(X, labels) < 0.5
    # And yet a person is there: without the shared modes the nearest is right.
    modes = directions[:, -8:].T
    X = X - X.mean(0)
    assert _nearest_is_right(X - X @ modes.T @ modes, labels) > 0.9


def test_split_leaves_out_queries_that_have_nothing_to_find():
    items = np.arange(50)[:, None]
    labels = np.r_[np.zeros(30, int), np.arange(1, 21)]
    collection = synthetic.split("s", items, labels)
    assert len(collection.gallery) == 40
    assert set(collection.query_labels) == {0}
    assert not set(collection.gallery.ravel()) & set(collection.queries.ravel())
    for part, own in (
        (collection.gallery, collection.gallery_labels),
        (collection.queries, collection.query_labels),
    ):
        assert np.array_equal(labels[part.ravel()], own)
    many = synthetic.split("m", np.arange(3000)[:, None], np.zeros(3000, int))
    assert (len(many.gallery), len(many.queries)) == (2400, 400)


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(0, 99),
    st.data(),
)
def test_few_each_takes_so_many_of_every_class(sizes, n_each, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    items = np.arange(len(labels))[:, None]
    large = {label for label, size in enumerate(sizes) if size > n_each}
    if not large:
        return
    objects = data.draw(st.integers(1, len(large)))
    free = len(labels) - sum(sorted(sizes[label] for label in large)[-objects:])
    distractors = data.draw(st.integers(0, max(free, 0)))
    collection = synthetic.few_each(
        "f", items, labels, n_each, seed, objects=objects, distractors=distractors
    )
    gallery, queries = collection.gallery.ravel(), collection.queries.ravel()
    together = np.concatenate([gallery, queries])
    assert len(set(together)) == len(together)
    assert np.array_equal(labels[gallery], collection.gallery_labels)
    assert np.array_equal(labels[queries], collection.query_labels)
    assert len(gallery) == objects * n_each + distractors
    first = collection.gallery_labels[: objects * n_each]
    chosen, counts = np.unique(first, return_counts=True)
    assert set(chosen) <= large
    assert counts.tolist() == [n_each] * objects
    assert not set(collection.gallery_labels[objects * n_each :]) & set(chosen)
    assert set(collection.query_labels) <= set(chosen)
    assert len(queries) == min(400, sum(sizes[label] - n_each for label in chosen))


def test_few_each_goes_by_its_seed_and_says_what_is_too_much():
    items, labels = np.arange(60)[:, None], np.repeat([0, 1, 2], 20)
    one, same, other = (
        synthetic.few_each("f", items, labels, 3, seed).gallery for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    with pytest.raises(diffusion.DiffusionError, match="objects: expected at most 3"):
        synthetic.few_each("f", items, labels, 3, objects=4)
    with pytest.raises(diffusion.DiffusionError, match="distractors: expected at most 20"):
        synthetic.few_each("f", items, labels, 3, objects=2, distractors=21)


def _numbered(n: int) -> Collection:
    """Return a collection whose vectors are the numbers of the items, so that copies show."""
    labels = np.arange(n) % 5
    return Collection(
        "n", np.arange(n, dtype=np.float32)[:, None], np.zeros((2, 1)), labels, [0, 1]
    )


def test_exact_bursts_repeat_items_with_their_class():
    collection = _numbered(1000)
    burst = synthetic.bursts("b", collection, 0.3, 6)
    items, times = np.unique(burst.gallery.ravel(), return_counts=True)
    assert np.array_equal(items, np.arange(1000))
    assert np.array_equal(burst.gallery_labels, burst.gallery.ravel() % 5)
    assert 250 < (times > 1).sum() < 350
    assert set(times) == set(range(1, 8))
    assert burst.queries is collection.queries
    assert burst.name == "b"


def test_near_bursts_are_close_and_not_the_same():
    exact = synthetic.bursts("b", _numbered(300), 0.3, 6)
    near = synthetic.bursts("b", _numbered(300), 0.3, 6, noise=0.01)
    apart = np.abs(near.gallery - exact.gallery)
    assert 0 < apart.max() < 0.06
    np.testing.assert_allclose(np.sqrt(np.mean(apart**2)), 0.01, rtol=0.1)
    assert len(np.unique(near.gallery)) == len(near.gallery)


def test_everything_does_without_grocery(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    assert len(synthetic.everything()) == 31


def test_subsets_of_grocery():
    if grocery(packages_only=True) is None:
        pytest.skip("grocery descriptors are not in DIFFUSION_DATA")
    found = [
        collection for make in synthetic.everything()[31:] if "each" in (collection := make()).name
    ]
    assert [(len(collection.gallery), collection.name) for collection in found] == [
        (93, "packages 3 each"),
        (155, "packages 5 each"),
        (243, "grocery 3 each"),
        (243, "grocery 3 each, seed 1"),
        (405, "grocery 5 each"),
        (405, "grocery 5 each, seed 1"),
        (1120, "grocery 3 each of 40 + 1000"),
        (1200, "grocery 5 each of 40 + 1000"),
    ]


def _average_precision(ids, gallery_labels, label):
    """Return the average precision of one ranking in percent, item by item."""
    found, total = 0, 0.0
    for place, item in enumerate(ids, start=1):
        if gallery_labels[item] == label:
            found += 1
            total += found / place
    return 100 * total / found


def test_survey_against_rankings_judged_one_by_one(capsys):
    small = synthetic.few_each(
        "small", *synthetic.clusters([20] * 6 + [1] * 15, 10), 4, distractors=15
    )
    other = synthetic.split("other", *synthetic.faces(12, 10, 60))
    table = survey([lambda: small, lambda: other])
    assert "survey" in capsys.readouterr().err
    for row, collection in zip(table.rows[:2], (small, other), strict=True):
        X, Q = collection.gallery, collection.queries
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        rankings = (
            np.argsort(-Q @ unit.T, axis=1),
            diffusion.Reranker(affinity="cosine", k=50, alpha=0.99).fit(X).search(Q, len(X))[1],
            diffusion.Reranker().fit(X).search(Q, len(X))[1],
        )
        plain, papers, default = (
            np.array([
                _average_precision(ids, collection.gallery_labels, label)
                for ids, label in zip(ranking, collection.query_labels, strict=True)
            ])
            for ranking in rankings
        )  # fmt: skip
        sizes = [np.sum(collection.gallery_labels == c) for c in set(collection.query_labels)]
        assert row[:3] == [collection.name, len(X), int(np.median(sizes))]
        expected = [
            plain.mean(),
            papers.mean(), 100 * np.mean(papers < plain - 1),
            default.mean(), 100 * np.mean(default < plain - 1),
            default.mean() - plain.mean(),
        ]  # fmt: skip
        np.testing.assert_allclose(row[3:], expected, atol=0.0501)
    assert table.rows[2][:3] == ["mean of 2", None, None]
    means = np.mean([row[3:] for row in table.rows[:2]], axis=0)
    np.testing.assert_allclose(table.rows[2][3:], means, atol=0.11)
    assert table.rows[3][0].startswith("below cosine")
    assert [figure for figure in table.rows[3][1:] if figure is not None] == [
        sum(row[column] < row[3] - 0.3 for row in table.rows[:2]) for column in (4, 6)
    ]
    assert table.rows[3][4] > 0


def test_a_collection_is_below_cosine_by_more_than_rounding():
    figures = np.array([[50, 49.6, 9, 80, 9], [50, 49.8, 9, 49.5, 9], [50, 40, 9, 49.71, 9]])
    assert below_cosine(figures) == [2, 1]


def test_survey_of_nothing_in_particular_takes_everything(monkeypatch):
    tiny = synthetic.few_each("tiny", *synthetic.clusters([9] * 3, 4), 3)
    monkeypatch.setattr("bench.quality.survey.everything", lambda: [lambda: tiny])
    assert survey().rows[0][0] == "tiny"
