"""The order of the examples on their page: what most people need comes first."""

from __future__ import annotations

from pathlib import Path

FIRST = (
    "search",
    "photos",
    "text",
    "pictures",
    "rerank_faiss",
    "changing_collection",
    "few_labels",
    "own_neighbors",
    "embedding_search",
    "regions",
    "object_discovery",
)


class Order:
    """Key by which the scripts of a folder are sorted; those that are not named come last."""

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __repr__(self) -> str:
        return "Order()"

    def __call__(self, filename: str) -> tuple[int, str]:
        """Return the place of a file, and its name."""
        stem = Path(filename).stem
        return (FIRST.index(stem) if stem in FIRST else len(FIRST), stem)
