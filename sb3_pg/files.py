"""Files that are there whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file, which gets its name in one step when the context ends.

    Whoever reads ``path`` never sees half of it, and if the context ends with an exception, what was there before is
    there still. The place is hidden and beside it, with the same suffix, for what asks a name how to write.
    """
    # With the process, since two may write one file at the same time
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
