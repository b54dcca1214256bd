"""Descriptors of photos."""
