"""Expanding Gaussian mixtures, against loops that follow the equations one by one."""

from __future__ import annotations

from math import exp, pi, prod, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.objects import egm
from features.settings import M_STEPS


def density(x, mean, variances):
    return prod(
        exp(-((a - b) ** 2) / (2 * v)) / sqrt(2 * pi * v)
        for a, b, v in zip(x, mean, variances, strict=True)
    )


def reference(X, weights, start, own, *, expansion, purge, iterations, isotropic, s):
    """Plain loops over points and components; `s` are the weights of the points in the M-step."""
    D = len(X[0])
    components = [(w, list(x), [start] * D) for w, x in zip(weights, X, strict=True)]
    # What is left on a single point keeps a millionth of the extent for its width.
    floor = 1e-12 * max(max(x[d] for x in X) - min(x[d] for x in X) for d in range(D)) ** 2
    counts = [len(components)]
    for _ in range(iterations):
        gamma = []
        for x in X:
            row = [p * density(x, m, [v + own for v in var]) for p, m, var in components]
            gamma.append([value / sum(row) for value in row])
        fresh = []
        for k in range(len(components)):
            share = [s[n] * gamma[n][k] for n in range(len(X))]
            N = sum(share)
            mean = [sum(share[n] * X[n][d] for n in range(len(X))) / N for d in range(D)]
            moments = [[(x[d] - mean[d]) ** 2 for d in range(D)] for x in X]
            inner = [max(range(len(components)), key=gamma[n].__getitem__) == k
                     for n in range(len(X))]  # fmt: skip
            var = []
            for d in range(D):
                N_in = sum(share[n] for n in range(len(X)) if inner[n])
                N_out = N - N_in
                total_in = sum(share[n] * moments[n][d] for n in range(len(X)) if inner[n])
                total_out = sum(share[n] * moments[n][d] for n in range(len(X)) if not inner[n])
                if N_out <= 1e-12 * N or expansion == 0:
                    var.append((total_in + total_out) / N)
                else:
                    w = N_in / N * (1 - expansion)
                    var.append(w * (total_in / N_in if N_in else 0) + (1 - w) * total_out / N_out)
            if isotropic:
                var = [sum(var) / D] * D
            fresh.append((N, mean, [max(v, floor) + own for v in var]))
        total = sum(N for N, _, _ in fresh)
        fresh = sorted(((N / total, m, v) for N, m, v in fresh), key=lambda c: -c[0])
        components = []
        for p, m, v in fresh:
            square = p * p * density(m, m, [2 * a for a in v])
            overlap = sum(
                p * q * density(m, n, [a + b for a, b in zip(v, u, strict=True)])
                for q, n, u in components
            )
            if square / (square + overlap) >= purge:
                components.append((p, m, v))
        total = sum(p for p, _, _ in components)
        components = [(p / total, m, v) for p, m, v in components]
        counts.append(len(components))
    return components, counts


def assert_same(mixture, expected, rtol=1e-6):
    components, counts = expected
    # The reference goes on where nothing changes any more.
    assert list(mixture.counts) == counts[: len(mixture.counts)]
    assert counts[-1] == mixture.counts[-1]
    weights, means, variances = (np.array(part) for part in zip(*components, strict=True))
    np.testing.assert_allclose(mixture.weights, weights, rtol=rtol)
    np.testing.assert_allclose(mixture.means, means, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(mixture.variances, variances, rtol=rtol, atol=1e-6)


def blobs(seed, n=14, d=2):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 10, (3, d))[rng.integers(3, size=n)] + rng.normal(0, 1, (n, d))


@pytest.mark.parametrize("expansion", [0.0, 0.2])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_points_equal_the_reference(d, expansion):
    X = blobs(d, d=d)
    weights = np.random.default_rng(9).uniform(0.5, 2, len(X))
    mixture = egm.fit_points(X, weights, sigma=0.8, expansion=expansion, max_iter=4)
    share = weights / weights.sum()
    assert_same(
        mixture,
        reference(X, share, 0.64, 0.0, expansion=expansion, purge=0.55, iterations=4,
                  isotropic=True, s=share),
    )  # fmt: skip


def small_map(seed):
    rng = np.random.default_rng(seed)
    return rng.random((4, 5)) ** 3 * (rng.random((4, 5)) < 0.8)


@pytest.mark.parametrize("expansion", [0.0, 0.2])
@pytest.mark.parametrize("m_step", ["weighted", "printed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_maps_equal_the_reference(seed, m_step, expansion):
    S = small_map(seed)
    regions = egm.EGM(1.5, 0.1, 0.7, m_step, expansion, max_iter=4).regions(S)
    sharp = np.where(S / S.max() >= 0.1, (S / S.max()) ** 1.5, 0)
    ys, xs = np.nonzero(sharp)
    X = [(x + 0.5, y + 0.5) for y, x in zip(ys, xs, strict=True)]
    p = sharp[ys, xs] / sharp.sum()
    s = p if m_step == "weighted" else np.full(len(X), 1 / len(X))
    assert_same(
        regions.mixture,
        reference(X, p, 0.49, 0.49, expansion=expansion, purge=0.55, iterations=4,
                  isotropic=False, s=s),
    )  # fmt: skip


@given(
    seed=st.integers(0, 2**32 - 1),
    m_step=st.sampled_from(M_STEPS),
    expansion=st.sampled_from([0.0, 0.2]),
    exponent=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_regions_of_any_map(seed, m_step, expansion, exponent):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 9, 2)
    S = rng.random((h, w)) ** rng.integers(0, 9) * (rng.random((h, w)) < rng.random())
    S *= 10.0 ** rng.integers(-30, 30)
    regions = egm.EGM(exponent, m_step=m_step, expansion=expansion).regions(S)
    assert (len(regions) == 0) == (not S.any())
    if not len(regions):
        assert regions.cells().shape == (0, 4)
        return
    assert regions.weights.sum() == pytest.approx(1)
    assert (np.diff(regions.weights) <= 0).all()
    top, left, height, width = regions.cells().T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= w).all()
    assert (top + height <= h).all()
    assert (width > 0).all()
    assert (height > 0).all()
    assert (np.diff(regions.mixture.counts) <= 0).all()
    gamma = regions.mixture.responsibilities(rng.uniform(-9, 19, (20, 2)))
    assert (gamma >= 0).all()
    np.testing.assert_allclose(gamma.sum(axis=1), 1, rtol=1e-12)


def test_two_blobs_are_two_regions():
    y, x = np.mgrid[0:17, 0:17] + 0.5
    first = np.exp(-((x - 4) ** 2 + (y - 5) ** 2) / 2)
    second = 0.8 * np.exp(-((x - 12) ** 2 / 4 + (y - 11) ** 2) / 2)
    regions = egm.EGM(threshold=0.05).regions(first + second)
    np.testing.assert_allclose(regions.mixture.means, [[12, 11], [4, 5]], atol=0.1)
    # Their mass is 2π σ_x σ_y times their height: 1.6 to 1.
    np.testing.assert_allclose(regions.weights, [1.6 / 2.6, 1 / 2.6], atol=0.02)
    assert regions.cells().tolist() == [[9, 8, 4, 8], [3, 2, 4, 4]]


def test_weighted_regions_follow_the_saliency_and_printed_ones_the_support():
    # A row that rises from 0.1 to 1: its centre of mass is right of its middle.
    S = np.linspace(0.1, 1, 6)[None]
    centre = (S[0] * (np.arange(6) + 0.5)).sum() / S.sum()
    weighted, printed = (
        egm.EGM(m_step=m_step, sigma=3, max_iter=30).regions(S).mixture for m_step in M_STEPS
    )
    assert len(weighted.weights) == len(printed.weights) == 1
    assert weighted.means[0, 0] == pytest.approx(centre)
    assert printed.means[0, 0] == pytest.approx(3)


def test_points_in_three_clusters_are_three_components():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [8, 0], [0, 9.0]])
    X = np.repeat(centres, 100, axis=0) + rng.normal(0, 1, (300, 2))
    for far in (0, 1e6):
        mixture = egm.fit_points(X + far, sigma=2, expansion=0)
        assert len(mixture.weights) == 3
        np.testing.assert_allclose(np.sort(mixture.weights), 1 / 3, atol=1e-3)
        np.testing.assert_allclose(mixture.variances, 1, atol=0.3)
        nearest = np.linalg.norm(mixture.means[:, None] - far - centres, axis=-1).min(axis=1)
        assert (nearest < 0.4).all()


def test_expansion_merges_what_plain_em_leaves_apart():
    X = blobs(3, n=60)
    plain, expanding = (
        len(egm.fit_points(X, sigma=0.5, expansion=e, max_iter=40).weights) for e in (0, 0.2)
    )
    assert expanding < plain


def test_degenerate_input_is_sensible():
    constant = egm.EGM().regions(np.full((17, 17), 3.0))
    assert 1 <= len(constant) <= 9
    held = np.zeros((17, 17), bool)
    for top, left, height, width in constant.cells():
        held[top : top + height, left : left + width] = True
    assert held.mean() > 0.9
    assert egm.EGM().regions([[7.0]]).cells().tolist() == [[0, 0, 1, 1]]
    corner = np.zeros((4, 6))
    corner[3, 5] = 1e-30
    region = egm.EGM().regions(corner)
    assert (region.cells()[0, :2] + region.cells()[0, 2:]).tolist() == [4, 6]
    assert len(egm.EGM().regions(np.zeros((4, 6)))) == 0
    assert len(egm.fit_points([[1.0, 2.0]] * 3, sigma=1).weights) == 1
    assert len(egm.fit_points([[1.0, 2.0], [3.0, 4.0]], [0, 1], sigma=1).weights) == 1
    assert len(egm.fit_points(blobs(0), sigma=1e-9, max_iter=3).weights) == 14


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: egm.EGM().regions(np.zeros((0, 3))), "saliency: expected shape"),
        (lambda: egm.EGM().regions([1.0, 2.0]), "saliency: expected shape"),
        (lambda: egm.EGM().regions([[np.nan]]), "finite"),
        (lambda: egm.EGM().regions([[-1.0]]), ">= 0"),
        (lambda: egm.EGM().regions([["a"]]), "saliency"),
        (lambda: egm.EGM().regions(np.ones((65, 64))), "at most 4096"),
        (lambda: egm.EGM(threshold=1), "threshold"),
        (lambda: egm.EGM(exponent=0), "exponent"),
        (lambda: egm.EGM(sigma=0), "sigma"),
        (lambda: egm.EGM(m_step="em"), "m_step"),
        (lambda: egm.EGM(expansion=1), "expansion"),
        (lambda: egm.EGM(purge=1.1), "purge"),
        (lambda: egm.EGM(max_iter=0), "max_iter"),
        (lambda: egm.fit_points(np.empty((0, 2)), sigma=1), "points"),
        (lambda: egm.fit_points([[1.0], [np.inf]], sigma=1), "points"),
        (lambda: egm.fit_points("x", sigma=1), "points"),
        (lambda: egm.fit_points([[1.0]], [0.0], sigma=1), "weights"),
        (lambda: egm.fit_points([[1.0]], [1.0, 2.0], sigma=1), "weights"),
        (lambda: egm.fit_points([[1.0]], ["a"], sigma=1), "weights"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DiffusionError, match=message):
        call()
