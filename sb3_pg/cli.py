"""The ``sb3-pg`` command."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Hand the arguments to the RL Zoo's commands."""
    try:
        from sb3_pg.zoo.commands import main as zoo
    except ModuleNotFoundError as error:
        print(f"sb3-pg: this needs {error.name}: pip install 'sb3-pg[zoo]'", file=sys.stderr)
        return 1
    # Modules of the user's, for --gym-packages and --conf-file, are found here, as with python -m
    sys.path.append(os.getcwd())
    return zoo(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
