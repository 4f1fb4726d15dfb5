"""Demonstrations as a policy is asked about them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.imitation.demonstrations import Demonstration, Observation
from sb3_pg.policies.evaluation import extras_of
from sb3_pg.policies.sequence.sequences import remembering


def batch_of(model: OnPolicyAlgorithm, episodes: list[Demonstration]) -> EpisodeBatch:
    """Demonstrations as the model's policy is asked about them, on its device; 0 for rewards that nobody noted.

    Observations and rewards are normalised as the model's own are, by the statistics of now.

    :raises ValueError: for observations or actions that are not of the model's spaces
    """
    policy, device = policy_of(model), model.device
    lengths = th.tensor([len(one) for one in episodes], device=device)
    observations = _observations(model, [one.observations for one in episodes], int(lengths.sum()))
    actions = _actions(policy, model.action_space, np.concatenate([one.actions for one in episodes]), device)
    rewards = np.concatenate([np.zeros(len(one)) if one.rewards is None else one.rewards for one in episodes])
    if (normalizer := model.get_vec_normalize_env()) is not None:
        rewards = normalizer.normalize_reward(rewards)
    rows = th.as_tensor(rewards, dtype=th.float32, device=device)
    of_rows, of_episodes = th.zeros_like(rows), th.zeros(len(lengths), device=device)
    return EpisodeBatch(
        episodes=EpisodeIndex.from_lengths(lengths),
        observations=observations,
        actions=actions,
        rewards=rows,
        behaviour_log_prob=of_rows,
        values=of_rows,
        carried=of_rows.bool(),
        env=of_episodes.long(),
        terminated=of_episodes.bool(),
        truncated=of_episodes.bool(),
        last_values=of_episodes,
        extras=_masks(policy, episodes, device),
    )


def policy_of(model: Any) -> ActorCriticPolicy:
    """A model's policy, if it can be asked how likely an action is, each step by itself.

    :raises ValueError: if it cannot
    """
    policy = getattr(model, "policy", None)
    if not isinstance(model, OnPolicyAlgorithm) or not hasattr(policy, "evaluate_actions"):
        raise ValueError(
            f"only an on-policy model says how likely an action is (REINFORCE, VanillaPG, PPO, A2C ...), got "
            f"{type(model).__name__}"
        )
    if hasattr(policy, "lstm_actor") and remembering(policy) is None:
        raise ValueError(
            f"{type(policy).__name__} keeps a state between steps, and cannot be asked about whole episodes: give a "
            "model of this package, whose recurrent policies can"
        )
    return cast("ActorCriticPolicy", policy)


def _observations(model: OnPolicyAlgorithm, given: list[Observation], n_rows: int) -> th.Tensor | dict[str, th.Tensor]:
    """``(n_rows, *obs_shape)``, normalised as the model's own are."""
    together = _concatenated(given)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        together = normalizer.normalize_obs(together)
    try:
        tensor, is_many = model.policy.obs_to_tensor(together)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the demonstrations' observations are not of {model.observation_space}: {error}") from error
    parts = tensor if isinstance(tensor, dict) else {"": tensor}
    if not is_many or any(len(part) != n_rows for part in parts.values()):
        raise ValueError(f"the demonstrations' observations are not of {model.observation_space}")
    return tensor


def _concatenated(given: list[Observation]) -> Observation:
    """One after the other."""
    dictionaries = [one for one in given if isinstance(one, dict)]
    if not dictionaries:
        return np.concatenate([one for one in given if not isinstance(one, dict)])
    keys = {tuple(sorted(one)) for one in dictionaries}
    if len(keys) > 1 or len(dictionaries) < len(given):
        raise ValueError("the demonstrations' observations are not all dictionaries with the same keys")
    return {key: np.concatenate([one[key] for one in dictionaries]) for key in keys.pop()}


def _actions(policy: ActorCriticPolicy, space: spaces.Space[Any], given: np.ndarray, device: th.device) -> th.Tensor:
    """``(n_rows,)`` or ``(n_rows, action_dim)``, scaled if the policy squashes its own."""
    shape = cast("tuple[int, ...]", space.shape)
    outside = f"a demonstration has an action that is not in {space}"
    if given.shape[1:] != shape and not (shape == () and given.shape[1:] == (1,)):
        raise ValueError(f"{outside}: they have the shape {given.shape[1:]}")
    if not np.isfinite(given).all():
        raise ValueError(f"{outside}: one is not finite")
    if isinstance(space, spaces.Box):
        # Beyond the bounds by no more than a float's rounding
        slack = 1e-5 * np.maximum(1.0, np.abs(given))
        if not ((given >= space.low - slack) & (given <= space.high + slack)).all():
            raise ValueError(f"{outside}: the least is {given.min():g}, the largest {given.max():g}")
        scaled = policy.scale_action(np.clip(given, space.low, space.high)) if policy.squash_output else given
        return th.as_tensor(scaled, dtype=th.float32, device=device).flatten(1)
    low, high = _bounds(space)
    if (given != np.floor(given)).any() or (given < low).any() or (given > high).any():
        raise ValueError(f"{outside}: whole numbers from 0 on, got some from {given.min()} to {given.max()}")
    if isinstance(space, spaces.Discrete):
        return th.as_tensor(given.reshape(-1), dtype=th.long, device=device)
    return th.as_tensor(given, dtype=th.float32, device=device).flatten(1)


def _bounds(space: spaces.Space[Any]) -> tuple[int, np.ndarray | int]:
    """The least and the largest action, as SB3's policies number them: from 0 on."""
    if isinstance(space, spaces.MultiDiscrete):
        return 0, space.nvec - 1
    return 0, int(space.n) - 1 if isinstance(space, spaces.Discrete) else 1


def _masks(policy: ActorCriticPolicy, episodes: list[Demonstration], device: th.device) -> dict[str, th.Tensor]:
    """What the policy is told of allowed actions, if it takes that and the demonstrations say so."""
    if ACTION_MASKS not in extras_of(policy):
        return {}
    given = [one.action_masks for one in episodes]
    if any(mask is None for mask in given):
        if all(mask is None for mask in given):
            return {}
        raise ValueError("some demonstrations have action_masks, and others have not")
    masks = np.concatenate([np.asarray(mask).reshape(len(mask), -1) for mask in given if mask is not None])
    return {ACTION_MASKS: th.as_tensor(masks, dtype=th.bool, device=device)}
