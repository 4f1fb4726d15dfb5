"""SB3's MLP policy seen as the few matrix products that it is, where it is nothing else; and the LSTM one."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn import functional as F

from sb3_pg.policies.actor import ActorPolicy, ZeroValue
from sb3_pg.policies.critic import CriticPolicy
from sb3_pg.policies.sequence.cells import is_plain
from sb3_pg.policies.sequence.recurrent import LstmActorPolicy, LstmCriticPolicy

ACTIVATIONS = (nn.Tanh, nn.ReLU)
_OF_A_POLICY = ("__call__", "forward", "extract_features", "predict_values", "_get_action_dist_from_latent")
#: What may not have been replaced, on an object or on its class, where the layers are run without it.
METHODS: dict[type, tuple[str, ...]] = {
    ActorCriticPolicy: (*_OF_A_POLICY, "evaluate_actions"),
    RecurrentActorCriticPolicy: ("forward", "_process_sequence"),  # which ours go on to
    LstmCriticPolicy: (*_OF_A_POLICY, "step", "_process_sequence"),
    LstmActorPolicy: (*_OF_A_POLICY, "step", "_process_sequence"),
    FlattenExtractor: ("forward", "__call__"),
    MlpExtractor: ("forward", "forward_actor", "forward_critic", "__call__"),
    nn.Sequential: ("forward", "__call__"),
    nn.Linear: ("forward", "__call__"),
    nn.LSTM: ("forward", "__call__"),
    nn.Tanh: ("forward", "__call__"),
    nn.ReLU: ("forward", "__call__"),
    CategoricalDistribution: ("proba_distribution", "log_prob", "entropy", "sample", "get_actions"),
    DiagGaussianDistribution: ("proba_distribution", "log_prob", "entropy", "sample", "get_actions"),
}
_THEIRS = ("stable_baselines3.", "sb3_contrib.", "sb3_pg.", "torch.")
_ORIGINALS = {(owner, name): getattr(owner, name) for owner, names in METHODS.items() for name in names}
#: Nobody replaced one before it was looked at here.
_IS_ORIGINAL = all(
    getattr(original, "__globals__", {}).get("__name__", "").startswith(_THEIRS) for original in _ORIGINALS.values()
)
_REPLACEABLE = frozenset(name for names in METHODS.values() for name in names)


def is_stock(policy: ActorCriticPolicy) -> bool:
    """Whether there is one way through the policy's layers, and it is known.

    That is so for SB3's own and our own MLP policy, on the CPU, where nothing was overridden, replaced or hooked.
    """
    return type(policy) in (ActorCriticPolicy, CriticPolicy, ActorPolicy) and _has_known_parts(policy)


def is_stock_lstm(policy: ActorCriticPolicy) -> bool:
    """The same of our LSTM policies, which are sb3-contrib's."""
    return (
        type(policy) in (LstmCriticPolicy, LstmActorPolicy)
        and _has_known_parts(policy)
        and all(map(_is_known, recurrent_parts(policy)))
    )


def _has_known_parts(policy: ActorCriticPolicy) -> bool:
    space = policy.observation_space
    return (
        policy.device.type == "cpu"
        and isinstance(space, spaces.Box)
        and not (policy.normalize_images and is_image_space(space))
        and type(policy.pi_features_extractor) is type(policy.vf_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.mlp_extractor.policy_net) is type(policy.mlp_extractor.value_net) is nn.Sequential
        and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
        and _REPLACEABLE.isdisjoint(vars(policy.action_dist))
        and all(map(is_bare, containers(policy)))
        and all(map(_is_known, layers_of(policy)))
        and _alternates(policy.mlp_extractor.policy_net)
        and _alternates(policy.mlp_extractor.value_net)
        and _IS_ORIGINAL
        and all(getattr(owner, name) is original for (owner, name), original in _ORIGINALS.items())
        and not (th.is_autocast_enabled("cpu") or nn.modules.module._has_any_global_hook())
    )


def containers(policy: ActorCriticPolicy) -> list[nn.Module]:
    """The modules around the layers."""
    extractor = policy.mlp_extractor
    around = [policy, policy.pi_features_extractor, policy.vf_features_extractor]
    return [*around, extractor, extractor.policy_net, extractor.value_net]


def recurrent_parts(policy: ActorCriticPolicy) -> list[nn.Module]:
    """The LSTMs of a policy, and the layer in the place of the critic's; none of one without."""
    parts = (getattr(policy, name, None) for name in ("lstm_actor", "lstm_critic", "critic"))
    return [part for part in parts if isinstance(part, nn.Module)]


def layers_of(policy: ActorCriticPolicy) -> list[nn.Module]:
    """The layers, activations among them."""
    return [
        *policy.mlp_extractor.policy_net,
        policy.action_net,
        *policy.mlp_extractor.value_net,
        policy.value_net,
    ]


def is_bare(module: nn.Module) -> bool:
    """Whether nobody listens to its passes, forwards or backwards, and nothing of it was replaced."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not _REPLACEABLE.isdisjoint(module.__dict__)
    )


def _is_known(layer: nn.Module) -> bool:
    """Whether it is an activation, an LSTM or a linear layer with a bias, in single precision, or no critic."""
    if type(layer) is nn.Linear:
        return is_bare(layer) and _are_single(layer.weight, layer.bias)
    if type(layer) is nn.LSTM:
        return is_bare(layer) and is_plain(layer) and not layer.dropout and _are_single(*layer.parameters())
    return is_bare(layer) and type(layer) in (*ACTIVATIONS, ZeroValue)


def _are_single(*parameters: th.Tensor | None) -> bool:
    return all(type(one) is nn.Parameter and one.dtype == th.float32 for one in parameters)


def _alternates(net: nn.Sequential) -> bool:
    """Whether every activation follows a linear layer, as :func:`layers` takes it."""
    kinds = [isinstance(module, nn.Linear) for module in net]
    return all(before or is_linear for before, is_linear in zip([False, *kinds], kinds, strict=False))


def layers(net: nn.Sequential, head: nn.Module) -> Iterator[tuple[nn.Linear, type[nn.Module] | None]]:
    """The linear layers of a net and its head, each with the kind of activation that follows it."""
    modules = [*net, head]
    for module, following in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Linear):
            yield module, type(following) if isinstance(following, ACTIVATIONS) else None


def log_prob_and_entropy(
    policy: ActorCriticPolicy, parameters: th.Tensor, actions: th.Tensor, entropy_gradient: bool = False
) -> tuple[th.Tensor, th.Tensor]:
    """Of the distributions that the last layer of the actor stands for.

    :param parameters: ``(n_rows, n)`` logits or means
    :param actions: ``(n_rows,)`` or ``(n_rows, action_dim)``
    :param entropy_gradient: whether the entropies need one
    :return: ``(n_rows,)`` each
    """
    distribution = policy.action_dist
    if isinstance(distribution, DiagGaussianDistribution):
        distribution = copy.copy(distribution).proba_distribution(parameters, policy.log_std)
        return distribution.log_prob(actions), distribution.entropy()  # type: ignore[return-value]  # never None here
    # What SB3's does, without its softmax, sum and checks of every row
    log_probs = F.log_softmax(parameters, dim=-1)
    chosen = log_probs.gather(1, actions[:, None]).squeeze(1)
    log_probs = log_probs if entropy_gradient else log_probs.detach()
    return chosen, -(log_probs.exp() * log_probs).sum(dim=-1)


def categorical_log_prob(logits: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """``(n_rows,)`` of the actions ``(n_rows,)``."""
    return F.log_softmax(logits, dim=-1).gather(1, actions[:, None]).squeeze(1)
