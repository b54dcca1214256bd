"""Benchmark of parameters that are chosen from labelled queries."""
