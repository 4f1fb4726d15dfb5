"""Time every workload, contenders in turn, and write ``docs/results/speed.md``: ``python -m benchmarks.speed``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.provenance import Stamp, publish
from benchmarks.speed.sections import sections

TABLE = Path("docs/results/speed.md")


def main() -> int:
    """Time, print, write."""
    stamp = Stamp.now(TABLE)
    publish("\n".join(sections()), TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
