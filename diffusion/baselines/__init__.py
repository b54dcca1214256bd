"""Baselines that diffusion is compared with: query expansion and k-reciprocal re-ranking."""
