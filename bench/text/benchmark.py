"""The benchmark `text`: plain search and re-ranking of several collections of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tqdm import tqdm

from ..data import texts
from ..data.collections import Labelled
from ..data.synthetic import split
from ..data.texts import Embedding
from ..quality.methods import expanded
from ..quality.survey import QUERY_WORSE, compared, diffused
from ..table import Table, show
from .sentences import INSTALL, sentences

# What is asked, and what is relevant to it.
COLLECTIONS: dict[str, Callable[[Embedding], Labelled]] = {
    "paragraphs of help, by topic": texts.topics,
    "passages, by docstring": texts.passages,
    "docstrings, by module": texts.docstrings,
    "error messages, by exception": texts.messages,
    "Unicode names, by category": texts.characters,
}
METHODS = (expanded(10, 3.0), diffused, partial(diffused, cautious=True))


def run(
    *,
    collections: Mapping[str, Callable[[Embedding], Labelled]] = COLLECTIONS,
    embeddings: Mapping[str, Embedding] | None = None,
) -> list[Table]:
    """Measure every collection by every embedding, by default all that are at hand."""
    embeddings = at_hand() if embeddings is None else embeddings
    table = Table(
        "**Text**, class mAP in percent",
        (
            "texts, and which are relevant",
            "embedding",
            "items",
            "cosine",
            "α-QE",
            "lose, %",
            "defaults",
            "lose, %",
            "cautious",
            "lose, %",
            "gain",
        ),
        notes=[
            "A fifth of the texts, at most 400, are the queries, and the others the items. "
            "α-QE: query expansion by the ten nearest items, α = 3. defaults: Reranker(). "
            "cautious: Reranker(cautious=True). lose: share of the queries that lose more than "
            f"{QUERY_WORSE:.0f} point of AP against cosine. gain: of the defaults over cosine."
        ],
    )
    cases = [(made, embedded) for made in collections for embedded in embeddings]
    for made, embedded in tqdm(cases, desc="text", unit="case"):
        collection = split(made, *collections[made](embeddings[embedded]))
        figures = [round(figure, 1) for figure in compared(collection, METHODS)]
        gain = round(figures[3] - figures[0], 1)
        table.rows.append([made, embedded, len(collection.gallery), *figures, gain])
    return [show(table)]


def at_hand() -> dict[str, Embedding]:
    """Return the embeddings whose packages are installed, by their names and dimensions."""
    found = {f"TF-IDF, {d}": texts.tf_idf(d) for d in (64, 256)}
    real = sentences()
    if real is None:
        print(f"all-MiniLM-L6-v2: skipped; to measure it, {INSTALL}\n")
        return found
    return {**found, "all-MiniLM-L6-v2, 384": real}
