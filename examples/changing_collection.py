"""
A collection that changes
=========================

Add items to a collection, remove others, filter a search, and ask why an item was found.

You learn how to use ids of your own, that an updated collection answers as one that is fitted anew,
why a filter belongs into the search and not before it, and how to read an explanation.
"""

import tempfile

import numpy as np
from sklearn.datasets import load_digits

import diffusion

X, labels = load_digits(return_X_y=True)
names = np.array([f"digit-{label}-{row}" for row, label in enumerate(labels)])

ranker = diffusion.Reranker(neighbors="exact").fit(X[100:1500], ids=names[100:1500])
ranker.add(X[1500:], ids=names[1500:])
ranker.remove(names[100:200])
print(f"{ranker.n_items_} items, such as {ranker.ids_[0]}")

# The updated collection equals one that is fitted to what is left.
fitted = diffusion.Reranker(neighbors="exact").fit(X[200:], ids=names[200:])
scores, ids = ranker.search(X[0], k=10)
assert set(ids) == set(fitted.search(X[0], k=10)[1])

# A filter: one item in ten may be in the answer. The walk goes through all items.
in_stock = np.random.default_rng(0).choice(np.arange(200, len(X)), 160, replace=False)
only = diffusion.Reranker().fit(X[in_stock], ids=names[in_stock])
for title, ids in (
    ("filtered search", ranker.search(X[:100], k=10, allow=names[in_stock])[1]),
    ("search of what is left", only.search(X[:100], k=10)[1]),
):
    found = np.array([[name.split("-")[1] for name in row] for row in ids]).astype(int)
    print(f"{title}: {np.mean(found == labels[:100, None]):.3f} of the first 10 are right")

# An item that plain search finds late: where it stands, and by which chain of neighbours.
scores, ids = ranker.search(X[0], k=100)
explanations = [ranker.explain(X[0], item, n_chains=1) for item in ids]
promoted = max(explanations, key=lambda e: (e.first_rank or 0) - (e.rank or 0))
print(promoted)

with tempfile.TemporaryDirectory() as folder:
    ranker.save(f"{folder}/index")
    ranker.remove(ids[:1])
    ranker.save(f"{folder}/index")  # writes what has changed
    assert diffusion.load(f"{folder}/index").n_items_ == ranker.n_items_
