"""
Diffusion as a dot-product search
=================================

Run diffusion as a dot-product search, which any vector database can serve.

You learn how to get the spectral embeddings of items and queries, how to search them with faiss,
and how much quality is lost when the embeddings are quantised to 32 bytes per item.
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
ranker = diffusion.Reranker(k=50, solver=diffusion.Spectral(rank=127, dense_nodes=0)).fit(gallery)

# Offline: U h(Λ)^1/2, one vector per item. Only these vectors have to be served.
items = ranker.embedding_
print(f"{items.shape[1]} dimensions")

flat = faiss.IndexFlatIP(items.shape[1])
flat.add(items)

# Product quantisation to 32 bytes per item: 64 parts of equal width, 4 bits each.
padded = np.pad(items, ((0, 0), (0, -items.shape[1] % 64)))
quantised = faiss.IndexPQ(padded.shape[1], 64, 4, faiss.METRIC_INNER_PRODUCT)
quantised.train(padded)
quantised.add(padded)

# Online: a query becomes an observation on its nearest neighbours, and this is embedded.
embedded = ranker.embed(queries)
padded_queries = np.pad(embedded, ((0, 0), (0, -embedded.shape[1] % 64)))

answers = {
    "first stage": faiss.knn(queries, gallery, 100, metric=faiss.METRIC_INNER_PRODUCT)[1],
    "diffusion": ranker.search(queries, k=100)[1],
    "embedding": flat.search(embedded, 100)[1],
    "quantised": quantised.search(padded_queries, 100)[1],
}
for name, found in answers.items():
    hits, relevant = metrics.hits_from_labels(found, labels[100:], labels[:100])
    print(f"{name:>12}: mP@100 {metrics.precision_at(hits, relevant, 100).mean():.3f}")
