"""
Pictures of the engine at work
==============================

You learn how to look at a graph, at the scores of one query before and after diffusion, at the
graph around this query, and at how a solver converges. The module is `diffusion.plot`, which needs
the extra `plot`.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, make_moons

import diffusion
from diffusion import plot

# %%
# The graph of a collection
# -------------------------
#
# What to look at first when results are worse than expected: few neighbours, many small components,
# or items that many lists hold (hubs).

X, labels = load_digits(return_X_y=True)
names = np.array([f"{label} ({row})" for row, label in enumerate(labels)])
ranker = diffusion.Reranker().fit(X[100:], ids=names[100:])
print(ranker.diagnose())
figure = plot.plot_diagnosis(ranker)

# %%
# The graph around a query
# ------------------------
#
# The best items of a query (star), placed by the spectral embedding of their part of the graph.

figure, ax = plt.subplots(figsize=(7, 5))
plot.plot_neighborhood(ranker, X[0], n_nodes=80, n_labels=10, ax=ax)
figure.tight_layout()

# %%
# Scores along the manifold
# -------------------------
#
# In two dimensions, as a map: before diffusion on the left, after it on the right.

moons, _ = make_moons(400, noise=0.06, random_state=0)
on_moons = diffusion.Reranker(metric="euclidean").fit(moons)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
plot.plot_scores(on_moons, np.array([-0.95, 0.2]), axes=axes)

# %%
# In more dimensions, by the distance in the graph.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
plot.plot_scores(ranker, X[0], axes=axes)

# %%
# Convergence
# -----------
#
# Conjugate gradient, with the bound on its residual that holds for every graph, and the local
# solver, which works until the best items are certified.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for ax, solver in zip(axes, ("cg", diffusion.Local()), strict=True):
    plot.plot_convergence(ranker, X[0], solver=solver, ax=ax)
