"""The actor of one rollout: whichever is the fastest that does what the policy does, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.data.batch import Observations
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.acting import actor_of
from sb3_pg.policies.evaluation import NO_EXTRAS, next_values
from sb3_pg.policies.parameters import check_parameters
from sb3_pg.policies.sequence.sequences import Memory
from sb3_pg.rollout.buffers import EpisodeRolloutBuffer
from sb3_pg.rollout.masks import masks_for

#: SB3's own callbacks, which look at the policy or save it; what they call in their turn is asked separately.
HARMLESS = (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)


def may_change_policy(callback: BaseCallback | None) -> bool:
    """Whether it could do something to the policy in the middle of a rollout: any callback of the user's could."""
    if callback is None:
        return False
    if type(callback) is ConvertCallback:
        return callback.callback is not None  # what SB3 makes of None does nothing
    if type(callback) not in HARMLESS:
        return True
    children: list[BaseCallback | None] = [*callback.callbacks] if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback):
        children = [callback.callback, getattr(callback, "callback_on_new_best", None)]
    return any(map(may_change_policy, children))


class RolloutActor:
    """Draws the actions of a rollout and gives the buffer their log-probs and the critic's values.

    Values and log-probs wait for the end of the rollout, to be computed or at least to leave the device, unless the
    buffer wants them step by step.

    :param n_steps: most steps of the rollout
    :param use_masking: whether a maskable policy is given the environments' masks
    :param memory: what a policy that remembers knew after the rollout before
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        buffer: EpisodeRolloutBuffer,
        n_steps: int,
        callback: BaseCallback,
        env: VecEnv,
        use_masking: bool,
        memory: Memory | None = None,
    ):
        self._buffer, self._n_steps = buffer, n_steps
        self._env, self._use_masking = env, use_masking
        #: What the policy was told at the last step beside observations, name -> ``(n_envs, ...)``
        self.extras: Mapping[str, np.ndarray] = NO_EXTRAS
        self._is_watched = may_change_policy(callback)
        self._evaluations: list[tuple[th.Tensor, th.Tensor]] = []
        self._begin(policy, memory)

    def _begin(self, policy: ActorCriticPolicy, memory: Memory | None) -> None:
        self._policy = policy
        self._first = self._buffer.pos
        self._masks = masks_for(policy, self._env, self._use_masking)
        self.extras = NO_EXTRAS
        self._actor = actor_of(policy, self._buffer.n_envs, self._n_steps, self._buffer.takes_facts, memory)
        if self._is_watched:
            self._actor.watch()

    def act(self, obs: np.ndarray | dict[str, np.ndarray], episode_starts: np.ndarray) -> np.ndarray:
        """Draw ``(n_envs, *action_shape)`` actions, under the masks of the environments as they are now.

        :param episode_starts: ``(n_envs,)`` bool, where an episode begins
        :raises ValueError: which names the policy's parameters that are not finite, if it is they that draw none
        """
        told = NO_EXTRAS if self._masks is None else {ACTION_MASKS: self._masks.read()}
        self._actor.forget(episode_starts)
        # A rollout's beginning is the one place where an episode may begin in its middle
        if self._buffer.pos == 0 and (memory := self._actor.memory) is not None:
            self._buffer.memories.begin({name: part.cpu().numpy() for name, part in memory.items()})
        try:
            actions = self._actor.act(obs, told)
            self.extras = {**told, **self._actor.latents} if self._actor.latents else told
            return actions
        except (ValueError, RuntimeError) as error:  # PyTorch's, of parameters that are no distribution's
            check_parameters(self._policy, error)
            raise

    @property
    def said(self) -> tuple[th.Tensor | dict[str, th.Tensor] | None, th.Tensor | None, th.Tensor | None]:
        """Observations, values and log-probs of the last step, as tensors; None while a fast actor is at work."""
        return self._actor.obs_tensor, self._actor.values, self._actor.log_probs

    def next_values(self, observations: Observations, envs: slice = slice(None)) -> th.Tensor:
        """``(n,)`` the critic's value of what some environments observed after the last step."""
        memory = self._actor.memory
        known = None if memory is None else {name: part[envs] for name, part in memory.items()}
        with th.no_grad():
            return next_values(self._policy, observations, known)

    def follow(self, policy: ActorCriticPolicy) -> None:
        """Go on with what the policy is after a step, if a callback changed it."""
        if self._is_watched and not self._actor.fits(policy):
            self._end()
            self._begin(policy, self._actor.memory)

    def finish(self) -> Memory | None:
        """Give the buffer what it has not been given step by step.

        :return: what a policy that remembers knows after the last step
        """
        if self._buffer.takes_facts:
            self._end()
            self._buffer.add_evaluation(*(th.cat(column) for column in zip(*self._evaluations, strict=True)))
        return self._actor.memory

    def _end(self) -> None:
        if self._buffer.takes_facts and self._first < self._buffer.pos:
            self._evaluations.append(self._actor.evaluation(self._buffer.observations_since(self._first)))
