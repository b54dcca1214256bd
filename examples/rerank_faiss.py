"""
Results of faiss
================

Re-rank the results of an existing search engine, here faiss.

You learn how to build the graph from the engine's own neighbour lists and how to re-rank its
results, with or without results that the engine has not found. Scores and ids are all that is
needed; the re-ranker sees no vectors.
"""

import faiss
import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics

X, labels = load_digits(return_X_y=True)
X = X.astype(np.float32)
faiss.normalize_L2(X)
queries, gallery = X[:100], X[100:]

engine = faiss.IndexFlatIP(X.shape[1])
engine.add(gallery)

# Offline: the engine lists the neighbours of every item, itself included, for the graph.
scores, ids = engine.search(gallery, 51)
ranker = diffusion.Reranker(k=50).fit_neighbors(scores, ids)

# Online: `rerank` may add items of the graph; with `restrict_to_candidates` it only re-orders.
first = engine.search(queries, 100)
again = ranker.rerank(*first, k=100)
reordered = ranker.rerank(*first, k=100, restrict_to_candidates=True)

for name, (_, found) in {"faiss": first, "re-ranked": again, "re-ordered": reordered}.items():
    hits, relevant = metrics.hits_from_labels(found, labels[100:], labels[:100])
    precision = [metrics.precision_at(hits, relevant, k).mean() for k in (10, 100)]
    print(f"{name:>10}: mP@10 {precision[0]:.3f}, mP@100 {precision[1]:.3f}")
