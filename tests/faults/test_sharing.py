"""Readers against writers, threads, and thousands of queries."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.faults
MEBIBYTE = 1 << 20


def test_readers_see_one_version_or_the_other(round, stage, tmp_path):
    campaign = "readers against a writer"
    for rng in round.cases(campaign, default=2):
        home = tmp_path / f"home{round.case}"
        home.mkdir()
        seed = rng.integers(1 << 30)
        answer = stage.server.call("replace_under_readers", stage.inputs, home, 50, seed)
        for outcome in ("replacements", "answers"):
            round.count(campaign, outcome, answer[outcome])


def test_threads_get_the_bits_that_one_thread_gets(round, stage, tmp_path):
    campaign = "threads"
    for rng in round.cases(campaign, default=5):
        home = tmp_path / f"home{round.case}"
        home.mkdir()
        answer = stage.server.call("share_between_threads", home, rng.integers(1 << 30))
        round.count(campaign, "calls", answer["calls"])


def test_what_a_process_holds_does_not_grow_with_its_calls(round, stage):
    campaign, calls = "soak", 2000
    for rng in round.cases(campaign, default=1):
        answer = stage.server.call("soak", stage.inputs, calls, rng.integers(1 << 30))
        round.count(campaign, "calls", calls)
        # The first calls fill caches and the pools of the allocator.
        start, end = answer["result"][2], answer["result"][-1]
        assert end["descriptors"] == start["descriptors"], answer
        assert end["threads"] == start["threads"], answer
        assert abs(end["mappings"] - start["mappings"]) <= 20, answer
        assert end["bytes"] - start["bytes"] < 8 * MEBIBYTE, answer
