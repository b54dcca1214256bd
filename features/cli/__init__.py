"""The command `features`: images in, descriptors out."""

from .verbs import main

__all__ = ["main"]
