"""What VecNormalize keeps, kept so that one number that is not finite does not spoil it for ever."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

#: What VecNormalize gives is in float32.
LARGEST = float(np.finfo(np.float32).max)


class NormalizerStatistics:
    """All that the VecNormalize wrappers around an environment keep, as it was at a moment.

    :param env: with any number of them, or none, and then nothing happens
    """

    def __init__(self, env: VecEnv | None):
        #: From the outermost to the innermost.
        self.normalizers: list[VecNormalize] = []
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecNormalize):
                self.normalizers.append(env)
            env = env.venv
        self._running = [
            one
            for normalizer in self.normalizers
            for value in vars(normalizer).values()
            for one in (value.values() if isinstance(value, dict) else (value,))
            if isinstance(one, RunningMeanStd)
        ]
        self._holders: list[object] = [*self.normalizers, *self._running]
        self.keep()

    def keep(self) -> None:
        """Remember everything as it is. SB3 replaces the arrays, but for the returns, into which it writes."""
        self._kept: list[dict[str, Any]] = [vars(holder).copy() for holder in self._holders]
        for kept, normalizer in zip(self._kept, self.normalizers, strict=False):
            kept["returns"] = normalizer.returns.copy()

    def restore(self) -> None:
        """Make everything what it was at the last :meth:`keep`."""
        for holder, kept in zip(self._holders, self._kept, strict=True):
            there = vars(holder)
            there.update(kept)
            for name in there.keys() - kept.keys():
                del there[name]

    def are_finite(self) -> bool:
        """Whether what is still being learned is, in float32: a finite number may be too large to be squared.

        In float64 it may not be, but everything that comes after it would be divided by that for ever.
        """
        if not any(normalizer.training for normalizer in self.normalizers):
            return True
        return all(one.var.sum() < LARGEST for one in self._running)  # which nan is not
