"""
Search and look at the results
==============================

You learn the basic calls of `Reranker`, how to see what diffusion changes, how to measure the
quality of a ranking, and how to save an index. The collection is scikit-learn's handwritten digits.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import diffusion

X, labels = load_digits(return_X_y=True)
queries, gallery = np.arange(200), np.arange(200, len(X))

# %%
# The graph of the collection is built once, before the first query. There is nothing to choose.

ranker = diffusion.Reranker().fit(X[gallery])
print(ranker.graph_)

# %%
# Each query is new to the graph. It enters through its nearest neighbours, the first stage. The
# report says which solver has answered, and how far to trust each ranking.

scores, ids = ranker.search(X[queries], k=100)
report = ranker.report_
print(f"{report.solver}: {report.work.mean():,.0f} multiplications by an edge weight per query")
print(f"confidence {report.confidence.min():.2f} to {report.confidence.max():.2f}")

# %%
# How good are the answers? A result is relevant here if it shows the digit of the query. For
# comparison, the first stage alone, which is plain search by the cosine.

unit = diffusion.expansion.normalize
before = diffusion.expansion.search(unit(X[queries]), unit(X[gallery]), 100)[1]


def precision(found: np.ndarray) -> np.ndarray:
    """Return the share of relevant ones among the first 100 results of each query."""
    hits, relevant = diffusion.metrics.hits_from_labels(found, labels[gallery], labels[queries])
    return diffusion.metrics.precision_at(hits, relevant, 100)


for name, found in {"before": before, "after": ids}.items():
    print(f"{name}: mP@100 {precision(found).mean():.3f}")
assert precision(ids).mean() > precision(before).mean()

# %%
# The query that gains most. Results with a red frame show another digit.

most = int(np.argmax(precision(ids) - precision(before)))
shown = np.arange(0, 100, 10)  # every tenth of the first hundred
figure, axes = plt.subplots(2, len(shown) + 1, figsize=(9, 2.4))
for row, (name, found) in zip(axes, {"before": before, "after": ids}.items(), strict=True):
    for ax, item in zip(row, [queries[most], *gallery[found[most, shown]]], strict=True):
        ax.imshow(X[item].reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        if labels[item] != labels[queries[most]]:
            plt.setp(ax.spines.values(), color="tab:red", linewidth=3)
    row[0].set_ylabel(name)
for ax, rank in zip(axes[0], ["query", *(shown + 1)], strict=True):
    ax.set_title(rank, fontsize=9)

# %%
# And all queries at once: each point is one.

figure, ax = plt.subplots(figsize=(4.2, 4.2))
ax.plot([0, 1], [0, 1], color="gray", linewidth=1)
ax.scatter(precision(before), precision(ids), s=12, alpha=0.6)
ax.set(xlabel="precision of 100 results before", ylabel="after", aspect="equal")

# %%
# An index is a directory. It is memory-mapped when it is loaded, which takes milliseconds.

with tempfile.TemporaryDirectory() as folder:
    ranker.save(f"{folder}/index")
    loaded = diffusion.load(f"{folder}/index")
    assert (loaded.search(X[0], k=100)[1] == ids[0]).all()
