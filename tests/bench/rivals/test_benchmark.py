"""`python -m bench rivals` on small collections."""

from __future__ import annotations

import inspect

import numpy as np

from bench.data import synthetic
from bench.quality.methods import METHODS, Method
from bench.quality.survey import compared, cosine
from bench.rivals import benchmark, c_crf, cheb_gr, lpmt

MAKERS = [
    lambda: synthetic.split("clusters", *synthetic.clusters([25] * 6, 16)),
    lambda: synthetic.split("faces", *synthetic.faces(12, 10, 60)),
]


def test_means_over_collections_and_one_best_setting(capsys):
    settings = [{"lambda_": 1.0}, {"lambda_": 2.0, "rounds": 1}]
    rival = benchmark.Rival(Method("R", lambda X: cosine(X), True), settings, cheb_gr)
    (table,) = benchmark.run(MAKERS, [rival, benchmark.Rival(Method("P", cosine))])
    tried = [
        lambda X: lambda Q: cheb_gr.rank(X, Q, lambda_=1.0),
        lambda X: lambda Q: cheb_gr.rank(X, Q, lambda_=2.0, rounds=1),
    ]
    by_hand = np.mean([compared(make(), tried) for make in MAKERS], axis=0)
    means = by_hand[[1, 3]]
    chosen = ("lambda_=1.0", "lambda_=2.0, rounds=1")[int(means.argmax())]
    assert table.rows == [
        ["cosine", round(by_hand[0], 1), 0.0, 0, None, None, "no"],
        ["R", round(by_hand[0], 1), 0.0, 0, round(means.max(), 1), chosen, "yes"],
        ["P", round(by_hand[0], 1), 0.0, 0, None, None, "no"],
    ]
    assert means.max() > by_hand[0] > means.min() + 1
    printed = capsys.readouterr()
    assert "| R " in printed.out
    assert "rivals" in printed.err


def test_a_method_is_judged_as_published():
    rival = next(each for each in benchmark.field() if each.method.name.startswith("RDP"))
    (table,) = benchmark.run(MAKERS[1:], [rival])
    mAP, lose = compared(MAKERS[1](), [rival.method.prepare])[1:]
    assert table.rows[1][1:4] == [round(mAP, 1), round(lose, 1), int(mAP < table.rows[0][1] - 0.3)]
    assert table.rows[1][4:] == [None, None, "yes"]


def test_the_field_has_every_method_and_its_grid():
    names = [rival.method.name for rival in benchmark.field()]
    missing = {method.name for method in METHODS} - set(names)
    assert {name.split(" ")[0] for name in missing} == {"cosine", "DQE"}
    tried = {rival.module: rival.settings for rival in benchmark.field() if rival.settings}
    assert set(tried) == {c_crf, cheb_gr, lpmt}
    for module, settings in tried.items():
        assert len(settings) == np.prod([len(values) for values in module.GRID.values()])
        assert all(set(each) == set(module.GRID) for each in settings)
        assert len({tuple(each.values()) for each in settings}) == len(settings)
        # The best setting of a grid is at least as good as the method's own.
        defaults = inspect.signature(module.rank).parameters
        assert {name: defaults[name].default for name in module.GRID} in settings
