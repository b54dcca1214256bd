"""`python -m bench text`: its table, and the sentence embedding by a small model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from bench.data import texts
from bench.text import benchmark, sentences


def test_the_table_of_one_collection(capsys):
    (table,) = benchmark.run(
        collections={"help": texts.topics}, embeddings={"TF-IDF, 64": texts.tf_idf(64)}
    )
    (row,) = table.rows
    named = dict(zip(table.columns, row, strict=True))
    assert row[:2] == ["help", "TF-IDF, 64"]
    n = len(texts.topics(texts.tf_idf(8))[0])
    assert named["items"] == n - n // 5
    # The text of a topic is found again by its neighbours more often than by chance, 7 %.
    assert 15 < named["cosine"] < named["defaults"]
    assert named["gain"] == pytest.approx(named["defaults"] - named["cosine"], abs=0.06)
    # Cautious rankings move less, and fewer queries lose by them.
    assert named["cosine"] < named["cautious"]
    assert row[-2] < row[-4]
    assert str(table) in capsys.readouterr().out


def test_what_is_not_installed_is_skipped_and_said(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(benchmark.at_hand()) == ["TF-IDF, 64", "TF-IDF, 256"]
    assert sentences.INSTALL in capsys.readouterr().out


def test_a_sentence_is_the_mean_of_its_own_states(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "graph", "walk", "node", "edge"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    given = ["edge", "graph walk node edge " * 200, "walk node"]
    found = sentences.of_model(tmp_path)(given)
    ids = ([2, 8, 3], [2, *([5, 6, 7, 8] * 64)[:254], 3], [2, 6, 7, 3])
    with torch.inference_mode():
        expected = [model(torch.tensor([row])).last_hidden_state[0].mean(0).numpy() for row in ids]
    np.testing.assert_allclose(found, expected, atol=1e-5)
