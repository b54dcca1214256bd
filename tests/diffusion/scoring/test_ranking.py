"""Ranking of diffused scores and candidates."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion.errors import DiffusionError
from diffusion.scoring.ranking import rank


@pytest.mark.parametrize("restrict", [False, True])
def test_scores_of_a_solver_that_diverged_are_refused(restrict):
    x = np.array([[0.5, np.inf, 0.25]], np.float32)
    out = np.empty((1, 2), np.float32), np.empty((1, 2), np.int64)
    with pytest.raises(DiffusionError, match="scores are not finite"):
        rank(x, np.ones((1, 2), np.float32), np.array([[1, 2]]), *out, restrict=restrict)
