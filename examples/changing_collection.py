"""
A collection that changes
=========================

You learn how to use ids of your own, that an updated collection answers as one that is fitted anew,
why a filter belongs into the search and not before it, and how to ask why an item was found.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import diffusion

X, labels = load_digits(return_X_y=True)
names = np.array([f"digit-{label}-{row}" for row, label in enumerate(labels)])

# %%
# Add and remove
# --------------

ranker = diffusion.Reranker(neighbors="exact").fit(X[100:1500], ids=names[100:1500])
ranker.add(X[1500:], ids=names[1500:])
ranker.remove(names[100:200])
print(f"{ranker.n_items_} items, such as {ranker.ids_[0]}")

# %%
# The updated collection equals one that is fitted to what is left.

fitted = diffusion.Reranker(neighbors="exact").fit(X[200:], ids=names[200:])
scores, ids = ranker.search(X[0], k=10)
assert set(ids) == set(fitted.search(X[0], k=10)[1])

# %%
# Filter
# ------
#
# One item in ten may be in the answer. With the filter in the search, the walk goes through all
# items, and the answer has those that are allowed. A search of a collection that holds only these
# has lost the items in between, along which they would be found.

in_stock = np.random.default_rng(0).choice(np.arange(200, len(X)), 160, replace=False)
only = diffusion.Reranker().fit(X[in_stock], ids=names[in_stock])
answers = {
    "filtered search": ranker.search(X[:100], k=16, allow=names[in_stock])[1],
    "search of what is left": only.search(X[:100], k=16)[1],
}
figure, ax = plt.subplots(figsize=(5, 3))
for title, found in answers.items():
    digits = np.array([[name.split("-")[1] for name in row] for row in found]).astype(int)
    right = (digits == labels[:100, None]).mean(axis=0)
    print(f"{title}: {right[:10].mean():.3f} of the first 10 are right")
    ax.plot(np.arange(1, 17), np.cumsum(right) / np.arange(1, 17), marker="o", label=title)
ax.set(xlabel="number of results", ylabel="share that is right", ylim=(0, 1.02))
ax.legend()
figure.tight_layout()

# %%
# Explain
# -------
#
# An item that plain search finds late: where it stands, and by which chain of neighbours.

scores, ids = ranker.search(X[0], k=100)
explanations = [ranker.explain(X[0], item, n_chains=1) for item in ids]
promoted = max(explanations, key=lambda e: (e.first_rank or 0) - (e.rank or 0))
print(promoted)

# %%
# The chain as pictures: each digit is a near neighbour of the one before it.

place = {name: row for row, name in enumerate(names)}
chain = [0, *(place[name] for name in promoted.chains[0].ids)]
figure, axes = plt.subplots(1, len(chain), figsize=(1.3 * len(chain), 1.7), squeeze=False)
for ax, row in zip(axes[0], chain, strict=True):
    ax.imshow(X[row].reshape(8, 8), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_title("query")
axes[0, -1].set_title("found")

# %%
# Save
# ----
#
# A second save to the same place writes only what has changed.

with tempfile.TemporaryDirectory() as folder:
    ranker.save(f"{folder}/index")
    ranker.remove(ids[:1])
    ranker.save(f"{folder}/index")
    assert diffusion.load(f"{folder}/index").n_items_ == ranker.n_items_
