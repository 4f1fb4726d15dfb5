"""``python -m sb3_pg.zoo train ...``, for ``sb3-pg train ...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(also: Sequence[str] = ()) -> int:
    """Run the Zoo's command that the arguments name; without the extra, say what is missing.

    :param also: other commands of the same program, for the help and for a word that is misspelt
    """
    try:
        from sb3_pg.zoo import commands
    except ModuleNotFoundError as error:
        print(f"sb3-pg: this needs {str(error.name).partition('.')[0]}: pip install 'sb3-pg[zoo]'", file=sys.stderr)
        return 1
    # Modules of the user's, for --gym-packages and --conf-file, are found here, however the command was started
    sys.path.append(os.getcwd())
    return commands.main(sys.argv[1:], also)


if __name__ == "__main__":
    sys.exit(main())
