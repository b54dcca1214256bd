"""The cache of compiled loops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion

# A copy of the package's compiled loops, so that a test may change them.
ANSWER = """
import numpy as np
from diffusion.kernels.ranking import _before, few

values = np.array([3, 2])
print(_before(np.empty(0, np.int32), values[0], 0, values[1], 1), few(5, values).keys.shape[0])
"""


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(
        Path(diffusion.__file__).parent,
        tmp_path / "diffusion",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path


def answer(folder, code=ANSWER, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_compiling_is_announced_once_and_a_later_process_loads_the_result(copied):
    first, said = answer(copied)
    assert first == "True 16"
    assert said.count("compiling loops") == 1
    assert str(copied / "cache") in said
    assert answer(copied) == (first, "")


@pytest.mark.slow
def test_a_change_of_a_loop_that_others_call_is_compiled(copied):
    answer(copied)
    source = copied / "diffusion" / "kernels" / "ranking.py"
    before = source.stat()
    text = source.read_text()
    changed = text.replace("value_a > value_b or", "value_a < value_b or")
    assert changed != text
    source.write_text(changed)
    # The time and the size say that nothing has changed.
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    printed, said = answer(copied)
    assert printed == "False 16"
    assert "compiling loops" in said


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_what_a_power_cut_left_is_compiled_again(copied, ending):
    first, _ = answer(copied)
    found = list((copied / "cache").rglob(f"*{ending}"))
    assert len(found) >= 2
    for number, file in enumerate(found):
        content = file.read_bytes()
        file.write_bytes(content[:50] if number % 2 else b"")
    assert answer(copied)[0] == first
    assert answer(copied) == (first, "")


@pytest.mark.slow
def test_code_for_other_types_is_compiled_again(copied):
    floats = ANSWER.replace("[3, 2]", "[-2.5, -1.5]")
    both = [answer(copied)[0], answer(copied, floats)[0]]
    # As two processes leave it that number their files at the same time.
    one, other = sorted((copied / "cache").rglob("ranking._before*.nbc"))
    os.rename(one, copied / "other")
    os.rename(other, one)
    os.rename(copied / "other", other)
    assert [answer(copied)[0], answer(copied, floats)[0]] == both


def test_where_the_result_cannot_be_kept_it_is_used(copied):
    # numba writes its files with `open`, and numba alone opens files for writing here.
    code = """
import builtins, errno
def full(file, mode="r", *arguments, **options):
    if "w" in mode:
        raise OSError(errno.ENOSPC, "No space left on device")
    return opened(file, mode, *arguments, **options)
opened, builtins.open = builtins.open, full
"""
    assert answer(copied, code + ANSWER)[0] == "True 16"
    assert not list((copied / "cache").rglob("*.nb?"))


@pytest.mark.skipif(os.name == "nt", reason="directories are made unwritable by their mode")
def test_without_a_writable_directory_the_message_says_so(copied):
    # In place of a read-only file system, which root could write to: no locator finds a directory.
    code = "from numba.core import caching; caching.CacheImpl._locator_classes = []\n" + ANSWER
    printed, said = answer(copied, code)
    assert printed == "True 16"
    assert "NUMBA_CACHE_DIR" in said
