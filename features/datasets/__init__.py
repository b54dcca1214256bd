"""Synthetic data: scenes, textures, and activation maps from visual words."""
