"""What diffusion is compared with: query expansion, k-reciprocal re-ranking, regional matching."""
