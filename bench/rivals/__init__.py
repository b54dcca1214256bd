"""Published re-ranking methods, implemented from their papers and run at their published settings.

The settings of `cheb_gr`, `c_crf` and `lpmt` are not known to us and are assumed. Every method is a
module, which says what else is not known of it and how it was filled in. Its function
`rank(gallery, queries)` takes L2-normalised vectors (n, d) and (nq, d) and returns the ids (nq, n)
of the full rankings. `QUERIES_IN_GRAPH` says whether the ranking of a query depends on the other
queries. A `GRID` holds values of parameters, those of the defaults among them; `bench rivals` shows
its best setting on the whole survey beside the defaults. The implementations are for the
collections of the benchmark only: those with queries in the graph hold several matrices of
(nq + n)² values.
"""

from . import c_crf, cas, cheb_gr, gnn, lpmt, rdp, superglobal

__all__ = ["c_crf", "cas", "cheb_gr", "gnn", "lpmt", "rdp", "superglobal"]
