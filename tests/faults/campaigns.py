"""Campaigns of damaged files: cases go to workers, and failures come back reduced."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .mutations import Delta, Files, Rng, from_json, reduced, to_json
from .rounds import FAILED, Round
from .workers import LIMIT, Outcome, Pool

# Failures that are reduced, those of different places first; each takes some seconds.
_REDUCED = 8


class Case(NamedTuple):
    """A folder of files with something done to it, and how it is opened."""

    target: str
    delta: Delta
    sign: bool = False  # whether a manifest is made to describe and to sign what is there
    verify: bool = False
    number: int = 0


Failures = dict[str, list[tuple[Case, Outcome]]]


class Campaign(Protocol):
    """The module of a campaign; `prepare` and `perform` are called in the workers."""

    __name__: str
    FINE: str  # the kind of outcome of undamaged files

    def build(self, folder: Path) -> None:
        """Write the undamaged files of every target to a folder."""

    def originals(self, folder: Path) -> dict[str, Files]:
        """Return the files of every target, as `build` wrote them."""

    def draw(self, files: dict[str, Files], rng: Rng) -> Case:
        """Draw a case."""

    def allowed(self, case: Case, outcome: Outcome) -> bool:
        """Return whether a damaged file may do this."""


def run(
    campaign: Campaign,
    name: str,
    round: Round,
    folder: Path,
    *,
    default: int,
    memory: int = 1 << 30,
    limit: float = LIMIT,
) -> None:
    """Run the cases of a round, count what became of them, and fail with what must not happen."""
    campaign.build(folder / "originals")
    files = campaign.originals(folder / "originals")

    def cases() -> Iterator[Case]:
        for rng in round.cases(name, default=default):
            yield campaign.draw(files, rng)._replace(number=round.case)

    # A worker of xdist is one of several already.
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
    failures: Failures = {}
    bounds: dict[str, Any] = {"memory": memory, "limit": limit}
    with Pool(campaign.__name__, folder, workers=workers, **bounds) as pool:
        for target in files:  # what is not damaged is read
            outcome = pool.one(Case(target, {}))
            assert outcome.kind == campaign.FINE, (target, outcome)
        for case, outcome in pool.run(cases()):
            round.count(name, outcome.kind)
            if outcome.calls:
                round.count(name, "calls", outcome.calls)
            if not campaign.allowed(case, outcome):
                failures.setdefault(_alike(outcome), []).append((case, outcome))
        if failures:
            total = sum(map(len, failures.values()))
            round.count(name, FAILED, total - 1)  # the failed test counts as one
            told = list(_told(campaign, files, failures, pool))
            round.case = min(case.number for found in failures.values() for case, _ in found)
            raise AssertionError("\n".join([f"{total} failures", *told]))


def _alike(outcome: Outcome) -> str:
    """Return what equal failures have in common: what it is and where, without the numbers."""
    where, _, message = outcome.detail.partition(": ")
    return f"{outcome.kind} {where} {re.sub('-?[0-9]+', '#', message)}"


def _told(
    campaign: Campaign, files: dict[str, Files], failures: Failures, pool: Pool
) -> Iterator[str]:
    """Yield lines on each failure, the most frequent first; the first are reduced."""
    by_number = sorted(failures.values(), key=len, reverse=True)
    for place, found in enumerate(by_number):
        case, outcome = min(found, key=lambda one: one[0].number)
        yield f"{len(found)} x {outcome.kind}: {outcome.detail} (first in case {case.number})"
        if place < _REDUCED:
            yield f"    {as_json(files, smaller(campaign, files, case, outcome, pool.one))}"


def smaller(
    campaign: Campaign,
    files: dict[str, Files],
    case: Case,
    outcome: Outcome,
    perform: Callable[[Case], Outcome],
) -> Case:
    """Return a case with less damage that fails in the same way."""

    def fails(delta: Delta) -> bool:
        less = case._replace(delta=delta)
        found = perform(less)
        return found.kind == outcome.kind and not campaign.allowed(less, found)

    return case._replace(delta=reduced(files[case.target], case.delta, fails))


def as_json(files: dict[str, Files], case: Case) -> str:
    """Return a case as a line of JSON, which a file of the corpus holds."""
    fields: dict[str, Any] = {"target": case.target}
    fields |= {name: True for name in ("sign", "verify") if getattr(case, name)}
    return json.dumps({**fields, "changes": to_json(files[case.target], case.delta)})


def from_line(files: dict[str, Files], line: str) -> Case:
    """Return the case that `as_json` described; `about` in it is for its readers."""
    fields = json.loads(line)
    fields.pop("about", None)
    delta = from_json(files[fields["target"]], fields.pop("changes"))
    return Case(**fields, delta=delta)
