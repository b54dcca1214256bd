"""The version, apart so that every module may read it."""

__version__ = "0.2.0"
