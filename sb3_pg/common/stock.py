"""SB3's MLP policy seen as the few matrix products that it is, where it is nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn import functional as F

from sb3_pg.common.policies import ActorPolicy, ZeroValue

ACTIVATIONS = (nn.Tanh, nn.ReLU)
#: What a policy may not have replaced on the object itself.
METHODS = ("forward", "extract_features", "_get_action_dist_from_latent", "evaluate_actions", "predict_values")


def is_stock(policy: ActorCriticPolicy) -> bool:
    """Whether there is one way through the policy's layers, and it is known.

    That is so for SB3's own and our own MLP policy, on the CPU, where nothing was overridden or hooked.
    """
    space = policy.observation_space
    return (
        type(policy) in (ActorCriticPolicy, ActorPolicy)
        and policy.device.type == "cpu"
        and isinstance(space, spaces.Box)
        and not (policy.normalize_images and is_image_space(space))
        and type(policy.pi_features_extractor) is type(policy.vf_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
        and not any(method in policy.__dict__ for method in METHODS)
        and all(map(_is_bare, [policy, policy.pi_features_extractor, policy.vf_features_extractor]))
        and all(map(_is_bare, [policy.mlp_extractor, policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net]))
        and all(map(_is_known, [*policy.mlp_extractor.policy_net, *policy.mlp_extractor.value_net]))
        and all(map(_is_known, [policy.action_net, policy.value_net]))
    )


def _is_bare(module: nn.Module) -> bool:
    """Whether nobody listens to its passes."""
    return not (module._forward_hooks or module._forward_pre_hooks)


def _is_known(layer: nn.Module) -> bool:
    """Whether it is an activation, a linear layer with a bias in single precision, or no critic."""
    if type(layer) is nn.Linear:
        return _is_bare(layer) and all(p is not None and p.dtype == th.float32 for p in layer._parameters.values())
    return _is_bare(layer) and type(layer) in (*ACTIVATIONS, ZeroValue)


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
        distribution = distribution.proba_distribution(parameters, policy.log_std)
        return distribution.log_prob(actions), distribution.entropy()  # type: ignore[return-value]  # never None here
    # What SB3's does, without its softmax, sum and checks of every row
    log_probs = F.log_softmax(parameters, dim=-1)
    chosen = log_probs.gather(1, actions[:, None]).squeeze(1)
    log_probs = log_probs if entropy_gradient else log_probs.detach()
    return chosen, -(log_probs.exp() * log_probs).sum(dim=-1)
