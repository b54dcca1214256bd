"""`python -m bench quality`, `python -m bench speed` and `python -m bench features`."""

from __future__ import annotations

import argparse
import importlib
import sys

from .table import write_json


def main() -> int:
    """Run a benchmark, print its tables and, asked for, write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benchmark", choices=("quality", "speed", "features"))
    parser.add_argument("--json", metavar="FILE", help="write the same figures here")
    parser.add_argument(
        "--long", action="store_true", help="speed: the large eigenproblem too, ten minutes more"
    )
    options = parser.parse_args()
    benchmark = importlib.import_module(f"bench.{options.benchmark}")
    tables = benchmark.run(long=options.long)
    if options.json:
        write_json(options.json, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
