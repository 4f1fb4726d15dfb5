"""What policy and buffer cannot be built with, and what ``learn()`` does not take, is refused by name beforehand."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.environments import diary
from tests.helpers.models import TINY, Algorithm, differences, every_algorithm, make, snapshot

BAD_ENTRIES: dict[str, list[Any]] = {
    "net_arch": [5, "x", [0], [-1], [8.0], [True], ["8"], {"qf": [8]}, {"pi": 8}, {"pi": [0]}, {8, 16}, [10**400]],
    "activation_fn": ["tanh", 3, int, nn.Linear, nn.GLU, nn.MSELoss, nn.ModuleList, nn.Tanh(), th.tanh],
    "ortho_init": ["no", 1, None],
    "log_std_init": [math.nan, math.inf, "0", None, True, [0.0]],
    "share_features_extractor": ["yes"],
    "normalize_images": [2],
    "squash_output": [True, "x"],
    "features_extractor_class": [int, nn.Flatten, "x", None],
    "features_extractor_kwargs": [{"x": 1}, [1], 3],
    "optimizer_class": [int, "Adam", None, th.optim.LBFGS, th.optim.SparseAdam, nn.Tanh],
    "optimizer_kwargs": [{"lr": 1.0}, {"x": 1}, [1], {"weight_decay": math.inf}, {"betas": (0.9, math.nan)}, {1: 2}],
    "net_archs": [[8]],
    "use_sde": [True],
}


@every_algorithm
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_ENTRIES.items() for value in values])
def test_a_policy_cannot_be_built_with(algorithm: Algorithm, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"policy_kwargs") as caught:
        make(algorithm, diary(action_space=spaces.Box(-1, 1, (2,))), policy_kwargs=TINY | {name: value})
    assert name in str(caught.value)


GOOD: list[dict[str, Any]] = [
    {"net_arch": []},
    {"net_arch": (8, 8)},
    {"net_arch": np.array([8, 4])},
    {"net_arch": {"pi": [8]}},
    {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": nn.ReLU},
    {"net_arch": [8], "activation_fn": lambda: nn.Sequential(nn.LayerNorm(8), nn.Tanh())},
    {"net_arch": [8], "activation_fn": nn.PReLU, "ortho_init": False},
    {"net_arch": [8], "optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    {"net_arch": [8], "optimizer_class": partial(th.optim.Adam, eps=1e-4)},
    {"net_arch": [8], "optimizer_kwargs": {}},
]


@every_algorithm
@pytest.mark.parametrize("policy_kwargs", GOOD, ids=lambda one: ",".join(one))
def test_a_policy_can_be_built_with(algorithm: Algorithm, policy_kwargs: dict[str, Any]) -> None:
    make(algorithm, diary(2), policy_kwargs=policy_kwargs).learn(32)


class OfItsOwn(ActorCriticPolicy):
    """Means something else by an argument."""

    def __init__(self, *args: Any, net_arch: str, **kwargs: Any) -> None:
        super().__init__(*args, net_arch=[len(net_arch)], **kwargs)  # type: ignore[misc]


@every_algorithm
def test_a_policy_of_the_users_own(algorithm: Algorithm) -> None:
    """It says itself what it takes, and what it cannot be built with is named all the same."""
    make(algorithm, diary(2), policy=OfItsOwn, policy_kwargs={"net_arch": "wide"}).learn(32)
    with pytest.raises(ValueError, match=r"policy=OfItsOwn cannot be built with policy_kwargs={'net_arch': 3}: Type"):
        make(algorithm, diary(2), policy=OfItsOwn, policy_kwargs={"net_arch": 3})


@every_algorithm
def test_the_tries_leave_no_trace(algorithm: Algorithm) -> None:
    """A model is the same whether or not its defaults are written out: nothing is drawn when they are tried."""
    plain, written = (
        make(algorithm, diary(2), policy_kwargs=TINY | more).learn(32)
        for more in ({}, {"activation_fn": nn.Tanh, "ortho_init": True})
    )
    assert differences(snapshot(plain)["policy"], snapshot(written)["policy"]) == []


@every_algorithm
@pytest.mark.parametrize("kwargs", [{"x": 1}, {1: 2}, {"cut_length": "x"}])
def test_a_buffer_cannot_be_built_with(algorithm: Algorithm, kwargs: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="rollout_buffer_kwargs"):
        make(algorithm, diary(), rollout_buffer_kwargs=kwargs)


@every_algorithm
def test_more_steps_than_there_is_memory_for(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=f"n_steps={10**15}"):
        make(algorithm, diary(), n_steps=10**15)


class Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


BAD_LEARN: dict[str, list[Any]] = {
    "total_timesteps": [-1, math.nan, "1e5", None, True, [1], 10**400],
    "log_interval": [0, -1, 1.5, "1", True],
    "callback": [5, "x", [5], [Nothing(), 5], int, Nothing, lambda: True, lambda one: True],
    "tb_log_name": [5, True, ["x"]],
    "progress_bar": ["yes", 1, None],
    "reset_num_timesteps": ["no", 0, None],
    "use_masking": ["no", 0],
}


@every_algorithm
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_LEARN.items() for value in values])
def test_what_learn_does_not_take(algorithm: Algorithm, name: str, value: Any) -> None:
    """And nothing has happened: a run that goes on goes on where it was."""
    model: PolicyGradientAlgorithm = make(algorithm, diary(2)).learn(32)
    before, last_obs = snapshot(model), model._last_obs
    with pytest.raises(ValueError, match=f"^{name} must be"):
        model.learn(**{"total_timesteps": 32} | {name: value})
    assert differences(before, snapshot(model)) == [] and model._last_obs is last_obs and model.num_timesteps == 32


@every_algorithm
@pytest.mark.parametrize(
    "given",
    [
        {"total_timesteps": 0},
        {"total_timesteps": 32.0},
        {"total_timesteps": np.int64(32)},
        {"total_timesteps": math.inf, "callback": lambda found, _: found["self"].num_timesteps < 48},
        {"log_interval": None},
        {"callback": [Nothing(), Nothing()]},
        {"callback": CallbackList([Nothing()])},
        {"callback": []},
        {"tb_log_name": "x"},
        {"reset_num_timesteps": False},
    ],
    ids=lambda given: ",".join(given),
)
def test_what_learn_takes(algorithm: Algorithm, given: dict[str, Any]) -> None:
    make(algorithm, diary(2)).learn(**{"total_timesteps": 32} | given)
