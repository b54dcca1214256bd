"""Data that is made: scenes, textures, visual words."""
