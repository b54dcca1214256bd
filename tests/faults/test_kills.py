"""Every verb that writes, killed at random moments."""

from __future__ import annotations

import pytest

from .verbs import VERBS

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("name", [*VERBS])
def test_killed_at_any_moment_it_leaves_the_old_state_or_the_new_one(round, stage, name, tmp_path):
    verb, campaign = VERBS[name], f"kills: {name}"
    whole = stage.written(verb, 1)
    for rng in round.cases(campaign, default=2):
        over = bool(rng.integers(2))
        home = stage.fresh(verb, tmp_path / "home", over=over)
        before = verb.read(home)
        # Killed once to three times: what resumes is killed as well.
        for _ in range(rng.integers(1, 4)):
            if rng.integers(2):
                kind = ("SIGKILL before", "SIGKILL after")[rng.integers(2)]
                at = int(rng.integers(whole.operations))
                answer = stage.run(verb, home, 1, kind=kind, at=at)
            else:
                answer = stage.run(verb, home, 1, after=rng.uniform(0, whole.seconds))
            if answer["killed"]:
                round.count(campaign, "kills")
                round.count(campaign, stage.check_between(verb, home, before))
        stage.run(verb, home, 1)
        stage.check_done(verb, home)
