"""SIGTERM, heard while a run is learning."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from sb3_pg.checkpoints.resume_callback import ResumeCallback


class Preemption:
    """Hears the first SIGTERM: the callbacks write what they have, and end the training. The second does what it did
    before.

    Signals reach the main thread alone: in another it hears nothing.
    """

    def __init__(self, callbacks: Sequence[ResumeCallback]) -> None:
        self._callbacks = callbacks
        self._before: Any = None
        self._listens = False
        self.heard = False

    def listen(self) -> None:
        """Hear from now on."""
        if threading.current_thread() is threading.main_thread():
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
