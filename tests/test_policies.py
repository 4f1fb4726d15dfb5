"""Policies without a critic: nothing in them but what log pi depends on, and SB3's interface all the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pg import ActorCnnPolicy, ActorPolicy, EpisodeDictRolloutBuffer, EpisodeRolloutBuffer, MultiInputActorPolicy
from tests.helpers.environments import DiaryEnv, diary
from tests.helpers.models import differences, every_algorithm, make

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "image": IMAGE, "number": spaces.Discrete(4)})
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)

POLICIES: dict[str, tuple[type[ActorPolicy], spaces.Space[Any]]] = {
    "Mlp": (ActorPolicy, VECTOR),
    "Cnn": (ActorCnnPolicy, IMAGE),
    "MultiInput": (MultiInputActorPolicy, DICT),
}
every_policy = pytest.mark.parametrize(("policy_class", "space"), POLICIES.values(), ids=POLICIES.keys())

ACTIONS: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "Discrete": (spaces.Discrete(3), {}),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), {}),
    "MultiBinary": (spaces.MultiBinary(3), {}),
    "Box": (BOX, {}),
    "gSDE": (BOX, {"use_sde": True}),
    "squashed gSDE": (BOX, {"use_sde": True, "squash_output": True}),
}
every_action = pytest.mark.parametrize(("actions", "kwargs"), ACTIONS.values(), ids=ACTIONS.keys())

#: Keyword arguments -> the widths of the actor's layers.
ARCHITECTURES: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [64, 64]),
    ({"net_arch": []}, []),
    ({"net_arch": [16]}, [16]),
    ({"net_arch": {"pi": [8, 4], "vf": [32]}}, [8, 4]),
    ({"net_arch": {"pi": [8]}}, [8]),
    ({"net_arch": {"vf": [32]}}, []),
    ({"net_arch": [16], "share_features_extractor": False}, [16]),
    ({"net_arch": [16], "ortho_init": False}, [16]),
    ({"net_arch": [16], "features_extractor_class": FlattenExtractor, "activation_fn": nn.ReLU}, [16]),
]


def build(policy_class: type[ActorPolicy], space: spaces.Space[Any], actions: spaces.Space[Any], **kwargs: Any) -> Any:
    """A policy on its own."""
    return policy_class(space, actions, lambda _: 1e-2, **kwargs)


def some_observations(policy: Any, space: spaces.Space[Any], n: int = 5) -> Any:
    """``n`` observations as a tensor."""
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return policy.obs_to_tensor({key: np.stack([sample[key] for sample in samples]) for key in space.spaces})[0]
    return policy.obs_to_tensor(np.stack(samples))[0]


@every_policy
@every_action
def test_every_parameter_is_the_actors(
    policy_class: type[ActorPolicy], space: spaces.Space[Any], actions: spaces.Space[Any], kwargs: dict[str, Any]
) -> None:
    """log pi reaches every parameter, and the optimizer holds each of them once: there is none of a critic's."""
    policy = build(policy_class, space, actions, **kwargs)
    observations = some_observations(policy, space)
    taken, _, _ = policy(observations)
    _, log_prob, _ = policy.evaluate_actions(observations, taken.detach())
    log_prob.square().sum().backward()
    without = [name for name, parameter in policy.named_parameters() if parameter.grad is None]
    assert without == []
    optimized = [id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]]
    assert sorted(optimized) == sorted(id(parameter) for parameter in policy.parameters())
    assert not [name for name in policy.state_dict() if name.startswith("value_net")]


@every_policy
@every_action
def test_three_outputs(
    policy_class: type[ActorPolicy], space: spaces.Space[Any], actions: spaces.Space[Any], kwargs: dict[str, Any]
) -> None:
    """Actions, values (all 0) and log-probs, in SB3's shapes; ``predict`` gives valid actions."""
    policy = build(policy_class, space, actions, **kwargs)
    if policy.use_sde:
        policy.reset_noise(5)
    observations = some_observations(policy, space)
    taken, values, log_prob = policy(observations)
    assert values.shape == (5, 1) and log_prob.shape == (5,) and len(taken) == 5
    assert not values.any() and not policy.predict_values(observations).any()
    assert values.dtype == log_prob.dtype == th.float32
    evaluated, log_prob_again, _ = policy.evaluate_actions(observations, taken)
    assert evaluated.shape == (5, 1)
    th.testing.assert_close(log_prob, log_prob_again, rtol=1e-4, atol=1e-4)
    action, state = policy.predict(space.sample(), deterministic=True)
    assert actions.contains(action) and state is None


@pytest.mark.parametrize(("kwargs", "widths"), ARCHITECTURES, ids=lambda value: str(value)[:60])
def test_architectures(kwargs: dict[str, Any], widths: list[int]) -> None:
    """What SB3's policies take: lists, dictionaries, nothing; the critic's part of it has nothing to act on."""
    policy = build(ActorPolicy, VECTOR, spaces.Discrete(3), **kwargs)
    layers = [module for module in policy.mlp_extractor.policy_net if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in layers] == widths
    sizes = [3, *widths, 3]
    n_parameters = sum((before + 1) * after for before, after in pairwise(sizes))
    assert sum(parameter.numel() for parameter in policy.parameters()) == n_parameters


@pytest.mark.parametrize("share", [True, False])
def test_one_features_extractor(share: bool) -> None:
    """An extractor of the critic's own would be parameters without a gradient: there is one, whatever is asked for."""
    policy = build(ActorCnnPolicy, IMAGE, spaces.Discrete(3), share_features_extractor=share)
    assert policy.vf_features_extractor is policy.pi_features_extractor


def test_optimizer_arguments() -> None:
    """The optimizer is of the class and with the arguments asked for, as in SB3."""
    kwargs = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-4, "alpha": 0.9}}
    policy = build(ActorPolicy, VECTOR, spaces.Discrete(3), **kwargs)
    (group,) = policy.optimizer.param_groups
    assert isinstance(policy.optimizer, th.optim.RMSprop)
    assert (group["lr"], group["eps"], group["alpha"]) == (1e-2, 1e-4, 0.9)


def test_initialised_as_the_actor_of_sb3() -> None:
    """The last layer starts small, the others orthogonal: the policy starts almost uniform."""
    policy = build(ActorPolicy, VECTOR, spaces.Discrete(3))
    weight = policy.mlp_extractor.policy_net[2].weight
    th.testing.assert_close(weight @ weight.T, 2 * th.eye(64), rtol=1e-4, atol=1e-4)
    assert policy.action_net.weight.abs().max() <= 0.01
    assert not policy.action_net.bias.any()


@every_policy
@every_action
def test_save_and_load(
    policy_class: type[ActorPolicy],
    space: spaces.Space[Any],
    actions: spaces.Space[Any],
    kwargs: dict[str, Any],
    tmp_path: Path,
) -> None:
    """A policy saved on its own comes back as itself."""
    policy = build(policy_class, space, actions, **kwargs)
    policy.save(str(tmp_path / "policy"))
    loaded = policy_class.load(str(tmp_path / "policy"), device="cpu")
    assert type(loaded) is policy_class
    assert differences(dict(policy.state_dict()), dict(loaded.state_dict())) == []
    observation = space.sample()
    ours, theirs = (one.predict(observation, deterministic=True)[0] for one in (policy, loaded))
    np.testing.assert_array_equal(ours, theirs)


@every_algorithm
def test_names_stand_for_actors_without_a_critic(algorithm: Any) -> None:
    """``"MlpPolicy"`` is an actor, and an actor with a critic where the baseline is one."""
    assert type(make(algorithm, diary()).policy) is ActorPolicy
    assert type(make(algorithm, diary(as_dict=True), policy="MultiInputPolicy").policy) is MultiInputActorPolicy
    with_critic = make(algorithm, diary(), baseline="value").policy
    assert not isinstance(with_critic, ActorPolicy)
    assert sum(parameter.numel() for parameter in with_critic.value_net.parameters()) > 0


@pytest.mark.parametrize("stock", [PPO, A2C])
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dict"])
@pytest.mark.parametrize("ours", [True, False], ids=["our buffer", "stock buffer"])
def test_in_stock_algorithms(stock: Any, as_dict: bool, ours: bool) -> None:
    """SB3's PPO and A2C learn with an actor alone, with our buffers and with their own."""
    buffer = EpisodeDictRolloutBuffer if as_dict else EpisodeRolloutBuffer
    kwargs: dict[str, Any] = {"rollout_buffer_class": buffer} if ours else {}
    kwargs |= {"batch_size": 16} if stock is PPO else {}
    policy = MultiInputActorPolicy if as_dict else ActorPolicy
    model = stock(policy, DiaryEnv(as_dict=as_dict), n_steps=32, device="cpu", seed=0, **kwargs)
    before = model.policy.action_net.weight.clone()
    model.learn(64)
    assert not th.equal(before, model.policy.action_net.weight)
    assert all(bool(th.isfinite(value).all()) for value in model.policy.state_dict().values())
