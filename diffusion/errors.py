"""The one error and the one warning of the package."""

from __future__ import annotations


class DiffusionError(ValueError):
    """Bad input: the message names the argument, what it was and what was expected."""


class ConvergenceWarning(UserWarning):
    """An iterative solver stopped at its limit before reaching its tolerance."""
