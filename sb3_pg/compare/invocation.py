"""The command and the folder of a run, as they are recorded and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def as_typed(words: Sequence[str]) -> list[str]:
    """What was typed: ``sb3-pg compare ...``, without the interpreter and the folder of the script.

    Of any other program all words are needed to repeat it, and stay.
    """
    is_run_by_python = len(words) > 1 and Path(words[0]).name.startswith("python")
    own = list(words[1:] if is_run_by_python else words)
    return ["sb3-pg", *own[1:]] if own and Path(own[0]).name == "sb3-pg" else list(words)


def as_seen_from_here(folder: Path) -> str:
    """A folder, from the working directory if it is below it: what one would type, on any machine."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
