"""What the steps of a past batch are worth today: credited again, with today's critic and the policy's ratios."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Credit, EpisodeBatch, edited
from sb3_pg.estimators import log_ratio, vtrace_advantage
from sb3_pg.policies.passes import all_last_values, all_values


@dataclass(frozen=True)
class VTrace:
    """V-trace, see :func:`~sb3_pg.estimators.returns.vtrace_advantage`.

    :param max_ratio: where the ratios of later steps are truncated
    """

    gamma: float
    gae_lambda: float
    max_ratio: float

    def renewed(self, policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> EpisodeBatch:
        """The batch with today's values, of its states and of what follows its episodes.

        :param batch: with its ``last_observations``
        """
        values, last_values = all_values(policy, batch, micro_batch_size), _last_values(policy, batch)
        return dataclasses.replace(batch, values=values, last_values=last_values)

    def credit(self, batch: EpisodeBatch, log_prob: th.Tensor) -> Credit:
        """Advantages of the policy as it is, and what its critic should say where these steps were taken.

        What a callback added to the batch when it was new is added again.

        :param batch: :meth:`renewed`
        :param log_prob: ``(n_rows,)`` under the policy as it is
        """
        ratios = log_ratio(log_prob, batch.behaviour_log_prob)
        discounts = (self.gamma, self.gae_lambda, batch.last_values, self.max_ratio)
        advantages = vtrace_advantage(batch.rewards, batch.values, ratios, batch.episodes, *discounts)
        returns = advantages + batch.values
        return Credit(returns, edited(advantages, batch.advantage_edit), edited(returns, batch.return_edit))


def _last_values(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """``(n_episodes,)`` today's value of what follows each episode's last row, 0 for nothing.

    :raises ValueError: if the batch does not know
    """
    if batch.last_observations is None or batch.is_followed is None:
        raise ValueError(
            "reused_advantages='vtrace' needs what was observed at the end of each episode, and this batch was "
            "collected without: give the argument to the constructor or to load(), and batches of a model that had it"
        )
    return th.where(batch.is_followed, all_last_values(policy, batch), 0.0)
