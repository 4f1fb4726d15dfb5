"""The ``sb3-pg`` command."""

from __future__ import annotations

import sys

from sb3_pg.zoo.__main__ import main as zoo


def main() -> int:
    """Hand the arguments to the RL Zoo's commands."""
    return zoo()


if __name__ == "__main__":
    sys.exit(main())
