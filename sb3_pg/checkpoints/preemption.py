"""SIGTERM, heard while a run is learning."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from sb3_pg.checkpoints.resume_callback import ResumeCallback

#: Seconds in which processes that were sent the signal too have ended.
TO_END = 1.0


class Preemption:
    """Hears the first SIGTERM: the callbacks write what they have, and end the training. The second does what it did
    before.

    Slurm sends it to the environments' processes too. Forked ones hold each other's pipes open, so that who reads from
    them would wait for ever: an EOFError breaks this off, as the pipes of others do.

    Signals reach the main thread alone: in another it hears nothing.
    """

    def __init__(self, callbacks: Sequence[ResumeCallback]) -> None:
        self._callbacks = callbacks
        self._before: Any = None
        self._listens = False
        self._children: list[BaseProcess] = []
        self.heard = False

    def listen(self) -> None:
        """Hear from now on."""
        if threading.current_thread() is threading.main_thread():
            self._children = [*multiprocessing.active_children()]
            self._before = signal.signal(signal.SIGTERM, self._hear)
            self._listens = True

    def close(self) -> None:
        """Hear no more."""
        if self._listens:
            self._listens = False
            # None: what was there was not set by Python, and cannot be set again
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            self.close()
            os.kill(os.getpid(), number)
            return
        self.heard = True
        for one in self._callbacks:
            one.preempt()
        if _have_died(self._children):
            raise EOFError("the environments' processes were sent SIGTERM too")


def _have_died(children: Sequence[BaseProcess]) -> bool:
    """Whether one of them has ended, and not well, soon enough."""
    end = time.monotonic() + TO_END
    while not any(child.exitcode for child in children):
        alive = [child.sentinel for child in children if child.exitcode is None]
        if not alive or not wait(alive, end - time.monotonic()):
            return False
    return True
