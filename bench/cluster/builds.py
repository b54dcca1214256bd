"""Builds of an index as programs of their own, so that their time and memory are theirs alone.

``python -m bench.cluster.builds WHERE LISTS INDEX`` builds an index from the lists that
`tiles.Tiles.write` has written, WHERE is "single" for one process without shards, or what
`diffusion.cluster.executors.open_executor` takes, and prints the seconds of each step.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import Reranker
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import open_executor

from .files import Folder, Stage, arrays_of, shuffled
from .processes import Usage, run

SINGLE = "single"


@dataclass
class Build:
    """What was measured of a build.

    Attributes
    ----------
    n : int
        Number of items.
    where : str
    shards : int
    steps : dict of str to float
        Seconds of each step; the start of workers is one, that of the program is not.
    usage : processes.Usage
    stages : dict of str to files.Stage
    index : dict of str to int
        Bytes of each array of the index.
    peak : int
        The most space in use on disk beside the given lists, in bytes.
    """

    n: int
    where: str
    shards: int
    steps: dict[str, float]
    usage: Usage
    stages: dict[str, Stage]
    index: dict[str, int]
    peak: int

    @property
    def seconds(self) -> float:
        """Seconds of all steps but the start of workers."""
        return sum(seconds for step, seconds in self.steps.items() if step != "start")

    @property
    def tasks(self) -> int:
        """Number of tasks of all stages."""
        return sum(stage.tasks for stage in self.stages.values())

    @property
    def shuffled(self) -> int:
        """Bytes that tasks have sent to other shards, in files."""
        return sum(shuffled(self.stages).values())


def build(where: str, n: int, lists: Path, index: Path) -> Build:
    """Build an index from the lists of n items in another process.

    Parameters
    ----------
    where : str
        "single", or where tasks run.
    n : int
    lists : Path
        A folder that `Tiles.write` has written.
    index : Path
        In a folder that holds nothing else.
    """
    folder, root = Folder(index.parent), Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", __spec__.name, where, str(lists), str(index)]
    usage = run(command, folder.look, root)
    printed = json.loads(usage.output.splitlines()[-1])
    steps: dict[str, float] = printed["steps"]
    stages = folder.stages(printed["begin"], printed.get("stages", ()))
    shards = len(list(lists.glob("ids_*.npy")))
    return Build(n, where, shards, steps, usage, stages, arrays_of(index), folder.peak)


# --- the program ----------------------------------------------------------------------------------


def main(where: str, lists: str, index: str) -> None:
    """Build an index, and print when that began, the seconds of its steps, and its stages."""
    made = _single(Path(lists), index) if where == SINGLE else _sharded(where, lists, index)
    print(json.dumps(made))


def _single(lists: Path, index: str) -> dict[str, Any]:
    times = [time.time()]
    scores, ids = (
        np.concatenate([np.load(file) for file in sorted(lists.glob(f"{name}_*.npy"))])
        for name in ("scores", "ids")
    )
    times.append(time.time())
    ranker = Reranker().fit_neighbors(scores, ids)
    times.append(time.time())
    ranker.save(index)
    times.append(time.time())
    steps = dict(zip(("read", "fit", "save"), np.diff(times), strict=True))
    return {"begin": times[0], "steps": steps}


def _sharded(where: str, lists: str, index: str) -> dict[str, Any]:
    build_index: Any = build_sharded  # what it returns are reports of its stages, or nothing
    start = time.time()
    with open_executor(where) as executor:
        begin = time.time()
        reports = build_index(lists, index, executor=executor, progress=sys.stderr.isatty())
        end = time.time()
    steps = {"start": begin - start, "build": end - begin}
    return {"begin": begin, "steps": steps, "stages": reports or ()}


if __name__ == "__main__":
    main(*sys.argv[1:])
