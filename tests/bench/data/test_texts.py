from __future__ import annotations

import ast
import fractions
import inspect
import json
import unicodedata
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from bench.data import synthetic, texts
from bench.data.texts import Text


@pytest.fixture(scope="module")
def of_sources():
    documented, raised = texts._source_texts()
    return set(documented), set(raised)


@pytest.mark.slow
def test_docstrings_and_messages_are_found_without_importing(of_sources):
    documented, raised = of_sources
    for name, thing in (
        ("json", json),
        ("json", json.JSONDecoder.raw_decode),
        ("numpy", np),
        ("numpy.lib", np.lib.stride_tricks.as_strided),
    ):
        assert Text(name, inspect.getdoc(thing)) in documented
    assert Text("ZeroDivisionError", "Fraction(%s, 0)") in raised
    assert "raise ZeroDivisionError('Fraction(%s, 0)'" in inspect.getsource(fractions)
    assert not any(name.split(".")[-1] in ("test", "tests") for name, _ in documented)


def test_statements_are_those_of_a_walk():
    everything = (ast.stmt, ast.Module, ast.ExceptHandler, ast.match_case)
    source = Path(inspect.getsourcefile(ast)).read_text()
    source += "\nmatch 1:\n  case 1:\n    try: pass\n    except E: raise E('e') from None\n"
    tree = ast.parse(source)
    found = list(texts._statements(tree))
    assert len(found) == len(set(found))
    assert set(found) == {node for node in ast.walk(tree) if isinstance(node, everything)}


def test_vectors_are_projections_of_tf_idf(monkeypatch):
    words = ["ape", "bee", "cow", "dog", "eel", "fox", "gnu", "hen"]
    rng = np.random.default_rng(0)
    labels = np.repeat(list("cab"), [9, 6, 4])
    drawn = [Text(label, " ".join(rng.choice(words, 7))) for label in labels]
    # A text of the same words, one without any, and a class of four.
    drawn += [Text("a", " ".join(reversed(drawn[0].words.split()))), Text("b", "? !")]
    monkeypatch.setattr(texts, "_drawn", lambda given: list(given))
    X, found = texts._vectors(drawn, texts.tf_idf(4))
    assert found.tolist() == [1] * 9 + [0] * 6
    counts = np.array([[text.words.split().count(word) for word in words] for text in drawn])
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    T = tf * (1 + np.log((1 + len(drawn)) / (1 + (counts > 0).sum(axis=0))))
    T /= np.maximum(np.linalg.norm(T, axis=1, keepdims=True), 1e-9)
    expected = (T @ np.linalg.svd(T)[2][:4].T)[:15]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(X @ X.T, expected @ expected.T, atol=1e-5)


def test_a_draw_takes_no_more_of_a_class_than_it_may():
    many = [Text("large", f"{i:05d}") for i in range(4000)] + [Text("small", "a"), Text("b", "b")]
    drawn = texts._drawn(many + many)
    assert len(drawn) == len(set(drawn)) == 302
    assert drawn == texts._drawn(reversed(many))
    drawn = texts._drawn(Text(str(i % 50), f"{i:05d}") for i in range(4000))
    assert len(drawn) == 2500
    assert len({text.label for text in drawn}) == 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [texts.docstrings, texts.topics, texts.passages, texts.messages, texts.characters],
)
def test_collections_are_small_and_their_classes_have_five_items(make):
    X, labels = make(texts.tf_idf(16))
    assert X.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)
    assert len(np.unique(X, axis=0)) == len(X) == len(labels)
    sizes = np.bincount(labels)
    assert 15 < len(sizes) < 300
    assert 5 <= sizes.min() < sizes.max() <= 300
    assert 1000 < len(X) <= 2500
    again, _ = make(texts.tf_idf(16))
    np.testing.assert_allclose(X @ X[:50].T, again @ again[:50].T, atol=1e-5)


def test_a_paragraph_belongs_to_the_shortest_topic_that_holds_it(monkeypatch):
    drawn = []
    monkeypatch.setattr(texts, "_vectors", lambda found, embed: drawn.extend(found))
    texts.topics(texts.tf_idf(1))
    whole = {name: " ".join(article.split()) for name, article in topics.items()}
    assert len(drawn) == len({text.words for text in drawn}) > 500
    for label, words in drawn[::10]:
        holders = [name for name in whole if words in whole[name]]
        assert label == min(holders, key=lambda name: len(topics[name]))
    # The statement `while` has a topic of its own, and is part of that of compound statements.
    assert "while" in {text.label for text in drawn}


def test_the_class_of_a_character_is_its_category():
    names = {name for _, name in texts._drawn(_characters())}
    assert not any("HANGUL SYLLABLE" in name or "1" in name for name in names)
    assert {unicodedata.category(unicodedata.lookup(name)) for name in names} > {"Lu", "Ll", "Sm"}


def _characters():
    """Return the texts from which `characters` draws."""
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_vectors", lambda found, embed: given.extend(found))
        texts.characters(texts.tf_idf(1))
    assert all(label == unicodedata.category(unicodedata.lookup(name)) for label, name in given)
    return given


# Here, because reading the source files takes seconds.
@pytest.mark.slow
def test_everything_is_small_and_every_query_has_something_to_find():
    names = []
    for make in synthetic.everything():
        collection = make()
        names.append(collection.name)
        assert collection.gallery.dtype == collection.queries.dtype == np.float32
        assert len(collection.gallery) == len(collection.gallery_labels) <= 2500
        assert 50 <= len(collection.queries) == len(collection.query_labels) <= 500
        assert np.isin(collection.query_labels, collection.gallery_labels).all()
        together = {row.tobytes() for row in collection.gallery}
        assert not together & {row.tobytes() for row in collection.queries}, collection.name
    assert len(set(names)) == len(names) >= 24
