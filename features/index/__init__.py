"""Indexes of photos."""
