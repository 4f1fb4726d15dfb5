"""The actions that a stock policy would draw, and nothing else: no values, no log-probs, no distribution objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_pg.common.policies import ActorPolicy

Activation = Callable[[th.Tensor], th.Tensor]
ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.Tanh: th.tanh_, nn.ReLU: th.relu_}
#: What a policy may not have replaced on the object itself.
METHODS = ("forward", "extract_features", "_get_action_dist_from_latent", "evaluate_actions", "predict_values")


def has_fast_actor(policy: ActorCriticPolicy) -> bool:
    """Whether :class:`FastActor` draws exactly what ``policy(obs)`` does.

    That is so for SB3's own and our own MLP policy, on the CPU, where nothing was overridden or hooked: there is one
    way through the layers, and its random numbers are known.
    """
    space = policy.observation_space
    return (
        type(policy) in (ActorCriticPolicy, ActorPolicy)
        and policy.device.type == "cpu"
        and isinstance(space, spaces.Box)
        and not (policy.normalize_images and is_image_space(space))
        and type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_net) is nn.Linear
        and all(type(layer) in (nn.Linear, *ACTIVATIONS) for layer in policy.mlp_extractor.policy_net)
        and type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
        and not any(method in policy.__dict__ for method in METHODS)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
        and all(parameter.dtype == th.float32 for parameter in policy.parameters())
    )


class FastActor:
    """Draws the actions of a policy for which :func:`has_fast_actor` holds; made anew for every rollout.

    The same operations on the same random numbers as ``policy(obs)``, into tensors that are there already.

    :param n_envs: observations of a step
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int):
        self._n_envs = n_envs
        self._shape = (n_envs, *(policy.action_space.shape or ()))
        self._layers = list(_layers(policy, n_envs))
        self._noise = th.empty_like(self._layers[-1][2])
        self._std: th.Tensor | None = None
        if isinstance(policy.action_dist, DiagGaussianDistribution):
            self._std = policy.log_std.detach().exp()

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Draw an action for each environment.

        :param obs: ``(n_envs, *obs_shape)``
        :return: ``(n_envs, *action_shape)``
        """
        hidden = th.as_tensor(obs, dtype=th.float32).reshape(self._n_envs, -1)
        for weight, bias, out, activation in self._layers:
            hidden = th.addmm(bias, hidden, weight, out=out)
            if activation is not None:
                activation(hidden)
        if self._std is None:
            # How torch.multinomial draws one sample: the first of exponential clocks that run at the rates p
            probabilities = hidden.softmax(dim=-1)
            discrete: np.ndarray = probabilities.div_(self._noise.exponential_()).argmax(dim=-1).numpy()
            return discrete
        continuous: np.ndarray = (hidden + self._noise.normal_() * self._std).reshape(self._shape).numpy()
        return continuous


def _layers(
    policy: ActorCriticPolicy, n_envs: int
) -> Iterator[tuple[th.Tensor, th.Tensor, th.Tensor, Activation | None]]:
    """Weight (transposed), bias, room for the result, and activation of one linear layer after the other."""
    modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    for module, following in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.Linear):
            room = th.empty(n_envs, module.out_features)
            yield module.weight.detach().t(), module.bias.detach(), room, ACTIVATIONS.get(type(following))
