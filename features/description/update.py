"""What a run over a folder of photos takes over from the last one, and what it has to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import Shards

from ..images.reading import Listing
from ..settings import RunSettings
from . import sweep
from .descriptors import PHOTOS, Descriptors, open_descriptors
from .recipe import Describer
from .scan import Found, Known, match, scan
from .sources import Changes, Sources, place_of, plain_text
from .sweep import Sweep


class Block(NamedTuple):
    """Some items, the SHA-256 of the file of each, and what was computed of them, by name."""

    numbers: NDArray[np.int64]
    digests: NDArray[np.uint8]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Update:
    """The photos of a folder, divided into those that have been described and the others.

    Attributes
    ----------
    folder : str
    found : Found
    known : Known
    run : RunSettings
    earlier : Descriptors or None
        What is taken over; None if there is nothing to take over.
    anew : str or None
        Why nothing is taken over of what was there; None if nothing was there.
    """

    folder: str
    found: Found
    known: Known
    run: RunSettings
    earlier: Descriptors | None
    anew: str | None

    @classmethod
    def of(
        cls,
        folder: str,
        listing: Listing,
        describer: Describer,
        run: RunSettings,
        earlier: Descriptors | None,
        anew: str | None,
    ) -> Self:
        """Compare a folder with what `earlier_descriptors` returned."""
        before = None if earlier is None else earlier.sources
        found = scan(folder, listing, describer, run, before)
        return cls(folder, found, match(folder, found, before, run), run, earlier, anew)

    def sweep(self, shards: Shards, settings: Any) -> Sweep:
        """Return the pass over the photos that have not been described."""
        items, missing = self.found.items, self.known.missing
        return Sweep(self.folder, items, shards, settings, self.run, missing)

    def is_idle(self, described: Sweep) -> bool:
        """Return whether nothing has changed: all are described but those that were skipped.

        These are tried again, for the disk may have failed.
        """
        if self.earlier is None or self.earlier.sources is None:
            return False
        earlier, missing = self.earlier, self.known.missing
        skipped = {plain_text(file) for file in self.found.skipped}
        skipped |= {plain_text(self.found.items[n].file) for n in missing}
        return (
            self.sources(self.known.reused, self.known.digests).equals(self.earlier.sources)
            and skipped == {entry["file"] for entry in earlier.manifest["skipped"]}
            and earlier.manifest.get(PHOTOS) == place_of(self.folder, earlier.path)
            and not described.can_read(missing)
        )

    def left_alone(self) -> Descriptors:
        """Return what is there, with the files that are passed over now."""
        assert self.earlier is not None
        manifest = self.earlier.manifest | sweep.passed_over(self.found.listing)
        changes = self.changes(self.known.reused)
        return replace(self.earlier, manifest=manifest, changes=changes)

    def intact(self) -> Self:
        """Compare the checksums of what is taken over; without it if one is not right."""
        if self.earlier is not None:
            try:
                open_descriptors(self.earlier.path, verify=True)
            except DiffusionError as error:
                anew, known = f"damaged before ({error})", Known.nothing(len(self.found.items))
                return replace(self, known=known, earlier=None, anew=anew)
        return self

    def reused_blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the numbers of items that have been described, and their rows, as in shards."""
        numbers = self.known.reused
        for start in range(0, len(numbers), sweep.SHARD_IMAGES):
            block = numbers[start : start + sweep.SHARD_IMAGES]
            yield block, self.known.rows[block]

    def skipped(self, described: Sweep) -> dict[str, str]:
        """Return the images that could not be read, with the reason."""
        skipped = dict(self.found.skipped)
        for content in described.contents():
            for number, reason in content.failed.items():
                skipped[self.found.items[number].file] = reason
        return skipped

    def sources(self, numbers: NDArray[np.int64], digests: NDArray[np.uint8]) -> Sources:
        """Return what to keep of some of the items; `digests` are those of all."""
        return self.found.sources(numbers.tolist(), digests[numbers])

    def changes(self, numbers: NDArray[np.int64]) -> Changes | None:
        """Return what has changed if some items are described now; None if nothing was there."""
        if self.anew is None:
            return None
        before = None if self.earlier is None else self.earlier.sources
        files = [self.found.items[n].file for n in numbers.tolist()]
        return Changes.between(before, files, self.known.rows[numbers], self.anew)
