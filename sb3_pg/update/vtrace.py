"""What the steps of a past batch are worth today: credited again, with today's critic and the policy's ratios."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Credit, EpisodeBatch
from sb3_pg.estimators import log_ratio, vtrace_advantage
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.policies.passes import all_values


@dataclass(frozen=True)
class VTrace:
    """V-trace, see :func:`~sb3_pg.estimators.returns.vtrace_advantage`.

    :param max_ratio: where the ratios of later steps are truncated
    """

    gamma: float
    gae_lambda: float
    max_ratio: float

    def credit(
        self, policy: ActorCriticPolicy, batch: EpisodeBatch, log_prob: th.Tensor, micro_batch_size: int | None
    ) -> Credit:
        """Advantages of the policy as it is, and what its critic should say where these steps were taken.

        What a callback added to the batch when it was new is added again.

        :param batch: with its ``last_observations``
        :param log_prob: ``(n_rows,)`` under the policy as it is
        """
        values = all_values(policy, batch, micro_batch_size)
        ratios = log_ratio(log_prob, batch.behaviour_log_prob)
        last_values = _last_values(policy, batch)
        advantages = vtrace_advantage(
            batch.rewards, values, ratios, batch.episodes, self.gamma, self.gae_lambda, last_values, self.max_ratio
        )
        returns = advantages + values
        return Credit(
            returns=returns,
            advantages=advantages if batch.advantage_edit is None else batch.advantage_edit.applied(advantages),
            value_targets=returns if batch.return_edit is None else batch.return_edit.applied(returns),
        )


def _last_values(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """``(n_episodes,)`` today's value of what follows each episode's last row, 0 for nothing.

    :raises ValueError: if the batch does not know
    """
    if batch.last_observations is None or batch.is_followed is None:
        raise ValueError(
            "reused_advantages='vtrace' needs what was observed at the end of each episode, and this batch was "
            "collected without: give the argument to the constructor or to load(), and batches of a model that had it"
        )
    with th.no_grad(), evaluation_mode(policy):
        values = policy.predict_values(batch.last_observations).flatten()
    return th.where(batch.is_followed, values, 0.0)
