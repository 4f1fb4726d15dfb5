"""Which parameters of a policy are whose: found by what depends on them, not by their names."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_pg.data.batch import Steps
from sb3_pg.policies.contexts import distribution_left_alone, evaluation_mode
from sb3_pg.policies.evaluation import NO_EXTRAS, act, empty_memory, evaluate_actions


def own_parameters_of_critic(policy: ActorCriticPolicy) -> list[nn.Parameter]:
    """The parameters on which the values depend and the distribution does not, whether they are frozen or not.

    One evaluation of two observations, in evaluation mode; no random number is drawn from the generators of
    the run, and nothing of the policy changes.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.is_floating_point()]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    observations = obs_as_tensor(two_observations(policy.observation_space), policy.device)
    devices = [policy.device] if policy.device.type == "cuda" else []
    with th.random.fork_rng(devices), distribution_left_alone(policy), evaluation_mode(policy), th.enable_grad():
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            with th.no_grad():
                drawn = act(policy, observations, NO_EXTRAS, empty_memory(policy, 2))
            # As a rollout buffer gives them
            is_discrete = isinstance(policy.action_space, spaces.Discrete)
            actions = drawn.actions.long().flatten() if is_discrete else drawn.actions.flatten(1)
            steps = Steps(observations, actions, drawn.latents, episode=th.arange(2, device=policy.device))
            values, log_prob, entropy = evaluate_actions(policy, steps)
            of_values = _on_which_depends(values, parameters)
            of_distribution = _on_which_depends(log_prob, parameters)
            if entropy is not None:
                of_distribution |= _on_which_depends(entropy, parameters)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
    return [parameter for parameter in parameters if parameter in of_values and parameter not in of_distribution]


def two_observations(space: spaces.Space[object]) -> np.ndarray | dict[str, np.ndarray]:
    """Of that space, and always the same; not of zeros, which a network may divide by."""
    if isinstance(space, spaces.Dict):
        return {key: np.asarray(two_observations(part)) for key, part in space.spaces.items()}
    if not isinstance(space, spaces.Box):
        return np.zeros((2, *(space.shape or ())), dtype=space.dtype)
    share = np.random.default_rng(0).uniform(size=(2, *space.shape))
    low, high = np.maximum(space.low, -1.0), np.minimum(space.high, 1.0)
    observations = np.where(low <= high, low + (high - low) * share, np.where(low > 1.0, space.low, space.high))
    return observations.astype(space.dtype)


def _on_which_depends(output: th.Tensor, parameters: list[nn.Parameter]) -> set[nn.Parameter]:
    if not output.requires_grad:
        return set()
    slopes: tuple[th.Tensor | None, ...] = th.autograd.grad(
        output.sum(), parameters, retain_graph=True, allow_unused=True
    )
    return {parameter for parameter, slope in zip(parameters, slopes, strict=True) if slope is not None}


def not_finite_parameters(policy: ActorCriticPolicy) -> list[str]:
    """The names of those that are to be learned and have a value that is not finite."""
    learned = [(name, one) for name, one in policy.named_parameters() if one.requires_grad]
    return [name for name, one in learned if not bool(one.detach().isfinite().all())]


def check_parameters(policy: ActorCriticPolicy, cause: Exception | None = None) -> None:
    """Refuse a policy that cannot be learned on, nor act.

    :param cause: what became of it
    :raises ValueError: which names its parameters that are not finite
    """
    if names := not_finite_parameters(policy):
        raise ValueError(
            f"The policy has parameters that are not finite: {', '.join(names)}. Nothing was learned from that: load "
            "those that were saved last (set_parameters), or begin with a new model."
        ) from cause
