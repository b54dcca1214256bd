"""Benchmarks of quality and speed, beside the methods one would otherwise use."""
