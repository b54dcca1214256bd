r"""
Locality and the certificate
============================

Why the time of a query does not grow with the collection, and how the best results are proven to be
the exact ones.

Exact diffusion solves a linear system with one unknown per item,

.. math:: (I - \alpha W) x = (1 - \alpha) y .

The observation y has few entries that are not 0, and x falls along the graph. `Local`, the solver
that ``"auto"`` uses, computes x only on a *support* S of nodes around the query. With the
*residual*

.. math:: r = (1 - \alpha) y - (I - \alpha W) x ,

a node i is relaxed, :math:`x_i \leftarrow x_i + \omega r_i`, while :math:`|r_i| / \sqrt{d_i}` is
above a goal that follows from the values of the best hundred items. The support grows by the nodes
that this reaches. Sources: Andersen, Chung, Lang (FOCS 2006) for pushing residuals locally, and Bai
et al. (NeurIPS 2024) for local over-relaxation.
"""

# %%
# The support
# -----------
#
# 4,000 points along a spiral, and a query. Only the coloured points are computed.

import matplotlib.pyplot as plt
import numpy as np

import diffusion

rng = np.random.default_rng(0)


def spiral(n: int) -> np.ndarray:
    """Return n points along a spiral whose density does not depend on n."""
    length = np.sort(rng.uniform(0, n / 150, n)) + 4
    angle = np.sqrt(length) * 3.5
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * np.sqrt(length)[:, None]
    return points + 0.04 * rng.standard_normal(points.shape)


X = spiral(4000)
query = X[2000] + 0.01
ranker = diffusion.Reranker(
    metric="euclidean", affinity="gaussian", k=20, alpha=0.95, solver=diffusion.Local()
).fit(X)
scores, ids = ranker.search(query, k=len(X))
reached = ids[scores > 0]
print(f"{len(reached)} of {len(X)} points")

figure, ax = plt.subplots(figsize=(5.4, 4.4))
ax.scatter(*X.T, s=2, color="silver")
found = ax.scatter(*X[reached].T, c=np.log10(scores[: len(reached)]), s=6, cmap="viridis")
ax.plot(*query, marker="*", color="tab:red", markersize=13)
ax.set(xticks=[], yticks=[], aspect="equal")
figure.colorbar(found, label="log of the score")
figure.tight_layout()

# %%
# Work and the size of the collection
# -----------------------------------
#
# The number of multiplications by an edge weight, from 1,000 to 16,000 points: conjugate gradient
# (`CG`) multiplies the whole matrix in each iteration, the local solver a neighbourhood.

counts = [1000, 2000, 4000, 8000, 16000]
work: dict[str, list[float]] = {"cg": [], "local": []}
for n in counts:
    points = spiral(n)
    for name, values in work.items():
        sized = diffusion.Reranker(
            metric="euclidean", affinity="gaussian", k=20, alpha=0.95, solver=name
        ).fit(points)
        sized.search(points[n // 2 : n // 2 + 8] + 0.01, k=50)
        values.append(sized.report_.work.mean())
figure, ax = plt.subplots(figsize=(5.4, 3.2))
for name, values in work.items():
    ax.loglog(counts, values, marker="o", label=name)
ax.set(xlabel="items", ylabel="multiplications per query")
ax.legend()
figure.tight_layout()

# %%
# The certificate
# ---------------
#
# x is only approximate. But what is left of the error, :math:`x^* - x = (I - \alpha W)^{-1} r`, can
# be bounded: for a residual that is not negative,
#
# .. math:: 0 \le x^*_i - x_i \le \frac{\sqrt{d_i}}{1 - \alpha} \max_j \frac{r_j}{\sqrt{d_j}},
#
# because :math:`D^{-1/2} W D^{1/2}` is a stochastic matrix. (The bound of `Local` is at least ten
# times sharper; its documentation has it.) If the smallest lower bound of the k best items is above
# the largest upper bound of all others, they are *certified*: they are proven to be the best of the
# exact solution. `Local(certify=10)` works until this is so for the best ten or until it gives up.

for certify in (0, 10):
    ranker.set_params(solver=diffusion.Local(certify=certify)).fit(X)
    ranker.search(X[1900:2100:10] + 0.01, k=50)
    report = ranker.report_
    print(
        f"certify={certify}: {report.certified.mean():.0%} certified, "
        f"support {report.support.mean():.0f} nodes, {report.work.mean():,.0f} multiplications"
    )
