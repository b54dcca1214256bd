"""
Search
======

Fit a collection, search it, and save and load the index.

You learn the basic calls of `Reranker`, what its report says about the solver, and how to measure
the quality of a ranking.
"""

import tempfile

import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics

X, labels = load_digits(return_X_y=True)
gallery, queries = np.arange(100, len(X)), np.arange(100)

ranker = diffusion.Reranker(k=50, alpha=0.99).fit(X[gallery])
print(ranker.graph_)  # nodes, edges and components

# Each query is new to the graph: it enters through its nearest neighbours, the first stage.
scores, ids = ranker.search(X[queries], k=100)
report = ranker.report_
print(f"{report.solver}: {report.iterations.max()} iterations")

# mP@100: the mean share of the first 100 results that have the label of the query.
hits, relevant = metrics.hits_from_labels(ids, labels[gallery], labels[queries])
print(f"mP@100 {metrics.precision_at(hits, relevant, 100).mean():.3f}")

with tempfile.TemporaryDirectory() as folder:
    ranker.save(f"{folder}/index")
    loaded = diffusion.load(f"{folder}/index")  # memory-mapped, so this takes milliseconds
    assert (loaded.search(X[0], k=100)[1] == ids[0]).all()
