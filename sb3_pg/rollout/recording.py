"""What a step leaves in a rollout buffer: facts, written where SB3 has them and beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_pg.data.extras import absent


class StepRecorder(RolloutBuffer):
    """A rollout buffer that takes facts step by step: the values and log-probs of all steps may follow at the end."""

    #: Whether what was observed after an episode's last step is kept.
    keep_last_observations: bool
    # Of each environment, step by step: episodes finished, whether the running one was seen from its beginning
    _finished: np.ndarray
    _seen_from_start: np.ndarray

    def reset(self) -> None:
        """Make room for a rollout."""
        super().reset()
        #: Whether values and log-probs may follow the steps: not where a subclass has its own :meth:`add`.
        self.takes_facts = type(self).add is StepRecorder.add and not isinstance(self.observation_space, spaces.Dict)
        shape = (self.buffer_size, self.n_envs)
        self.truncated = np.zeros(shape, dtype=bool)
        self.terminal_values = np.zeros(shape, dtype=np.float32)
        self._extras: dict[str, np.ndarray] = {}
        #: ``(n_steps, n_envs)`` bool, whether something follows the row that was observed.
        self.is_followed = np.zeros(shape, dtype=bool)
        kept = self._observation_arrays() if self.keep_last_observations else {}
        self.last_observations = {key: np.zeros_like(array) for key, array in kept.items()}

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        """As in SB3. A step that ended episodes is followed by :meth:`add_episode_ends`."""
        if self.pos == 0:
            self._seen_from_start |= np.asarray(episode_start, dtype=bool)
        super().add(obs, action, reward, episode_start, value, log_prob)  # type: ignore[arg-type]

    def begin_step(self, obs: np.ndarray | dict[str, np.ndarray]) -> None:
        """Note what the next step is taken at, before it is: an environment may write the next into the same arrays.

        :param obs: ``(n_envs, *obs_shape)``, or a dictionary of such
        """
        if self.takes_facts:
            self.observations[self.pos] = obs.reshape(self.n_envs, *self.obs_shape)  # type: ignore[union-attr]
        else:
            is_dict = isinstance(obs, dict)
            self._noted = {key: np.array(value) for key, value in obs.items()} if is_dict else np.array(obs)  # type: ignore[union-attr]

    def add_extras(self, extras: Mapping[str, np.ndarray]) -> None:
        """Note what the policy is told of the next step beside its observations.

        :param extras: name -> ``(n_envs, ...)``, of the same shape and type at all steps of a rollout that have it
        """
        for name, values in extras.items():
            if name not in self._extras:
                self._extras[name] = np.full((self.buffer_size, *values.shape), absent(name), dtype=values.dtype)
            self._extras[name][self.pos] = values

    def end_step(
        self,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor | None,
        log_prob: th.Tensor | None,
    ) -> None:
        """Add the step. Where the buffer :attr:`takes_facts`, values and log-probs follow with :meth:`add_evaluation`.

        A step that ended episodes is followed by :meth:`add_episode_ends`.
        """
        if not self.takes_facts:
            self.add(self._noted, action, reward, episode_start, value, log_prob)  # type: ignore[arg-type]
            return
        pos = self.pos
        if pos == 0:
            self._seen_from_start |= np.asarray(episode_start, dtype=bool)
        self.actions[pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[pos] = reward
        self.episode_starts[pos] = episode_start
        self.pos = pos + 1
        self.full = self.pos == self.buffer_size

    def add_evaluation(self, values: th.Tensor, log_probs: th.Tensor) -> None:
        """Values and log-probs of all steps so far, under the policy that drew them.

        :param values: ``(n_rows,)``, step after step
        :param log_probs: ``(n_rows,)``
        """
        shape = (self.pos, self.n_envs)
        self.values[: self.pos] = values.cpu().numpy().reshape(shape)
        self.log_probs[: self.pos] = log_probs.cpu().numpy().reshape(shape)

    def observations_since(self, step: int) -> th.Tensor:
        """``(n_rows, *obs_shape)`` those of the steps from one on, step after step."""
        observations = self.observations[step : self.pos]
        return self._tensor(observations.reshape(-1, *self.obs_shape))

    def add_episode_ends(self, envs: np.ndarray, truncated: np.ndarray, terminal_values: np.ndarray) -> None:
        """Note how the episodes ended that the step just added was the last of.

        :param envs: ``(n,)`` indices of the environments that are done
        :param truncated: ``(n,)`` bool, True where a time limit ended the episode and the MDP did not
        :param terminal_values: ``(n,)`` value of what would have followed, 0 for nothing
        """
        self.truncated[self.pos - 1, envs] = truncated
        self.terminal_values[self.pos - 1, envs] = terminal_values
        self._finished[envs] += self._seen_from_start[envs]
        self._seen_from_start[envs] = True

    def keep_last_observation(
        self, envs: np.ndarray, observations: Sequence[np.ndarray | dict[str, np.ndarray]]
    ) -> None:
        """Keep what was observed after the step just added, if :attr:`keep_last_observations` says so.

        :param envs: ``(n,)`` the environments
        :param observations: ``(n,)`` what each observed
        """
        if not self.keep_last_observations:
            return
        self.is_followed[self.pos - 1, envs] = True
        for env, observation in zip(envs, observations, strict=True):
            parts = observation if isinstance(observation, dict) else {"": observation}
            for key, array in self.last_observations.items():
                array[self.pos - 1, env] = np.asarray(parts[key]).reshape(array.shape[2:])

    def _observation_arrays(self) -> dict[str, np.ndarray]:
        """``(n_steps, n_envs, *obs_shape)`` each, by its key in a dictionary of observations, else by none."""
        return self.observations if isinstance(self.observations, dict) else {"": self.observations}

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array, device=self.device)
