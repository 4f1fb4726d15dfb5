"""``python -m sb3_pg.variance``."""

import sys

from sb3_pg.variance.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
