"""`python -m tests.faults REPORT.json...`: print what the campaigns counted, in Markdown."""

import sys
from pathlib import Path

from .rounds import table

print(table([Path(name) for name in sys.argv[1:]]))
