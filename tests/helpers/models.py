"""What the tests of all algorithms share: the list of them, small models of each, and their states compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.estimators import EpisodeIndex
from tests.helpers.recording import double_precision

T = TypeVar("T")
Algorithm = type[PolicyGradientAlgorithm]

#: Every test of this list's users holds for every algorithm in it.
ALGORITHMS: list[Algorithm] = [REINFORCE, VanillaPG, OffPolicyISPG]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

#: Whole episodes and no critic, whatever an algorithm's own defaults are.
MONTE_CARLO: dict[str, Any] = {
    "returns": "reward_to_go",
    "baseline": "time_leave_one_out",
    "incomplete_episodes": "carry",
    "bootstrap_truncated": False,
    "n_value_updates": 1,
    "value_learning_rate": None,
}
#: The same with a critic in a joint loss, and with one of its own optimizer.
JOINT_CRITIC = MONTE_CARLO | {"baseline": "value"}
OWN_CRITIC = JOINT_CRITIC | {"value_learning_rate": 1e-3, "n_value_updates": 3}
ESTIMATORS = {"no critic": MONTE_CARLO, "joint critic": JOINT_CRITIC, "own critic": OWN_CRITIC}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())

#: A network that costs little. SB3's A2C writes into what it is given: ``dict(TINY)`` for it.
TINY: dict[str, Any] = {"net_arch": [8]}


#: What an algorithm has beyond the others' arguments, where its own defaults would have a say in a test.
EXTRAS: dict[type[PolicyGradientAlgorithm], dict[str, Any]] = {
    VanillaPG: {"natural_gradient": False},
    OffPolicyISPG: {"n_epochs": 2, "batch_size": None, "target_kl": None, "clip_range": None},
}


def make(algorithm: type[PolicyGradientAlgorithm], env: Any, **kwargs: Any) -> PolicyGradientAlgorithm:
    """A small model on the CPU; what is not given is :data:`MONTE_CARLO`, or of :data:`EXTRAS`."""
    policy = kwargs.pop("policy", "MlpPolicy")
    defaults: dict[str, Any] = {"n_steps": 16, "policy_kwargs": TINY, "seed": 0, "device": "cpu"}
    return algorithm(policy, env, **defaults | MONTE_CARLO | EXTRAS.get(algorithm, {}) | kwargs)


def cases(*pairs: tuple[dict[str, Any], T]) -> tuple[tuple[dict[str, Any], T], ...]:
    """Arguments, each with something of its own: a list of them would have no type."""
    return pairs


def n_updates(model: PolicyGradientAlgorithm) -> int:
    """Iterations that changed the policy; ``train/n_updates`` counts epochs, as SB3's PPO does."""
    updates, rest = divmod(model._n_updates, getattr(model, "n_epochs", 1))
    assert rest == 0
    return updates


def snapshot(model: PolicyGradientAlgorithm) -> dict[str, Any]:
    """A copy of all parameters and of all optimizers' states."""
    parameters: dict[str, Any] = copy.deepcopy(model.get_parameters())
    return parameters


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nests of dictionaries, lists, modules, tensors and numbers are not equal bit for bit."""
    if isinstance(one, th.nn.Module) and isinstance(other, th.nn.Module):
        return differences(one.state_dict(), other.state_dict(), path)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [f"{path}: keys {sorted(map(str, one))} and {sorted(map(str, other))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for key, (a, b) in pairs for found in differences(a, b, f"{path}/{key}")]
    if isinstance(one, th.Tensor) and isinstance(other, th.Tensor):
        return [] if th.equal(one, other) else [path]
    return [] if type(one) is type(other) and one == other else [path]


@contextmanager
def no_episode_ended() -> Iterator[None]:
    """Expect the warning that an iteration had nothing to learn from: exactly once, and no other."""
    with pytest.warns(UserWarning, match="No episode ended") as caught:
        yield
    assert len(caught) == 1, [str(warning.message) for warning in caught]


#: A2C's own settings, where VanillaPG has others.
AS_A2C: dict[str, Any] = {
    "n_steps": 5,
    "learning_rate": 7e-4,
    "gae_lambda": 1.0,
    "normalize_advantage": False,
    "value_learning_rate": None,
    "n_value_updates": 1,
    "policy_kwargs": {
        "optimizer_class": th.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0},
    },
}
#: PPO's own settings, where OffPolicyISPG has others.
AS_PPO: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 64,
    "n_epochs": 10,
    "clip_range": 0.2,
    "gae_lambda": 0.95,
    "normalize_advantage": True,
    "target_kl": None,
    "value_learning_rate": None,
    "n_value_updates": 1,
}

ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-1, 1, (2,)),
}
every_action_space = pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
N_ROWS = 6


def policy_and_batch(action_space: spaces.Space[Any]) -> tuple[ActorCriticPolicy, EpisodeBatch]:
    """A random policy in float64, and a batch of which only the observations matter."""
    th.manual_seed(0)
    observation_space = spaces.Box(-1, 1, (4,))
    policy = ActorCriticPolicy(observation_space, action_space, lambda _: 0.0, net_arch=[3], ortho_init=False)
    policy = double_precision(policy)
    rows, one = th.zeros(N_ROWS, dtype=th.float64), th.zeros(1, dtype=th.bool)
    observations = th.rand(N_ROWS, 4) * 2 - 1
    index = EpisodeIndex.from_lengths(th.tensor([N_ROWS]))
    return policy, EpisodeBatch(index, observations, rows, rows, rows, rows, rows > 0, one, one, one, rows)


def actions_of(space: spaces.Space[Any]) -> list[Any]:
    """Every action of a finite space, as the distribution takes it."""
    if isinstance(space, spaces.Discrete):
        return list(range(int(space.n)))
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * int(space.n)  # type: ignore[attr-defined]
    return list(np.ndindex(*sizes))


class Extractor(BaseFeaturesExtractor):
    """Features with parameters, and arguments of their own.

    :param drop: share of them that is dropped in training
    """

    def __init__(self, observation_space: spaces.Box, width: int, drop: float = 0.0) -> None:
        super().__init__(observation_space, width)
        size = int(np.prod(observation_space.shape))
        layers = [th.nn.Flatten(), th.nn.Linear(size, width), th.nn.Tanh(), th.nn.Dropout(drop)]
        self.network = th.nn.Sequential(*layers)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.network(observations)


EXTRACTED: dict[str, Any] = TINY | {"features_extractor_class": Extractor}
