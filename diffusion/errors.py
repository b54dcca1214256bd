"""The error and the warning of the package."""

from __future__ import annotations


class DiffusionError(ValueError):
    """Invalid input; the message names the argument, the value and what was expected."""


class ConvergenceWarning(UserWarning):
    """An iterative solver reached its limit of iterations before its tolerance."""
