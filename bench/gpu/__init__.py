"""The benchmark of a GPU: many queries on a large graph."""
