"""
A graph from neighbour lists of your own
========================================

You learn how to build the graph from lists that another program has computed, how to turn distances
into scores, how to pass lists of different lengths, and how to inspect the graph.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import diffusion

X, labels = load_digits(return_X_y=True)
engine = NearestNeighbors(n_neighbors=31).fit(X)
distances, ids = engine.kneighbors(X)

# %%
# Scores are higher for nearer items: here minus the squared Euclidean distances. A list may contain
# the item itself, at any place. Shorter lists are padded with -1.

scores = -(distances**2)
ids[distances > 25] = -1

# %%
# The Gaussian affinity weighs an edge by the distance alone. (The default affinity compares
# neighbourhoods, and would take these lists as well.)

ranker = diffusion.Reranker(k=30, metric="euclidean", affinity="gaussian")
ranker.fit_neighbors(scores, ids, X)
graph = ranker.graph_
print(graph)
print("largest components:", graph.component_sizes[:5])

# %%
# `graph_.W` is a scipy matrix, one row for each item. In the order of the labels, most of its
# weight is in ten blocks, one for each digit.

order = np.argsort(labels, kind="stable")
W = graph.W[order][:, order].tocoo()
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8))
axes[0].scatter(W.col, W.row, s=2, c=W.data, cmap="viridis", linewidths=0)
axes[0].set(title="W, items by digit", xlim=(0, len(X)), ylim=(len(X), 0), aspect="equal")
axes[1].hist(np.diff(graph.W.indptr), bins=np.arange(0, 32) - 0.5)
axes[1].set(title="edges of an item", xlabel="number of edges", ylabel="items")
figure.tight_layout()

# %%
# `diagnose` says in words what may be wrong with a graph.

print(ranker.diagnose())

# %%
# With the vectors, new queries can be searched; without, `rerank` takes first-stage hits.

scores, found = ranker.search(X[:3] + 0.5, k=5)
print(found)
assert (found >= 0).all()
assert np.isfinite(scores).all()
