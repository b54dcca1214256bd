"""Processes that are killed at a given moment, or that have little memory."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# The process kills itself just before a file with the given ending is moved to its final name.
_PRELUDE = """
import os, signal, sys
replace, left = os.replace, [int(sys.argv[1])]

def dying(source, target):
    if os.fspath(target).endswith(sys.argv[2]):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = dying
"""

# Runs each piece of code that it is sent in a fork of itself, and answers with its exit status. It
# computes nothing itself, so that it has no threads that a fork would lack.
_SERVER = """
import json, os, sys, traceback
import features.cli, features.objects.folder, torch

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    folder, code, values = json.loads(line)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.chdir(folder)
            sys.argv[1:] = values
            exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=answers, flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start a process that has imported what takes seconds to import."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def _run(code: str, *values: str) -> int:
    """Run code in a new process, and return its exit status."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([os.getcwd(), _PRELUDE + code, values]) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def run_killed(code: str, after: int, ending: str, *arguments: object) -> None:
    """Run code in a new process, and kill it (SIGKILL) after `after` files of an ending.

    The code finds its arguments in `sys.argv[3:]`. One more file of the ending is complete under
    its temporary name when the process dies.
    """
    status = _run(code, str(after), ending, *map(str, arguments))
    assert status == -signal.SIGKILL, "the process ended before it could be killed"


def run_whole(code: str, *arguments: object) -> None:
    """Run the same code in a new process to its end."""
    assert _run(code, "1000000", "", *map(str, arguments)) == 0


@contextlib.contextmanager
def limited_memory(extra: int = 1 << 30) -> Iterator[None]:
    """Let this process take so many bytes of address space more than it has, and no others."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
