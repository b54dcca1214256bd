"""What the campaigns over verbs share: inputs, and what each verb writes when nothing happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.folders import contents

from .server import Server
from .verbs import Verb, check_whole, names, without_places


class Written(NamedTuple):
    """The undisturbed result of a verb."""

    home: Path
    state: tuple[Any, ...]
    contents: dict[str, bytes]
    names: set[str]
    seconds: float
    operations: int


class Stage:
    """A server, the inputs of all verbs, and their undisturbed results."""

    def __init__(self, path: Path) -> None:
        self.path, self.inputs = path, path / "inputs"
        self.inputs.mkdir()
        self.server = Server()
        self.server.call("make_inputs", self.inputs)
        self._written: dict[tuple[str, int], Written] = {}

    def run(
        self,
        verb: Verb,
        home: Path,
        version: int,
        *,
        kind: str = "",
        at: int = -1,
        after: float | None = None,
    ) -> dict[str, Any]:
        """Run a verb in a child, and kill it after some seconds or at an operation of the disk."""
        arguments = (verb.name, self.inputs, home, version, kind, at)
        return self.server.call("run_verb", *arguments, after=after)

    def written(self, verb: Verb, version: int) -> Written:
        """Return what a verb writes: version 0 from nothing, version 1 over it if it may."""
        key = verb.name, version
        if key not in self._written:
            if version == 0 or not verb.replaces:  # once before, so that all loops are compiled
                self.run(verb, self.fresh(verb, self.path / "compiling", over=False), version)
            over = version > 0
            home = self.fresh(verb, self.path / f"{verb.name} {version}", over=over)
            answer = self.run(verb, home, version, kind="count")
            self._written[key] = Written(
                home,
                verb.read(home),
                contents(home),
                names(home),
                answer["seconds"],
                answer["operations"],
            )
        return self._written[key]

    def fresh(self, verb: Verb, path: Path, *, over: bool) -> Path:
        """Return a new home folder, which holds version 0 if the verb is to replace something."""
        shutil.rmtree(path, ignore_errors=True)
        if over and verb.replaces:
            shutil.copytree(self.written(verb, 0).home, path)
        else:
            path.mkdir()
        return path

    def check_between(self, verb: Verb, home: Path, before: tuple[Any, ...]) -> str:
        """Check what an interrupted verb left; return "old state" or "new state".

        Every part is as before or new, and readable.
        """
        check_whole(home)
        new = self.written(verb, 1).state
        found = verb.read(home)
        for part, old, wanted in zip(found, before, new, strict=True):
            assert part in (old, wanted), f"neither the old state nor the new one: {part}"
        return "new state" if found == new else "old state"

    def check_done(self, verb: Verb, home: Path) -> None:
        """Check that a verb has written what it writes undisturbed, and left nothing else."""
        written = self.written(verb, 1)
        assert names(home) == written.names
        assert verb.read(home) == written.state
        files = contents(home)
        other = {n for n, content in written.contents.items() if files[n] != content}
        placed = {n for n in other if n.endswith(("manifest.json", ".html"))}
        for name in placed:  # which say where folders are, or link to files in them
            one, two = (found[name].decode() for found in (files, written.contents))
            assert without_places(one) == without_places(two), name
        assert other == placed, other - placed


def staged(path: Path) -> Iterator[Stage]:
    """Yield a stage, and end its server."""
    stage = Stage(path)
    try:
        yield stage
    finally:
        stage.server.close()
