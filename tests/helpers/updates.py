"""Updates of OffPolicyISPG watched from outside: how far each one goes, by the textbook's formulas."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import (
    ActorCriticPolicy,
)
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import OffPolicyISPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch, Observations
from tests.helpers.environments import RandomEnv
from tests.helpers.models import (
    ACTION_SPACES,
    make,
)

TARGET = 0.02
BOX = ACTION_SPACES["Box"]
OBSERVED = spaces.Box(-2.0, 2.0, (3,), np.float32)


def random_env(action_space: spaces.Space[Any] | None = None, n_envs: int = 2) -> DummyVecEnv:
    """Episodes of about 4 steps, of random observations, paid for the action."""
    action_space = spaces.Discrete(3) if action_space is None else action_space
    return DummyVecEnv([partial(RandomEnv, action_space, OBSERVED, 10, 0.25)] * n_envs)


def ispg(action_space: spaces.Space[Any] | None = None, **kwargs: Any) -> OffPolicyISPG:
    """A small model that uses every row of its rollouts: 32 of them."""
    settings: dict[str, Any] = {"incomplete_episodes": "truncate", "normalize_advantage": True, "n_epochs": 4}
    model = make(OffPolicyISPG, random_env(action_space), **settings | kwargs)
    assert isinstance(model, OffPolicyISPG)
    return model


Described = tuple[th.Tensor, ...]
"""The numbers that a distribution is made of: log-probs of all actions, or means and standard deviations."""


def described(policy: ActorCriticPolicy, observations: Observations) -> Described:
    """What the policy does, as it acts: in evaluation mode."""
    was_training = policy.training
    policy.set_training_mode(False)
    with th.no_grad():
        distribution = policy.get_distribution(observations).distribution
    policy.set_training_mode(was_training)
    if isinstance(distribution, th.distributions.Normal):
        return distribution.mean.double(), distribution.stddev.double()
    assert isinstance(distribution, th.distributions.Categorical)
    return (distribution.logits.double().log_softmax(dim=-1),)


def kl_of(old: Described, new: Described) -> th.Tensor:
    """KL(old || new) of each row, by the textbook's formulas."""
    if len(old) == 1:
        return (old[0].exp() * (old[0] - new[0])).sum(dim=-1)
    (mean0, std0), (mean1, std1) = old, new
    return ((std1 / std0).log() + (std0**2 + (mean0 - mean1) ** 2) / (2 * std1**2) - 0.5).sum(dim=-1)


@dataclass
class Seen:
    """An update as it looked from outside.

    :param steps: KL(old || new) over the states of the rollout after each step of the optimizer, before it is halved
    :param sample_sizes: effective sample size of the rollout after each step, as a fraction
    :param kl: after the update
    :param moved: whether a parameter of the actor changed
    :param ratios: pi_new / pi_old of each row after the update
    """

    batch: EpisodeBatch
    before: Described
    actor: dict[str, th.Tensor]
    steps: list[float] = field(default_factory=list)
    sample_sizes: list[float] = field(default_factory=list)
    kl: float = 0.0
    moved: bool = False
    ratios: th.Tensor = field(default_factory=lambda: th.ones(0))
    logged: dict[str, float] = field(default_factory=dict)


class Watch(BaseCallback):
    """Measures every update of a model.

    :param each_step: also after every step of the optimizer
    """

    model: PolicyGradientAlgorithm

    def __init__(self, each_step: bool = True) -> None:
        super().__init__()
        self.each_step = each_step
        self.updates: list[Seen] = []
        self._open = False

    def _on_training_start(self) -> None:
        if self.each_step:
            self.model.policy.optimizer.register_step_post_hook(self._after_step)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        batch = self.model.rollout_buffer.batch
        assert batch is not None
        actor = {name: p.detach().clone() for name, p in self.model.policy.named_parameters() if "value" not in name}
        self.updates.append(Seen(batch, described(self.model.policy, batch.observations), actor))
        self._open = True

    def _after_step(self, *_: Any) -> None:
        seen = self.updates[-1]
        seen.steps.append(float(self._kl(seen).mean()))
        seen.sample_sizes.append(sample_size(self._ratios(seen)))

    def _on_rollout_start(self) -> None:
        if not self._open:
            return
        seen = self.updates[-1]
        seen.kl, seen.ratios = float(self._kl(seen).mean()), self._ratios(seen)
        parameters = dict(self.model.policy.named_parameters())
        seen.moved = any(not th.equal(parameters[name], value) for name, value in seen.actor.items())
        seen.logged = {
            key.removeprefix("train/"): value
            for key, value in self.logger.name_to_value.items()
            if key.startswith("train/")
        }
        self._open = False

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _kl(self, seen: Seen) -> th.Tensor:
        return kl_of(seen.before, described(self.model.policy, seen.batch.observations))

    def _ratios(self, seen: Seen) -> th.Tensor:
        policy, batch = self.model.policy, seen.batch
        was_training = policy.training
        policy.set_training_mode(False)
        with th.no_grad():
            log_prob = policy.evaluate_actions(batch.observations, batch.actions)[1]
        policy.set_training_mode(was_training)
        return (log_prob - batch.behaviour_log_prob).double().exp()


def sample_size(weights: th.Tensor) -> float:
    """(sum w)^2 / (n sum w^2)."""
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def watched(model: OffPolicyISPG, n_updates: int, each_step: bool = True) -> list[Seen]:
    """Let it learn, and see how far every update goes."""
    watch = Watch(each_step)
    model.learn(n_updates * model.n_steps * model.n_envs, callback=watch)
    assert len(watch.updates) == n_updates
    return watch.updates
