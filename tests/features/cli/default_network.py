"""A session of `features` without a network named, for `test_default_network.py`.

It runs in a process of its own, since the address of the hub is read when its client is imported.
There is no hub at first, then there is one on this machine, and at last there is none again. What
the commands return, print and ask for is printed as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import socket
import sys
from pathlib import Path

from tests.support import hub

OPTIONS = ("--size", "90", "-k", "5", "-q")


def journey() -> list[list[str]]:
    """Return the commands that docs/photos.md begins with."""
    text = Path(__file__).parents[3].joinpath("docs", "photos.md").read_text(encoding="utf-8")
    block = text.partition("```sh journey\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines()]


def main(models: Path) -> None:
    """Run the session in the working directory, which has a folder of photos and a photo."""
    index, search = (command[1:] for command in journey() if command[0] == "features")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # nobody listens
        port = reserved.getsockname()[1]
        os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": os.path.abspath("hub")}
        steps = {"before": run(*index)}
        left = sorted(os.listdir())
    with hub.serving(models, port) as (_, asked):
        steps["other"] = run("index", "photos", "other", "--backbone", "hf:no/model", *OPTIONS)
        asked.clear()
        steps["first"] = run(*index)
        downloaded = list(asked)
    # All the rest is done without the hub.
    steps["search"] = run(*search)
    Path("photos", "00.png").unlink()
    steps["update"] = run(*index)
    steps["extract"] = run("extract", "photos", "out", *OPTIONS[:2], "-q")
    interrupt("begun")
    steps["resume"] = run("index", "photos", "again", "--descriptors", "begun", *OPTIONS)
    print(json.dumps({"steps": steps, "downloaded": downloaded, "left": left}))


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command; return its status and what it prints on both outputs."""
    from features import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue()


def interrupt(name: str) -> None:
    """Write what an extraction leaves that is killed before its first batch."""
    shutil.rmtree(name, ignore_errors=True)
    os.mkdir(name)
    manifest = {"format": "diffusion-rerank descriptors", "version": 2, "unfinished": True}
    Path(name, "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
