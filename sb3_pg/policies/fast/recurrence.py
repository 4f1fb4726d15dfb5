"""The LSTMs of a stock policy, a step at a time: what the layers behind them see, and nothing else."""

from __future__ import annotations

import numpy as np
import torch as th
from torch.nn import functional as F

from sb3_pg.policies.sequence.cells import States, through_cells
from sb3_pg.policies.sequence.recurrent import LstmCriticPolicy, memory_of, states_in
from sb3_pg.policies.sequence.sequences import Memory


class Recurrence:
    """Goes along running episodes, one of each environment; made anew for every rollout.

    It reads the parameters where they are, as :class:`~sb3_pg.policies.fast.fast_actor.FastActor` does. The critic's
    LSTM goes along, since the value of what follows a step is asked for at any of them; only what comes behind it
    waits for the rollout's end.

    :param policy: for which :func:`~sb3_pg.policies.fast.stock.is_stock_lstm` holds
    :param n_steps: most steps of the rollout
    :param memory: what is known of the episodes so far
    """

    def __init__(self, policy: LstmCriticPolicy, n_steps: int, memory: Memory):
        self._actor, self._critic, self._feedforward = policy.lstm_actor, policy.lstm_critic, policy.critic
        self._states: list[States] = states_in(memory)
        n_envs = self._states[0][0].shape[1]
        self._critic_latents = self._states[0][0].new_empty(n_steps, n_envs, policy.lstm_output_dim)
        self._pos = 0

    @property
    def memory(self) -> Memory:
        """What is known after the last step, as the policy would say it."""
        return memory_of(self._states)

    def forget(self, episode_starts: np.ndarray) -> None:
        """Know nothing of the episodes that begin.

        :param episode_starts: ``(n_envs,)`` bool
        """
        starts = th.as_tensor(episode_starts, dtype=th.bool)[None, :, None]
        self._states = [(hidden.masked_fill(starts, 0), cell.masked_fill(starts, 0)) for hidden, cell in self._states]

    def step(self, features: th.Tensor) -> th.Tensor:
        """Go on by a step.

        :param features: ``(n_envs, features_dim)``
        :return: ``(n_envs, lstm_hidden_size)`` what the actor's layers see
        """
        with th.no_grad():
            latent, self._states[0] = through_cells(self._actor, features, self._states[0])
            critic_latent = latent
            if self._critic is not None:
                critic_latent, self._states[1] = through_cells(self._critic, features, self._states[1])
            elif self._feedforward is not None:
                critic_latent = F.linear(features, self._feedforward.weight, self._feedforward.bias)
        self._critic_latents[self._pos] = critic_latent
        self._pos += 1
        return latent

    def critic_latents(self) -> th.Tensor:
        """``(n_rows, lstm_hidden_size)`` what the critic's layers see, step after step."""
        return self._critic_latents[: self._pos].flatten(0, 1)
