"""Vector stores and frameworks: one module for each, which imports its library when it is used.

`hits` takes the hits of any store; the others are built on it.
"""
