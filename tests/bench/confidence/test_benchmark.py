"""`python -m bench confidence`: the fit of its model, and its tables."""

from __future__ import annotations

import numpy as np
import pytest

from bench.confidence import benchmark
from bench.data.synthetic import split
from diffusion.confidence import _MODEL, confidence_of


def clusters(name, seed, noise):
    rng = np.random.default_rng(seed)
    labels = np.arange(150) % 10
    X = rng.standard_normal((10, 8))[labels] + noise * rng.standard_normal((150, 8))
    return split(name, X.astype(np.float32), labels)


def measured(signs, lost, name="c"):
    m = len(signs)
    first, default = np.full(m, 50.0), np.where(lost, 40.0, 60.0)
    return benchmark.Measured(name, 9, first, default, default, np.ones(m), signs, {})


def test_the_fit_finds_the_model_that_made_the_losses():
    rng = np.random.default_rng(0)
    model = np.array([0.5, 3.0, -1.0])
    signs = rng.random((200_000, 2))
    lost = rng.random(len(signs)) < benchmark.risk(model, signs)
    found = benchmark.fit([measured(signs, lost)])
    assert found == pytest.approx(model, abs=0.06)


def test_collections_have_the_same_weight():
    signs = np.zeros((1, 2))
    small = measured(np.repeat(signs, 10, axis=0), np.ones(10, bool))
    large = measured(np.repeat(signs, 990, axis=0), np.zeros(990, bool))
    assert benchmark.risk(benchmark.fit([small, large]), signs) == pytest.approx(0.5, abs=1e-4)


def test_the_model_is_fitted_to_the_signs_that_the_library_uses():
    one = benchmark.measure(clusters("c", 0, 0.8))
    assert np.ptp(one.confidence) > 0.01
    assert one.confidence == pytest.approx(confidence_of(one.signs), abs=1e-6)
    # The same equation gives the risk in the benchmark.
    expected = benchmark.risk(np.array(_MODEL), one.signs)
    assert 1 - one.confidence == pytest.approx(expected, abs=1e-6)


def test_every_query_is_in_the_calibration():
    one = measured(np.zeros((9, 2)), np.arange(9) % 2 == 0)
    edges = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1])
    table = benchmark.calibration([one], [edges])
    assert sum(row[1] for row in table.rows) == pytest.approx(100, abs=0.5)
    assert [row[2] for row in table.rows] == [0, 5, 10, 15, 20, 25, 30, 70]


def test_the_tables(capsys):
    makers = [
        lambda seed=seed, noise=noise: clusters(f"c{seed}", seed, noise)
        for seed, noise in enumerate((0.3, 0.8, 1.2))
    ]
    losses, calibration, extents = benchmark.run(makers)
    assert [row[0] for row in losses.rows] == ["c0", "c1", "c2", "mean"]
    assert losses.rows[-1][2:] == pytest.approx(np.mean([r[2:] for r in losses.rows[:-1]], axis=0))
    # Cautious rankings lose less often than the defaults.
    assert losses.rows[-1][6] <= losses.rows[-1][5]
    assert sum(row[1] for row in calibration.rows) == pytest.approx(100, abs=0.5)
    ours, fixed, near = extents.rows[-3:]
    # Classes have about ten items, so that the first ten are hard to beat here.
    assert ours[3] > near[3]
    assert ours[3] > fixed[3] - 5
    assert "**Calibration**" in capsys.readouterr().out
