"""The neighbour graph: its construction and order, centrality, and a description in numbers."""
