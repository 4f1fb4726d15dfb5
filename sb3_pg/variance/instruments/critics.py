"""Critics to compare: none at all, the model's, and one that was fitted until it got no better."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import CACHE_ROWS
from sb3_pg.estimators import reward_to_go
from sb3_pg.policies.passes import all_last_values, all_values
from sb3_pg.update.critic import ValueLoss, fit_critic
from sb3_pg.update.statistics import value_explained_variance
from sb3_pg.variance.instruments.sampling import own_random_numbers

CRITICS = ("zero", "model", "fitted")
_NETWORK = "network/"


@dataclass(frozen=True)
class Critic:
    """Values of states.

    :param of_rows: from a batch to ``(n_rows,)`` values
    :param of_last: from a batch to ``(n_episodes,)`` values of its ``last_observations``
    """

    of_rows: Callable[[EpisodeBatch], th.Tensor]
    of_last: Callable[[EpisodeBatch], th.Tensor]


def zero_critic() -> Critic:
    """V = 0."""
    return Critic(lambda batch: th.zeros_like(batch.rewards), lambda last: th.zeros(()))


def critic_of(policy: ActorCriticPolicy, shift: float = 0.0, scale: float = 1.0) -> Critic:
    """shift + scale V, with the V of a policy."""

    return Critic(
        lambda batch: shift + scale * all_values(policy, batch, CACHE_ROWS),
        lambda batch: shift + scale * all_last_values(policy, batch),
    )


def with_critic(batch: EpisodeBatch, critic: Critic, bootstrap_truncated: bool) -> EpisodeBatch:
    """The batch as a critic sees it: values of its states, and of what follows a time limit if that is to count."""
    last_values = th.zeros_like(batch.last_values)
    if bootstrap_truncated and batch.last_observations is not None and batch.is_followed is not None:
        last_values = th.where(batch.is_followed, critic.of_last(batch), 0.0)
    return dataclasses.replace(batch, values=critic.of_rows(batch), last_values=last_values)


def explained_variance(critic: Critic, batch: EpisodeBatch, gamma: float) -> float:
    """How much of the variance of the rewards to go a critic explains: 1 for all of it, 0 or less for none."""
    return value_explained_variance(dataclasses.replace(batch, values=critic.of_rows(batch)), gamma)


@dataclass(frozen=True)
class Fit:
    """A critic that was fitted, and how well.

    :param network: a policy whose critic it is; what it says is shifted by ``shift`` after scaling by ``scale``
    :param explained_variance: on episodes that it was not fitted to
    :param passes: over the episodes that it was fitted to
    """

    network: ActorCriticPolicy
    shift: float
    scale: float
    explained_variance: float
    passes: int

    @property
    def critic(self) -> Critic:
        """Its values."""
        return critic_of(self.network, self.shift, self.scale)

    def arrays(self) -> dict[str, np.ndarray]:
        """To be written, a row of each."""
        numbers = np.array([[self.shift, self.scale, self.explained_variance, self.passes]])
        state = {
            f"{_NETWORK}{name}": one.detach().cpu().numpy()[None] for name, one in self.network.state_dict().items()
        }
        return {"numbers": numbers, **state}

    @classmethod
    def from_arrays(cls, policy: ActorCriticPolicy, arrays: Mapping[str, np.ndarray]) -> Fit:
        """The inverse of :meth:`arrays`."""
        with own_random_numbers(0):
            network = fresh_network(policy)
        names = [name for name in arrays if name.startswith(_NETWORK)]
        network.load_state_dict({name.removeprefix(_NETWORK): th.as_tensor(arrays[name]) for name in names})
        shift, scale, explained, passes = arrays["numbers"].tolist()
        return cls(network, shift, scale, explained, int(passes))


def fresh_network(policy: ActorCriticPolicy, learning_rate: float = 1e-3) -> ActorCriticPolicy:
    """A new critic for a policy's observations: SB3's network for their space, with two hidden layers of 64."""
    space = policy.observation_space
    kind: type[ActorCriticPolicy] = ActorCriticPolicy
    if isinstance(space, spaces.Dict):
        kind = MultiInputActorCriticPolicy
    elif is_image_space(space):
        kind = ActorCriticCnnPolicy
    arch = {"pi": [], "vf": [64, 64]}
    network = kind(space, policy.action_space, lambda _: learning_rate, net_arch=arch, activation_fn=th.nn.Tanh)
    return network.to(policy.device)


def fit_to_returns(
    policy: ActorCriticPolicy,
    train: EpisodeBatch,
    held_out: EpisodeBatch,
    gamma: float,
    seed: int,
    patience: int = 10,
    max_passes: int = 300,
    batch_size: int = 256,
) -> Fit:
    """Fit a fresh critic to rewards to go until what it explains of held-out episodes stops rising.

    :param train, held_out: episodes that the critic will not be used on
    :param patience: passes without a better one after which it is over; the best counts
    """
    targets = reward_to_go(train.rewards, train.episodes, gamma)
    shift, scale = targets.mean().item(), max(targets.std().item() if len(targets) > 1 else 0.0, 1e-8)
    loss = ValueLoss((targets - shift) / scale, th.zeros_like(targets))
    with own_random_numbers(seed):
        network = fresh_network(policy)
        best, best_passes, best_state = -math.inf, 0, copy.deepcopy(network.state_dict())
        for number in range(1, max_passes + 1):
            fit_critic(network, network.optimizer, train, loss, 1, batch_size, CACHE_ROWS, None)
            now = explained_variance(critic_of(network, shift, scale), held_out, gamma)
            if now > best:
                best, best_passes, best_state = now, number, copy.deepcopy(network.state_dict())
            elif number - best_passes >= patience:
                break
    network.load_state_dict(best_state)
    return Fit(network, shift, scale, best, best_passes)
