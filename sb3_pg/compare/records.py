"""What is known of one run, wherever it comes from: the one form that statistics, audit and figures read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluations:
    """Scores of the policy at moments of its training.

    :param steps: environment steps at each evaluation, ascending; shape ``(n_evaluations,)``
    :param returns: undiscounted, unnormalised returns of its episodes; shape ``(n_evaluations, n_episodes)``
    :param deterministic: whether the policy's mode acted; None if the run does not say
    :param are_means: the one return of each evaluation is the mean of its episodes, of which no more is known
    """

    steps: Floats
    returns: Floats
    deterministic: bool | None = None
    are_means: bool = False

    @property
    def scores(self) -> Floats:
        """Mean return of each evaluation; shape ``(n_evaluations,)``."""
        scores: Floats = self.returns.mean(axis=1)
        return scores


@dataclass(frozen=True)
class Episodes:
    """Training episodes of all environments, in the order in which they ended.

    :param steps: environment steps of the whole run at the episode's end; shape ``(n_episodes,)``
    :param returns: undiscounted, unnormalised returns of the stochastic policy; shape ``(n_episodes,)``
    :param seconds: wall-clock time since the run began, at the episode's end; shape ``(n_episodes,)``
    """

    steps: Floats
    returns: Floats
    seconds: Floats


@dataclass(frozen=True)
class Record:
    """One run: an algorithm, an environment, a seed.

    :param algorithm: what figures and tables call it
    :param env_id: the environment
    :param seed: None if the run does not say
    :param folder: where it lies
    :param budget: environment steps it was to train for; None if it does not say
    :param evaluations: None if there were none
    :param episodes: None without monitor files
    :param progress: what the logger wrote, column by column, by SB3's keys (``train/approx_kl`` ...), nan where a key
        was not logged; every array has the shape ``(n_logs,)``
    :param settings: hyperparameters, as in the Zoo's configurations
    :param facts: what else is known, under these names where it is: ``algorithm`` (behind the name), ``class``,
        ``defaults`` (of hyperparameters that ``settings`` lacks), ``n_envs``, ``normalization`` (VecNormalize's
        arguments; False without), ``network`` (``layers``: module -> shape of its weight, ``parameters``: their
        number), ``eval_every``, ``n_eval_episodes``, ``versions`` (package -> version), ``commit``, ``machine``,
        ``command``, ``train_seconds``, ``eval_seconds``, ``gradient_steps``, and others that a cell's folder has
    :param error: the traceback of a run that failed, empty otherwise
    :param remarks: what could not be read, a line each
    """

    algorithm: str
    env_id: str
    seed: int | None
    folder: Path
    budget: int | None = None
    evaluations: Evaluations | None = None
    episodes: Episodes | None = None
    progress: dict[str, Floats] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether every return of it, in evaluations and in training, is a number."""
        parts = (self.evaluations, self.episodes)
        return all(bool(np.isfinite(part.returns).all()) for part in parts if part is not None)

    @property
    def reached(self) -> int | None:
        """The last environment step that anything of it is known of; None if nothing is."""
        logged = self.progress.get("time/total_timesteps", np.empty(0))
        steps = [part.steps for part in (self.evaluations, self.episodes) if part is not None]
        known = np.concatenate([*steps, logged[np.isfinite(logged)]])
        return int(known.max()) if len(known) else None
