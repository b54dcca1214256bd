"""The benchmark `tune`: its draws, and the table of a small survey."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.synthetic import clusters, curves, split
from bench.tuning import benchmark


def test_a_draw_is_measured_on_the_other_queries():
    table = np.zeros((2, 40))
    table[1] = 60
    draw = benchmark.draw(table, 10, seed=0)
    assert (draw.choice.best, draw.gain, draw.held) == (1, 60, True)
    drawn = np.random.default_rng(3).permutation(40)[:10]
    table[1] = -20
    table[1, drawn] = 60
    draw = benchmark.draw(table, 10, seed=3)
    assert (draw.choice.best, draw.gain, draw.held) == (1, -20, False)
    kept = benchmark.draw(np.zeros((2, 40)), 10, seed=0)
    assert (kept.choice.best, kept.gain) == (0, 0)


@pytest.mark.slow
def test_the_table(capsys):
    makers = [
        lambda: split("curves", *curves(15, 30)),
        lambda: split("clusters", *clusters([8] * 40)),
    ]
    (table,) = benchmark.run(collections=makers, draws=4)
    assert [row[0] for row in table.rows[:2]] == ["curves", "clusters"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    curve, _, mean = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert curve["worst draw"] <= curve["median"] <= curve["most that a setting gains"] + 1
    assert curve["gain, mean"] > 1
    lowest = min(row[table.columns.index("gain, mean")] for row in table.rows[:2])
    assert mean["collection"] == f"mean; the lowest mean gain is {lowest:.2f}"
    precision = benchmark.precisions(makers[0]())
    assert curve["defaults, mAP"] == pytest.approx(precision[0].mean(), abs=0.01)
    assert "**Tuning**" in capsys.readouterr().out
