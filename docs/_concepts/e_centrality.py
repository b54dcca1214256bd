r"""
Centrality
==========

Which items many others lead to, without any query.

The *Katz centrality* g of the items solves the system of diffusion with 1 on the right-hand side in
place of an observation (Siméoni et al., WACV 2018):

.. math:: \mathcal{L}_\alpha g = 1, \qquad \mathcal{L}_\alpha = \frac{I - \alpha W}{1 - \alpha}

The *degree* of an item is the sum of the weights of its edges. What recurs in a collection of
photos has many similar neighbours, and so a high centrality: this is how :doc:`recurring objects
</objects>` are told from background.
"""

# %%
# Four dense groups, of what recurs, among points that are scattered at random.

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.csgraph import connected_components

import diffusion

rng = np.random.default_rng(2)
groups = rng.uniform(0.5, 4.5, (4, 1, 2)) + 0.12 * rng.standard_normal((4, 40, 2))
X = np.concatenate([groups.reshape(-1, 2), rng.uniform(0, 5, (300, 2))])
graph = diffusion.Reranker(metric="euclidean", affinity="gaussian", k=15).fit(X).graph_

g = diffusion.katz(graph, alpha=0.99).values
degree = diffusion.degree(graph)

figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6))
for ax, values, name in zip(axes, (g, degree), ("Katz centrality", "degree"), strict=True):
    drawn = ax.scatter(*X.T, c=values, s=14, cmap="viridis")
    ax.set(title=name, xticks=[], yticks=[], aspect="equal")
    figure.colorbar(drawn, ax=ax)
figure.tight_layout()

# %%
# On W, Katz centrality tells little more than the degree: for α → 1, g is the square root of the
# degree, times a factor that is the same in each connected part. The colours are the connected
# parts. `features` therefore uses the degree by default, which needs no solver.

part = connected_components(graph.W, directed=False)[1]
figure, ax = plt.subplots(figsize=(4.6, 3.4))
ax.scatter(np.sqrt(degree), g, c=part, s=10, cmap="tab20")
ax.set(xlabel="square root of the degree", ylabel="Katz centrality")
figure.tight_layout()
