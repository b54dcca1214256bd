"""Collections of real text that every installation has.

The texts are read from the source files of the standard library and of numpy, scipy and
scikit-learn, which are parsed and not imported, from the topics of Python's `help`, and from its
table of Unicode names. Nothing is downloaded. The same installation gives the same collections;
other versions of Python or of the three packages give slightly different ones.

A function takes an embedding, such as the weak descriptors of a bag of words that `tf_idf` makes.
It returns unit vectors, float32 (n, d), and the class of each, int64 (n,). Of all texts, 2,500 are
drawn at random, at most 300 of a class; those of classes with fewer than five of them are left out,
and so are texts that have the same vector as another one. With CPython 3.11, numpy 2.4, scipy 1.17,
scikit-learn 1.9 and `tf_idf` there are

=============================== ======== ======= ==================
texts                              items classes items of a class
=============================== ======== ======= ==================
docstrings by module                2235     102  5 to 155, median 11
paragraphs of `help` by topic       1083      43  5 to 113, median 13
passages by docstring               2494     262  5 to 35, median 7
error messages by exception         1857      56  5 to 299, median 10
Unicode names by category           2289      18  5 to 298, median 102
=============================== ======== ======= ==================
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import sysconfig
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .collections import Labelled

PACKAGES = ("numpy", "scipy", "sklearn")

# Directories with tests, and with copies of other packages.
_OTHERS = {"test", "tests", "idle_test", "_vendor", "externals"}

# The numbers of texts drawn, of texts of one class, and the least of a class that are used.
_DRAWN, _MOST, _LEAST = 2500, 300, 5


# Takes n texts and returns their vectors (n, d), not normalised.
Embedding: TypeAlias = Callable[[list[str]], NDArray[np.floating]]


class Text(NamedTuple):
    """A text and the name of its class."""

    label: str
    words: str


def docstrings(embed: Embedding) -> Labelled:
    """Return docstrings of at least eight words; the class is the module.

    It is a top-level module of the standard library, such as `email`, or a subpackage of the
    others, such as `scipy.sparse`.
    """
    return _vectors((text for text in _source_texts()[0] if len(text.words.split()) >= 8), embed)


def messages(embed: Embedding) -> Labelled:
    """Return messages of at least four words in `raise` statements; the class is the exception."""
    return _vectors((text for text in _source_texts()[1] if len(text.words.split()) >= 4), embed)


def topics(embed: Embedding) -> Labelled:
    """Return paragraphs of at least twelve words of Python's `help`; the class is the topic.

    A topic may be part of another one. The paragraphs of both belong to the shorter one.
    """
    from pydoc_data import topics as shipped

    found: dict[str, str] = {}
    for label, article in sorted(shipped.topics.items(), key=lambda topic: len(topic[1])):
        for words in _paragraphs(article):
            found.setdefault(words, label)
    return _vectors((Text(label, words) for words, label in found.items()), embed)


def passages(embed: Embedding) -> Labelled:
    """Return paragraphs of long docstrings; the class is the docstring.

    So are the passages of documents in which an answer is looked for. Paragraphs that several
    docstrings share are left out.
    """
    articles = sorted({text.words for text in _source_texts()[0]})
    split = [tuple(dict.fromkeys(_paragraphs(article))) for article in articles]
    held = Counter(words for paragraphs in split for words in paragraphs)
    found: list[Text] = []
    for number in np.random.default_rng(0).permutation(len(split)):
        own = [words for words in split[number] if held[words] == 1]
        if _LEAST <= len(own) <= _DRAWN - len(found):
            found += [Text(str(number), words) for words in own]
    return _vectors(found, embed)


def _paragraphs(article: str) -> Iterator[str]:
    """Yield the paragraphs of at least twelve words, without examples and rules of a grammar."""
    for paragraph in article.split("\n\n"):
        words = paragraph.split()
        if len(words) >= 12 and not re.search(r">>>|::=", paragraph):
            yield " ".join(words)


def characters(embed: Embedding) -> Labelled:
    """Return names of Unicode characters; the class is the general category, such as `Lu` or `Sm`.

    The words of a name tell the script rather than the category. This is a counter-example with
    large classes: neighbours are of the same script, and so are the items reached along the graph.
    Hangul syllables and names with numbers, as those of ideographs, are left out.
    """
    named = [(chr(code), unicodedata.name(chr(code), "")) for code in range(sys.maxunicode + 1)]
    return _vectors(
        (
            Text(unicodedata.category(character), name)
            for character, name in named
            if name and not re.search(r"\d|HANGUL SYLLABLE", name)
        ),
        embed,
    )


def tf_idf(d: int) -> Embedding:
    """Return the embedding of texts by the first d components of their tf-idf vectors."""

    def embed(texts: list[str]) -> NDArray[np.floating]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
        components: NDArray[np.floating] = TruncatedSVD(d, random_state=0).fit_transform(words)
        return components

    return embed


def _vectors(texts: Iterable[Text], embed: Embedding) -> Labelled:
    """Draw texts and embed them."""
    from sklearn.preprocessing import normalize

    chosen = _drawn(texts)
    X = normalize(embed([text.words for text in chosen])).astype(np.float32)
    _, classes = np.unique([text.label for text in chosen], return_inverse=True)
    distinct = np.zeros(len(X), bool)
    distinct[np.unique(X, axis=0, return_index=True)[1]] = True
    distinct &= X.any(axis=1)
    kept = distinct & (np.bincount(classes, distinct) >= _LEAST)[classes]
    _, labels = np.unique(classes[kept], return_inverse=True)
    return X[kept], labels.astype(np.int64)


def _drawn(texts: Iterable[Text]) -> list[Text]:
    """Draw from distinct texts; the order in which files were read does not matter."""
    distinct = sorted(set(texts))
    of_class: Counter[str] = Counter()
    drawn = []
    for place in np.random.default_rng(0).permutation(len(distinct)):
        text = distinct[place]
        of_class[text.label] += 1
        if of_class[text.label] <= _MOST:
            drawn.append(text)
    return drawn[:_DRAWN]


# --- source files --------------------------------------------------------------------------------


@cache
def _source_texts() -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    """Return all docstrings with their modules, and all error messages with their exceptions."""
    documented, raised = [], []
    for module, tree in _modules():
        for node in _statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                documented.append(Text(module, ast.get_docstring(node) or ""))
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func).rpartition(".")[2]
                raised.append(Text(name, " ".join(_strings(node.exc))))
    return tuple(documented), tuple(raised)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree and the statements in it; there are far fewer than nodes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(getattr(node, field, ()))


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name of the class and the syntax tree of every source file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and not _OTHERS & set(parts):
            yield parts[0], _parsed(path)
    for package in PACKAGES:
        specification = importlib.util.find_spec(package)
        assert specification is not None and specification.origin is not None  # noqa: PT018
        folder = Path(specification.origin).parent
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            if not _OTHERS & set(parts):
                yield ".".join(part for part in parts[:2] if part != "__init__"), _parsed(path)


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for example of escape sequences in old files
        return ast.parse(path.read_bytes())
