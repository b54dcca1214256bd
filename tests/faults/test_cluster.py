"""Builds over shards, while workers, schedulers, disks and inputs fail."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pytest

from diffusion import DiffusionError
from diffusion.cluster.executors import open_executor
from tests.support.folders import contents

from .clusters import (
    MODES,
    Acting,
    Cluster,
    Mounted,
    build,
    check_between,
    end,
    finish,
    kill_a_worker,
    killing_workers,
    refusal,
    start_build,
    wait_for_results,
    wait_for_workers,
    write_shards,
)

faults = pytest.mark.faults
pytest.importorskip("distributed", reason="the extra `cluster` is not installed")


@pytest.fixture(scope="module")
def threads():
    with open_executor("threads:1") as executor:
        yield executor


@pytest.fixture(scope="module")
def local():
    """Two processes of this machine; killed ones are replaced."""
    with open_executor("local:2") as executor:
        yield executor


class Undisturbed:
    """The shards of a mode, and what is built of them: the files, and the number of tasks."""

    def __init__(self, home, mode, executor):
        self.home, self.mode = home, mode
        write_shards(home)
        counting = Acting(executor)
        build(home, mode, counting)
        self.tasks, self.contents = counting.submitted, contents(home / "index")
        shutil.rmtree(home / "index")

    def copied(self, path):
        shutil.copytree(self.home, path)
        return path

    def check(self, home):
        assert contents(home / "index") == self.contents


@pytest.fixture(scope="module", params=MODES)
def given(request, tmp_path_factory, threads):
    return Undisturbed(tmp_path_factory.mktemp("given"), request.param, threads)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["lists"], indirect=True)
def test_a_worker_is_killed(given, local, tmp_path, rng):
    home = given.copied(tmp_path / "home")
    at = int(rng.integers(1, given.tasks))
    build(home, given.mode, Acting(local, at, lambda: assert_(kill_a_worker(rng))))
    given.check(home)


def assert_(fact):
    assert fact


@faults
def test_workers_are_killed_at_random_moments(round, given, local, tmp_path):
    campaign = f"cluster, killed workers: {given.mode}"
    for rng in round.cases(campaign, default=2):
        kills = 0
        for number in range(20):
            home = given.copied(tmp_path / f"home{round.case}-{number}")
            while not (home / "index").exists():
                with killing_workers(rng, 5 - kills, 1.5) as moments:
                    message = refusal(home, given.mode, local)
                if message:  # four kills may befall one task
                    assert "its worker died" in message, message
                    round.count(campaign, "refused")
                kills += len(moments)
                check_between(home, given.contents)
            given.check(home)
            shutil.rmtree(home)
            if kills >= 5:
                break
        round.count(campaign, "kills", kills)


@faults
@pytest.mark.parametrize("by", ["kill -9", "Ctrl-C"])
def test_the_command_is_ended_at_random_moments(round, given, tmp_path, by):
    campaign = f"cluster, ended by {by}: {given.mode}"
    for rng in round.cases(campaign, default=1):
        home = given.copied(tmp_path / f"home{round.case}")
        for _ in range(rng.integers(2, 5)):
            process = start_build(home, given.mode, "local:2")
            # An interpreter that imports answers to Ctrl-C by itself.
            if by == "Ctrl-C" or rng.integers(3):
                wait_for_workers(process)
            time.sleep(rng.uniform(0, 5.0))
            ended = process.poll() is not None
            if by == "kill -9":
                status, errors = end(process, signal.SIGKILL)
            else:
                status, errors = end(process, signal.SIGINT, group=True)
            assert "Traceback" not in errors, errors
            check_between(home, given.contents)
            if ended or status == 0:
                assert status == 0, errors
                round.count(campaign, "finished before")
                shutil.rmtree(home / "index")
                continue
            assert by != "Ctrl-C" or (status, errors) == (130, "diffusion: interrupted\n"), errors
            round.count(campaign, "kills")
        status, errors = finish(start_build(home, given.mode, "local:2"))
        assert (status, errors) == (0, "")
        given.check(home)
        assert sorted(os.listdir(home)) == ["ids", "index", "scores", "vectors"]


@faults
def test_the_scheduler_is_killed_and_started_again(round, given, tmp_path):
    campaign = f"cluster, killed scheduler: {given.mode}"
    cluster = Cluster()
    for rng in round.cases(campaign, default=2):
        home = given.copied(tmp_path / f"home{round.case}")
        try:
            cluster.start()
            process = start_build(home, given.mode, cluster.address)
            wait_for_results(process, home)
            time.sleep(rng.uniform(0, 1.0))
            cluster.kill_scheduler()
            status, errors = finish(process)
            check_between(home, given.contents)
            if status == 0:
                round.count(campaign, "finished before")
                assert errors == ""
            else:
                round.count(campaign, "kills")
                assert status == 2, errors
                assert errors.startswith("diffusion: error: "), errors
                assert errors.count("\n") == 1, errors
                assert "reached" in errors, errors
                cluster.end()
                cluster.start()
                assert finish(start_build(home, given.mode, cluster.address)) == (0, "")
            given.check(home)
        finally:
            cluster.end()


@faults
def test_the_disk_is_full(round, given, local, tmp_path):
    campaign = f"cluster, small disk: {given.mode}"
    needed = 6 * sum(map(len, given.contents.values())) // 1024
    for rng in round.cases(campaign, default=5):
        home = given.copied(tmp_path / f"home{round.case}")
        disk = Mounted(tmp_path / f"disk{round.case}", int(rng.integers(4, needed)) // 4 * 4)
        if disk.problem:
            pytest.skip(f"no file system can be mounted here: {disk.problem}")
        try:
            out = disk.path / "index"
            message = refusal(home, given.mode, local, out)
            round.count(campaign, "refused" if message else "unharmed")
            if message:
                assert str(disk.path) in message, message
                assert "No space left" in message, message
                assert not out.exists()
                disk.grow(5 * needed)
                build(home, given.mode, local, out)
            assert contents(out) == given.contents
        finally:
            disk.unmount()


# --- inputs ---------------------------------------------------------------------------------------


def missing(file):
    file.unlink()


def of_another_dimension(file):
    replace(file, np.load(file)[:, :3])


def of_another_type(file):
    array = np.load(file)
    replace(file, array.astype(np.float64 if array.dtype == np.int32 else np.int16))


def truncated(file):
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-17])


def without_rows(file):
    replace(file, np.load(file)[:-7])


def of_other_values(file):
    replace(file, np.load(file)[::-1])


def replace(file, array):
    """Write another file in the place of one that may be mapped."""
    file.unlink()
    np.save(file, array)


BEFORE = [missing, of_another_dimension, of_another_type, truncated, without_rows]


@pytest.mark.parametrize("given", ["lists"], indirect=True)
@pytest.mark.parametrize("damage", [missing, of_another_dimension])
def test_a_bad_shard_is_named(given, threads, tmp_path, damage):
    home = given.copied(tmp_path / "home")
    for name in MODES[given.mode]:
        check_named(given, threads, home, home / name / f"{name}_0001.npy", damage)


def check_named(given, executor, home, file, damage):
    """Check that a build names a damaged shard, and that one of the whole shard is as others."""
    shutil.copy2(file, home / "whole")
    damage(file)
    with pytest.raises(DiffusionError) as error:
        build(home, given.mode, executor)
    named = file.name if damage is not without_rows else "rows"
    assert named in str(error.value), error.value
    assert not (home / "index").exists()
    os.replace(home / "whole", file)


@faults
@pytest.mark.parametrize("damage", BEFORE)
def test_a_shard_is_bad_before_the_build(round, given, local, tmp_path, damage):
    campaign = f"cluster, bad shards: {given.mode}, {damage.__name__}"
    home = given.copied(tmp_path / "home")
    for rng in round.cases(campaign, default=2, most=9):
        if damage is without_rows and len(MODES[given.mode]) == 1:
            pytest.skip("other files say how many rows there are")
        name = MODES[given.mode][rng.integers(len(MODES[given.mode]))]
        number = 1 if damage is missing else rng.integers(3)  # another one may be the last
        check_named(given, local, home, home / name / f"{name}_{number:04d}.npy", damage)
        round.count(campaign, "refused")


@faults
@pytest.mark.parametrize("damage", [*BEFORE, of_other_values])
def test_a_shard_goes_bad_during_the_build(round, given, local, tmp_path, damage):
    campaign = f"cluster, shards that go bad: {given.mode}, {damage.__name__}"
    for rng in round.cases(campaign, default=3):
        home = given.copied(tmp_path / f"home{round.case}")
        name = MODES[given.mode][rng.integers(len(MODES[given.mode]))]
        file = home / name / f"{name}_{rng.integers(3):04d}.npy"
        shutil.copy2(file, home / "whole")
        at = int(given.tasks * rng.random() ** 3)  # rather early, when inputs are read
        damaging = Acting(local, at, lambda file=file: damage(file))
        message = refusal(home, given.mode, damaging)
        round.count(campaign, "refused" if message else "unharmed")
        if message:
            assert str(file) in message, message
            assert not (home / "index").exists()
            os.replace(home / "whole", file)
            build(home, given.mode, local)
        given.check(home)


# --- results --------------------------------------------------------------------------------------


class InterruptedBuildError(Exception):
    """Raised in the place of a task."""


def interrupt():
    raise InterruptedBuildError


@faults
def test_a_result_is_damaged_between_two_builds(round, given, threads, tmp_path):
    campaign = f"cluster, damaged results: {given.mode}"
    for rng in round.cases(campaign, default=10):
        home = given.copied(tmp_path / f"home{round.case}")
        with pytest.raises(InterruptedBuildError):
            build(home, given.mode, Acting(threads, int(rng.integers(1, given.tasks)), interrupt))
        files = sorted((home / "index.build").rglob("*.npy"))
        if not files:
            round.count(campaign, "without results")
            continue
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[: rng.integers(len(content))])
        message = refusal(home, given.mode, threads)
        round.count(campaign, "refused" if message else "made again")
        if message:
            assert str(file) in message, message
            shutil.rmtree(home / "index.build")
            build(home, given.mode, threads)
        given.check(home)
