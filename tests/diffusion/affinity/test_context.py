"""The contextual affinity against a naive one, item by item, with sets and dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import Context, DiffusionError, Fusion
from diffusion.change import Ages, Change
from diffusion.devices import context_on
from diffusion.kernels import encodings as blocks
from diffusion.kernels.context import Encodings
from diffusion.kernels.locality import locality_order
from diffusion.kernels.ranking import FirstStage
from diffusion.kernels.threads import using_cores
from tests.support.oracles import by_scaled_scores, local_scale, scaled_lists, scaled_score

# More entries than there are items: none is cut off. Each is rounded to units of 1/65535.
ENTRIES = 60
TOLERANCE = ENTRIES / 65535


def rank_in(scores, ids):
    """Rank of every listed item: one more than there are higher scores."""
    return {
        int(j): 1 + sum(1 for t, i in zip(scores, ids, strict=True) if i >= 0 and t > s)
        for s, j in zip(scores, ids, strict=True)
        if j >= 0
    }


def mean(encodings):
    total = {}
    for encoding in encodings:
        for item, weight in encoding.items():
            total[item] = total.get(item, 0) + weight / len(encodings)
    return total


def normalized(encoding):
    total = sum(encoding.values())
    return {item: weight / total for item, weight in encoding.items()} if total else {}


class Naive:
    """The encoding of every item, and of queries, in plain Python."""

    def __init__(self, scores, ids, scales, size, factor, halves=True):
        self.scores, self.ids, self.local_scale = scaled_lists(scores, ids, factor)
        self.size, self.factor, self.halves = size, factor, halves
        width = ids.shape[1]
        self.scales = sorted({min(s, width) for s in scales})
        self.ranks = [rank_in(*row) for row in zip(self.scores, self.ids, strict=True)]
        self.items = [self.encode(i, self.mutual(i)) for i in range(len(ids))]

    def mutual(self, i):
        theirs = {j: self.ranks[j].get(i) for j in self.ranks[i]}
        return {j: max(self.ranks[i][j], r) for j, r in theirs.items() if r is not None}

    def set_of(self, mutual, scale, itself):
        ranks = {**mutual, **({} if itself is None else {itself: 0})}
        limits = [scale, max(1, scale // 2) if self.halves else scale]
        counts = {j: sum(m <= limit for limit in limits) for j, m in ranks.items()}
        total = sum(counts.values())
        return {j: count / total for j, count in counts.items() if count}

    def encode(self, itself, mutual, neighbors=None):
        if neighbors is None:
            neighbors = self.ids[itself]
        at_scales = []
        for scale in self.scales:
            near = [int(j) for j in neighbors[: max(1, scale // 3) - 1] if j >= 0]
            sets = [self.set_of(mutual, scale, itself)]
            sets += [self.set_of(self.mutual(j), scale, j) for j in near]
            at_scales.append(mean(sets))
        whole = mean(at_scales)
        best = sorted(whole, key=lambda j: (-whole[j], j))[: self.size]
        return normalized({j: whole[j] for j in best})

    def query(self, scores, ids):
        scaled, order = by_scaled_scores(scores, ids, self.local_scale, self.factor)
        seen = scaled_score(scores, local_scale(scores, ids), self.factor)[order]
        ids = ids[order]
        own = rank_in(scaled, ids)
        mutual = {}
        for s, j in zip(seen, ids, strict=True):
            if j < 0:
                continue
            theirs = 1 + sum(
                1 for t, i in zip(self.scores[j], self.ids[j], strict=True) if i >= 0 and t > s
            )
            if theirs <= self.ids.shape[1]:
                mutual[int(j)] = max(own[int(j)], theirs)
        return self.encode(None, mutual, ids)

    def jaccard(self, encoding):
        """Jaccard similarity of an encoding to every item's."""
        found = np.zeros(len(self.items))
        for j, other in enumerate(self.items):
            if not encoding or not other:
                continue
            least = sum(min(w, other.get(item, 0)) for item, w in encoding.items())
            most = sum(max(encoding.get(i, 0), other.get(i, 0)) for i in {*encoding, *other})
            found[j] = least / most
        return found


def neighbor_lists(X, k):
    scores, ids = diffusion.nearest_neighbors(X, k)
    return scores, ids.astype(np.int32)


def query_lists(X, Q, k):
    S = Q @ X.T
    ids = np.argsort(-S, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(S, ids, axis=1), ids


FACTORS = st.sampled_from([0.0, 0.3, 0.9])

collections = st.builds(
    lambda seed, n, kinds, coarse: _vectors(seed, n, kinds, coarse),
    st.integers(0, 2**32 - 1),
    st.integers(2, 45),
    st.integers(1, 5),
    st.booleans(),
)


def _vectors(seed, n, kinds, coarse):
    """Clusters; where coarse, of integers, with many equal scores and exact duplicates."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((kinds, 4))
    X = centers[rng.integers(kinds, size=n)] + 0.4 * rng.standard_normal((n, 4))
    if coarse:
        X = np.round(X)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, norms, out=np.zeros_like(X), where=norms > 0).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    collections,
    st.integers(1, 16),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    FACTORS,
)
def test_items_against_the_naive_encoding(X, k, scales, factor):
    scores, ids = neighbor_lists(X, k)
    affinity = Context(scales, size=ENTRIES, scaling=factor)
    best, weights = affinity.edges(scores, ids)
    depth = affinity.depth
    assert depth == min(max(scales), ids.shape[1])
    naive = Naive(scores[:, :depth], ids[:, :depth], scales, ENTRIES, factor)
    expected = np.array([naive.jaccard(encoding) for encoding in naive.items])
    np.testing.assert_allclose(np.diag(expected), 1)

    # The lists of J, as the weights were made of: each holds the largest of its row.
    entries = np.full((len(X), ENTRIES), -1, np.int32)
    values = np.zeros((len(X), ENTRIES), np.uint16)
    for i, encoding in enumerate(naive.items):
        for a, (item, weight) in enumerate(encoding.items()):
            entries[i, a], values[i, a] = item, round(65535 * weight)
    overlaps = np.empty(best.shape, np.uint16)
    again = np.empty(best.shape, np.int32)
    items = np.arange(len(X), dtype=np.int32)
    encodings = Encodings(entries, values)
    nobody = np.empty(0, np.int32)
    blocks.jaccard_lists(items, items, encodings, affinity._holders, nobody, again, overlaps)
    jaccard = overlaps / (2 * 65535.0 - overlaps)
    for i in range(len(X)):
        listed = best[i][best[i] >= 0]
        assert i not in listed
        assert len(set(listed)) == len(listed)
        others = np.delete(expected[i], [i, *listed])
        at_listed = expected[i][listed]
        assert others.max(initial=0) <= at_listed.min(initial=1) + 2 * TOLERANCE or not len(others)
        if len(listed) < depth:
            assert others.max(initial=0) <= TOLERANCE
        np.testing.assert_allclose(
            np.sort(jaccard[i][again[i] >= 0]), np.sort(at_listed), atol=2 * TOLERANCE
        )
        assert (weights[i][best[i] >= 0] <= ((1 + at_listed + TOLERANCE) / 2) ** 3).all()


@settings(max_examples=60, deadline=None)
@given(
    collections,
    st.integers(1, 16),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.integers(1, 8),
    FACTORS,
)
def test_queries_against_the_naive_encoding(X, k, scales, query_k, factor):
    Q, X = X[: len(X) // 3 + 1], X[len(X) // 3 :]
    scores, ids = neighbor_lists(X, k)
    affinity = Context(scales, size=ENTRIES, scaling=factor)
    affinity.edges(scores, ids)
    depth = affinity.depth
    naive = Naive(scores[:, :depth], ids[:, :depth], scales, ENTRIES, factor)
    first = query_lists(X, Q, depth)
    observation = affinity.observe(*first, query_k)
    J = observation.J.csr(len(X)).toarray()
    expected = np.array([naive.jaccard(naive.query(*row)) for row in zip(*first, strict=True)])
    np.testing.assert_allclose(J, expected, atol=TOLERANCE)
    y = observation.y.csr(len(X)).toarray()
    lists = FirstStage(first[0].astype(np.float32), first[1].astype(np.int64))
    e = Fusion(1.0).evidence(lists, affinity.scale_of(lists.scores))
    both = J.astype(np.float32)
    for row in range(len(Q)):
        both[row, first[1][row]] += e[row]
        chosen = np.argsort(-both[row], kind="stable")[:query_k]
        wanted = np.zeros(len(X))
        wanted[chosen] = both[row][chosen]
        np.testing.assert_array_equal(y[row], wanted)


def dense_evidence(scores, ids, n):
    """1 / (1 + z)² of an item's neighbours among all items, 0 for the others."""
    found = np.zeros(n)
    listed = ids >= 0
    if listed.any():
        row = scores[listed].astype(np.float64)
        distinct = np.unique(row)[::-1][:12]
        below, unit = distinct[0] - row, distinct[0] - distinct[-1]
        z = np.divide(below, unit, out=np.zeros_like(row), where=below > 0)
        found[ids[listed]] = 1 / ((1 + z) * (1 + z))
    return found


@settings(max_examples=40, deadline=None)
@given(
    collections,
    st.integers(1, 24),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    FACTORS,
)
def test_weights_against_their_equation(X, k, scales, factor):
    scores, ids = neighbor_lists(X, k)
    affinity = Context(scales, scaling=factor)
    best, weights = affinity.edges(scores, ids)
    depth, n = affinity.depth, len(X)
    overlaps = affinity.arrays()["overlaps"].astype(np.float64)
    scaled = scaled_lists(scores[:, :depth], ids[:, :depth], factor)
    lists = zip(*scaled[:2], strict=True)
    t = np.array([dense_evidence(*row, n) for row in lists])
    J = np.zeros((n, n))
    for i, row in enumerate(best):
        J[i, row[row >= 0]] = (overlaps[i] / (2 * 65535.0 - overlaps[i]))[row >= 0]
    # In the same order and type as the loops, for equal values to be equal.
    S = np.where(J > 0, 0.5 * J + 0.25 * (t + t.T), 0).astype(np.float32)
    ranks = 1 + np.array([(row[None, :] > row[:, None]).sum(axis=1) for row in S], float)
    ranks[S == 0] = np.inf
    mutual = np.maximum(ranks, ranks.T)
    shares = np.mean([mutual <= s for s in {min(s, ids.shape[1]) for s in scales}], axis=0)
    expected = S.astype(np.float64) ** 3 * shares
    found = np.zeros((n, n))
    for i, row in enumerate(best):
        found[i, row[row >= 0]] = weights[i, row >= 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found, found.T)


def dense_jaccard(scores, ids, scales):
    """J of all pairs (n, n), by dense matrices, of encodings that are not cut."""
    n, k = ids.shape
    ranks = np.full((n, n), np.inf)
    for i in range(n):
        listed = ids[i] >= 0
        higher = (scores[i][None, listed] > scores[i][listed, None]).sum(axis=1)
        ranks[i, ids[i, listed]] = 1 + higher
    mutual = np.maximum(ranks, ranks.T)
    np.fill_diagonal(mutual, 0)
    V = np.zeros((n, n))
    cut = sorted({min(s, k) for s in scales})
    for scale in cut:
        sets = (mutual <= scale).astype(float) + (mutual <= max(1, scale // 2))
        sets /= sets.sum(axis=1, keepdims=True)
        near = np.concatenate([np.arange(n)[:, None], ids[:, : max(1, scale // 3) - 1]], axis=1)
        for i, row in enumerate(near):
            V[i] += sets[row[row >= 0]].mean(axis=0) / len(cut)
    V /= V.sum(axis=1, keepdims=True)
    least = np.array([np.minimum(V, row).sum(axis=1) for row in V])
    return least / (2 - least)


@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_many_blocks_against_dense_matrices(factor):
    # More items than a block has, and an item that half of all list.
    rng = np.random.default_rng(8)
    scores, ids = neighbor_lists(rng.standard_normal((700, 3)), 12)
    ids[::2, -1] = 350
    ids[ids == np.arange(700)[:, None]] = 351
    for row in range(700):  # no item twice in a list
        first = np.unique(ids[row], return_index=True)[1]
        ids[row, np.setdiff1d(np.arange(12), first)] = -1
        ids[row] = np.concatenate([ids[row][ids[row] >= 0], ids[row][ids[row] < 0]])
    scores = np.where(ids >= 0, scores, -np.inf).astype(np.float32)
    affinity = Context(scales=(4, 9, 12), size=150, scaling=factor)
    best, weights = affinity.edges(scores, ids)
    expected = dense_jaccard(*scaled_lists(scores, ids, factor)[:2], (4, 9, 12))
    np.fill_diagonal(expected, 0)
    tolerance = 150 / 65535
    at_listed = np.take_along_axis(expected, best, axis=1)
    assert (best >= 0).all()
    largest = -np.sort(-expected, axis=1)[:, :12]
    np.testing.assert_allclose(at_listed, largest, atol=2 * tolerance)
    scaled = scaled_lists(scores, ids, factor)
    t = np.array([dense_evidence(*row, 700) for row in zip(*scaled[:2], strict=True)])
    S = np.take_along_axis((expected + (t + t.T) / 2) / 2, best, axis=1)
    shares = weights / S**3 * 3
    sure = weights > 0.01
    assert sure.mean() > 0.1
    np.testing.assert_allclose(shares[sure], np.round(shares[sure]), atol=0.15)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 600), st.booleans())
def test_other_numbers_of_the_items_give_the_same_similarities(seed, n, coarse):
    scores, ids = neighbor_lists(_vectors(seed, n, 3, coarse), 20)
    renamed = np.random.default_rng(seed).permutation(n).astype(np.int32)
    other_scores, other_ids = np.empty_like(scores), np.empty_like(ids)
    other_scores[renamed], other_ids[renamed] = scores, np.where(ids >= 0, renamed[ids], -1)
    similarities, lists = [], []
    for s, i in ((scores, ids), (other_scores, other_ids)):
        # As many entries as there are items: which of equal entries are kept depends on their ids.
        affinity = Context(scales=(3, 8, 20), size=n)
        affinity.edges(s, i)
        similarities.append(affinity.observe(s, i, 1).J.csr(n).toarray())
        jaccard = np.empty((n, affinity.depth), np.float32)
        affinity._compare_items(context_on("cpu"), locality_order(i), jaccard, False)
        lists.append(jaccard)
    np.testing.assert_array_equal(similarities[1][np.ix_(renamed, renamed)], similarities[0])
    np.testing.assert_array_equal(lists[1][renamed], lists[0])


def test_the_number_of_cores_does_not_change_anything():
    scores, ids = neighbor_lists(_vectors(3, 3000, 5, False), 30)
    found = []
    for cores in (1, 7):
        with using_cores(cores):
            found.append(Context().edges(scores, ids))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(collections, st.integers(1, 16))
def test_the_order_of_the_items_holds_each_once(X, k):
    ids = neighbor_lists(X, k)[1]
    order = locality_order(ids)
    assert sorted(order) == list(range(len(X)))


def test_a_triangle_and_a_pair_by_hand():
    # Items 0, 1, 2 list each other, 3 and 4 too; k = 2, one scale, no smoothing.
    ids = np.array([[1, 2], [0, 2], [0, 1], [4, -1], [3, -1]], np.int32)
    scores = np.array([[0.9, 0.8], [0.9, 0.7], [0.8, 0.7], [0.5, -np.inf], [0.5, -np.inf]])
    affinity = Context(scales=[2])
    best, weights = affinity.edges(scores.astype(np.float32), ids)
    # In the triangle, 0 and 1 are first for each other, which counts twice, and 2 is second for
    # both: V = (2/5, 2/5, 1/5) for 0 and 1, (1/4, 1/4, 1/2) for 2. J is 1 between 0 and 1, and
    # (7/10) / (13/10) from 2 to both. The first of a list has t = 1, the second 1/4.
    np.testing.assert_array_equal(best, [[1, 2], [0, 2], [0, 1], [4, -1], [3, -1]])
    a, b = ((7 / 13 + 5 / 8) / 2) ** 3, ((7 / 13 + 1 / 4) / 2) ** 3
    np.testing.assert_allclose(weights, [[1, a], [1, b], [a, b], [1, 0], [1, 0]], atol=1e-4)
    # A query next to 0, then 1: better than what 0 and 1 list second, so mutual with both.
    # V = (1/2, 1/2): overlap 4/5 with 0 and 1, 1/2 with 2.
    seen = affinity.observe(np.array([[0.85, 0.8]], np.float32), np.array([[0, 1]]), 2)
    np.testing.assert_allclose(seen.J.csr(5).toarray(), [[2 / 3, 2 / 3, 1 / 3, 0, 0]], atol=1e-4)
    # s' = (.85 - .3 .8, .8 - .3 .7), less what is the same for both: z = (0, 2/5), and e is added.
    y = [[2 / 3 + 1 - 1 / 1.4**2, 2 / 3, 0, 0, 0]]
    np.testing.assert_allclose(seen.y.csr(5).toarray(), y, atol=1e-4)


def test_a_query_that_nobody_would_list_has_its_neighbors_sets_alone():
    ids = np.array([[1, 2], [0, 2], [0, 1]], np.int32)
    scores = np.full((3, 2), 0.9, np.float32)
    affinity = Context(scales=[1, 2])
    affinity.edges(scores, ids)
    seen = affinity.observe(np.full((1, 2), 0.1, np.float32), np.array([[0, 1]]), 5)
    assert seen.J.counts.sum() == 0  # scales below 6 look at the query's own set only
    nothing = affinity.observe(np.full((1, 2), -np.inf, np.float32), np.array([[-1, -1]]), 5)
    assert nothing.J.counts.sum() == 0
    assert nothing.y.counts.sum() == 0


def test_only_ranks_matter_to_the_encodings_and_no_unit_to_the_weights():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 5)).astype(np.float32)
    scores, ids = neighbor_lists(X, 20)
    affinity, other = Context(scaling=0), Context(scaling=0)
    weights = affinity.edges(scores, ids)[1]
    other.edges(np.exp(5 * scores) - 3, ids)
    for name in ("holders", "similar", "overlaps"):
        np.testing.assert_array_equal(other.arrays()[name], affinity.arrays()[name])
    np.testing.assert_allclose(Context(scaling=0).edges(scores - 3, ids)[1], weights, atol=1e-4)
    weights = Context().edges(scores, ids)[1]
    np.testing.assert_array_equal(Context().edges(4 * scores, ids)[1], weights)


# --- local scaling --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_lists_are_ranked_by_their_scores_minus_both_local_scales(metric):
    X = 3 * np.random.default_rng(5).standard_normal((80, 5)).astype(np.float32)
    scores, ids = diffusion.nearest_neighbors(X, 20, metric=metric)
    ids = ids.astype(np.int32)
    affinity = Context((4, 20), scaling=0.3)
    affinity.edges(scores, ids)
    r = np.sort(scores, axis=1)[:, ::-1][:, 11]
    np.testing.assert_array_equal(affinity.local_scale, r)
    scaled = scores.astype(float) - 0.3 * (r[:, None].astype(float) + r[ids])
    order = np.argsort(-scaled, axis=1)
    np.testing.assert_array_equal(affinity.arrays()["ids"], np.take_along_axis(ids, order, axis=1))
    assert (np.diff(order, axis=1) < 0).any()
    given, listed = affinity.neighbor_lists()
    np.testing.assert_array_equal(given, scores)
    np.testing.assert_array_equal(listed, ids)
    mutual = [[i in ids[j] for j in row] for i, row in enumerate(ids[:7])]
    np.testing.assert_array_equal(affinity.lists(slice(7))[0], ids[:7])
    np.testing.assert_array_equal(affinity.lists(np.arange(7))[1], mutual)


def test_a_hub_by_hand():
    # Items 0 and 1 are a pair apart; 2 is near everything, and belongs to 3 and 4.
    ids = np.array([[2, 1], [2, 0], [3, 4], [2, 4], [2, 3]], np.int32)
    scores = np.array([[0.6, 0.5], [0.6, 0.5], [0.9, 0.9], [0.9, 0.85], [0.9, 0.85]], np.float32)
    queries = np.array([[0.6, 0.55]], np.float32), np.array([[2, 0]])
    W, J = {}, {}
    for factor in (0.0, 0.5):
        affinity = Context((1, 2), scaling=factor)
        best, weights = affinity.edges(scores, ids)
        W[factor] = dict(zip(best[0].tolist(), weights[0], strict=True))
        J[factor] = affinity.observe(*queries, 2).J.csr(5).toarray()[0]
    # By the scores, 0 and 1 share the larger scale alone, but not its half: V_0 = (5/6, 1/6), V_1 =
    # (1/6, 5/6), J = 1/5, t = 1/4, S = 9/40. The query shares it with 0: V = (1, 0).
    assert W[0.0][1] == pytest.approx((9 / 40) ** 3, rel=1e-3)
    np.testing.assert_allclose(J[0.0], [5 / 7, 1 / 11, 0, 0, 0], atol=1e-4)
    # r = (.5, .5, .9, .85, .85): 0 lists 1 with .5 - .25 before 2 with .6 - .45, and 1 does alike,
    # so that V_0 = V_1 = (1/2, 1/2). The query ranks 0 with .55 - .25 before 2 with .6 - .45, and
    # 0 ranks the query, with .55 - .55 / 2, before 1: V = (1, 0).
    assert W[0.5][1] == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(J[0.5], [1 / 3, 1 / 3, 0, 0, 0], atol=1e-4)


def test_the_largest_scores_stay_in_range():
    most = np.finfo(np.float32).max
    ids = np.array([[1, 2], [0, 2], [1, 0]], np.int32)
    scores = np.array([[most, -most], [most, most], [-most, -most]], np.float32)
    affinity = Context((1, 2), scaling=0.9)
    affinity.edges(scores, ids)
    assert np.isfinite(affinity.arrays()["reach"]).all()
    restored = Context((1, 2), scaling=0.9)
    restored.restore(affinity.arrays(), 3)
    queries = np.array([[most, -most]], np.float32), np.array([[0, 2]])
    J = [one.observe(*queries, 2).J.csr(3).toarray() for one in (affinity, restored)]
    np.testing.assert_array_equal(*J)


def test_without_scaling_nothing_is_kept_for_it():
    affinity = Context((3, 6), scaling=0)
    affinity.edges(*neighbor_lists(_vectors(1, 40, 3, False), 6))
    assert not {"local_scale", "order"} & affinity.arrays().keys()
    assert affinity.local_scale.shape == (0,)


# --- settings and storage -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (0, 3)}, "scales"),
        ({"scales": (3, 256)}, "scales"),
        ({"scales": 3}, "scales"),
        ({"scales": (3, 2.5)}, "scales"),
        ({"size": 0}, "size"),
        ({"scaling": 1.0}, "scaling"),
        ({"scaling": -0.1}, "scaling"),
        ({"scaling": "csls"}, "scaling"),
    ],
)
def test_bad_settings(arguments, named):
    with pytest.raises(DiffusionError, match=named):
        Context(**arguments)


def test_batches_of_queries_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((90, 5)).astype(np.float32)
    affinity = Context()
    affinity.edges(*neighbor_lists(X[30:], 48))
    first = query_lists(X[30:], X[:30], 48)
    whole = affinity.observe(*first, 5)
    monkeypatch.setattr("diffusion.affinity.context._BATCH_ENTRIES", 1000)
    parts = affinity.observe(*first, 5)
    np.testing.assert_array_equal(whole.J.csr(60).toarray(), parts.J.csr(60).toarray())
    np.testing.assert_array_equal(whole.y.csr(60).toarray(), parts.y.csr(60).toarray())


def of_an_earlier_version(monkeypatch, scales, scores, ids):
    """Return an affinity without the halves of scales, as it was made before them."""
    affinity, take = Context(scales, scaling=0), Context._take

    def without_ranks(self, *lists):
        taken = take(self, *lists)
        del self._state["ranks"]
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Context, "_take", without_ranks)
        affinity.edges(scores, ids)
    return affinity


@pytest.mark.parametrize("scales", [(3, 6, 12, 24, 48), (5,), tuple(range(1, 30))])
def test_an_index_of_an_earlier_version_is_restored(scales, monkeypatch):
    # Before, ranks and scores of all listed items were stored, and items in one array.
    X = np.random.default_rng(7).standard_normal((90, 4)).astype(np.float32)
    scores, ids = neighbor_lists(X[20:], 33)
    affinity = of_an_earlier_version(monkeypatch, scales, scores, ids)
    depth = affinity.depth
    naive = Naive(scores[:, :depth], ids[:, :depth], scales, 50, 0, halves=False)
    state = affinity.arrays()
    items = state["holders"] >> 16 | state["holders_high"].astype(np.uint32) << 16
    mutual = [[naive.mutual(i).get(j, 0) for j in row] for i, row in enumerate(state["ids"])]
    old = {
        "ids": state["ids"],
        "scores": np.ascontiguousarray(scores[:, : affinity.depth]),
        "mutual": np.array(mutual, np.uint8),
        "indptr": np.append(0, state["stops"]),
        "indices": items.astype(np.int32),
        "values": (state["holders"] & 65535).astype(np.uint16),
    }
    restored = Context(scales, scaling=0)
    restored.restore(old, 70)
    for name, array in restored.arrays().items():
        np.testing.assert_array_equal(array, state[name])
    assert restored.neighbor_lists() is None
    first = query_lists(X[20:], X[:20], 48)
    J = [one.observe(*first, 5).J.csr(70).toarray() for one in (affinity, restored)]
    np.testing.assert_array_equal(*J)


def test_an_index_from_before_halves_answers_as_before_and_is_updated(monkeypatch):
    X = np.random.default_rng(7).standard_normal((90, 4)).astype(np.float32)
    scales = (1, 2, 4, 8)  # all halves are scales, so that no shape tells the versions apart
    scores, ids = neighbor_lists(X[20:], 8)
    restored = Context(scales, scaling=0)
    restored.restore(of_an_earlier_version(monkeypatch, scales, scores, ids).arrays(), 70)
    naive = Naive(scores, ids, scales, 50, 0, halves=False)
    first = query_lists(X[20:], X[:20], 8)
    expected = [naive.jaccard(naive.query(*row)) for row in zip(*first, strict=True)]
    found = restored.observe(*first, 5).J.csr(70).toarray()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)

    np.testing.assert_array_equal(restored.neighbor_lists()[1], ids)
    more = neighbor_lists(X[19:], 8)
    ages = Ages(np.arange(70, dtype=np.int32), np.arange(71, dtype=np.int32))
    dirty = np.ones(71, bool)
    changed, edges = restored.changed(*more, dirty, Change.addition(70, 1), ages)
    fresh = Context(scales, scaling=0)
    for one, other in zip(edges[:2], fresh.edges(*more), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, array in fresh.arrays().items():
        np.testing.assert_array_equal(changed.arrays()[name], array)


def test_the_lists_of_some_items_are_as_given():
    scores, ids = neighbor_lists(_vectors(9, 50, 5, False), 12)
    affinity = Context((3, 12))
    affinity.edges(scores, ids)
    assert (affinity.arrays()["ids"] != ids).any()  # they are ranked otherwise
    items = np.array([40, 3, 7])
    for found, expected in zip(affinity.scored_lists(items), (scores, ids), strict=True):
        np.testing.assert_array_equal(found, expected[items])


def test_ranks_of_other_scales_are_refused():
    scores, ids = neighbor_lists(_vectors(9, 50, 5, False), 12)
    affinity = Context((3, 12))
    affinity.edges(scores, ids)
    restored = Context((3, 12))
    with pytest.raises(ValueError, match=r"ranks: uint8 of shape \(2,\)"):
        restored.restore(affinity.arrays() | {"ranks": np.array([3, 12], np.uint8)}, 50)
    # The values are read on first use.
    restored.restore(affinity.arrays() | {"ranks": np.array([1, 3, 5, 12], np.uint8)}, 50)
    with pytest.raises(DiffusionError, match="ranks: expected the values 1, 3, 6, 12"):
        restored.observe(scores[:1], ids[:1].astype(np.int64), 5)


def test_what_is_kept_per_item():
    scores, ids = neighbor_lists(_vectors(9, 3000, 5, False), 50)
    affinity = Context()
    affinity.edges(scores, ids)
    kept = {name: array.nbytes for name, array in affinity.arrays().items()}
    of_changes = ("scores", "order", "similar", "overlaps", "spare_scores", "spare_ids")
    of_updates = sum(kept.pop(n) for n in list(kept) if n in of_changes)
    assert of_updates == (48 * (4 + 1 + 4 + 2) + 2 * 8) * 3000  # lists of 50 have 2 spare entries
    assert sum(kept.values()) <= 511 * 3000
