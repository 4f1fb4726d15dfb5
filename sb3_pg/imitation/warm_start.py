"""A model that begins with what somebody else did, and is ready to learn on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg.data.checks import check_positive, check_positive_int
from sb3_pg.data.minibatches import CACHE_ROWS
from sb3_pg.estimators import reward_to_go
from sb3_pg.imitation.batch import batch_of, policy_of
from sb3_pg.imitation.cloning import clone
from sb3_pg.imitation.demonstrations import Demonstration, demonstrations_from
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.rollout.normalizer import NormalizerStatistics
from sb3_pg.update.critic import ValueLoss, fit_critic


def warm_start(
    model: OnPolicyAlgorithm,
    demonstrations: Iterable[Any],
    n_value_epochs: int = 10,
    value_batch_size: int | None = 64,
    value_learning_rate: float = 1e-3,
    **cloning: Any,
) -> list[float]:
    """:func:`~sb3_pg.imitation.clone`, with what ``learn`` needs beside it: VecNormalize's statistics, and a critic.

    A VecNormalize that learns its statistics learns those of the demonstrations first: the policy is cloned on numbers
    that go on to mean the same. Where all demonstrations have rewards, the parameters that only the critic uses are
    fitted to the discounted rewards to go of each step, which end where the demonstration does.

    :param n_value_epochs: passes of the critic over all steps
    :param value_batch_size: steps of one of its gradient steps; None for all of them at once
    :param value_learning_rate: of its optimizer, Adam
    :param cloning: arguments of ``clone``
    :return: what ``clone`` returns
    :raises ValueError: as ``clone``, and for statistics that would not be finite
    """
    check_positive_int("n_value_epochs", n_value_epochs)
    check_positive_int("value_batch_size", value_batch_size, or_none=True)
    check_positive("value_learning_rate", value_learning_rate, may_be_infinite=False)
    episodes = demonstrations_from(demonstrations)
    batch_of(model, episodes)  # what does not fit is refused before anything changes
    fit = partial(_fit_critic, model, episodes, n_value_epochs, value_batch_size, value_learning_rate)
    with _statistics_restored_if_refused(model) as statistics:
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None and normalizer.training:
            _learn_statistics(normalizer, episodes)
        if not statistics.are_finite():
            raise ValueError("a running variance of VecNormalize would be no float32: demonstrations are too large")
        if cloning.get("weights") == "advantage":
            fit()  # which the weights are by
        losses = clone(model, episodes, **cloning)
        fit()  # where it shares layers with the actor, these have changed
    return losses


@contextmanager
def _statistics_restored_if_refused(model: OnPolicyAlgorithm) -> Iterator[NormalizerStatistics]:
    statistics = NormalizerStatistics(model.get_env())
    try:
        yield statistics
    except ValueError:
        statistics.restore()
        raise


def _fit_critic(
    model: OnPolicyAlgorithm, episodes: list[Demonstration], n_epochs: int, batch_size: int | None, learning_rate: float
) -> None:
    """Fit what only the critic uses, if there is something to fit it to."""
    own = own_parameters_of_critic(policy_of(model))
    if not own or any(one.rewards is None for one in episodes):
        return
    batch = batch_of(model, episodes)
    targets = reward_to_go(batch.rewards, batch.episodes, model.gamma)
    optimizer = th.optim.Adam(own, lr=learning_rate)
    value_loss = ValueLoss(targets, th.zeros_like(targets))
    fit_critic(model.policy, optimizer, batch, value_loss, n_epochs, batch_size, CACHE_ROWS, None, normalize=True)
    optimizer.zero_grad()


def _learn_statistics(normalizer: VecNormalize, episodes: list[Demonstration]) -> None:
    """As if the wrapper had seen the demonstrations being played."""
    for one in episodes:
        if normalizer.norm_obs:
            if isinstance(one.observations, dict):
                for key, part in cast("dict[str, RunningMeanStd]", normalizer.obs_rms).items():
                    part.update(one.observations[key])
            else:
                cast("RunningMeanStd", normalizer.obs_rms).update(one.observations)
        if normalizer.norm_reward and one.rewards is not None:
            earned, so_far = np.zeros(len(one)), 0.0
            for step, reward in enumerate(one.rewards):
                so_far = so_far * normalizer.gamma + float(reward)
                earned[step] = so_far
            normalizer.ret_rms.update(earned)
