"""What is sensible for each argument, said a second time and apart from the package's own checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import FloatSchedule

Rule = Callable[[Any], bool]
#: Progress at which a run of a few updates, and a constructor, ask a schedule.
PROGRESS = (1.0, 0.9, 2 / 3, 0.5, 1 / 3, 0.0)


def number(low: float, high: float, low_counts: bool = True, high_counts: bool = True) -> Rule:
    """A real number between two others."""

    def holds(value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
            return False
        if isinstance(value, int) and value.bit_length() > 63:  # no tensor takes it
            return False
        value = float(value)
        return (value >= low if low_counts else value > low) and (value <= high if high_counts else value < high)

    return holds


def integer(least: int, most: int = 2**63 - 1) -> Rule:
    """A whole number of a whole number's type."""
    return lambda value: (
        isinstance(value, (int, np.integer)) and type(value) is not bool and least <= int(value) <= most
    )


def function(n_arguments: int) -> Rule:
    """A function that can be called with so many arguments."""

    def holds(value: Any) -> bool:
        if not callable(value) or isinstance(value, (type, th.nn.Module)):
            return False
        try:
            value(*[0.7] * n_arguments)
        except TypeError:
            return False
        except Exception:
            return True
        return True

    return holds


def schedule(low: float) -> Rule:
    """A finite number from some on, or a function that says such numbers."""
    finite = number(low, math.inf, high_counts=False) if low > -math.inf else number(-1e300, 1e300)

    def holds(value: Any) -> bool:
        value = value.value_schedule if isinstance(value, FloatSchedule) else value
        if not callable(value) or isinstance(value, type):
            return finite(value)
        try:
            return all(finite(value(progress)) for progress in PROGRESS)
        except Exception:
            return False

    return holds


def one_of(*values: Any) -> Rule:
    """Some of these very values."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def either(*rules: Rule) -> Rule:
    """Any of the rules."""
    return lambda value: any(rule(value) for rule in rules)


def a(*types: type) -> Rule:
    """Of a type."""
    return lambda value: isinstance(value, types)


none, switch, count, natural = one_of(None), a(bool, np.bool_), integer(1), integer(0)
positive = number(0, math.inf, low_counts=False)
finite_positive = number(0, math.inf, low_counts=False, high_counts=False)
rate = schedule(0.0)


def widths(value: Any) -> bool:
    """A net's layers."""
    is_row = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim == 1)
    return is_row and all(map(count, value))


ARGUMENTS: dict[str, Rule] = {
    "policy": one_of("MlpPolicy"),
    "env": lambda value: False,
    "learning_rate": rate,
    "value_learning_rate": either(rate, none),
    "ent_coef": schedule(-math.inf),
    "reference_coef": rate,
    "reference_policy": none,
    "reference_penalty": one_of("reward", "loss"),
    **dict.fromkeys(("n_epochs", "cg_max_steps"), count),
    **dict.fromkeys(("batch_size", "value_batch_size", "micro_batch_size", "n_episodes"), either(count, none)),
    **dict.fromkeys(("n_steps", "n_value_updates"), either(count, none)),
    **dict.fromkeys(("n_reused_batches", "line_search_max_iter"), natural),
    **dict.fromkeys(("gamma", "gae_lambda"), number(0, 1)),
    **dict.fromkeys(("vf_coef", "cg_damping"), number(0, math.inf, high_counts=False)),
    **dict.fromkeys(("max_grad_norm", "max_weight", "vtrace_max_ratio"), either(positive, none)),
    "target_kl": either(finite_positive, none),
    "kl_coef": finite_positive,
    "min_ess": either(number(0, 1, False, False), none),
    "defensive_coef": number(0, 1, high_counts=False),
    "line_search_shrinking_factor": number(0, 1, False, False),
    **dict.fromkeys(
        ("clip_range", "clip_range_vf"), lambda value: none(value) or (rate(value) and not one_of(0, 0.0)(value))
    ),
    **dict.fromkeys(("use_sde", "normalize_advantage", "discount_gradient"), switch),
    **dict.fromkeys(("log_gradient_variance", "self_normalize"), switch),
    **dict.fromkeys(("bootstrap_truncated", "normalize_value", "natural_gradient"), either(switch, none)),
    "sde_sample_freq": integer(-1),
    "rollout_buffer_class": none,
    "rollout_buffer_kwargs": either(none, one_of({})),
    "policy_kwargs": either(none, one_of({})),
    "kl_constraint": one_of("stop"),
    "importance": one_of("timestep", "none"),
    "reused_advantages": one_of("stored"),
    "returns": either(one_of("gae"), none),
    "baseline": either(one_of("none", "value"), number(-1e300, 1e300), function(1)),
    "loss_reduction": one_of("step"),
    "incomplete_episodes": either(one_of("carry"), none),
    "stats_window_size": count,
    "tensorboard_log": either(none, a(str)),
    "verbose": either(integer(0, 2), switch),
    "seed": either(integer(0, 2**32 - 1), none),
    "device": either(one_of("auto", "cpu"), a(th.device)),
}
#: Entries of policy_kwargs.
ENTRIES: dict[str, Rule] = {
    "net_arch": either(
        none,
        widths,
        lambda value: isinstance(value, dict) and value.keys() <= {"pi", "vf"} and all(map(widths, value.values())),
    ),
    "activation_fn": one_of(th.nn.Tanh),
    **dict.fromkeys(("ortho_init", "full_std", "use_expln", "share_features_extractor", "normalize_images"), switch),
    "use_sde": lambda value: False,  # an argument of the algorithm
    "squash_output": switch,
    "log_std_init": number(-1e300, 1e300),
    "features_extractor_class": lambda value: False,
    **dict.fromkeys(("features_extractor_kwargs", "optimizer_kwargs"), either(none, one_of({}))),
    "optimizer_class": one_of(th.optim.Adam, th.optim.SGD),
}
#: Arguments of ``learn()``.
LEARN: dict[str, Rule] = {
    "total_timesteps": number(0, math.inf),
    "callback": either(none, one_of([]), function(2)),
    "log_interval": either(count, none),
    "tb_log_name": either(none, a(str)),
    **dict.fromkeys(("reset_num_timesteps", "progress_bar", "use_masking"), switch),
}
#: What is only looked at in the update that uses it, whose result may be refused as well: a baseline's values.
LEARNS = {"baseline"}
#: Values with which learning would take for ever, or more memory than there is: only construction is tried.
HUGE: dict[str, Rule] = {
    name: number(1000, math.inf)
    for name in ("n_steps", "n_epochs", "n_value_updates", "cg_max_steps", "total_timesteps", "n_reused_batches")
}


def is_sensible(algorithm: type, kind: str, name: str, value: Any) -> bool:
    """Whether an argument can be meant to be so.

    :param kind: ``"argument"``, ``"entry"`` of policy_kwargs or ``"learn"``
    """
    if (algorithm.__name__, name) == ("OffPolicyISPG", "target_kl"):  # no bound, of steps that have a length without it
        return either(positive, none)(value)
    if (algorithm.__name__, name) == ("REINFORCE", "returns"):  # without a critic
        return either(one_of("reward_to_go", "total"), none)(value)
    if (algorithm.__name__, name) == ("VanillaPG", "learning_rate"):  # None is what suits its step
        return either(rate, none)(value)
    return {"argument": ARGUMENTS, "entry": ENTRIES, "learn": LEARN}[kind][name](value)
