"""The verb `info`: what an index contains."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from .. import storage
from ..index_state import INDEX, IndexState
from ..reranker import Reranker
from .command import Verbs
from .files import print_facts


def add_verbs(verbs: Verbs) -> None:
    """Add `info`."""
    info = verbs.add("info", _info, "Describe an index.")
    info.add_argument("index", metavar="INDEX")
    info.add_argument("--verify", action="store_true", help="compare every file's checksum")
    info.add_argument("--json", action="store_true", help="print JSON")


def _info(options: argparse.Namespace) -> None:
    stored = storage.load(options.index, INDEX, verify=options.verify)
    manifest = stored.manifest
    # An index of regions contains the state of a Reranker too.
    diagnosis = Reranker.from_state(IndexState.of(stored)).diagnose()
    facts = {
        "format version": manifest["version"],
        "written by": f"diffusion-rerank {manifest['library']}",
        **manifest["sizes"],
        **manifest["parameters"],
        "bytes": sum(entry["bytes"] for entry in manifest["arrays"].values()),
        "graph": asdict(diagnosis) if options.json else str(diagnosis),
        "arrays": {name: f"{a.dtype} {a.shape}" for name, a in stored.arrays.items()},
        "checksums": "verified" if options.verify else "not read (--verify reads them)",
    }
    print_facts(facts, options.json)
