"""The command `features`: photos in, descriptors, indexes, networks and objects out."""

from .main import main

__all__ = ["main"]
