"""The statistics of a VecNormalize, kept so that one observation that is not finite does not spoil them for ever."""

from __future__ import annotations

from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize


class NormalizerStatistics:
    """The running means and variances of a VecNormalize, as they were at a moment.

    :param normalizer: None for none, and then nothing happens
    """

    def __init__(self, normalizer: VecNormalize | None):
        self._running: list[RunningMeanStd] = []
        if normalizer is not None:
            of_obs = getattr(normalizer, "obs_rms", None)  # absent where observations are left alone
            self._running = [*(of_obs.values() if isinstance(of_obs, dict) else filter(None, [of_obs]))]
            self._running.append(normalizer.ret_rms)
        self.keep()

    def keep(self) -> None:
        """Remember them as they are. SB3 replaces the arrays and never writes into them: no copy is needed."""
        if self._running:
            self._kept = [(one.mean, one.var, one.count) for one in self._running]

    def restore(self) -> None:
        """Make them what they were at the last :meth:`keep`."""
        for one, (mean, var, count) in zip(self._running, self._kept if self._running else (), strict=True):
            one.mean, one.var, one.count = mean, var, count
