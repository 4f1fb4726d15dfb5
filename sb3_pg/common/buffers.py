"""Rollout buffers that know episodes: raw facts in, returns less a baseline out.

They fill SB3's ``advantages`` and ``returns``, so that stock PPO and A2C take them through ``rollout_buffer_class``.
This package's algorithms read :attr:`EpisodeRolloutBuffer.batch`, the whole episodes of an update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from sb3_pg.common.checks import check_choice, check_positive_int
from sb3_pg.common.distributed import all_sum
from sb3_pg.common.segments import Segments, find_segments
from sb3_pg.common.timeline import Carried, Timeline
from sb3_pg.common.type_aliases import Baseline, EpisodeBatch, IncompleteEpisodes, Observations, Returns
from sb3_pg.estimators import BATCH_BASELINES, EpisodeIndex, generalized_advantage, reward_to_go, total_return
from sb3_pg.estimators.episodes import check_rows

RETURNS = ("reward_to_go", "total", "gae")
INCOMPLETE_EPISODES = ("carry", "bootstrap", "truncate", "drop")
BUFFER_BASELINES = ("none", "value", *BATCH_BASELINES)
#: Least number of steps after which an episode that never ends is cut.
MIN_CUT_LENGTH = 10_000


class EpisodeRolloutBuffer(RolloutBuffer):
    """A rollout buffer that keeps rewards raw, remembers unfinished episodes and computes Monte-Carlo advantages.

    In stock PPO or A2C it replaces GAE::

        PPO(ActorPolicy, env, rollout_buffer_class=EpisodeRolloutBuffer,
            rollout_buffer_kwargs=dict(returns="reward_to_go", baseline="batch_mean"))

    There it takes what SB3's collection gives it: at a time limit gamma * V(terminal observation) is part of the
    reward, 0 for an :class:`~sb3_pg.common.policies.ActorPolicy`; and ``incomplete_episodes="carry"`` is refused,
    because SB3's training reads the rows of one rollout, no more and no fewer.

    :param buffer_size: most steps of a rollout, per environment
    :param returns: ``"reward_to_go"``, ``"total"`` or ``"gae"``
    :param baseline: ``"none"``, ``"value"``, ``"batch_mean"``, ``"time_mean"``, ``"leave_one_out"``,
        ``"time_leave_one_out"`` or a callable from an :class:`~sb3_pg.common.type_aliases.EpisodeBatch` to
        ``(n_rows,)`` values. Where a leave-one-out baseline has no other episode to look at, it is 0.
    :param incomplete_episodes: what an episode cut by the rollout's edge is worth. ``"carry"``: nothing until it ends
        in a later rollout, then all of it. ``"bootstrap"``: what was earned, plus the critic's value of the rest.
        ``"truncate"``: what was earned. ``"drop"``: nothing, which favours short episodes.
    :param episodes_per_env: with a number, a batch holds exactly that many whole episodes of each environment.
    :param cut_length: ``"carry"`` cuts an episode of this many steps that has not ended: the rest is worth the
        critic's value, nothing without a critic, and then counts as an episode. None: ten rollouts, and 10,000 steps
        at least.
    :raises ValueError: for an unknown name
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        returns: Returns = "reward_to_go",
        baseline: str | Baseline = "batch_mean",
        incomplete_episodes: IncompleteEpisodes = "bootstrap",
        episodes_per_env: int | None = None,
        cut_length: int | None = None,
    ):
        check_choice("returns", returns, RETURNS)
        check_choice("incomplete_episodes", incomplete_episodes, INCOMPLETE_EPISODES)
        if not callable(baseline):
            check_choice("baseline", baseline, BUFFER_BASELINES, or_else="a callable")
            if returns == "gae" and baseline != "value":
                raise ValueError(f"returns='gae' is relative to a critic: write baseline='value', not {baseline!r}")
        check_positive_int("cut_length", cut_length, or_none=True)
        check_positive_int("episodes_per_env", episodes_per_env, or_none=True)
        self.returns_name = returns
        self.baseline = baseline
        self.incomplete_episodes = incomplete_episodes
        self.episodes_per_env = episodes_per_env
        self.cut_length = max(10 * buffer_size, MIN_CUT_LENGTH) if cut_length is None else cut_length
        #: The episodes of the rollout just finished, None before it is finished or where there are none.
        self.batch: EpisodeBatch | None = None
        self._carried: Carried | None = None
        self._broken_off = False
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)
        # Per environment: whole episodes finished in this batch, steps of the running episode before this rollout,
        # whether its beginning is known, and whether the next rollout's first row counts as one.
        self._finished = np.zeros(n_envs, dtype=np.int64)
        self._elapsed = np.zeros(n_envs, dtype=np.int64)
        self._known = np.zeros(n_envs, dtype=bool)
        self._resumes = np.zeros(n_envs, dtype=bool)
        self._broken_off = False

    def reset(self) -> None:
        """Make room for a rollout. Episodes carried over stay, unless the last rollout was broken off: a step of it
        may be lost, and without it they could not be put together again.
        """
        if self._broken_off:
            self.forget()
        self._broken_off = True
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        self.truncated = np.zeros(shape, dtype=bool)
        self.terminal_values = np.zeros(shape, dtype=np.float32)
        self.batch = None

    def forget(self) -> None:
        """Drop the memory of unfinished episodes, because the next rollout does not continue them."""
        self._carried = None
        self._finished[:] = self._elapsed[:] = 0
        self._known[:] = self._resumes[:] = False

    @property
    def carried_steps(self) -> int:
        """Steps that wait for the end of their episode, over all environments."""
        return 0 if self._carried is None else len(self._carried.env)

    @property
    def quota_filled(self) -> bool:
        """True once every environment has finished its ``episodes_per_env`` episodes; never without such a number."""
        return self.episodes_per_env is not None and bool((self._finished >= self.episodes_per_env).all())

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
            self._known |= np.asarray(episode_start, dtype=bool)
        super().add(obs, action, reward, episode_start, value, log_prob)  # type: ignore[arg-type]

    @property
    def takes_facts(self) -> bool:
        """Whether :meth:`add_facts` may stand in for :meth:`add`: not where a subclass has its own."""
        return type(self).add is EpisodeRolloutBuffer.add and not isinstance(self.observations, dict)

    def add_facts(self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, episode_start: np.ndarray) -> None:
        """A step without its values and log-probs, which :meth:`add_evaluation` has to follow up for all of them.

        :param obs: ``(n_envs, *obs_shape)``
        """
        if self.pos == 0:
            self._known |= np.asarray(episode_start, dtype=bool)
        self.observations[self.pos] = obs.reshape(self.n_envs, *self.obs_shape)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def add_evaluation(self, values: th.Tensor, log_probs: th.Tensor) -> None:
        """Values and log-probs of all steps so far, under the policy that drew them.

        :param values: ``(n_rows,)``, step after step
        :param log_probs: ``(n_rows,)``
        """
        shape = (self.pos, self.n_envs)
        self.values[: self.pos] = values.cpu().numpy().reshape(shape)
        self.log_probs[: self.pos] = log_probs.cpu().numpy().reshape(shape)

    def rows_so_far(self) -> tuple[th.Tensor, th.Tensor]:
        """Observations and actions of all steps so far, ``(n_rows, ...)``, step after step."""
        n_rows = self.pos * self.n_envs
        observations = self._tensor(self.observations[: self.pos].reshape(n_rows, *self.obs_shape))
        return observations, self._actions(self._tensor(self.actions[: self.pos].reshape(n_rows, -1)))

    def add_episode_ends(self, envs: np.ndarray, truncated: np.ndarray, terminal_values: np.ndarray) -> None:
        """Note how the episodes ended that the step just added was the last of.

        :param envs: ``(n,)`` indices of the environments that are done
        :param truncated: ``(n,)`` bool, True where a time limit ended the episode and the MDP did not
        :param terminal_values: ``(n,)`` value of what would have followed, 0 for nothing
        """
        self.truncated[self.pos - 1, envs] = truncated
        self.terminal_values[self.pos - 1, envs] = terminal_values
        self._finished[envs] += self._known[envs]
        self._known[envs] = True

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Find the episodes, then their returns and advantages.

        :param last_values: ``(n_envs,)`` or ``(n_envs, 1)`` V of the observation after the last step
        :param dones: ``(n_envs,)`` whether the last step ended an episode
        """
        edge_values = last_values.detach().cpu().numpy().reshape(-1)
        timeline = self._timeline(np.asarray(dones, dtype=bool))
        segments = find_segments(timeline.env, timeline.marks["start"], timeline.marks["done"])
        if self.incomplete_episodes == "carry":
            segments = self._cut_endless(timeline, segments, edge_values)
        used = self._choose(segments)
        self.batch = self._assemble(timeline, segments, used, edge_values) if used.any() else None
        self._carry_over(timeline, segments, used)
        self._scatter(timeline.source[segments.rows(used)])
        self._broken_off = False

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Samples for SB3's own ``train()``.

        :raises ValueError: with ``"carry"`` or ``episodes_per_env``, which need this package's algorithms
        """
        if self.incomplete_episodes == "carry" or self.episodes_per_env is not None:
            raise ValueError(
                f"incomplete_episodes={self.incomplete_episodes!r} with episodes_per_env={self.episodes_per_env} keeps "
                "whole episodes, which SB3's own algorithms cannot read. In their rollout_buffer_kwargs write "
                "incomplete_episodes='bootstrap', 'truncate' or 'drop' and leave episodes_per_env out."
            )
        return super().get(batch_size)

    # --- facts -----------------------------------------------------------------------------------------------------

    def _timeline(self, dones: np.ndarray) -> Timeline:
        """All rows, carried ones included, environment after environment and in the order of time."""
        n_steps = self.pos
        starts = self.episode_starts[:n_steps].astype(bool)
        done = np.concatenate([starts[1:], dones[None]])
        starts[0] |= self._resumes
        fields = {name: array[:n_steps] for name, array in self._arrays().items()}
        return Timeline(fields | {"start": starts, "done": done, "step": self._steps(starts)}, self._carried)

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the rollout, ``(buffer_size, n_envs, ...)``, with dictionary observations laid out flat."""
        names = ("actions", "rewards", "values", "log_probs", "truncated", "terminal_values")
        arrays = {name: getattr(self, name) for name in names}
        if isinstance(self.observations, dict):
            return arrays | {_OBSERVATION + key: value for key, value in self.observations.items()}
        return arrays | {_OBSERVATION: self.observations}

    def _steps(self, starts: np.ndarray) -> np.ndarray:
        """``(n_steps, n_envs)`` the t of each row in its episode, which may have begun before this rollout."""
        rows = np.arange(len(starts))[:, None]
        last_start = np.maximum.accumulate(np.where(starts, rows, -1))
        steps: np.ndarray = np.where(last_start >= 0, rows - last_start, rows + self._elapsed)
        return steps

    def _choose(self, segments: Segments) -> np.ndarray:
        """``(n_segments,)`` bool: the segments that this update uses."""
        if self.incomplete_episodes in ("bootstrap", "truncate"):
            used = np.ones(len(segments.first), dtype=bool)
        else:
            used = segments.whole & segments.complete
        if self.episodes_per_env is None:
            return used
        # The first ones of each environment: which of them ended first must not matter, short ones would win.
        rank = segments.rank_within_env(used)
        used &= rank < self.episodes_per_env
        return used & (self.quota_filled or self.incomplete_episodes != "carry")

    def _assemble(
        self, timeline: Timeline, segments: Segments, used: np.ndarray, edge_values: np.ndarray
    ) -> EpisodeBatch:
        """Turn the facts of the segments in use into tensors, and these into returns and advantages."""
        rows = segments.rows(used)
        last = segments.last[used]

        values_at = timeline.taker(rows)

        def take(name: str) -> th.Tensor:
            return self._tensor(values_at(name))

        lengths = self._tensor(segments.lengths[used])
        done, truncated, terminal = (timeline.marks[name][last] for name in ("done", "truncated", "terminal_values"))
        follows = 0.0 if self.incomplete_episodes == "truncate" else edge_values[segments.env[used]]
        last_values = np.where(done, terminal, follows).astype(np.float32)
        episodes = EpisodeIndex(lengths, th.repeat_interleave(lengths), take("step"))
        rewards, values = take("rewards"), take("values")
        returns, targets = self._returns(rewards, values, episodes, self._tensor(last_values))
        batch = EpisodeBatch(
            episodes=episodes,
            observations=self._observations(take),
            actions=self._actions(take("actions")),
            rewards=rewards,
            behaviour_log_prob=take("log_probs"),
            values=values,
            carried=self._tensor(timeline.source[rows] < 0),
            terminated=self._tensor(done & ~truncated),
            truncated=self._tensor(done & truncated),
            returns=returns,
            advantages=returns,
            value_targets=targets,
        )
        return dataclasses.replace(batch, advantages=returns - self._baseline(batch))

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array, device=self.device)

    def _observations(self, take: Callable[[str], th.Tensor]) -> Observations:
        if isinstance(self.observations, dict):
            return {key: take(_OBSERVATION + key) for key in self.observations}
        return take(_OBSERVATION)

    def _actions(self, actions: th.Tensor) -> th.Tensor:
        """As ``evaluate_actions`` wants them; the other discrete spaces as SB3's buffers give them, in float32."""
        return actions.flatten().long() if isinstance(self.action_space, spaces.Discrete) else actions.float()

    # --- estimators ------------------------------------------------------------------------------------------------

    def _returns(
        self, rewards: th.Tensor, values: th.Tensor, episodes: EpisodeIndex, last_values: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """What each step earned, and the target of a critic."""
        if self.returns_name == "gae":
            advantage = generalized_advantage(rewards, values, episodes, self.gamma, self.gae_lambda, last_values)
            return advantage + values, advantage + values
        to_go = reward_to_go(rewards, episodes, self.gamma, last_values)
        if self.returns_name == "total":
            return total_return(rewards, episodes, self.gamma, last_values), to_go
        return to_go, to_go

    def _baseline(self, batch: EpisodeBatch) -> th.Tensor:
        """``(n_rows,)`` the baseline of each row."""
        if callable(self.baseline):
            values = th.as_tensor(self.baseline(batch)).detach().to(batch.returns)
            check_rows("the values of the callable baseline", values, batch.episodes.n_rows)
            return values
        if self.baseline == "value":
            return batch.values
        alone = int(all_sum(th.as_tensor(batch.episodes.n_episodes))) == 1
        if self.baseline == "none" or (alone and self.baseline == "leave_one_out"):
            return th.zeros_like(batch.returns)
        return BATCH_BASELINES[self.baseline](batch.returns, batch.episodes, all_sum)

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _cut_endless(self, timeline: Timeline, segments: Segments, edge_values: np.ndarray) -> Segments:
        """End the episodes that have waited too long, as a time limit would; their rest will count as an episode."""
        endless = segments.whole & segments.open & (segments.lengths >= self.cut_length)
        last, envs = segments.last[endless], segments.env[endless]
        timeline.marks["done"][last] = timeline.marks["truncated"][last] = True
        timeline.marks["terminal_values"][last] = edge_values[envs]
        self._resumes[:] = False
        self._resumes[envs] = True
        self._finished[envs] += 1
        return dataclasses.replace(segments, complete=segments.complete | endless, open=segments.open & ~endless)

    def _carry_over(self, timeline: Timeline, segments: Segments, used: np.ndarray) -> None:
        """Remember, for the next rollout, what has begun and is not used yet."""
        self._elapsed = timeline.marks["step"][segments.env_last] + 1
        self._carried = None
        if self.incomplete_episodes != "carry" or self.quota_filled:
            self._finished[:] = 0
            self._known = timeline.marks["done"][segments.env_last]
            return
        waiting = segments.whole & ~used & (segments.complete | segments.open)
        if self.episodes_per_env is not None:
            waiting &= segments.rank_within_env(waiting) < self.episodes_per_env
        if waiting.any():
            self._carried = timeline.kept(segments.rows(waiting))

    def _scatter(self, source: np.ndarray) -> None:
        """Show returns and advantages in SB3's layout: 0 where a row is not used, nothing of carried rows.

        :param source: ``(n_rows,)`` where the batch's rows are in the rollout, negative for carried ones
        """
        self.advantages[:] = 0.0
        self.returns[:] = self.values
        if self.batch is None:
            return
        here = np.flatnonzero(source >= 0)
        self.advantages.reshape(-1)[source[here]] = self.batch.advantages.cpu().numpy()[here]
        self.returns.reshape(-1)[source[here]] = self.batch.value_targets.cpu().numpy()[here]


_OBSERVATION = "observation/"


class EpisodeDictRolloutBuffer(EpisodeRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]  # as in SB3's own
    """:class:`EpisodeRolloutBuffer` for dictionaries of observations."""
