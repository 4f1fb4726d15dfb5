"""Which arguments of the algorithms are valid, alone and together."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device

from sb3_pg.data.batch import IncompleteEpisodes, Returns
from sb3_pg.data.checks import (
    check_bool,
    check_choice,
    check_int,
    check_not_negative,
    check_positive,
    check_positive_int,
    check_schedule,
    check_unit_interval,
    is_number,
)
from sb3_pg.estimators import BATCH_BASELINES, LossReduction
from sb3_pg.estimators.baselines import GROUP_BASELINE
from sb3_pg.rollout.buffers import EpisodeRolloutBuffer

BASELINES = ("none", *BATCH_BASELINES, GROUP_BASELINE, "optimal", "value")
#: Steps of an iteration in all environments together, where an algorithm is not told how many each shall take, and the
#: fewest for each of them: with very many environments episodes would be cut into pieces of a few steps.
BATCH_STEPS, FEWEST_STEPS = 2048, 64


class Default(int):
    """A whole number that nobody but this package can give: a default that means nothing without a critic."""


#: The learning rate of a critic's own optimizer, where an algorithm has one by default, and the rows of its steps.
VALUE_LEARNING_RATE, VALUE_BATCH_SIZE = 1e-3, Default(256)
#: The rate of plain steps, in the critic's own units: batches are then so small that their targets say little of any.
PLAIN_VALUE_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class CriticDefaults:
    """What arguments are that depend on whether a critic is learned."""

    returns: Returns
    incomplete_episodes: IncompleteEpisodes
    bootstrap_truncated: bool
    n_value_updates: int


def critic_defaults(uses_critic: bool, has_own_optimizer: bool) -> CriticDefaults:
    """What None stands for in the arguments of an algorithm that has a critic unless told otherwise."""
    if not uses_critic:
        return CriticDefaults("reward_to_go", "carry", bootstrap_truncated=False, n_value_updates=1)
    return CriticDefaults("gae", "bootstrap", bootstrap_truncated=True, n_value_updates=10 if has_own_optimizer else 1)


def without_critic(argument: Any) -> Any:
    """The default of an argument of a critic's own optimizer means None where there is no such optimizer.

    The very object: a user's 1e-3 or 256 is another one, and is refused like any that has nothing to say.
    """
    ours = (VALUE_LEARNING_RATE, PLAIN_VALUE_LEARNING_RATE, VALUE_BATCH_SIZE)
    return None if any(argument is one for one in ours) else argument


def steps_for(n_envs: int) -> int:
    """Steps of each environment in an iteration, unless the user says how many."""
    return max(BATCH_STEPS // n_envs, FEWEST_STEPS)


def check_sb3s(
    *,
    policy: object,
    use_sde: object,
    sde_sample_freq: object,
    rollout_buffer_kwargs: object,
    policy_kwargs: object = None,
    stats_window_size: object = 100,
    tensorboard_log: object = None,
    verbose: object = 0,
    seed: object = None,
    device: Any = "auto",
    **others: object,
) -> None:
    """Refuse what SB3's constructor would take, and fail on later or in words that do not name the argument.

    :raises ValueError: naming the argument, what was given and what is valid
    """
    if not isinstance(policy, (str, type)):
        raise ValueError(f"policy must be the name of one, 'MlpPolicy' say, or a class, got {policy!r}")
    check_kwargs(policy_kwargs=policy_kwargs, rollout_buffer_kwargs=rollout_buffer_kwargs)
    check_bool("use_sde", use_sde)
    check_int("sde_sample_freq", sde_sample_freq, -1)
    check_int("stats_window_size", stats_window_size, 1)
    if not (tensorboard_log is None or isinstance(tensorboard_log, (str, os.PathLike))):
        raise ValueError(f"tensorboard_log must be the path of a folder or None, got {tensorboard_log!r}")
    if not isinstance(verbose, (bool, np.bool_, int, np.integer)) or verbose not in (0, 1, 2):  # True is 1
        raise ValueError(f"verbose must be 0 (nothing), 1 or 2 (all there is), got {verbose!r}")
    check_int("seed", seed, 0, or_none=True)
    if isinstance(seed, (int, np.integer)) and seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, which is what NumPy takes, got {seed}")
    try:
        get_device(device)
    except Exception as error:  # PyTorch's, or that of asking whether an array is "auto"
        raise ValueError(f"device must be 'auto', 'cpu' or another of PyTorch's, got {device!r}: {error}") from error


@lru_cache
def arguments_of(algorithm: type) -> tuple[str, ...]:
    """The names of what an algorithm's constructor takes, and of what those of its bases take."""
    names = (name for base in algorithm.__mro__ for name in inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return tuple(dict.fromkeys(names))


def check_learn(total_timesteps: object, callback: object, log_interval: object, tb_log_name: object) -> None:
    """Refuse what SB3's ``learn()`` would fail on later, or take for something else.

    :raises ValueError: naming the argument, what was given and what is valid
    """
    if not is_number(total_timesteps) or not total_timesteps >= 0:
        raise ValueError(f"total_timesteps must be a number >= 0, got {total_timesteps!r}")
    check_positive_int("log_interval", log_interval, or_none=True)
    if not (tb_log_name is None or isinstance(tb_log_name, (str, os.PathLike))):
        raise ValueError(f"tb_log_name must be a string or None, got {tb_log_name!r}")
    parts = callback if isinstance(callback, list) else [callback]
    if callback is not None and not all(isinstance(part, BaseCallback) for part in parts):
        check_function("callback", callback, "callbacks of SB3's, or None", ["locals", "globals"])


def check_buffer_arguments(buffer: RolloutBuffer, n_steps: int) -> None:
    """Refuse what a callback may have put in the place of the buffer's own, and steps that it has no room for."""
    check_unit_interval("rollout_buffer.gamma", buffer.gamma)
    check_unit_interval("rollout_buffer.gae_lambda", buffer.gae_lambda)
    if n_steps > buffer.buffer_size:
        raise ValueError(
            f"n_steps={n_steps} is more than the model's rollout buffer has room for: write n_steps <= "
            f"{buffer.buffer_size}, or give n_steps when the model is made or loaded"
        )


def check_numbers(
    n_steps: object,
    gamma: object,
    gae_lambda: object,
    max_grad_norm: object,
    n_value_updates: object,
    value_batch_size: object,
    micro_batch_size: object,
    vf_coef: object,
) -> None:
    """Refuse numbers out of range, and what is no number.

    :raises ValueError: naming the argument, what was given and what is valid
    """
    check_positive_int("n_steps", n_steps)
    check_unit_interval("gamma", gamma)
    check_unit_interval("gae_lambda", gae_lambda)
    check_positive("max_grad_norm", max_grad_norm, or_none="no limit")
    check_positive_int("n_value_updates", n_value_updates)
    check_positive_int("value_batch_size", value_batch_size, or_none=True)
    check_positive_int("micro_batch_size", micro_batch_size, or_none=True)
    check_not_negative("vf_coef", vf_coef)


def check_schedules(learning_rate: object, ent_coef: object, value_learning_rate: object) -> None:
    """Refuse what is neither a number nor a function of the progress remaining."""
    check_schedule("learning_rate", learning_rate)
    check_schedule("ent_coef", ent_coef, may_be_negative=True)
    check_schedule("value_learning_rate", value_learning_rate, or_none="one joint loss")


def check_switches(**switches: object) -> None:
    """Refuse what is neither True nor False."""
    for name, value in switches.items():
        check_bool(name, value)


def check_estimator(
    returns: object,
    supported_returns: tuple[str, ...],
    baseline: object,
    loss_reduction: str,
    incomplete_episodes: str,
    discount_gradient: bool,
) -> None:
    """Refuse names that do not exist, and list those that do; refuse combinations without a meaning."""
    is_gae = isinstance(returns, str) and returns == "gae"
    if is_gae and "gae" not in supported_returns:
        valid = ", ".join(map(repr, supported_returns))
        raise ValueError(
            f"returns must be one of {valid}, got 'gae', which is relative to a learned critic: write "
            "VanillaPG(policy, env) for that"
        )
    check_choice("returns", returns, supported_returns)
    check_choice("loss_reduction", loss_reduction, get_args(LossReduction))
    check_choice("incomplete_episodes", incomplete_episodes, get_args(IncompleteEpisodes))
    check_baseline(baseline)
    if is_gae and not (isinstance(baseline, str) and baseline == "value"):
        raise ValueError(
            f"returns='gae' is relative to a critic, and baseline={baseline!r} learns none: write "
            "returns='reward_to_go' (or leave it out), or baseline='value'"
        )
    if returns == "total" and discount_gradient:
        raise ValueError(
            "discount_gradient=True would discount twice: returns='total' is discounted from the start of the episode "
            "already, and its gradient is that of the discounted return as it is. Leave discount_gradient out, or "
            "write returns='reward_to_go'"
        )


def check_function(name: str, value: object, or_else: str, takes: Sequence[str]) -> None:
    """Refuse what is no function, or one of other arguments.

    :param or_else: what else is valid, in words
    """
    error: TypeError | None = None
    if callable(value) and not isinstance(value, type):
        try:
            inspect.signature(value).bind(*takes)
            return
        except TypeError as found:
            error = found
        except ValueError:
            return  # it does not tell what it takes
    raise ValueError(
        f"{name} must be {or_else}, or take {' and '.join(takes)}, as in {name}=lambda {', '.join(takes)}: ..., got "
        f"{value!r}{f' ({error})' if error else ''}"
    ) from error


def check_baseline(baseline: object) -> None:
    """Refuse what is neither the name of a baseline, nor a finite number, nor a function of a batch."""
    if callable(baseline) and not isinstance(baseline, type):
        check_function("baseline", baseline, "the name of one", ["batch"])
    elif not (is_number(baseline) and math.isfinite(baseline)):
        check_choice("baseline", baseline, BASELINES, or_else="a number, or a callable")


def check_normalization(
    normalize_advantage: bool, incomplete_episodes: str, n_episodes: int | None, n_steps: int, n_envs: int
) -> None:
    """Refuse to normalise batches of one row, which would never be normalised."""
    is_cut = n_episodes is None and incomplete_episodes in ("bootstrap", "truncate")
    if normalize_advantage and is_cut and n_steps * n_envs == 1:
        raise ValueError(
            "normalize_advantage=True has no meaning for batches of one row, as n_steps=1 makes them with one "
            "environment: write n_steps >= 2, or normalize_advantage=False"
        )


def check_episodes(n_episodes: int | None, baseline: object) -> None:
    """Refuse a number of episodes that is none, or too small for the baseline."""
    check_positive_int("n_episodes", n_episodes, or_none=True)
    if n_episodes == 1 and isinstance(baseline, str) and baseline in (*BATCH_BASELINES, GROUP_BASELINE, "optimal"):
        raise ValueError(
            f"baseline={baseline!r} compares episodes of one iteration, and n_episodes=1 leaves none to compare with: "
            "write n_episodes >= 2, or baseline='none' or 'value'"
        )


def check_quota(n_episodes: int | None, n_envs: int) -> None:
    """Refuse a number of episodes that the environments cannot share equally."""
    check_positive_int("n_episodes", n_episodes, or_none=True)
    if n_episodes is not None and n_episodes % n_envs != 0:
        below = n_episodes // n_envs * n_envs
        instead = f"{below} or {below + n_envs}" if below else str(n_envs)
        raise ValueError(
            f"n_episodes={n_episodes} cannot be shared equally by {n_envs} environments, and counting whichever "
            f"episodes end first would favour short ones: write n_episodes={instead} (a saved model takes it too: "
            f"load(..., n_episodes={instead.split()[0]}))"
        )


def check_kwargs(**arguments: object) -> None:
    """Refuse keyword arguments that are no dictionary; None is one without entries."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{name} must be a dictionary or None, got the {type(value).__name__} {value!r}")


def check_saved_optimizers(saved: Collection[str], has_own: bool, value_learning_rate: object) -> None:
    """Refuse the state of one optimizer for two, or of two for one.

    :param saved: the names of what was saved
    :param has_own: whether the critic has an optimizer of its own
    """
    if "policy.optimizer" in saved and ("value_optimizer" in saved) != has_own:
        given, was = ("two optimizers", "one") if has_own else ("one optimizer", "two, the critic's own among them")
        raise ValueError(
            f"value_learning_rate={value_learning_rate} is for {given}, and the saved model has {was}: "
            "leave value_learning_rate and baseline as they were saved, or train a new model"
        )


def check_loaded_optimizer(optimizer: th.optim.Optimizer, options: Collection[str]) -> None:
    """Refuse the state of another kind of optimizer, which loads without a word and fails at the first step.

    :param options: what its groups had before it was loaded: PyTorch then adds to the defaults what no group needs
    """
    if missing := sorted(set(options) - optimizer.param_groups[0].keys()):
        raise ValueError(
            f"The saved optimizer is no {type(optimizer).__name__} (it has no {', '.join(missing)}): leave "
            "optimizer_class and natural_gradient as they were saved, or train a new model"
        )


def check_buffer(buffer_class: object, observation_space: spaces.Space[Any]) -> None:
    """Refuse what is no rollout buffer, and one for the other kind of observation."""
    if not (isinstance(buffer_class, type) and issubclass(buffer_class, RolloutBuffer)):
        raise ValueError(
            f"rollout_buffer_class must be a subclass of sb3_pg.EpisodeRolloutBuffer, or None, got {buffer_class!r}"
        )
    is_dict = isinstance(observation_space, spaces.Dict)
    if issubclass(buffer_class, EpisodeRolloutBuffer) and issubclass(buffer_class, DictRolloutBuffer) != is_dict:
        fitting = "EpisodeDictRolloutBuffer" if is_dict else "EpisodeRolloutBuffer"
        raise ValueError(
            f"rollout_buffer_class={buffer_class.__name__} does not fit these observations: leave it out, or write "
            f"{fitting} or a subclass of it"
        )


def check_critic(
    has_critic: bool,
    baseline: object,
    incomplete_episodes: str,
    bootstrap_truncated: bool,
    n_value_updates: int,
    value_learning_rate: object,
    value_batch_size: int | None,
    normalize_value: bool,
) -> None:
    """Refuse what needs a critic where none is learned.

    :param has_critic: whether the policy's class has value parameters
    """
    if isinstance(baseline, str) and baseline == "value":
        if not has_critic:
            raise ValueError(
                "baseline='value' needs a policy with a critic: write policy='MlpPolicy' (or 'CnnPolicy', "
                "'MultiInputPolicy'), or a subclass of stable_baselines3's ActorCriticPolicy that is no ActorPolicy; a "
                "model that was saved without a critic stays without: leave baseline as it was, or train a new one"
            )
        unfit = [f"n_value_updates={n_value_updates}"] if n_value_updates > 1 else []
        unfit += [f"value_batch_size={value_batch_size}"] if value_batch_size is not None else []
        unfit += ["normalize_value=True"] if normalize_value else []
        if value_learning_rate is None and unfit:
            raise ValueError(
                f"{' and '.join(unfit)} needs an optimizer of the critic's own: give value_learning_rate too (1e-3, "
                "say), or leave n_value_updates at 1 and the others out for one joint loss"
            )
        return
    wanting = {
        "incomplete_episodes='bootstrap'": incomplete_episodes == "bootstrap",
        "bootstrap_truncated=True": bootstrap_truncated,
        "value_learning_rate": value_learning_rate is not None,
        "n_value_updates": n_value_updates > 1,
        "value_batch_size": value_batch_size is not None,
        "normalize_value=True": normalize_value,
    }
    given = [name for name, is_given in wanting.items() if is_given]
    if given:
        raise ValueError(f"{' and '.join(given)} needs a learned critic: write baseline='value', or leave it out")
