"""Policies that take action masks.

With a critic they are sb3-contrib's (``critic.py``); these are the same without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.evaluation import extras_of
from sb3_pg.policies.masks import can_be_masked, check_masks, mask_sizes, rows_of_masks
from sb3_pg.policies.sequence.sequences import remembering


class MaskableActorPolicy(WithoutCritic, MaskableActorCriticPolicy):
    """sb3-contrib's ``MaskableActorCriticPolicy``, but its critic has no parameters and says 0.

    It takes the same arguments. ``net_arch["vf"]`` and ``share_features_extractor`` have nothing to act on.
    """


class MaskableActorCnnPolicy(MaskableActorPolicy, MaskableActorCriticCnnPolicy):
    """:class:`MaskableActorPolicy` for images."""


class MaskableMultiInputActorPolicy(MaskableActorPolicy, MaskableMultiInputActorCriticPolicy):
    """:class:`MaskableActorPolicy` for dictionaries of observations."""


#: A class of policies that the algorithms take.
PolicyClass = type[ActorCriticPolicy] | type[MaskableActorCriticPolicy]


def takes_masks(policy: object) -> bool:
    """Whether a policy, or a class of them, takes action masks."""
    return ACTION_MASKS in extras_of(policy)


def without_sde(policy_class: type[MaskableActorCriticPolicy]) -> Callable[..., MaskableActorCriticPolicy]:
    """What makes such a policy from the arguments that SB3 gives to every one: ``use_sde`` is for Box actions."""

    @wraps(policy_class, updated=())
    def make(*args: Any, use_sde: bool, **kwargs: Any) -> MaskableActorCriticPolicy:
        return policy_class(*args, **kwargs)

    return make


def check_policy_class(policy_class: object, names: Iterable[str], action_space: spaces.Space[Any]) -> None:
    """Refuse what is no on-policy policy, and masks for actions without a number of their own.

    :param names: what stands for a class
    """
    kinds = (ActorCriticPolicy, MaskableActorCriticPolicy)
    if not (isinstance(policy_class, type) and issubclass(policy_class, kinds)):
        raise ValueError(
            f"policy must be one of {', '.join(map(repr, names))}, or a subclass of SB3's ActorCriticPolicy or of "
            f"sb3-contrib's MaskableActorCriticPolicy, got {policy_class!r}"
        )
    if issubclass(policy_class, RecurrentActorCriticPolicy) and remembering(policy_class) is None:
        raise ValueError(
            f"{policy_class.__name__} is sb3-contrib's, which cannot be asked about whole episodes: write "
            "policy='MlpLstmPolicy', 'CnnLstmPolicy' or 'MultiInputLstmPolicy', or subclass "
            "sb3_pg.policies.sequence.recurrent.LstmCriticPolicy, which takes the same arguments"
        )
    if takes_masks(policy_class) and not can_be_masked(action_space):
        raise ValueError(
            f"{policy_class.__name__} masks Discrete, MultiDiscrete and MultiBinary actions of one dimension, got "
            f"{action_space}: write policy='MlpPolicy', or another class that takes no masks"
        )


def masked_predict(policy: Any, action_masks: Any, *args: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
    """The policy's ``predict``, with masks that were checked.

    :param action_masks: ``(n,)`` of one observation or ``(n_envs, n)`` of several, True for what is allowed
    :param args: the other arguments
    :raises ValueError: for masks that are none, or a policy that takes none
    """
    if not takes_masks(policy):
        raise ValueError(
            f"{type(policy).__name__} takes no action_masks: leave them out, or train with 'MlpPolicy' on an "
            "environment that has action_masks(), or with a policy such as sb3_pg.MaskableActorPolicy"
        )
    sizes = mask_sizes(policy.action_space)
    drawn: tuple[np.ndarray, tuple[np.ndarray, ...] | None] = policy.predict(
        *args, action_masks=check_masks(rows_of_masks(action_masks, sizes), sizes)
    )
    return drawn
