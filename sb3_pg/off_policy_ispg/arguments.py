"""Which of OffPolicyISPG's own arguments are valid, alone and together."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from sb3_pg.data.checks import check_choice, check_positive, check_positive_int, is_number
from sb3_pg.estimators import EPISODE_LEVELS, LEVELS
from sb3_pg.update.trust_region import KLConstraint

ReusedAdvantages = Literal["stored", "vtrace"]
#: PPO's clip, where an algorithm has one by default. A user's 0.2 is another object.
CLIP_RANGE = 0.2


def clip_default(
    clip_range: Any, importance: str, max_weight: object, self_normalize: object, defensive_coef: object
) -> Any:
    """What ``clip_range`` is: the default means None where the weights are bounded, or multiplied, in another way."""
    is_mixed = is_number(defensive_coef) and defensive_coef != 0
    is_bounded = max_weight is not None or is_mixed or (isinstance(self_normalize, (bool, np.bool_)) and self_normalize)
    return None if clip_range is CLIP_RANGE and (importance != "timestep" or is_bounded) else clip_range


def check_epochs(n_epochs: int, batch_size: int | None, normalize_advantage: bool) -> None:
    """Refuse numbers of passes and of rows that make no gradient steps."""
    check_positive_int("n_epochs", n_epochs)
    check_positive_int("batch_size", batch_size, or_none=True)
    if batch_size == 1 and normalize_advantage:
        raise ValueError(
            "normalize_advantage=True leaves nothing of minibatches of batch_size=1: write batch_size >= 2, None for "
            "the whole batch, or normalize_advantage=False"
        )


def check_importance(
    importance: str,
    returns: str,
    incomplete_episodes: str,
    max_weight: float | None,
    self_normalize: bool,
    defensive_coef: float,
    clip_range: object,
    min_ess: float | None,
    n_reused_batches: int,
) -> None:
    """Refuse importance weights out of range, and options that the level has no use for."""
    check_choice("importance", importance, LEVELS)
    check_positive("max_weight", max_weight, or_none="no limit")
    if not is_number(defensive_coef) or not 0 <= defensive_coef < 1:
        raise ValueError(f"defensive_coef must be a number in [0, 1), got {defensive_coef!r}")
    if min_ess is not None and not (is_number(min_ess) and 0 < min_ess < 1):
        raise ValueError(f"min_ess must be a fraction between 0 and 1, or None, got {min_ess!r}")
    if type(n_reused_batches) is not int or n_reused_batches != 0:
        check_positive_int("n_reused_batches", n_reused_batches)
    tamed = {
        f"max_weight={max_weight}": max_weight is not None,
        "self_normalize=True": self_normalize,
        f"defensive_coef={defensive_coef}": defensive_coef > 0,
    }
    others = tamed | {
        f"min_ess={min_ess}": min_ess is not None,
        f"n_reused_batches={n_reused_batches}": n_reused_batches > 0,
    }
    if importance == "none" and (given := " and ".join(name for name, is_given in others.items() if is_given)):
        raise ValueError(f"{given} is about weights, and importance='none' has none: write importance='timestep'")
    if clip_range is not None and importance != "timestep":
        raise ValueError(
            f"clip_range clips the ratio of a step, and importance={importance!r} has no such weight: write "
            "importance='timestep', or max_weight instead of clip_range"
        )
    if clip_range is not None and (given := " and ".join(name for name, is_given in tamed.items() if is_given)):
        raise ValueError(f"{given} and clip_range both bound the weights: leave one of them out (clip_range=None)")
    if importance in EPISODE_LEVELS and incomplete_episodes not in ("carry", "drop"):
        raise ValueError(
            f"importance={importance!r} multiplies over whole episodes, and incomplete_episodes="
            f"{incomplete_episodes!r} learns from parts: write incomplete_episodes='carry' (or 'drop'), or "
            "importance='timestep'"
        )
    if importance == "per_decision" and returns != "reward_to_go":
        raise ValueError(
            f"importance='per_decision' weights each reward by itself, which returns={returns!r} leaves no room for: "
            "write returns='reward_to_go' (baseline='value' may stay), or importance='trajectory'"
        )


def check_critic_of_ispg(
    uses_critic: bool, value_learning_rate: object, clip_range_vf: object, n_reused_batches: int
) -> None:
    """Refuse a limit on a critic that is not learned, and past batches in the loss of one."""
    if clip_range_vf is not None and not uses_critic:
        raise ValueError("clip_range_vf needs a learned critic: write baseline='value', or leave it out")
    if n_reused_batches > 0 and uses_critic and value_learning_rate is None:
        raise ValueError(
            f"n_reused_batches={n_reused_batches} would fit the critic, in a joint loss, to what old policies earned: "
            "give it an optimizer of its own (value_learning_rate=1e-3, say)"
        )


def check_reuse(
    reused_advantages: str, vtrace_max_ratio: object, n_reused_batches: int, importance: str, uses_critic: bool
) -> None:
    """Refuse to credit past batches again where there are none, no critic, or weights that do it already."""
    check_choice("reused_advantages", reused_advantages, get_args(ReusedAdvantages))
    check_positive("vtrace_max_ratio", vtrace_max_ratio, or_none="no limit")
    if reused_advantages == "stored":
        return
    if n_reused_batches == 0:
        raise ValueError("reused_advantages='vtrace' needs batches to use again: give n_reused_batches (3, say)")
    if not uses_critic:
        raise ValueError("reused_advantages='vtrace' needs a learned critic: write baseline='value', or leave it out")
    if importance != "timestep":
        raise ValueError(
            f"reused_advantages='vtrace' weighs what follows a step, and so does importance={importance!r}: write "
            "importance='timestep', or reused_advantages='stored'"
        )


def check_trust_region(target_kl: float | None, kl_constraint: str, kl_coef: float) -> None:
    """Refuse a trust region without a radius."""
    check_choice("kl_constraint", kl_constraint, get_args(KLConstraint))
    check_positive("target_kl", target_kl, or_none="no trust region")
    if target_kl is None and kl_constraint != "stop":
        raise ValueError(f"kl_constraint={kl_constraint!r} needs a bound: give target_kl (0.01, say)")
    if not is_number(kl_coef) or not 0 < kl_coef < float("inf"):
        raise ValueError(f"kl_coef must be a number > 0, got {kl_coef!r}")
