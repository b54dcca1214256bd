"""Descriptors of photos: their quality, and the cost of extracting them."""
