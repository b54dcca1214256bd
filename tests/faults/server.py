"""A process that has imported everything, and forks children which run one call each.

It reads one JSON request a line and answers with one line. It never runs a kernel itself, since a
process that has run one must not be forked.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# Seconds after which a child has no end; the longest takes a few.
HANGS = 300


class Server:
    """The server's end in the process of the tests."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.server"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def call(self, function: str, *arguments: Any, after: float | None = None) -> dict[str, Any]:
        """Run a function of this module in a child, and kill it (SIGKILL) after some seconds.

        Returns
        -------
        dict
            `killed` or `status`, `seconds`, the `operations` of the disk and the `error`, if any.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = {"function": function, "arguments": [str(a) for a in arguments], "after": after}
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer


# --- what children run ----------------------------------------------------------------------------


def make_inputs(home: str) -> None:
    from . import verbs

    verbs.make_vectors(Path(home))
    verbs.make_photos(Path(home))
    import features

    vectors = features.open_descriptors(Path(home) / "descriptors").vectors
    features.learn_pca(vectors, 8).save(Path(home) / "whitening.npz")


def run_verb(name: str, inputs: str, home: str, version: str, kind: str, at: str) -> Any:
    """Run a verb; if `kind` is not empty, the process is killed at an operation of the disk."""
    from tests.support.disk import Disk

    from . import verbs

    disk = Disk(Path(home), kind or None, int(at))
    with verbs.prompt_records(), disk() if kind else contextlib.nullcontext():
        verbs.VERBS[name].run(Path(inputs), Path(home), int(version))
    return {"operations": len(disk.log)}


def run_limited(name: str, inputs: str, home: str, version: str, size: str) -> Any:
    """Run a verb while no file may exceed a size; return its error, an empty text if none."""
    import resource

    from diffusion import DiffusionError

    from . import verbs

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    try:
        verbs.VERBS[name].run(Path(inputs), Path(home), int(version))
    except (DiffusionError, OSError, verbs.VerbFailedError) as error:
        return {"raised": type(error).__name__, "message": str(error)}
    return {"raised": ""}


def replace_under_readers(inputs: str, home: str, times: str, seed: str) -> Any:
    """Replace an index and a result file many times, while processes and threads read them."""
    from . import sharing

    return sharing.replace_under_readers(Path(inputs), Path(home), int(times), int(seed))


def share_between_threads(home: str, seed: str) -> Any:
    """Call one Reranker from many threads; return the number of calls."""
    from . import sharing

    return sharing.share_between_threads(Path(home), int(seed))


def soak(inputs: str, calls: str, seed: str) -> Any:
    """Call one index many times; return what the process holds after each tenth of the calls."""
    from . import sharing

    return sharing.soak(Path(inputs), int(calls), int(seed))


# --- the server -----------------------------------------------------------------------------------


def _child(request: dict[str, Any], results: int) -> None:
    os.setsid()
    answer: dict[str, Any]
    try:
        answer = globals()[request["function"]](*request["arguments"]) or {}
        answer = answer if isinstance(answer, dict) else {"result": answer}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    with open(results, "w") as stream:
        json.dump(answer, stream)
    os._exit(0)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    readable, writable = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _child(request, writable)
    os.close(writable)
    hangs = False
    if request["after"] is not None:
        time.sleep(request["after"])
        os.kill(child, signal.SIGKILL)
    elif not select.select([readable], [], [], HANGS)[0]:
        hangs = True
        os.killpg(child, signal.SIGKILL)
    with open(readable) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    answer = json.loads(text) if text and not killed else {}
    if hangs or (status and not killed):
        answer["error"] = f"no end within {HANGS} seconds" if hangs else f"status {status}"
    return {"killed": killed, "seconds": time.monotonic() - start, **answer}


def main() -> None:
    # The answers go to the real standard output; nothing else may.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import faiss  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.neighbors  # noqa: F401
    import torch  # noqa: F401

    import features.cli
    from features.description import extraction, whitening  # noqa: F401
    from features.index import photos  # noqa: F401
    from features.objects import folder, opened, page  # noqa: F401
    from features.training import folder as training  # noqa: F401

    from . import verbs

    verbs.register_network()
    assert features.cli.main
    for line in sys.stdin:
        answers.write(json.dumps(_serve(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
