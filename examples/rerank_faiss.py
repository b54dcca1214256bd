"""
Re-rank the results of a search engine
======================================

You learn how to build the graph from an engine's own neighbour lists and how to re-rank its
results, with or without items that the engine has not found. Scores and ids are all that is needed;
the re-ranker sees no vectors. The engine is faiss here.
"""

import faiss
import matplotlib.pyplot as plt
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

# %%
# Offline, the engine lists the neighbours of every item, itself included, for the graph.

scores, ids = engine.search(gallery, 51)
ranker = diffusion.Reranker().fit_neighbors(scores, ids)

# %%
# Online, `rerank` takes the hits of the engine as they are. It may add items of the graph that the
# engine has not found; with `restrict_to_candidates` it only changes the order.

first = engine.search(queries, 50)
again = ranker.rerank(*first, k=200)
reordered = ranker.rerank(*first, k=50, restrict_to_candidates=True)

for name, (_, found) in {"faiss": first, "re-ranked": again, "re-ordered": reordered}.items():
    hits, relevant = metrics.hits_from_labels(found, labels[100:], labels[:100])
    precision = [metrics.precision_at(hits, relevant, k).mean() for k in (10, 50)]
    print(f"{name:>10}: mP@10 {precision[0]:.3f}, mP@50 {precision[1]:.3f}")

# %%
# Each list of results, cut at every length: how many of them are right (precision), and how many of
# all right ones are among them (recall). The lists of the engine end at 50. Those that diffusion
# has brought in follow the chains of neighbours beyond.

figure, ax = plt.subplots(figsize=(5, 3.4))
for name, found in {"re-ranked": again[1], "re-ordered": reordered[1], "faiss": first[1]}.items():
    right = labels[100:][found] == labels[:100, None]
    count = np.cumsum(right, axis=1)
    total = np.array([(labels[100:] == label).sum() for label in labels[:100]])[:, None]
    ax.plot((count / total).mean(0), (count / np.arange(1, right.shape[1] + 1)).mean(0), label=name)
ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0.5, 1.01))
ax.legend()
figure.tight_layout()
