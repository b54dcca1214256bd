"""Benchmark of a collection that items are added to and removed from, round after round."""
