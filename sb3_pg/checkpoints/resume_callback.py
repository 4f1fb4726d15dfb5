"""The callback that writes checkpoints."""

from __future__ import annotations

import os
import pathlib
import time
import warnings
from typing import TYPE_CHECKING

from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg.checkpoints.store import Checkpoint, checkpoints_in, newest, write
from sb3_pg.data.checks import check_positive_int

if TYPE_CHECKING:
    from sb3_pg.checkpoints.snapshot import Run

#: A snapshot in memory is taken when the last one is this many times as long ago as it took.
PATIENCE = 50


class ResumeCallback(BaseCallback):
    """Writes checkpoints from which a run goes on as if it had never been interrupted.

    Killed at any moment, the run is resumed by the same script::

        folder = "runs/cartpole"
        model = VanillaPG.resume(folder, env) if has_checkpoint(folder) else VanillaPG("MlpPolicy", env)
        model.learn(1_000_000, callback=ResumeCallback(folder, every=50_000))

    A resumed run ends with the parameters, optimizers and logs of one that was never interrupted, to the bit. What
    that takes, and where it ends, is in ``docs/resume.md``.

    ``SIGTERM``, which Slurm, Kubernetes and spot machines send before they take the machine away, ends ``learn()`` at
    the next step, with a checkpoint; a second one ends the process at once.

    :param path: the folder of the checkpoints, of this run alone
    :param every: steps, over all environments, between checkpoints; they are taken at the edges of rollouts
    :param keep: how many are kept, the newest
    :raises ValueError: for a number that is none; by ``learn()``, for a folder with the checkpoints of another run
    """

    def __init__(self, path: str | os.PathLike[str], every: int, keep: int = 2, verbose: int = 0):
        super().__init__(verbose)
        for name, value in (("every", every), ("keep", keep)):
            check_positive_int(name, value)
        self.folder = pathlib.Path(path)
        self.every = every
        self.keep = keep
        #: Whether the last ``learn()`` was ended by SIGTERM, and the run is not at its end.
        self.preempted = False
        self._written: int | None = None
        self._in_memory: Checkpoint | None = None
        self._taken_at, self._cost = 0.0, 0.0
        self._run: Run | None = None

    def begin(self, run: Run, resumed_at: int | None) -> None:
        """A call of ``learn()`` begins.

        :param resumed_at: the steps of the checkpoint that it goes on from, None for none
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"ResumeCallback writes into a folder, and {self.folder} is a file: give another path")
        if checkpoints_in(self.folder) and (found := newest(self.folder)) is not None and found.facts.run != run.name:
            raise ValueError(
                f"{self.folder} has checkpoints of another run, of {found.facts.algorithm} at step "
                f"{found.facts.steps}. Go on with it: model = {found.facts.algorithm}.resume({str(self.folder)!r}, "
                "env); or give this run a folder of its own."
            )
        self._run, self._written, self._in_memory, self.preempted = run, resumed_at, None, False

    def at_edge(self) -> None:
        """Between an update and the next rollout: take a snapshot, and write it, if that is due."""
        steps = self.model.num_timesteps
        is_due = self._written is None or steps - self._written >= self.every or self.preempted
        if is_due or time.monotonic() - self._taken_at >= PATIENCE * self._cost:
            self._take()
        if is_due:
            self.write()

    def preempt(self) -> None:
        """End the training at the next step. What is in memory is written now: there may be no time later."""
        self.preempted = True
        self.write()

    def _take(self, at_end: bool = False) -> None:
        if self._run is not None:
            self._taken_at = time.monotonic()
            self._in_memory = self._run.snapshot(at_end)
            self._cost = time.monotonic() - self._taken_at

    def write(self) -> None:
        """Write the newest snapshot, unless it is written."""
        taken = self._in_memory
        if taken is None or taken.facts.steps == self._written:
            return
        path = write(self.folder, taken, self.keep)
        if self._written is None and self._run is not None:
            self._say_what_is_lost(self._run)
        self._written = taken.facts.steps
        if self.verbose >= 1:
            print(f"Checkpoint at step {taken.facts.steps}: {path}")

    def _say_what_is_lost(self, run: Run) -> None:
        if run.restarts:
            warnings.warn(
                "The environments cannot be saved in the middle of an episode, so a run that is resumed from "
                f"{self.folder} restarts the episodes under way: it is exact in distribution only. What cannot be "
                f"pickled is {run.restarts}",
                UserWarning,
                stacklevel=2,
            )
        if run.lost:
            warnings.warn(
                f"A run that is resumed from {self.folder} has these attributes of callbacks as their constructors "
                f"make them, since they cannot be pickled: {', '.join(run.lost)}",
                UserWarning,
                stacklevel=2,
            )

    def _on_step(self) -> bool:
        return not self.preempted

    def _on_training_start(self) -> None:
        if self._run is None:
            raise ValueError(
                f"ResumeCallback is for the algorithms of sb3_pg, got {type(self.model).__name__}: write SB3's "
                "CheckpointCallback"
            )

    def _on_training_end(self) -> None:
        if self.model.is_at_edge:  # type: ignore[attr-defined]  # and not broken off in a rollout
            self._take(at_end=True)
            self.preempted = False
        self.write()
        self._run = None


def has_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a folder has a checkpoint to go on from."""
    return bool(checkpoints_in(pathlib.Path(path)))
