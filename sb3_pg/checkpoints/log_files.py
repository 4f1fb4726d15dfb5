"""Files of logs: what they have in them, and a logger that goes on where another stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat

#: What of an output format is its file.
FILES = frozenset({"file", "own_file", "writer"})
PENDING = ("name_to_value", "name_to_count", "name_to_excluded")


def contents(file: Any) -> bytes | None:
    """What a file that is written has in it; None if there is no such file (the screen, say)."""
    try:
        file.flush()
        return Path(file.name).read_bytes()
    except (OSError, TypeError, AttributeError, ValueError):
        return None


def rewrite(file: Any, data: bytes) -> None:
    """Have an open file go on after this."""
    file.seek(0)
    file.truncate()
    file.flush()
    file.buffer.write(data)
    file.flush()
    file.seek(0, 2)


def state_of_logger(logger: Logger) -> dict[str, Any]:
    """What a logger has written, and what waits to be written."""
    formats = []
    for one in logger.output_formats:
        attributes = {name: value for name, value in vars(one).items() if name not in FILES}
        formats.append({"kind": type(one).__name__, "attributes": attributes, "text": contents(_file_of(one))})
    return {"pending": {name: dict(getattr(logger, name)) for name in PENDING}, "formats": formats}


def put_back_logger(logger: Logger, state: dict[str, Any], steps: int) -> None:
    """Have a logger's files go on where those of the other stopped, kind by kind.

    :param steps: ``num_timesteps``; what TensorBoard has after them is hidden, since it comes again
    """
    for name, values in state["pending"].items():
        getattr(logger, name).clear()
        getattr(logger, name).update(values)
    waiting = list(state["formats"])
    for one in logger.output_formats:
        if isinstance(one, TensorBoardOutputFormat):
            one.writer.purge_step = steps + 1
            one.writer.close()  # the next value opens a file that begins with this
        before = next((other for other in waiting if other["kind"] == type(one).__name__), None)
        if before is None:
            continue
        waiting.remove(before)
        vars(one).update(before["attributes"])
        if before["text"] is not None and (file := _file_of(one)) is not None:
            rewrite(file, before["text"])


def _file_of(output_format: Any) -> Any:
    """Its own file; None for the screen."""
    if isinstance(output_format, HumanOutputFormat) and not output_format.own_file:
        return None
    return getattr(output_format, "file", None)
