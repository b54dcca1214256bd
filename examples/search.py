"""Fit a collection, search it, read how the solver went, save the index and load it again."""

import tempfile

import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics

X, labels = load_digits(return_X_y=True)
gallery, queries = np.arange(100, len(X)), np.arange(100)

ranker = diffusion.Reranker(k=50, alpha=0.99).fit(X[gallery])
print(ranker.graph_)

scores, ids = ranker.search(X[queries], k=100)
report = ranker.report_
print(f"{report.iterations.max()} iterations, residual {report.residual.max():.1e}")

hits, relevant = metrics.hits_from_labels(ids, labels[gallery], labels[queries])
print(f"mP@100 {metrics.precision_at(hits, relevant, 100).mean():.3f}")

with tempfile.TemporaryDirectory() as folder:
    ranker.save(f"{folder}/index")
    loaded = diffusion.load(f"{folder}/index")  # memory-mapped: ready at once
    assert (loaded.search(X[0], k=100)[1] == ids[0]).all()
