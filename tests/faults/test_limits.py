"""Every verb that writes, where the system itself refuses to write."""

from __future__ import annotations

import subprocess

import pytest

from .verbs import VERBS

pytestmark = pytest.mark.faults


def check_refused(stage, verb, home, before, answer):
    """Check what a verb left that found no space: the old state, and one error."""
    assert stage.check_between(verb, home, before) == "old state"
    assert str(home) in answer["message"], answer
    assert "Traceback" not in answer["message"], answer


@pytest.mark.parametrize("name", [*VERBS])
def test_where_files_may_not_grow(round, stage, name, tmp_path):
    verb, campaign = VERBS[name], f"size limit: {name}"
    whole = stage.written(verb, 1)
    largest = max(map(len, whole.contents.values()))
    for rng in round.cases(campaign, default=3):
        home = stage.fresh(verb, tmp_path / "home", over=bool(rng.integers(2)))
        before = verb.read(home)
        size = int(2 ** rng.uniform(0, 1 + largest.bit_length()))
        answer = stage.server.call("run_limited", name, stage.inputs, home, 1, size)
        if answer["raised"]:
            round.count(campaign, "refused")
            check_refused(stage, verb, home, before, answer)
        else:
            round.count(campaign, "unharmed")
        stage.run(verb, home, 1)
        stage.check_done(verb, home)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of a given number of KiB; unmount it at the end."""
    mounted = []

    def mount(size):
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("name", [*VERBS])
def test_on_a_small_disk(round, stage, name, small_disk):
    verb, campaign = VERBS[name], f"small disk: {name}"
    whole = stage.written(verb, 1)
    nothing = (None,) * len(whole.state)
    needed = sum(map(len, whole.contents.values())) // 1024 + 4 * len(whole.names)
    for rng in round.cases(campaign, default=1):
        disk = small_disk(int(rng.integers(4, 2 * needed + 8)) // 4 * 4)
        home = disk / "home"
        home.mkdir()
        answer = stage.server.call("run_limited", name, stage.inputs, home, 1, 1 << 30)
        if answer["raised"]:
            round.count(campaign, "refused")
            check_refused(stage, verb, home, nothing, answer)
        else:
            round.count(campaign, "unharmed")
            stage.check_done(verb, home)
