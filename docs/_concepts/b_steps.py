r"""
First stage, observation, transfer function
===========================================

The steps from a collection to a ranking, each with its equation and its source.

Offline, before the first query, the items are joined into a *neighbour graph*. With :math:`A_{ij}`
the weight of the edge between items i and j, which is called their *affinity* and is 0 for most
pairs, and D the diagonal matrix of the row sums of A, the *degrees*:

.. math::

   W = D^{-1/2} A D^{-1/2}

The published affinity is :math:`A_{ij} = \min(w_i(j), w_j(i))` where i and j list each other among
their k nearest neighbours, with :math:`w = \max(s, 0)^\gamma` of their similarity s and
:math:`\gamma = 3` (Iscen et al., CVPR 2017). The default is the :doc:`contextual affinity
<c_context>`.

Online, for a query:

1. The *first stage* is an ordinary nearest-neighbour search. It lists the most similar items.
2. The best of these, ``query_k`` of them, get a weight each. The vector of the weights is the
   *observation* y, with an entry for each item of the collection.
3. The *transfer function* h spreads y over the graph: :math:`x = h(W) y` has the *diffused scores*.

The query never becomes part of the graph, so that new queries need no new graph.
"""

# %%
# The observation
# ---------------
#
# Two moons again, with the affinity "gaussian", which weighs an edge by the distance alone. The
# query is the star; the items with a weight are red.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from sklearn.datasets import make_moons

import diffusion

X, moon = make_moons(300, noise=0.05, random_state=1)
query = np.array([-0.95, 0.25])
ranker = diffusion.Reranker(metric="euclidean", affinity="gaussian", k=10, query_k=5).fit(X)
W = ranker.graph_.W

nearest = np.argsort(((X - query) ** 2).sum(1))[:5]
y = np.zeros(len(X))
y[nearest] = np.exp(-((X[nearest] - query) ** 2).sum(1) / 0.05)

edges = W.tocoo()
figure, ax = plt.subplots(figsize=(6, 3.2))
ax.add_collection(
    LineCollection(np.stack([X[edges.row], X[edges.col]], 1), colors="silver", linewidths=0.6)
)
ax.scatter(*X.T, s=8, color="tab:blue")
ax.scatter(*X[nearest].T, s=60 * y[nearest] + 20, color="tab:red", zorder=3)
ax.plot(*query, marker="*", color="black", markersize=14)
ax.set(xticks=[], yticks=[], aspect="equal", title=str(ranker.graph_))
figure.tight_layout()

# %%
# The transfer function
# ---------------------
#
# The default is the *regularised Laplacian* (Zhou et al., NIPS 2003; Iscen et al., CVPR 2017):
#
# .. math:: h(\lambda) = \frac{1 - \alpha}{1 - \alpha \lambda}, \qquad
#           x = (1 - \alpha) (I - \alpha W)^{-1} y = (1 - \alpha) \sum_t (\alpha W)^t y
#
# This is a random walk with restart: at each step it goes on along an edge with probability α, and
# otherwise starts again at the observation. The larger α is, the farther it goes.

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
for ax, alpha in zip(axes, (0.5, 0.9, 0.99), strict=True):
    x = np.linalg.solve(np.eye(len(X)) - alpha * W.toarray(), (1 - alpha) * y)
    ax.scatter(*X.T, c=np.log10(np.maximum(x, x.max() * 1e-6)), s=10, cmap="magma")
    ax.set(title=f"log x, α = {alpha}", xticks=[], yticks=[], aspect="equal")
figure.tight_layout()

# %%
# Other transfer functions
# ------------------------
#
# Any function of the eigenvalues of W defines a diffusion (Iscen et al., CVPR 2018): a function
# that is large only near λ = 1 keeps what varies slowly over the graph, and spreads far.
#
# .. math::
#
#    \text{HeatKernel}(t) &: h(\lambda) = e^{-t (1 - \lambda)} \\
#    \text{TruncatedRandomWalk}(\alpha, m) &: h(\lambda) \propto \sum_{i \le m} (\alpha \lambda)^i

functions = {
    "RegularizedLaplacian(0.9)": diffusion.RegularizedLaplacian(0.9),
    "RegularizedLaplacian(0.99)": diffusion.RegularizedLaplacian(0.99),
    "HeatKernel(10)": diffusion.HeatKernel(10),
    "TruncatedRandomWalk(0.99, 8)": diffusion.TruncatedRandomWalk(0.99, 8),
}
eigenvalues = np.linalg.eigvalsh(W.toarray())
line = np.linspace(-1, 1, 400)
figure, ax = plt.subplots(figsize=(6, 3.2))
for name, h in functions.items():
    ax.plot(line, h(line), label=name)
ax.plot(eigenvalues, np.full(len(X), -0.03), "|", color="black", label="eigenvalues of W")
ax.set(xlabel="λ", ylabel="h(λ)")
ax.legend(fontsize=8)
figure.tight_layout()

# %%
# The eigenvalues of W are in [-1, 1]. Each connected part of the graph has the eigenvalue 1 once,
# with the eigenvector :math:`D^{1/2} 1`: this is where a walk without restart ends up.
#
# A *solver* computes x. All solvers of the library have the same interface, ``prepare`` offline and
# ``solve`` online, and :doc:`/howto/solvers` says which one is for what.

cg = diffusion.CG(tol=1e-8).prepare(ranker.graph_, diffusion.RegularizedLaplacian(0.99))
assert np.allclose(cg.solve(y[None]).x[0], x, rtol=1e-4, atol=1e-7)
