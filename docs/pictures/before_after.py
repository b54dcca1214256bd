"""The picture of README.md: the first hundred results of a query, before and after diffusion.

python docs/pictures/before_after.py  # writes before_after.png beside this file
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import diffusion

PICTURE = Path(__file__).with_suffix(".png")
SHOWN = np.arange(4, 100, 5)  # every fifth of the first hundred results


def precision(found: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the share of the results of each query that show its digit."""
    hits, relevant = diffusion.metrics.hits_from_labels(found, gallery, labels)
    return diffusion.metrics.precision_at(hits, relevant, found.shape[1])


def rankings() -> tuple[np.ndarray, np.ndarray, int, list[np.ndarray], list[np.ndarray]]:
    """Return digits, their labels, the query that gains most, results and precisions."""
    X, labels = load_digits(return_X_y=True)
    queries, gallery = X[:200], X[200:]
    ranker = diffusion.Reranker().fit(gallery)
    unit = diffusion.expansion.normalize
    found = [
        diffusion.expansion.search(unit(queries), unit(gallery), 100)[1],
        ranker.search(queries, k=100)[1],
    ]
    shares = [precision(ids, labels[200:], labels[:200]) for ids in found]
    most = int(np.argmax(shares[1] - shares[0]))
    return X, labels, most, [ids + 200 for ids in found], shares


def caption(shares: list[np.ndarray], query: int) -> str:
    """Return the figures that README.md states below the picture."""
    before, after = shares
    return (
        f"{before[query]:.0%} of its 100 results are right before and {after[query]:.0%} after. "
        f"The mean of all queries is {before.mean():.0%} before and {after.mean():.0%} after, and "
        f"{np.mean(after < before):.0%} of them lose."
    ).replace("%", " %")


def draw(path: Path = PICTURE) -> str:
    """Draw the picture, and return its caption."""
    import matplotlib.pyplot as plt

    X, labels, query, found, shares = rankings()
    figure, axes = plt.subplots(2, len(SHOWN) + 1, figsize=(9, 1.15), layout="constrained")
    names = ("plain search", "diffusion")
    for row, name, ids in zip(axes, names, found, strict=True):
        for ax, item in zip(row, [query, *ids[query, SHOWN]], strict=True):
            ax.imshow(X[item].reshape(8, 8), cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            wrong = labels[item] != labels[query]
            plt.setp(ax.spines.values(), color="tab:red" if wrong else "silver")
            plt.setp(ax.spines.values(), linewidth=3 if wrong else 0.5)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for ax, title in zip(axes[0], ["query", *(SHOWN + 1)], strict=True):
        ax.set_title(title, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return caption(shares, query)


if __name__ == "__main__":
    print(draw())
