"""Collections that the benchmarks run on."""
