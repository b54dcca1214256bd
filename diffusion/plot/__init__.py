"""Pictures of the engine at work, drawn with Matplotlib (extra `plot`).

- `plot_neighborhood`: the part of the graph that a query reaches first.
- `plot_scores`: scores before and after diffusion, on a map or by distance in the graph.
- `plot_convergence`: the residual of an iterative solver after each iteration.
- `plot_diagnosis`: a page about the graph of a collection.

The functions draw into Axes that they are given, and return them. Without any, they make a figure
with `matplotlib.pyplot`, which is shown by ``plt.show()`` or by a notebook; nothing else refers to
pyplot. Text has the colours of the Axes, and the other colours can be told apart on light and on
dark backgrounds, also by colour-blind readers. Matplotlib is imported when a function is called.

>>> import numpy as np
>>> from diffusion import Reranker, plot
>>> angle = np.linspace(0, np.pi, 60)
>>> ranker = Reranker(k=4).fit(np.stack([np.cos(angle), np.sin(angle)], axis=1))
>>> ax = plot.plot_neighborhood(ranker, item=0, n_nodes=30)  # doctest: +SKIP
>>> ax.figure.savefig("neighborhood.svg")  # doctest: +SKIP
"""

from .convergence import plot_convergence
from .diagnosis import plot_diagnosis
from .neighborhood import plot_neighborhood, spectral_layout
from .scores import plot_scores

__all__ = [
    "plot_convergence",
    "plot_diagnosis",
    "plot_neighborhood",
    "plot_scores",
    "spectral_layout",
]
