r"""
Contextual affinity and fusion
==============================

The two ways in which the defaults differ from the published method, and why.

Contextual affinity
-------------------

The published affinity needs k, the number of neighbours, to fit the number of items per object. If
k is larger, edges lead to other objects; if it is smaller, an object falls into parts. The
*contextual affinity* compares neighbourhoods instead, at several scales at once: two items belong
together if they have the same neighbours.

For the neighbour lists of all items, with s the similarity:

.. math::

   r_i &= \text{the twelfth highest } s_{il} \text{ in the list of i} \\
   s'_{ij} &= s_{ij} - f (r_i + r_j) \\
   m_{ij} &= \max(\text{rank}_i(j), \text{rank}_j(i)) \\
   V_s(i) &\propto 1[m_{ij} \le s] + 1[m_{ij} \le s/2] \\
   J_{ij} &= \frac{\sum_l \min(V_{il}, V_{jl})}{\sum_l \max(V_{il}, V_{jl})}

- :math:`s'` is the score with *local scaling*, by which the lists are ranked: hubs, which are near
  everything, have a large r and are ranked lower (after Conneau et al., ICLR 2018; f = 0.3).
- m is the *mutual rank*: it is small only if each of the two items ranks the other high (after
  Zhong et al., CVPR 2017, who use one scale).
- :math:`V_i` is the *encoding* of item i: the mean of its neighbourhoods at the scales 3, 6, 12, 24
  and 48, smoothed over its nearest neighbours.
- J is the *Jaccard similarity* of two encodings: 0 without a common neighbour, 1 if they are equal.

The weight of an edge is made of J and of the similarities in units of each list; the documentation
of :class:`diffusion.Context` has the rest of the equations.
"""

# %%
# Ten classes of 4 to 80 items in 16 dimensions. The pictures show W, with the items in the order of
# their classes: what is outside of the blocks along the diagonal (red) joins different classes.

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.csgraph import connected_components

import diffusion

rng = np.random.default_rng(3)
sizes = np.array([4, 5, 6, 8, 12, 16, 24, 32, 48, 80])
label = np.repeat(np.arange(10), sizes)
X = rng.standard_normal((10, 16))[label] + 0.8 * rng.standard_normal((len(label), 16))

rankers = {
    "published, k = 8": diffusion.Reranker(affinity="cosine", k=8),
    "published, k = 50": diffusion.Reranker(affinity="cosine", k=50),
    "contextual": diffusion.Reranker(),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for ax, (name, ranker) in zip(axes, rankers.items(), strict=True):
    matrix = ranker.fit(X).graph_.W
    W = matrix.tocoo()
    wrong = label[W.row] != label[W.col]
    for which, colour in ((~wrong, "tab:blue"), (wrong, "tab:red")):
        ax.scatter(W.col[which], W.row[which], s=20 * W.data[which] / W.data.max(), c=colour)
    parts = connected_components(matrix[label == 9][:, label == 9])[0]
    print(f"{name}: the largest class is in {parts} parts")
    share = W.data[wrong].sum() / W.data.sum()
    ax.set(title=f"{name}: {share:.1%} wrong", aspect="equal", ylim=(len(X), 0))
figure.tight_layout()

# %%
# With k = 8, the largest class falls into parts that a walk cannot leave; with k = 50, one part in
# nine of the weight leads to another class. The contextual affinity has neither fault, and there is
# no k to choose.

# %%
# Fusion
# ------
#
# The published methods rank by x alone. If diffusion reaches the wrong neighbourhood, or if an
# object has only a few items, the head of the list gets worse. The *fusion* adds what is known near
# the query:
#
# .. math::
#
#    f_{qj} &= \left(\frac{x_j}{\max x}\right)^{3/8} + w\, (J_{qj} + e_{qj}),
#    \qquad x = D^{-1/2} h(W) y \\
#    e_{qj} &= \frac{1}{(1 + z_{qj})^2}, \qquad
#    z_{qj} = \frac{\max s'_q - s'_{qj}}{s_{(1)} - s_{(12)}}
#
# J is the similarity of the neighbourhoods of the query and the item, and e the first-stage score
# in units of the query's own list; w is 0.75. The parts of each score are reported by `explain`.
# Here are the results of a view circle: 24 views of each of 30 objects.

objects, views = 30, 24
turn = np.tile(np.arange(views) * 2 * np.pi / views, objects)[:, None]
label = np.repeat(np.arange(objects), views)
plane = rng.standard_normal((2, objects, 32))
X = np.cos(turn) * plane[0, label] + np.sin(turn) * plane[1, label]
X += 0.35 * rng.standard_normal(X.shape)

ranker = diffusion.Reranker().fit(X[1:], ids=np.arange(1, len(X)))
ids = ranker.search(X[0], k=40)[1]
shares = np.array([ranker.explain(X[0], item).shares for item in ids])

figure, ax = plt.subplots(figsize=(7.5, 3.2))
bottom = np.zeros(len(ids))
for part, name in zip(shares.T, ("diffusion", "neighbourhood", "first stage"), strict=True):
    ax.bar(np.arange(1, 41), part, bottom=bottom, label=name)
    bottom += part
for rank in np.flatnonzero(label[ids] != 0):
    ax.annotate("×", (rank + 1, bottom[rank]), ha="center", color="tab:red", fontsize=14)
ax.set(xlabel="rank (× is another object)", ylabel="score")
ax.legend()
figure.tight_layout()

# %%
# The first results have something of each part. Farther around the circle only diffusion is left:
# these are the items that plain search misses.
