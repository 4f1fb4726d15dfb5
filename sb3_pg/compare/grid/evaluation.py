"""Evaluations that everybody shares: the same moments, the same episodes, and nothing of them in the training."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_pg.compare.grid.facts import GradientSteps
from sb3_pg.files import whole_file

#: Episode k of every evaluation starts from this seed plus k; far from what runs are seeded with.
EVALUATION_SEED = 1_000_000
#: A file with the environment steps done so far, for whoever watches.
STEPS_FILE = ".steps"


@contextmanager
def random_streams_kept(device: th.device) -> Iterator[None]:
    """Whatever is drawn within, Python's, NumPy's and PyTorch's generators go on as if it had not been."""
    python, numpy = random.getstate(), np.random.get_state()
    with th.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def evaluate(model: BaseAlgorithm, env: VecEnv, deterministic: bool) -> tuple[list[float], list[int]]:
    """Let each environment play one episode from a seed of its own; the same ones whenever it is called.

    :param env: as many environments as there shall be episodes, behind a Monitor each
    :return: returns and lengths of the episodes; number k is always environment k's
    """
    episodes: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def note(variables: dict[str, Any], _: dict[str, Any]) -> None:
        # With the lives of a game a "done" is not always an episode's end: then Monitor says nothing
        if variables["done"] and "episode" in variables["info"]:
            episodes[variables["i"]] = variables["info"]["episode"]

    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]  # there is one
    is_training, action_space = model.policy.training, model.action_space
    with random_streams_kept(model.device):
        set_random_seed(EVALUATION_SEED)
        env.seed(EVALUATION_SEED)
        # DQN's random actions are drawn from the space itself
        model.action_space = deepcopy(action_space)
        model.action_space.seed(EVALUATION_SEED)
        try:
            evaluate_policy(model, env, env.num_envs, deterministic=deterministic, callback=note, warn=False)
        finally:
            model.action_space = action_space
            model.policy.set_training_mode(is_training)
    return [float(episode["r"]) for episode in episodes], [int(episode["l"]) for episode in episodes]


class Evaluations(BaseCallback):
    """Evaluates at the first step at or beyond each point of the grid, from step 0 on; the end is for :meth:`finish`.

    :param model: what will be trained
    :param env: where it is evaluated, see :func:`evaluate`
    :param every: steps between two points of the grid
    :param budget: steps of the training; points there and beyond are the end's, which comes after the last update
    :param folder: gets SB3's ``evaluations.npz``, and a file with the steps done
    """

    NOTE_EVERY = 1.0

    def __init__(
        self, model: BaseAlgorithm, env: VecEnv, every: int, budget: int, folder: Path, deterministic: bool
    ) -> None:
        super().__init__()
        self.env, self.every, self.budget, self.deterministic = env, every, budget, deterministic
        self.folder = folder
        self.steps: list[int] = []
        self.returns: list[list[float]] = []
        self.lengths: list[list[int]] = []
        # At the time of each evaluation, and of the training alone
        self.train_seconds: list[float] = []
        self.gradient_steps: list[int] = []
        self.eval_seconds = 0.0
        self._counter = GradientSteps(model)
        self._next = 0
        self._noted = self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, without the evaluations."""
        return time.perf_counter() - self._started - self.eval_seconds

    def finish(self) -> None:
        """Evaluate at the end, after the last update."""
        if self.steps and self.steps[-1] == self.num_timesteps:
            for values in (self.steps, self.returns, self.lengths, self.train_seconds, self.gradient_steps):
                del values[-1]
        self._evaluate()

    def facts(self) -> dict[str, Any]:
        """What is known so far besides the scores: steps, seconds and updates, also at the time of each evaluation."""
        return {
            "steps": self.num_timesteps,
            "updates": self._counter.updates,
            "gradient_steps": self._counter.count,
            "train_seconds": self.seconds,
            "eval_seconds": self.eval_seconds,
            "evaluations": {
                "steps": self.steps,
                "train_seconds": self.train_seconds,
                "gradient_steps": self.gradient_steps,
            },
        }

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()
        self._evaluate()

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self._noted > self.NOTE_EVERY:
            self._noted = now
            (self.folder / STEPS_FILE).write_text(str(self.num_timesteps))
        if self._next <= self.num_timesteps < self.budget:
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        started = time.perf_counter()
        self.train_seconds.append(started - self._started - self.eval_seconds)
        self.gradient_steps.append(self._counter.count)
        returns, lengths = evaluate(self.model, self.env, self.deterministic)
        self.steps.append(self.num_timesteps)
        self.returns.append(returns)
        self.lengths.append(lengths)
        with whole_file(self.folder / "evaluations.npz") as unfinished:  # a run that breaks off keeps what it has
            np.savez(unfinished, timesteps=self.steps, results=self.returns, ep_lengths=self.lengths)
        self._next = (self.num_timesteps // self.every + 1) * self.every
        self.eval_seconds += time.perf_counter() - started
