"""Builds over shards beside those of one process, on collections of any size."""
