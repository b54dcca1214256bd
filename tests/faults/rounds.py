"""The cases of a campaign: their random numbers, their budget of time, and what came of them."""

from __future__ import annotations

import fcntl
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TRIED, FAILED = "tried", "failed"


class Round:
    """What the fixture `round` gives to a test.

    Parameters
    ----------
    seed : int
    seconds : float or None
        Time for the cases of the test; without it, a campaign has its default number of cases.
    only : int or None
        The number of the only case to run, to repeat a failure.
    """

    def __init__(self, seed: int, seconds: float | None = None, only: int | None = None) -> None:
        self.seed, self.seconds, self.only = seed, seconds, only
        self.campaign: str | None = None
        self.case = 0
        self.counts: dict[str, Counter[str]] = {}

    def cases(
        self, campaign: str, *, default: int, most: int | None = None
    ) -> Iterator[np.random.Generator]:
        """Yield the random numbers of each case, which seed, campaign and case determine.

        A test runs one campaign. There are `default` cases without a budget of time, and at least
        one with it; `most` is the number of cases that there are at all.
        """
        self.campaign = campaign
        start = time.monotonic()
        case = 0 if self.only is None else self.only
        while True:
            self.case = case
            self.count(campaign)
            yield np.random.default_rng([self.seed, zlib.crc32(campaign.encode()), case])
            case += 1
            if self.only is not None or case == most:
                return
            if case >= default if self.seconds is None else time.monotonic() - start > self.seconds:
                return

    def count(self, campaign: str, outcome: str = TRIED, times: int = 1) -> None:
        """Count an outcome, such as "refused"; `cases` counts the attempts itself."""
        self.counts.setdefault(campaign, Counter())[outcome] += times


def add_to_report(file: Path, counts: dict[str, Counter[str]]) -> None:
    """Add counts to those in a JSON file; several processes may do so at the same time."""
    with open(file, "a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        report = json.loads(stream.read() or "{}")
        for campaign, outcomes in counts.items():
            known = report.setdefault(campaign, {})
            for outcome, times in outcomes.items():
                known[outcome] = known.get(outcome, 0) + times
        stream.truncate(0)
        json.dump(report, stream, indent=1, sort_keys=True)


def table(reports: list[Path]) -> str:
    """Return the sums of several reports as a table in Markdown.

    Campaigns whose names have the same beginning, up to a colon, share a line.
    """
    total: dict[str, Counter[str]] = {}
    for file in reports:
        for campaign, outcomes in json.loads(file.read_text()).items():
            total.setdefault(campaign.partition(":")[0], Counter()).update(outcomes)
    lines = ["| campaign | cases | outcomes | failures |", "|---|---:|---|---:|"]
    for campaign, outcomes in sorted(total.items()):
        others = [name for name in sorted(outcomes) if name not in (TRIED, FAILED)]
        told = ", ".join(f"{outcomes[name]:,} {name}" for name in others)
        lines.append(f"| {campaign} | {outcomes[TRIED]:,} | {told} | {outcomes[FAILED]:,} |")
    return "\n".join(lines)
