"""
Diffusion as a dot-product search
=================================

You learn how to get vectors of items and queries whose dot product is the diffused score, how to
search them with faiss or any vector database, and how much quality is lost when the vectors are
quantised to 32 bytes per item. Source: Iscen et al., Fast Spectral Ranking, CVPR 2018.
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

# %%
# Offline: the embedding has the rows of U h(Λ)^½, where W ≈ U Λ Uᵀ. Only these vectors have to be
# served. The affinity and the score are the published ones: the default score is no dot product.

ranker = diffusion.Reranker(
    affinity="cosine", k=50, solver=diffusion.Spectral(rank=127, dense_nodes=0)
).fit(gallery)
items = ranker.embedding_
print(f"{items.shape[1]} dimensions")

flat = faiss.IndexFlatIP(items.shape[1])
flat.add(items)

# %%
# Each dimension tells some of the digits from the others.

figure, ax = plt.subplots(figsize=(5.2, 4))
points = ax.scatter(*items[:, 1:3].T, c=labels[100:], cmap="tab10", s=8)
ax.set(xlabel="dimension 2", ylabel="dimension 3", xticks=[], yticks=[])
figure.colorbar(points, ticks=range(10), label="digit")
figure.tight_layout()

# %%
# Product quantisation to 32 bytes per item: 64 parts of equal width, 4 bits each.

padded = np.pad(items, ((0, 0), (0, -items.shape[1] % 64)))
quantised = faiss.IndexPQ(padded.shape[1], 64, 4, faiss.METRIC_INNER_PRODUCT)
quantised.train(padded)
quantised.add(padded)

# %%
# Online: a query becomes an observation on its nearest neighbours, and this is embedded.

embedded = ranker.embed(queries)
padded_queries = np.pad(embedded, ((0, 0), (0, -embedded.shape[1] % 64)))
answers = {
    "first stage": faiss.knn(queries, gallery, 100, metric=faiss.METRIC_INNER_PRODUCT)[1],
    "diffusion": ranker.search(queries, k=100)[1],
    "embedding": flat.search(embedded, 100)[1],
    "quantised": quantised.search(padded_queries, 100)[1],
}
quality = {}
for name, found in answers.items():
    hits, relevant = metrics.hits_from_labels(found, labels[100:], labels[:100])
    quality[name] = metrics.precision_at(hits, relevant, 100).mean()
    print(f"{name:>12}: mP@100 {quality[name]:.3f}")

figure, ax = plt.subplots(figsize=(5, 2.2))
ax.barh(list(quality), list(quality.values()))
ax.set(xlabel="mP@100", xlim=(0.5, 1))
ax.invert_yaxis()
figure.tight_layout()
