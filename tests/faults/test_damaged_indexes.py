"""Indexes with damage of every kind, opened with and without `verify`, signed again or not."""

from __future__ import annotations

import pytest

from . import campaigns, indexes


@pytest.mark.faults
def test_damaged_indexes(round, tmp_path):
    campaigns.run(indexes, "damaged indexes", round, tmp_path, default=400)
