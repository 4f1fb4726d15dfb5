"""Diffusion policies: an action is what a chain of denoising steps makes of noise.

The chain is part of what was done: the steps of a batch keep it among their extras, and log pi is that of the chain, of
which each step is a Gaussian (Ren et al. 2024, "Diffusion policy policy optimization", arXiv 2409.00588). So a policy
gradient needs nothing else, and the action may have several modes where a Gaussian has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_pg.data.batch import Observations
from sb3_pg.data.checks import check_positive, check_positive_int
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.critic import SavedWhole

#: ``(n, n_denoising_steps + 1, action_dim)`` noise, what became of it step by step, the action before it is clipped.
CHAIN = "denoising_chain"


class Denoiser(nn.Module):
    """What each step of a chain expects of the next.

    Of a noisy action it guesses the action without noise, tanh(noisy + net(features, noisy, step)), where the net
    begins near 0: the first policy is broad. The next of the chain is between the two (Ho et al. 2020, "Denoising
    diffusion probabilistic models", equation 7), by a cosine schedule (Nichol & Dhariwal 2021).

    :param n_features: numbers of a state
    :param min_std: least deviation of a step: what is left of exploration, and what log-probs are divided by
    """

    def __init__(self, n_features: int, action_dim: int, n_steps: int, min_std: float, hidden: int):
        super().__init__()
        self.n_steps = n_steps
        self.net = nn.Sequential(
            nn.Linear(n_features + action_dim + n_steps, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, action_dim),
        )
        time = np.linspace(0.0, 1.0, n_steps + 1)
        # Share of the action that is left after so many steps of noise
        left = np.cos(0.5 * np.pi * (time + 0.02) / 1.02) ** 2 / np.cos(0.5 * np.pi * 0.02 / 1.02) ** 2
        before, after = left[:-1], left[1:]
        noise = 1.0 - after / before
        of_guess = np.sqrt(before) * noise / (1.0 - after)
        of_noisy = np.sqrt(after / before) * (1.0 - before) / (1.0 - after)
        self.shares = [(float(guess), float(noisy)) for guess, noisy in zip(of_guess, of_noisy, strict=True)]
        #: The deviation of what each step makes, and how much of the action is left before it
        self.step_stds = np.maximum(np.sqrt(noise * (1.0 - before) / (1.0 - after)), min_std).tolist()
        self.left = after.tolist()

    def forward(self, features: th.Tensor, noisy: th.Tensor, step: int) -> th.Tensor:
        """``(n, action_dim)`` the mean of what step ``step`` (``n_steps`` - 1 is the first, 0 the last) makes of it.

        :param features: ``(n, n_features)``
        :param noisy: ``(n, action_dim)``
        """
        which = noisy.new_zeros(len(noisy), self.n_steps)
        which[:, step] = 1.0
        guess = (noisy + self.net(th.cat([features, noisy, which], dim=1))).tanh()
        share, rest = self.shares[step]
        mean: th.Tensor = share * guess + rest * noisy
        return mean


class Diffusion(SavedWhole):
    """Stands before SB3's policies among the bases of a class; it takes their arguments, and these.

    Actions are those of a bounded Box. ``use_sde``, ``log_std_init`` and ``squash_output`` have nothing to act on.

    :param n_denoising_steps: of a chain
    :param min_std: least deviation of a step, of actions from -1 to 1
    :param denoiser_width: units of the denoiser's two hidden layers
    """

    takes_extras = (CHAIN,)
    #: What the last actions came of, by the name under which the policy takes it: see ``policies/evaluation.py``.
    latents: Mapping[str, th.Tensor] = MappingProxyType({})
    action_net: Any
    action_dist: Any
    mlp_extractor: Any
    value_net: Any
    optimizer: Any

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        n_denoising_steps: int = 5,
        min_std: float = 0.1,
        denoiser_width: int = 64,
        **kwargs: Any,
    ):
        if not (isinstance(action_space, spaces.Box) and action_space.is_bounded()):
            raise ValueError(
                f"A diffusion policy draws actions of a bounded Box, got {action_space}: write another policy, or give "
                "the environment bounds"
            )
        if kwargs.get("use_sde"):
            raise ValueError("use_sde=True has no meaning for a diffusion policy, whose noise is its own: leave it out")
        check_positive_int("n_denoising_steps", n_denoising_steps)
        check_positive_int("denoiser_width", denoiser_width)
        check_positive("min_std", min_std, may_be_infinite=False)
        self.diffusion_kwargs = {
            "n_denoising_steps": n_denoising_steps,
            "min_std": min_std,
            "denoiser_width": denoiser_width,
        }
        super().__init__(observation_space, action_space, *args, **kwargs)
        self._squash_output = True  # chains end between -1 and 1, whatever the bounds are

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]  # of the actor-critic policy
        del self.log_std
        n_steps, action_dim = self.diffusion_kwargs["n_denoising_steps"], get_action_dim(self.action_space)
        sizes = (self.diffusion_kwargs["min_std"], self.diffusion_kwargs["denoiser_width"])
        self.action_net = Denoiser(self.mlp_extractor.latent_dim_pi, action_dim, int(n_steps), *sizes)  # type: ignore[arg-type]
        with th.no_grad():
            self.action_net.net[-1].weight.mul_(0.01)
            self.action_net.net[-1].bias.zero_()
        # Of all steps of a chain at once
        self.action_dist = DiagGaussianDistribution(int(n_steps) * action_dim)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.diffusion_kwargs

    # --- chains -------------------------------------------------------------------------------------------------------

    def _features(self, obs: Observations) -> tuple[th.Tensor, th.Tensor]:
        """``(n, n_features)`` before the actor's layers, and before the critic's."""
        features: Any = self.extract_features(obs)  # type: ignore[call-arg]
        return features if isinstance(features, tuple) else (features, features)

    def _denoised(self, latent: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, Distribution]:
        """``(n, n_steps + 1, action_dim)`` a chain from its noise on, and the distribution of its steps.

        :param noise: the same shape: what the chain begins with, and the noise of each step
        """
        chain, means = [noise[:, 0]], list[th.Tensor]()
        for place, step in enumerate(reversed(range(self.action_net.n_steps))):
            means.append(self.action_net(latent, chain[-1], step))
            chain.append(means[-1] + self.action_net.step_stds[step] * noise[:, place + 1])
        return th.stack(chain, dim=1), self._around(means)

    def _noise(self, n: int, deterministic: bool) -> th.Tensor:
        """Standard normal; where the policy is to be deterministic always the same beginning, and none after it."""
        shape = (self.action_net.n_steps + 1, get_action_dim(self.action_space))
        if not deterministic:
            return th.randn(n, *shape, device=self.device)
        # Not 0: between two modes it would be neither
        first = th.randn(shape[1], generator=th.Generator().manual_seed(0))
        noise = th.zeros(n, *shape)
        noise[:, 0] = first
        return noise.to(self.device)

    def _chain_distribution(self, latent: th.Tensor, chain: th.Tensor) -> Distribution:
        """Of all steps of the chains given those before: its KL is that of the chains, along the chains of the old."""
        steps = enumerate(reversed(range(self.action_net.n_steps)))
        return self._around([self.action_net(latent, chain[:, place], step) for place, step in steps])

    def _around(self, means: list[th.Tensor]) -> Distribution:
        """The distribution of all steps of chains, whose means are given from the first on."""
        stds = means[0].new_tensor(self.action_net.step_stds[::-1])
        log_std = stds.log().repeat_interleave(means[0].shape[1])
        distribution: Distribution = self.action_dist.proba_distribution(th.cat(means, dim=1), log_std)
        return distribution

    def latents_of(self, actions: th.Tensor) -> dict[str, th.Tensor]:
        """Chains that could have ended with these actions, drawn backwards: what cloning fits is their likelihood, a
        bound on that of the actions (Ho et al. 2020, equation 3).

        :param actions: ``(n, action_dim)`` from -1 to 1
        """
        chain = [actions]
        before = 1.0
        for left in self.action_net.left:
            share = left / before
            chain.append(share**0.5 * chain[-1] + (1 - share) ** 0.5 * th.randn_like(actions))
            before = left
        return {CHAIN: th.stack(chain[::-1], dim=1)}

    # --- as in SB3 ----------------------------------------------------------------------------------------------------

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """As in SB3: actions from -1 to 1, and the log-probs of their chains, which are :attr:`latents` afterwards."""
        features, of_critic = self._features(obs)
        latent = self.mlp_extractor.forward_actor(features)
        chain, distribution = self._denoised(latent, self._noise(len(latent), deterministic))
        self.latents = {CHAIN: chain.detach()}
        values = self.value_net(self.mlp_extractor.forward_critic(of_critic))
        actions = chain[:, -1].clamp(-1.0, 1.0).reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        return actions, values, distribution.log_prob(chain[:, 1:].flatten(1))

    def evaluate_actions(
        self, obs: Observations, actions: th.Tensor, denoising_chain: th.Tensor | None = None
    ) -> tuple[th.Tensor, th.Tensor, None]:
        """As in SB3, for actions whose chains are known.

        :param denoising_chain: ``(n, n_denoising_steps + 1, action_dim)``
        :raises ValueError: without it
        """
        features, of_critic = self._features(obs)
        values = self.value_net(self.mlp_extractor.forward_critic(of_critic))
        distribution = self._distribution(features, denoising_chain)
        return values, distribution.log_prob(denoising_chain[:, 1:].flatten(1)), None  # type: ignore[index]

    def get_distribution(self, obs: Observations, denoising_chain: th.Tensor | None = None) -> Distribution:
        """The distribution of all steps of a chain, as :meth:`evaluate_actions` asks it."""
        return self._distribution(self._features(obs)[0], denoising_chain)

    def _distribution(self, features: th.Tensor, chain: th.Tensor | None) -> Distribution:
        if chain is None:
            raise ValueError(
                "How likely a diffusion policy's action is, is not known without the chain that led to it: learn with "
                "REINFORCE, VanillaPG or OffPolicyISPG, which keep it, or ask evaluate_actions(obs, actions, "
                "denoising_chain=...)"
            )
        return self._chain_distribution(self.mlp_extractor.forward_actor(features), chain)

    def _predict(self, observation: Observations, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)[0]  # type: ignore[no-any-return]


class DiffusionCriticPolicy(Diffusion, ActorCriticPolicy):
    """An actor-critic policy whose actions are denoised, see :class:`Diffusion`."""


class DiffusionCriticCnnPolicy(DiffusionCriticPolicy, ActorCriticCnnPolicy):
    """:class:`DiffusionCriticPolicy` for images."""


class MultiInputDiffusionCriticPolicy(DiffusionCriticPolicy, MultiInputActorCriticPolicy):
    """:class:`DiffusionCriticPolicy` for dictionaries of observations."""


class DiffusionActorPolicy(Diffusion, WithoutCritic, ActorCriticPolicy):
    """A diffusion policy whose critic has no parameters and says 0."""


class DiffusionActorCnnPolicy(DiffusionActorPolicy, ActorCriticCnnPolicy):
    """:class:`DiffusionActorPolicy` for images."""


class MultiInputDiffusionActorPolicy(DiffusionActorPolicy, MultiInputActorCriticPolicy):
    """:class:`DiffusionActorPolicy` for dictionaries of observations."""
