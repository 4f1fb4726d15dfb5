"""Episodes that somebody played: lists of them, data sets, a model that plays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_pg.data.checks import check_positive_int, is_all_finite
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.evaluation import extras_of

#: What an episode's parts are called: by Minari, and by the library ``imitation``.
NAMES = {
    "observations": ("observations", "obs"),
    "actions": ("actions", "acts"),
    "rewards": ("rewards", "rews"),
    "action_masks": (ACTION_MASKS,),
}

#: Those that may be missing.
OPTIONAL = ("rewards", "action_masks")

Observation = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True)
class Demonstration:
    """An episode, in the environment's own numbers: nothing is normalised, transposed or scaled.

    :param observations: ``(n_steps, *obs_shape)`` what was seen before each action, or a dictionary of such
    :param actions: ``(n_steps, *action_shape)`` as the environment took them
    :param rewards: ``(n_steps,)``; None if nobody noted them
    :param action_masks: ``(n_steps, n_actions)`` bool, True for what was allowed; None if everything was
    """

    observations: Observation
    actions: np.ndarray
    rewards: np.ndarray | None = None
    action_masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse parts that are not of the same steps, and numbers that are not finite.

        :raises ValueError: which says which
        """
        parts = self.observations if isinstance(self.observations, dict) else {"observations": self.observations}
        lengths = {key: len(part) for key, part in parts.items()} | {"actions": len(self.actions)}
        optional = {"rewards": self.rewards, ACTION_MASKS: self.action_masks}
        lengths |= {name: len(part) for name, part in optional.items() if part is not None}
        if set(lengths.values()) != {len(self.actions)} or len(self.actions) == 0:
            raise ValueError(f"a demonstration has as many of each as it has steps, and at least one, got {lengths}")
        if self.rewards is not None and self.rewards.ndim != 1:
            raise ValueError(f"rewards have the shape (n_steps,), got {self.rewards.shape}")
        for name, part in (parts | {"rewards": self.rewards}).items():
            if part is not None and part.dtype.kind == "f" and not is_all_finite(part):
                raise ValueError(f"a demonstration has {name} that are not all finite")

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)


def demonstrations_from(episodes: Iterable[Any]) -> list[Demonstration]:
    """Demonstrations of episodes as others keep them.

    Minari's (``minari.load_dataset(name).iterate_episodes()``), those of the library ``imitation``, or mappings:
    whatever has ``observations`` (or ``obs``) and ``actions`` (or ``acts``), and may have ``rewards`` (or ``rews``) and
    ``action_masks``. Where there is one observation more than there are actions, it is the one after the last action,
    and left out.

    :raises ValueError: for an episode without observations or actions, or whose parts do not fit; and for none at all
    """
    if isinstance(episodes, Mapping) or not isinstance(episodes, Iterable):
        raise ValueError(
            f"demonstrations are several episodes: give a list of them, or played_by(model), got "
            f"{type(episodes).__name__}"
        )
    found = [_from_one(episode, number) for number, episode in enumerate(episodes)]
    if not found:
        raise ValueError("there are no episodes to learn from")
    return found


def _from_one(episode: Any, number: int) -> Demonstration:
    if isinstance(episode, Demonstration):
        return episode
    parts = {name: _part(episode, names) for name, names in NAMES.items()}
    for name in ("observations", "actions"):
        if parts[name] is None:
            raise ValueError(
                f"episode {number} has no {' or '.join(NAMES[name])}: give a mapping or an object that has, got "
                f"{type(episode).__name__}"
            )
    try:
        return _demonstration(parts)
    except (TypeError, ValueError) as error:  # TypeError: what has no length
        raise ValueError(f"episode {number}: {error}") from None


def _demonstration(parts: dict[str, Any]) -> Demonstration:
    arrays = {name: None if part is None else np.asarray(part) for name, part in parts.items() if name in OPTIONAL}
    actions, given = np.asarray(parts["actions"]), parts["observations"]
    observations: Observation
    if isinstance(given, Mapping):
        observations = {key: _before_actions(np.asarray(part), len(actions)) for key, part in given.items()}
    else:
        observations = _before_actions(np.asarray(given), len(actions))
    return Demonstration(observations, actions, **arrays)


def _before_actions(observations: np.ndarray, n_steps: int) -> np.ndarray:
    """Without the one after the last action, if it is there."""
    return observations[:n_steps] if len(observations) == n_steps + 1 else observations


def _part(episode: Any, names: Sequence[str]) -> Any:
    """What an episode has under one of the names, None for nothing."""
    for name in names:
        found = episode.get(name) if isinstance(episode, Mapping) else getattr(episode, name, None)
        if found is not None:
            return found
    return None


def played_by(
    model: BaseAlgorithm, env: VecEnv | None = None, n_episodes: int = 10, deterministic: bool = True
) -> list[Demonstration]:
    """Episodes that a model plays, by SB3's ``predict``.

    Each environment plays its share of them, the first ones one more where they do not divide equally: the first
    episodes to end would be the short ones.

    :param env: with the wrappers that the model was trained in; None for its own
    :raises ValueError: for a model without an environment, or for fewer than one episode
    """
    check_positive_int("n_episodes", n_episodes)
    given = model.get_env() if env is None else env
    if given is None:
        raise ValueError("the model has no environment: give one, env=make_vec_env('CartPole-v1')")
    if env is None and isinstance(model, OnPolicyAlgorithm):
        model._last_obs = None  # its episodes are broken off: the next learn() begins new ones
    masked = ACTION_MASKS in extras_of(model.policy)
    with _statistics_left_alone(given) as normalizer:
        return _played(model, given, normalizer, n_episodes, deterministic, masked)


@dataclass(frozen=True)
class _Step:
    """One environment's step."""

    observation: Observation
    action: np.ndarray
    reward: float
    mask: np.ndarray | None


def _played(
    model: BaseAlgorithm,
    env: VecEnv,
    normalizer: VecNormalize | None,
    n_episodes: int,
    deterministic: bool,
    masked: bool,
) -> list[Demonstration]:
    left = np.array([(n_episodes + number) // env.num_envs for number in reversed(range(env.num_envs))])
    steps = [list[_Step]() for _ in left]
    found, starts = list[Demonstration](), np.ones(env.num_envs, dtype=bool)
    observations: Any = env.reset()
    state: tuple[np.ndarray, ...] | None = None
    while left.any():
        masks = np.asarray(get_action_masks(env)) if masked else None
        more: dict[str, Any] = {} if masks is None else {ACTION_MASKS: masks}
        actions, state = model.predict(observations, state, starts, deterministic, **more)
        seen: Any = observations if normalizer is None else normalizer.get_original_obs()
        observations, rewards, starts, _ = env.step(actions)
        rewards = rewards if normalizer is None else normalizer.get_original_reward()
        for number in np.flatnonzero(left).tolist():
            mask = None if masks is None else masks[number].copy()
            steps[number].append(_Step(_copied(seen, number), actions[number], float(rewards[number]), mask))
            if starts[number]:
                found.append(_together(steps[number]))
                steps[number] = []
                left[number] -= 1
    return found


def _copied(observations: Observation, number: int) -> Observation:
    """What one environment observed: an environment may write what it observes next into the same array."""
    if isinstance(observations, dict):
        return {key: np.array(part[number]) for key, part in observations.items()}
    return np.array(observations[number])


def _together(steps: Sequence[_Step]) -> Demonstration:
    seen = [one.observation for one in steps]
    observations: Observation
    if isinstance(seen[0], dict):
        observations = {key: np.stack([cast("dict[str, np.ndarray]", one)[key] for one in seen]) for key in seen[0]}
    else:
        observations = np.stack([cast("np.ndarray", one) for one in seen])
    masks = [one.mask for one in steps if one.mask is not None]
    return Demonstration(
        observations,
        np.stack([one.action for one in steps]),
        np.array([one.reward for one in steps]),
        np.stack(masks) if masks else None,
    )


@contextmanager
def _statistics_left_alone(env: VecEnv) -> Iterator[VecNormalize | None]:
    """The VecNormalize among the wrappers, which learns nothing meanwhile.

    :raises ValueError: if wrappers around it change what it gives, which nobody could then undo
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        yield None
        return
    if normalizer.observation_space != env.observation_space:
        raise ValueError("VecNormalize has to be the outermost of the wrappers that change observations")
    was_training, normalizer.training = normalizer.training, False
    try:
        yield normalizer
    finally:
        normalizer.training = was_training
