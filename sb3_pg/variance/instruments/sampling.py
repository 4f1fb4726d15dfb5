"""Whole episodes of a frozen policy: the same ones for every estimator, and again for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_pg.data.batch import EpisodeBatch, Observations
from sb3_pg.data.checks import check_finite
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.estimators import EpisodeIndex, discount_factors, segment_sum
from sb3_pg.policies.acting import Actor, actor_of
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.policies.evaluation import NO_EXTRAS
from sb3_pg.rollout.masks import masks_for

#: Steps that an actor plays before the next one takes over: what it remembers of them is bounded by this.
ACTOR_STEPS = 1024


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Let PyTorch and NumPy draw from this seed, and go on afterwards as if nothing had been drawn."""
    before = np.random.get_state()
    with th.random.fork_rng():
        th.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


def normalizer_of(env: VecEnv) -> VecNormalize | None:
    """The VecNormalize among an environment's wrappers."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            return env
        env = env.venv
    return None


@contextmanager
def frozen_statistics(env: VecEnv) -> Iterator[None]:
    """Observations are normalised as the policy knows them, no statistic moves, and rewards are raw."""
    normalizer = normalizer_of(env)
    if normalizer is None:
        yield
        return
    before = normalizer.training, normalizer.norm_reward
    normalizer.training, normalizer.norm_reward = False, False
    try:
        yield
    finally:
        normalizer.training, normalizer.norm_reward = before


@dataclass
class _Steps:
    """What was seen step by step, a list of ``(n_envs, ...)`` arrays each; observations by their key, or by none."""

    observations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    dones: list[np.ndarray] = field(default_factory=list)
    truncated: list[np.ndarray] = field(default_factory=list)
    extras: dict[str, list[np.ndarray]] = field(default_factory=dict)
    values: list[th.Tensor] = field(default_factory=list)
    log_probs: list[th.Tensor] = field(default_factory=list)
    #: What was observed at the end of an episode, by its last step and its environment.
    terminal: dict[tuple[int, int], Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class Player:
    """Plays whole episodes, side by side.

    Every environment plays the same number of episodes, whatever their lengths, and waits for the others: the first
    that end would be too many short ones.

    :param policy: acts as in an evaluation of the stochastic policy: without dropout, its actions drawn
    :param env: seeded and reset before each call's first episode
    :param max_steps: most steps of an episode
    """

    policy: ActorCriticPolicy
    env: VecEnv
    max_steps: int = 100_000
    sde_sample_freq: int = -1

    def play(self, n_batches: int, episodes: int, seed: int) -> list[EpisodeBatch]:
        """Batches of that many episodes each, a function of the policy, the environment and the seed.

        :param episodes: of one batch, a multiple of the number of environments
        :raises ValueError: for an episode that does not end, or numbers that are not finite
        """
        per_batch = episodes_per_env(episodes, self.env.num_envs)
        with own_random_numbers(seed), th.no_grad(), evaluation_mode(self.policy), frozen_statistics(self.env):
            steps = self._collect(n_batches * per_batch, seed)
        done = np.array(steps.dones)
        batches = []
        for number in range(n_batches):
            first, last = number * per_batch, (number + 1) * per_batch
            spans = [span for env in range(self.env.num_envs) for span in _spans(done[:, env], env)[first:last]]
            batches.append(self._assemble(steps, spans))
        return batches

    def _collect(self, quota: int, seed: int) -> _Steps:
        """Play until every environment has ended that many episodes."""
        env, steps = self.env, _Steps()
        env.seed(seed % 2**31)
        obs: Any = env.reset()
        check_finite("The observation", obs, env.num_envs, 0)
        masks = masks_for(self.policy, env, use_masking=True)
        ended, running = np.zeros(env.num_envs, dtype=int), np.zeros(env.num_envs, dtype=int)
        actor: Actor | None = None
        starts = np.ones(env.num_envs, dtype=bool)
        while (ended < quota).any():
            if actor is None or len(steps) % ACTOR_STEPS == 0:
                self._read(actor, steps)
                memory = None if actor is None else actor.memory
                actor = actor_of(self.policy, env.num_envs, ACTOR_STEPS, memory=memory)
            self._explore(len(steps))
            extras = NO_EXTRAS if masks is None else {ACTION_MASKS: masks.read()}
            _note(steps.observations, _parts(obs))
            actor.forget(starts)
            drawn = actor.act(obs, extras)
            _note(steps.extras, {**extras, **actor.latents})
            steps.actions.append(np.array(drawn))
            obs, rewards, dones, infos = env.step(self._for_env(drawn))
            check_finite("The reward", rewards, env.num_envs, len(steps) + 1)
            check_finite("The observation", obs, env.num_envs, len(steps) + 1)
            truncated = np.zeros(env.num_envs, dtype=bool)
            for number in np.flatnonzero(dones).tolist():
                truncated[number] = bool(infos[number].get("TimeLimit.truncated", False))
                steps.terminal[len(steps), number] = infos[number].get("terminal_observation")
            steps.rewards.append(np.array(rewards, dtype=np.float32))
            steps.dones.append(np.array(dones, dtype=bool))
            steps.truncated.append(truncated)
            starts = np.asarray(dones, dtype=bool)
            ended += dones
            running = np.where(dones, 0, running + 1)
            self._check_lengths(running, ended < quota)
        self._read(actor, steps)
        return steps

    def _explore(self, n_steps: int) -> None:
        """Draw gSDE's noise anew, as often as the model does while it learns."""
        freq = self.sde_sample_freq
        if getattr(self.policy, "use_sde", False) and (n_steps == 0 or (freq > 0 and n_steps % freq == 0)):
            self.policy.reset_noise(self.env.num_envs)

    def _check_lengths(self, running: np.ndarray, waited_for: np.ndarray) -> None:
        longest = int(np.max(running, where=waited_for, initial=0))
        if longest > self.max_steps:
            raise ValueError(
                f"an episode has not ended after {longest} steps, and only whole episodes are measured: limit them "
                "(gymnasium.wrappers.TimeLimit), or raise max_steps"
            )

    def _read(self, actor: Actor | None, steps: _Steps) -> None:
        """Take what an actor knows of its steps."""
        if actor is None:
            return
        begin = sum(len(part) for part in steps.log_probs) // self.env.num_envs
        seen = steps.observations.get("", [])[begin:]
        flat = th.as_tensor(np.concatenate(seen)) if seen else th.zeros(0)
        values, log_probs = actor.evaluation(flat)
        steps.values.append(values.cpu())
        steps.log_probs.append(log_probs.cpu())

    def _for_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: unscaled if the policy squashes, else clipped to the bounds."""
        space = self.policy.action_space
        if not isinstance(space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray = np.clip(actions, space.low, space.high)
        return clipped

    def _assemble(self, steps: _Steps, spans: list[tuple[int, int, int]]) -> EpisodeBatch:
        """A batch of some episodes.

        :param spans: environment, first step, and the step after the last of each
        """
        n_envs, device = self.env.num_envs, self.policy.device
        rows = np.concatenate([np.arange(begin, end) * n_envs + env for env, begin, end in spans])

        def take(parts: list[np.ndarray]) -> th.Tensor:
            return th.as_tensor(np.concatenate(parts)[rows], device=device)

        ends = [(end - 1, env) for env, _, end in spans]
        truncated = th.tensor([bool(steps.truncated[step][env]) for step, env in ends], device=device)
        actions = take(steps.actions)
        last, is_followed = self._last_observations(steps, ends, truncated)
        lengths = th.tensor([end - begin for _, begin, end in spans], device=device)
        return EpisodeBatch(
            episodes=EpisodeIndex.from_lengths(lengths),
            observations=_joined({key: take(parts) for key, parts in steps.observations.items()}),
            actions=actions.long().flatten() if isinstance(self.policy.action_space, spaces.Discrete) else actions,
            rewards=take(steps.rewards),
            behaviour_log_prob=th.cat(steps.log_probs)[rows].to(device),
            values=th.cat(steps.values)[rows].to(device),
            carried=th.zeros(len(rows), dtype=th.bool, device=device),
            env=th.tensor([env for env, _, _ in spans], device=device),
            terminated=~truncated,
            truncated=truncated,
            last_values=th.zeros(len(spans), device=device),
            last_observations=last,
            is_followed=is_followed,
            extras={name: take(parts) for name, parts in steps.extras.items()},
        )

    def _last_observations(
        self, steps: _Steps, ends: list[tuple[int, int]], truncated: th.Tensor
    ) -> tuple[Observations, th.Tensor]:
        """``(n_episodes, *obs_shape)`` what was observed at the end, and whether it is known and anything follows."""
        shown = [steps.terminal.get(end) for end in ends]
        known = th.tensor([one is not None for one in shown], device=truncated.device)
        columns = {}
        for key, parts in steps.observations.items():
            like = parts[0][0]
            rows = [np.zeros_like(like) if one is None else np.asarray(_parts(one)[key], like.dtype) for one in shown]
            columns[key] = th.as_tensor(np.stack(rows).reshape(len(rows), *like.shape), device=self.policy.device)
        return _joined(columns), truncated & known


def facts_of(batch: EpisodeBatch, gamma: float) -> dict[str, float]:
    """Steps of a batch and its mean returns."""
    rewards = batch.rewards.double()
    discounted = rewards * discount_factors(batch.episodes, gamma, th.float64)
    return {
        "steps": float(batch.n_rows),
        "return": segment_sum(rewards, batch.episodes).mean().item(),
        "discounted_return": segment_sum(discounted, batch.episodes).mean().item(),
    }


def n_bytes(batch: EpisodeBatch) -> int:
    """Of the observations."""
    seen = batch.observations.values() if isinstance(batch.observations, dict) else (batch.observations,)
    return sum(one.nbytes for one in seen)


def episodes_per_env(episodes: int, n_envs: int) -> int:
    """How many of a batch's episodes each environment plays.

    :raises ValueError: if they cannot be shared out equally
    """
    if episodes % n_envs:
        raise ValueError(
            f"episodes={episodes} cannot be shared out equally over n_envs={n_envs}: each environment plays the same "
            "number, so that short episodes do not count for more; write a multiple of n_envs"
        )
    return episodes // n_envs


def _spans(done: np.ndarray, env: int) -> list[tuple[int, int, int]]:
    """The episodes of one environment: its number, first step, and the step after the last."""
    ends = np.flatnonzero(done) + 1
    return [(env, int(begin), int(end)) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _parts(observation: Any) -> dict[str, Any]:
    return observation if isinstance(observation, dict) else {"": observation}


def _joined(parts: dict[str, th.Tensor]) -> Observations:
    return parts[""] if "" in parts else parts


def _note(columns: dict[str, list[np.ndarray]], values: Mapping[str, Any]) -> None:
    """Add copies: an environment may write what it observes next into the same arrays."""
    for name, value in values.items():
        columns.setdefault(name, []).append(np.array(value))
