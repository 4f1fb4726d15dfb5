"""Rollout buffers that know episodes and keep facts: raw rewards, how each episode ended, log-probs of the behaviour.

This package's algorithms read :attr:`EpisodeRolloutBuffer.batch`, the episodes of an update, and credit its steps
themselves. Stock PPO and A2C read SB3's ``advantages`` and ``returns``, which are filled when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from sb3_pg.data.batch import Baseline, Edit, EpisodeBatch, IncompleteEpisodes, Observations, Returns
from sb3_pg.data.checks import check_bool, check_choice, check_positive_int, is_number
from sb3_pg.estimators import BATCH_BASELINES, EpisodeIndex
from sb3_pg.estimators.baselines import GROUP_BASELINE
from sb3_pg.rollout.columns import ColumnsOnDemand
from sb3_pg.rollout.credit import credit_of
from sb3_pg.rollout.memories import Memories
from sb3_pg.rollout.recording import StepRecorder
from sb3_pg.rollout.running import FoundEpisodes, Running
from sb3_pg.rollout.timeline import EXTRA, Timeline, by_time

BUFFER_BASELINES = ("none", "value", *BATCH_BASELINES, GROUP_BASELINE)
#: Least number of steps after which an episode that never ends is cut.
MIN_CUT_LENGTH = 10_000


class EpisodeRolloutBuffer(StepRecorder, ColumnsOnDemand):
    """A rollout buffer that keeps rewards raw, remembers unfinished episodes and computes Monte-Carlo advantages.

    In stock PPO or A2C it replaces GAE::

        PPO(ActorPolicy, env, rollout_buffer_class=EpisodeRolloutBuffer,
            rollout_buffer_kwargs=dict(returns="reward_to_go", baseline="time_mean"))

    There it takes what SB3's collection gives it: at a time limit gamma * V(terminal observation) is part of the
    reward, 0 for an :class:`~sb3_pg.policies.actor.ActorPolicy`; and ``incomplete_episodes="carry"`` is refused,
    because SB3's training reads the rows of one rollout, and no others.

    :param buffer_size: most steps of a rollout, per environment
    :param returns: ``"reward_to_go"``, ``"total"`` or ``"gae"``
    :param baseline: ``"none"``, ``"value"``, ``"batch_mean"``, ``"time_mean"``, ``"leave_one_out"``,
        ``"time_leave_one_out"``, ``"group_leave_one_out"``, a number, or a callable from a
        :class:`~sb3_pg.data.batch.ReturnsBatch` to ``(n_rows,)`` values, or to one for all rows. Where a leave-one-out
        baseline has no other episode to look at, it is 0. With reward-to-go prefer ``"time_mean"``: ``"batch_mean"``,
        the mean of the episodes' *total* returns, is above what late steps still earn, and can be noisier than none.
    :param incomplete_episodes: what an episode cut by the rollout's edge is worth. ``"carry"``: nothing until it ends
        in a later rollout, then all of it. ``"bootstrap"``: what was earned, plus the critic's value of the rest.
        ``"truncate"``: what was earned. ``"drop"``: nothing (no row of it is trained on), which favours short ones.
    :param episodes_per_env: with a number, a batch holds exactly that many whole episodes of each environment; cut ones
        wait for their end, whatever ``incomplete_episodes`` says.
    :param cut_length: an episode that waits is cut once it has this many steps: the rest is worth the critic's value,
        nothing without a critic, and then counts as an episode. None: ten rollouts, and 10,000 steps at least.
    :param keep_last_observations: keep what was observed after an episode's last step, where something follows, so that
        its value can be asked for again; as much memory as the observations
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
        baseline: str | float | Baseline = "batch_mean",
        incomplete_episodes: IncompleteEpisodes = "bootstrap",
        episodes_per_env: int | None = None,
        cut_length: int | None = None,
        keep_last_observations: bool = False,
    ):
        check_choice("returns", returns, get_args(Returns))
        check_choice("incomplete_episodes", incomplete_episodes, get_args(IncompleteEpisodes))
        if not (callable(baseline) or is_number(baseline)):
            check_choice("baseline", baseline, BUFFER_BASELINES, or_else="a number, or a callable")
        if returns == "gae" and baseline != "value":
            raise ValueError(f"returns='gae' is relative to a critic: write baseline='value', not {baseline!r}")
        check_positive_int("cut_length", cut_length, or_none=True)
        check_positive_int("episodes_per_env", episodes_per_env, or_none=True)
        self.returns_name = returns
        self.baseline = baseline
        self.incomplete_episodes = incomplete_episodes
        self.episodes_per_env = episodes_per_env
        check_bool("keep_last_observations", keep_last_observations)
        self.keep_last_observations = keep_last_observations
        self.cut_length = max(10 * buffer_size, MIN_CUT_LENGTH) if cut_length is None else cut_length
        self._running = Running.nothing(n_envs)
        # Of each environment, step by step: episodes finished, whether the running one was seen from its beginning
        self._finished, self._seen_from_start = self._running.finished, self._running.seen_from_start
        self._found: FoundEpisodes | None = None
        #: What a policy that remembers knew where rollouts began.
        self.memories = Memories()
        self._holds = False
        self.shown = None
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)
        self.forget()

    def reset(self) -> None:
        """Make room for a rollout. Episodes carried over stay, unless the last rollout was broken off: a step of it
        may be lost, and without it they could not be put together again.
        """
        if self._found is None:
            self._running = self._running if self._holds else Running.nothing(self.n_envs)
        else:
            self._read(self._found.timeline)
            self._running = self._found.running(self._seen_from_start)
        carried = self._running.carried
        self.memories = self.memories.kept(None if carried is None else carried.fields.get(_MEMORY))
        self._found, self.shown, self._holds = None, None, False
        super().reset()
        self._finished, self._seen_from_start = self._running.finished.copy(), self._running.seen_from_start.copy()

    def forget(self) -> None:
        """Drop the memory of unfinished episodes, because the next rollout does not continue them."""
        self._found, self._running, self._holds = None, Running.nothing(self.n_envs), False
        self.memories = Memories()
        self._finished, self._seen_from_start = self._running.finished.copy(), self._running.seen_from_start.copy()

    def hold(self) -> None:
        """Have the next :meth:`reset` know what this one knew: no step was played since."""
        self._holds = True

    @property
    def carried_steps(self) -> int:
        """Steps that wait for the end of their episode, over all environments."""
        if self._found is not None:
            return self._found.n_waiting_rows
        return 0 if self._running.carried is None else len(self._running.carried.env)

    @property
    def quota_filled(self) -> bool:
        """True once every environment has finished its ``episodes_per_env`` episodes; never without such a number."""
        return self.episodes_per_env is not None and bool((self._finished >= self.episodes_per_env).all())

    @property
    def quota_exceeded(self) -> bool:
        """True if an environment has finished more episodes than that; they are not used."""
        return self.episodes_per_env is not None and bool((self._finished > self.episodes_per_env).any())

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Find the episodes of the rollout; a second call, after ``rewards`` were edited, begins anew.

        :param last_values: ``(n_envs,)`` or ``(n_envs, 1)`` V of the observation after the last step
        :param dones: ``(n_envs,)`` whether the last step ended an episode
        """
        self.shown = None
        self._edge_values = last_values.detach().cpu().numpy().reshape(-1)
        whole_only = self.incomplete_episodes in ("carry", "drop")
        self._found = FoundEpisodes(
            self._timeline(np.asarray(dones, dtype=bool)),
            self._edge_values,
            self._finished,
            whole_only=whole_only,
            waits=self.incomplete_episodes == "carry" or self.episodes_per_env is not None,
            per_env=self.episodes_per_env,
            cut_length=self.cut_length,
        )

    def _timeline(self, dones: np.ndarray) -> Timeline:
        """All rows, carried ones included, environment after environment and in the order of time."""
        starts = self.episode_starts[: self.pos].astype(bool)
        done = np.concatenate([starts[1:], dones[None]])
        starts[0] |= self._running.resumes
        fields = {name: getattr(self, name)[: self.pos] for name in ("truncated", "terminal_values")}
        if self.keep_last_observations:
            fields["is_followed"] = self.is_followed[: self.pos]
            fields |= {_LAST + key: array[: self.pos] for key, array in self.last_observations.items()}
        # As they are now: an edit counts by computing the returns again, as in SB3
        fields |= {name: self._column_by_time(name).copy() for name in ("rewards", "values")}
        fields |= {"start": starts, "done": done, "step": self._steps(starts)}
        return Timeline(fields, self._running.carried)

    def _read(self, timeline: Timeline) -> None:
        """Put what SB3's own buffers are read for late beside the facts, as callbacks left it until now.

        Edited columns go with a row, also into the rollout in which it is used.
        """
        shapes: Any = self.obs_shape
        shapes = shapes if isinstance(shapes, dict) else {"": shapes}
        for key, array in self._observation_arrays().items():
            timeline.add(_OBSERVATION + key, self._by_time("observations", array, shapes[key]))
        timeline.add("actions", self._by_time("actions", self.actions, (self.action_dim,)))
        timeline.add("log_probs", self._column_by_time("log_probs"))
        for name, array in self._extras.items():
            timeline.add(EXTRA + name, array[: self.pos])
        if (marks := self.memories.marks(self.pos)) is not None:
            timeline.add(_MEMORY, marks)
        shown = {name: column[: self.pos] for name, column in (self.shown or {}).items()}
        shown["values"] = timeline.field("values")
        for name, before in shown.items():
            now = self._column_by_time(name)
            if timeline.has(_NOW + name) or not np.array_equal(now, before):
                timeline.add(_SHOWN + name, before)
                timeline.add(_NOW + name, now)

    def _column_by_time(self, name: str) -> np.ndarray:
        return self._by_time(name, self.__dict__[name], ()).astype(np.float32, copy=False)

    def _by_time(self, name: str, array: Any, row_shape: tuple[int, ...]) -> np.ndarray:
        """``(n_steps, n_envs, *row_shape)`` what the rollout has filled of one of SB3's arrays."""
        shape = (self.buffer_size, self.n_envs, *row_shape)
        return by_time(f"rollout_buffer.{name}", np.asarray(array), shape, self.generator_ready)[: self.pos]

    def _steps(self, starts: np.ndarray) -> np.ndarray:
        """``(n_steps, n_envs)`` the t of each row in its episode, which may have begun before this rollout."""
        rows = np.arange(len(starts))[:, None]
        last_start = np.maximum.accumulate(np.where(starts, rows, -1))
        steps: np.ndarray = np.where(last_start >= 0, rows - last_start, rows + self._running.elapsed)
        return steps

    # --- a batch out -----------------------------------------------------------------------------------------------

    @property
    def batch(self) -> EpisodeBatch | None:
        """The episodes of the rollout just finished, with what callbacks made of them until now.

        None before the rollout is finished, or where there is no episode to learn from.
        """
        if self._found is None or not self._found.used.any():
            return None
        return self._assemble(self._found, self._found.used)

    @property
    def batch_of_none(self) -> EpisodeBatch:
        """A batch of no episodes after a finished rollout: what a worker without one brings to the update of others."""
        if self._found is None:
            raise ValueError("There are no episodes to leave out before compute_returns_and_advantage")
        return self._assemble(self._found, np.zeros_like(self._found.used))

    @property
    def n_episodes_ended(self) -> int:
        """How many episodes of the batch were played to their end, by the MDP or a time limit."""
        return 0 if self._found is None else int((self._found.used & self._found.segments.complete).sum())

    def _assemble(self, found: FoundEpisodes, used: np.ndarray) -> EpisodeBatch:
        """The facts of some of the segments, as tensors.

        :param used: ``(n_segments,)`` bool
        """
        self._read(found.timeline)
        segments, marks = found.segments, found.timeline.marks
        rows, last = segments.rows(used), segments.last[used]
        values_at = found.timeline.taker(rows)

        def take(name: str) -> th.Tensor:
            return self._tensor(values_at(name))

        def edit(name: str) -> Edit | None:
            return Edit(take(_SHOWN + name), take(_NOW + name)) if found.timeline.has(_NOW + name) else None

        lengths = self._tensor(segments.lengths[used])
        done, truncated, terminal = (marks[name][last] for name in ("done", "truncated", "terminal_values"))
        follows = 0.0 if self.incomplete_episodes == "truncate" else self._edge_values[segments.env[used]]
        return EpisodeBatch(
            episodes=EpisodeIndex(lengths, th.repeat_interleave(lengths), take("step")),
            observations=self._observations(take),
            actions=self._actions(take("actions")),
            rewards=take("rewards"),
            behaviour_log_prob=take("log_probs"),
            values=take("values"),
            carried=self._tensor(found.timeline.source[rows] < 0),
            env=self._tensor(segments.env[used]),
            terminated=self._tensor(done & ~truncated),
            truncated=self._tensor(done & truncated),
            last_values=self._tensor(np.where(done, terminal, follows).astype(np.float32)),
            **self._what_follows(found.timeline, last, done),
            advantage_edit=edit("advantages"),
            return_edit=edit("returns"),
            value_edit=edit("values"),
            extras={name: take(EXTRA + name) for name in self._extras},
            memory=self._memory(found.timeline, segments.first[used]),
        )

    def _memory(self, timeline: Timeline, first: np.ndarray) -> dict[str, th.Tensor]:
        """What was known before some first rows."""
        marks = timeline.taker(first)(_MEMORY) if timeline.has(_MEMORY) else None
        return {} if marks is None else {name: self._tensor(part) for name, part in self.memories.at(marks).items()}

    def _what_follows(self, timeline: Timeline, last: np.ndarray, done: np.ndarray) -> dict[str, Any]:
        """The observations after some last rows, and whether their value counts; nothing if they are not kept."""
        if not self.keep_last_observations:
            return {}
        take_last = timeline.taker(last)
        is_dict = isinstance(self.observations, dict)
        parts = {key: self._tensor(take_last(_LAST + key)) for key in self._observation_arrays()}
        counts = take_last("is_followed") & (done | (self.incomplete_episodes != "truncate"))
        return {"last_observations": parts if is_dict else parts[""], "is_followed": self._tensor(counts)}

    def _observations(self, take: Callable[[str], th.Tensor]) -> Observations:
        if isinstance(self.observations, dict):
            return {key: take(_OBSERVATION + key) for key in self.observations}
        return take(_OBSERVATION)

    def _actions(self, actions: th.Tensor) -> th.Tensor:
        """As ``evaluate_actions`` wants them; the other discrete spaces as SB3's buffers give them, in float32."""
        return actions.flatten().long() if isinstance(self.action_space, spaces.Discrete) else actions.float()

    # --- SB3's layout ------------------------------------------------------------------------------------------------

    def _columns(self) -> dict[str, np.ndarray] | None:
        found = self._found
        if found is None:
            return None
        columns = {name: np.zeros((self.buffer_size, self.n_envs), np.float32) for name in ("advantages", "returns")}
        columns["returns"][: self.pos] = self._column_by_time("values")
        if found.used.any():
            batch = self._assemble(found, found.used)
            credit = credit_of(batch, self.returns_name, self.baseline, self.gamma, self.gae_lambda)
            source = found.used_source
            here = np.flatnonzero(source >= 0)
            columns["advantages"].reshape(-1)[source[here]] = credit.advantages.cpu().numpy()[here]
            columns["returns"].reshape(-1)[source[here]] = credit.value_targets.cpu().numpy()[here]
        return columns

    def _in_use(self) -> np.ndarray | None:
        if self._found is None or self._found.used.all():
            return None
        in_use = np.zeros((self.buffer_size, self.n_envs), dtype=bool)
        in_use.reshape(-1)[self._found.used_source] = True
        return in_use

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Samples for SB3's own ``train()``, of the rows in use.

        :raises ValueError: with ``"carry"`` or ``episodes_per_env``, which need this package's algorithms; with
            ``"drop"`` if no episode began and ended in the rollout
        """
        if self.incomplete_episodes == "carry" or self.episodes_per_env is not None:
            raise ValueError(
                f"incomplete_episodes={self.incomplete_episodes!r} with episodes_per_env={self.episodes_per_env} keeps "
                "whole episodes, which SB3's own algorithms cannot read. In their rollout_buffer_kwargs write "
                "incomplete_episodes='bootstrap', 'truncate' or 'drop' and leave episodes_per_env out."
            )
        return super().get(batch_size)


_OBSERVATION, _LAST = "observation/", "last observation/"
_SHOWN, _NOW, _MEMORY = "shown/", "now/", "memory"


class EpisodeDictRolloutBuffer(EpisodeRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]  # as in SB3's own
    """:class:`EpisodeRolloutBuffer` for dictionaries of observations."""
