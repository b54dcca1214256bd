"""`python -m bench gpu` on a small problem, by torch on the CPU."""

from __future__ import annotations

import pytest
import torch

from bench.gpu import benchmark


def test_gpu_prints_every_table(capsys):
    sizes = benchmark.Sizes(nodes=1500, queries=20, columns=(16, 32), compared=5, copied=1 << 16)
    tables = benchmark.run(device="torch:cpu", sizes=sizes)
    printed = capsys.readouterr().out
    assert all(str(table) in printed for table in tables)
    encoding, products, reranking = tables
    assert encoding.notes == ["Edges and weights are the same."]
    assert [row[0] for row in products.rows] == [16, 32]
    assert all(value > 0 for row in products.rows for value in row)
    assert all(seconds >= 0 for _, seconds in reranking.rows)
    assert "Ids in the lists: 2,000." in reranking.notes[0]
    difference = float(reranking.notes[0].split("score of a query: ")[1].split(". ")[0])
    assert difference < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert benchmark.run() == []
    assert "No GPU" in capsys.readouterr().out
