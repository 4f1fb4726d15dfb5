"""Children of this process that do one thing: so much memory, so much time, and what became of it."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable


def start(work: Callable[[], object]) -> tuple[int, int]:
    """Have a child do it and then wait to be killed.

    :return: its number, and where it then says what came of it, pickled
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        said = pickle.dumps(work())
    except BaseException:
        said = pickle.dumps(traceback.format_exc())
    os.write(writing, said)
    os.close(writing)
    while True:
        signal.pause()


def has_spoken(reading: int, seconds: float = 0.0) -> bool:
    """Whether it has said what came of it, or has died."""
    return bool(select.select([reading], [], [], seconds)[0])


def end(child: int, reading: int) -> object:
    """Kill it.

    :return: what it had said, None if nothing
    """
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return pickle.loads(said) if said else None


def do(work: Callable[[], object], seconds: float = 30.0) -> object:
    """What came of it in a child; None if it died or took too long, a traceback if it raised."""
    child, reading = start(work)
    has_spoken(reading, seconds)
    return end(child, reading)


def limited(work: Callable[[], object], memory: int | None = None, file_size: int | None = None) -> object:
    """Do it with no more than so many bytes of memory beyond what there is, or in a file."""
    if memory is not None:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error for whoever writes, as of a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    return work()


def duration_of(work: Callable[[], object]) -> float:
    """Seconds that it takes, the longest of three."""
    longest = 0.0
    for _ in range(3):
        started = time.perf_counter()
        work()
        longest = max(longest, time.perf_counter() - started)
    return longest
