"""
Neighbour lists of your own
===========================

Build the graph from neighbour lists that another program has computed.

You learn how to turn distances into scores, how to pass lists of different lengths, and how to
inspect the graph.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import diffusion

X, _ = load_digits(return_X_y=True)
engine = NearestNeighbors(n_neighbors=31).fit(X)
distances, ids = engine.kneighbors(X)

# Scores are higher for nearer items: here minus the squared Euclidean distances. A list may contain
# the item itself, at any place. Shorter lists are padded with -1.
scores = -(distances**2)
ids[distances > 25] = -1

ranker = diffusion.Reranker(k=30, metric="euclidean", affinity="gaussian")
ranker.fit_neighbors(scores, ids, X)
graph = ranker.graph_
print(graph)
print("largest components:", graph.component_sizes[:5])

scores, ids = ranker.search(X[:3] + 0.5, k=5)
print(ids)
assert (ids[:, :5] >= 0).all()
assert np.isfinite(scores).all()
