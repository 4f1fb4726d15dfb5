"""The ``sb3-pg`` command: our own commands and, for every other word, the RL Zoo's."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from sb3_pg.zoo.__main__ import main as zoo
from sb3_pg.zoo.errors import one_line

#: The modules whose ``main(argv)`` runs a command, and the extra that has what they import.
OWN = {"compare": "sb3_pg.compare.command", "variance": "sb3_pg.variance.command"}


def main() -> int:
    """Hand the arguments to the command that the first of them names."""
    name, arguments = (sys.argv[1].replace("_", "-"), sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    return run(name, arguments) if name in OWN else zoo(also=tuple(OWN))


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of :data:`OWN`.

    :return: the exit status: the command's own, 1 after what was wrong has been said, 130 after Ctrl-C
    """
    # A class of the user's is found here, however the command was started
    sys.path.append(os.getcwd())
    try:
        status: int = importlib.import_module(OWN[name]).main(arguments)
    except ModuleNotFoundError as error:
        print(
            f"sb3-pg: {name} needs {str(error.name).partition('.')[0]}: pip install 'sb3-pg[compare]'", file=sys.stderr
        )
        return 1
    except (ValueError, OSError) as error:
        print(f"sb3-pg {name}: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sb3-pg {name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
