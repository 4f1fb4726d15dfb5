"""``python -m sb3_pg.zoo train ...``, for ``sb3-pg train ...``."""

import sys

from sb3_pg.zoo.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
