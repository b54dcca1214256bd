"""The command `diffusion`: the library's verbs over files."""

from .verbs import main

__all__ = ["main"]
