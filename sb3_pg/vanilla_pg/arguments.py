"""Which of VanillaPG's own arguments are valid, alone and together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_pg.common.arguments import PLAIN_VALUE_LEARNING_RATE, VALUE_LEARNING_RATE
from sb3_pg.data.checks import check_bool, check_int, check_not_negative, check_positive, check_positive_int, is_number

#: Learning rates of a plain step by Adam, and of one by SGD along the natural gradient, which has a scale of its own or
#: is scaled to a bound on the KL.
LEARNING_RATE, NATURAL_LEARNING_RATE, BOUNDED_LEARNING_RATE = 3e-3, 0.3, 1.0
#: The bound of a step that nobody gave a length.
TARGET_KL = 0.02
#: Steps of each environment for a plain one: many small batches, as A2C takes them.
PLAIN_N_STEPS = 8


@dataclass(frozen=True)
class StepDefaults:
    """What the arguments are that go with how the actor steps.

    :param n_steps: None: as many as suit the number of environments
    """

    natural_gradient: bool
    target_kl: float | None
    learning_rate: float | Schedule
    n_steps: int | None
    value_learning_rate: float | Schedule | None


def step_defaults(
    natural_gradient: bool | None,
    target_kl: float | None,
    learning_rate: float | Schedule | None,
    n_steps: int | None,
    value_learning_rate: float | Schedule | None,
    policy_kwargs: dict[str, Any],
) -> StepDefaults:
    """What None stands for: a step scaled to a bound, unless something says how long a plain one is."""
    if natural_gradient is None:
        names_an_optimizer = not policy_kwargs.keys().isdisjoint({"optimizer_class", "optimizer_kwargs"})
        is_plain = learning_rate is not None or names_an_optimizer or value_learning_rate is None
        natural_gradient = target_kl is not None or not is_plain
        target_kl = TARGET_KL if natural_gradient and target_kl is None else target_kl
    if learning_rate is None:
        by_sgd = natural_gradient and policy_kwargs.get("optimizer_class", th.optim.SGD) is th.optim.SGD
        natural_rate = NATURAL_LEARNING_RATE if target_kl is None else BOUNDED_LEARNING_RATE
        learning_rate = natural_rate if by_sgd else LEARNING_RATE
    if not natural_gradient:
        n_steps = PLAIN_N_STEPS if n_steps is None else n_steps
        if value_learning_rate is VALUE_LEARNING_RATE:
            value_learning_rate = PLAIN_VALUE_LEARNING_RATE
    return StepDefaults(natural_gradient, target_kl, learning_rate, n_steps, value_learning_rate)


def check_natural_gradient(
    natural_gradient: object,
    cg_max_steps: object,
    cg_damping: object,
    target_kl: object,
    line_search_max_iter: object,
    line_search_shrinking_factor: object,
    optimizer_class: object,
) -> None:
    """Refuse numbers out of range, and a bound on steps that are not scaled to it.

    :param optimizer_class: of the actor
    """
    check_bool("natural_gradient", natural_gradient)
    check_positive_int("cg_max_steps", cg_max_steps)
    check_not_negative("cg_damping", cg_damping)
    check_positive("target_kl", target_kl, or_none="steps that are not scaled", may_be_infinite=False)
    check_int("line_search_max_iter", line_search_max_iter, 0)
    factor = line_search_shrinking_factor
    if not is_number(factor) or not 0 < factor < 1:
        raise ValueError(f"line_search_shrinking_factor must be a number between 0 and 1, got {factor!r}")
    if target_kl is None:
        return
    if not natural_gradient:
        raise ValueError(
            f"target_kl={target_kl} is the length of a natural step, and natural_gradient=False takes plain ones: "
            "write natural_gradient=True, or OffPolicyISPG, whose several steps a bound stops"
        )
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.SGD)):
        raise ValueError(
            f"target_kl={target_kl} is the length of a step, which optimizer_class={optimizer_class!r} would change: "
            "leave it out of policy_kwargs, or leave out target_kl"
        )
