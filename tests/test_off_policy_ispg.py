"""OffPolicyISPG: PPO, VanillaPG and REINFORCE where it is configured as them; its trust regions; its memory."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from tests.helpers.environments import RandomEnv, diary
from tests.helpers.models import AS_PPO, JOINT_CRITIC, OWN_CRITIC, cases, differences, make, snapshot

pytestmark = pytest.mark.filterwarnings("error::UserWarning", "ignore:You have specified a mini-batch size")


def parameters_after(algorithm: Any, env_id: str, n_updates: int = 10, **settings: Any) -> dict[str, th.Tensor]:
    """Every parameter after some rollouts with three environments."""
    env = make_vec_env(env_id, 3, seed=0)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings).learn(n_updates * 3 * settings["n_steps"])
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


def assert_same(ours: dict[str, th.Tensor], theirs: dict[str, th.Tensor], tolerance: float = 1e-6) -> None:
    """Parameter by parameter, absolute or relative."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        th.testing.assert_close(
            ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 64, "n_epochs": 3},
        {"n_steps": 210, "batch_size": 100, "n_epochs": 3, "gae_lambda": 0.8, "clip_range": 0.1},
        {"n_steps": 64, "normalize_advantage": False, "ent_coef": 0.01, "clip_range_vf": 0.2, "vf_coef": 0.7},
    ],
    ids=str,
)
def test_configured_as_ppo_it_is_ppo(env_id: str, settings: dict[str, Any]) -> None:
    """Ten rollouts from the same seed, 90 to 300 gradient steps, parameter by parameter, to 1e-6: the rounding of the
    advantages differs, hence not bit for bit.

    Rollouts of 210 steps go over time limits, and their last minibatch is smaller than the others. (With 300 steps of
    PPO's own settings on Pendulum that rounding now and then moves a ratio over the clip's edge: 2e-5 on some seeds.)
    """
    ours = parameters_after(OffPolicyISPG, env_id, **AS_PPO | settings)
    assert_same(ours, parameters_after(PPO, env_id, **settings))


#: One gradient step an iteration, without a trust region.
ONE_STEP: dict[str, Any] = {"n_epochs": 1, "batch_size": None, "target_kl": None, "normalize_advantage": False}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"value_learning_rate": None, "n_value_updates": 1, "ent_coef": 0.01},
        {
            "normalize_value": True,
            "normalize_advantage": True,
            "loss_reduction": "mean_length",
            "discount_gradient": True,
        },
        {"returns": "reward_to_go", "incomplete_episodes": "truncate", "micro_batch_size": 50},
    ],
    ids=str,
)
def test_with_one_step_it_is_vanilla_pg(env_id: str, settings: dict[str, Any]) -> None:
    """Ten updates, to 1e-6: the ratios of a fresh batch are 1 up to the rounding of a second forward pass."""
    shared = {"n_steps": 70, "gae_lambda": 0.9, "learning_rate": 1e-3, "value_learning_rate": 1e-3} | settings
    ours = parameters_after(OffPolicyISPG, env_id, **ONE_STEP | shared)
    assert_same(ours, parameters_after(VanillaPG, env_id, **shared))


@pytest.mark.parametrize("importance", ["timestep", "trajectory", "per_decision", "none"])
def test_with_one_step_it_is_reinforce(importance: str) -> None:
    """Ten updates on whole episodes, each from one policy (to 1e-6), with every level: their weights are all 1."""
    shared: dict[str, Any] = {"n_steps": 200, "n_episodes": 9, "learning_rate": 1e-3, "baseline": "leave_one_out"}
    shared |= {"incomplete_episodes": "carry", "bootstrap_truncated": False, "returns": "reward_to_go"}
    shared |= {"n_value_updates": 1, "value_learning_rate": None}
    ours = parameters_after(OffPolicyISPG, "CartPole-v1", **ONE_STEP | shared | {"importance": importance})
    assert_same(ours, parameters_after(REINFORCE, "CartPole-v1", **shared))


def test_carried_steps_as_reinforce_weights_them() -> None:
    """With ``carry`` REINFORCE truncates the ratios of carried steps at 10; so does ``max_weight=10``."""
    shared: dict[str, Any] = {"n_steps": 40, "learning_rate": 0.05, "baseline": "none", "n_value_updates": 1}
    shared |= {"incomplete_episodes": "carry", "bootstrap_truncated": False, "returns": "reward_to_go"}
    shared |= {"value_learning_rate": None}
    ours = parameters_after(OffPolicyISPG, "CartPole-v1", **ONE_STEP | shared | {"max_weight": 10.0})
    assert_same(ours, parameters_after(REINFORCE, "CartPole-v1", **shared))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_huge_clip_range_is_none(env_id: str) -> None:
    """PPO's objective without its clip is the importance-weighted one: ten updates of six steps, to 1e-6."""
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 6, "target_kl": None, "normalize_advantage": True}
    settings |= {"learning_rate": 1e-3, "normalize_value": False}  # values in the hundreds have larger roundings
    clipped, plain = (parameters_after(OffPolicyISPG, env_id, **settings, clip_range=clip) for clip in (1e6, None))
    assert_same(clipped, plain)
    tight = parameters_after(OffPolicyISPG, env_id, **settings, clip_range=0.01)
    assert max(float((tight[name] - plain[name]).abs().max()) for name in plain) > 1e-3


# What cannot be meant

#: Whole episodes and no critic are what the tests' models have; this is the other kind.
BOOTSTRAP: dict[str, Any] = OWN_CRITIC | {"incomplete_episodes": "bootstrap"}

#: Arguments -> what the message must contain.
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    # Passes and rows
    *[({"n_epochs": n}, ["n_epochs", "integer >= 1", repr(n)]) for n in (0, -1, 2.0, None, True)],
    *[({"batch_size": n}, ["batch_size", "integer >= 1 or None", repr(n)]) for n in (0, -64, 64.0)],
    (
        {"batch_size": 1, "normalize_advantage": True},
        ["normalize_advantage=True", "batch_size=1", "batch_size >= 2", "None", "normalize_advantage=False"],
    ),
    # Weights
    (
        {"importance": "step"},
        ["importance", "'step'", "'timestep'", "'per_decision'", "'trajectory'", "'none'"],
    ),
    ({"importance": None}, ["importance", "None", "'none'"]),
    *[({"max_weight": c}, ["max_weight", "number > 0", "None", str(c)]) for c in (0, -1.0, math.nan)],
    *[({"defensive_coef": c}, ["defensive_coef", "[0, 1)", str(c)]) for c in (-0.1, 1.0, 2, math.nan)],
    *[({"min_ess": c}, ["min_ess", "between 0 and 1", "None", str(c)]) for c in (0.0, 1.0, -0.5, 64, math.nan)],
    *[({"n_reused_batches": n}, ["n_reused_batches", "integer >= 1", repr(n)]) for n in (-1, 1.5)],
    *[
        ({"importance": "none", **arguments}, [*named, "importance='none'", "importance='timestep'"])
        for arguments, named in cases(
            ({"max_weight": 2.0}, ["max_weight=2.0"]),
            ({"self_normalize": True}, ["self_normalize=True"]),
            ({"defensive_coef": 0.1}, ["defensive_coef=0.1"]),
            ({"min_ess": 0.5}, ["min_ess=0.5"]),
            ({"n_reused_batches": 2}, ["n_reused_batches=2"]),
            ({"max_weight": 2.0, "min_ess": 0.5}, ["max_weight=2.0 and min_ess=0.5"]),
        )
    ],
    *[
        (
            {"importance": level, "clip_range": clip_range},
            ["clip_range", f"importance='{level}'", "importance='timestep'", "max_weight instead of clip_range"],
        )
        for level in ("none", "trajectory", "per_decision")
        for clip_range in (0.2, lambda left: 0.2 * left)
    ],
    *[
        ({"clip_range": 0.2, **arguments}, [named, "clip_range", "leave one of them out", "clip_range=None"])
        for arguments, named in cases(
            ({"max_weight": 2.0}, "max_weight=2.0"),
            ({"self_normalize": True}, "self_normalize=True"),
            ({"defensive_coef": 0.1, "max_weight": 2.0}, "max_weight=2.0 and defensive_coef=0.1"),
        )
    ],
    *[
        ({name: value}, [name, "number > 0", "None", str(value)])
        for name in ("clip_range", "clip_range_vf")
        for value in (0, -0.2, math.nan)
    ],
    *[
        (
            {"importance": level} | BOOTSTRAP | {"incomplete_episodes": name},
            [
                f"importance='{level}'",
                f"incomplete_episodes='{name}'",
                "incomplete_episodes='carry'",
                "'drop'",
                "importance='timestep'",
            ],
        )
        for level in ("trajectory", "per_decision")
        for name in ("bootstrap", "truncate")
    ],
    *[
        (
            {"importance": "per_decision"} | arguments,
            [
                "importance='per_decision'",
                f"returns='{arguments['returns']}'",
                "returns='reward_to_go'",
                "baseline='value'",
                "importance='trajectory'",
            ],
        )
        for arguments in ({"returns": "total"}, OWN_CRITIC | {"returns": "gae"})
    ],
    # A critic
    ({"clip_range_vf": 0.2}, ["clip_range_vf", "critic", "baseline='value'", "leave it out"]),
    (
        JOINT_CRITIC | {"n_reused_batches": 2},
        ["n_reused_batches=2", "joint loss", "optimizer of its own", "value_learning_rate=1e-3"],
    ),
    # A trust region
    ({"kl_constraint": "clip"}, ["kl_constraint", "'clip'", "'stop'", "'backtrack'", "'penalty'"]),
    *[({"target_kl": kl}, ["target_kl", "number > 0", "None", str(kl)]) for kl in (0, -0.01, math.nan)],
    *[
        ({"kl_constraint": name, "target_kl": None}, [f"kl_constraint='{name}'", "target_kl", "0.01"])
        for name in ("backtrack", "penalty")
    ],
    *[({"kl_coef": c}, ["kl_coef", "number > 0", str(c)]) for c in (0, -1.0, math.inf, math.nan)],
]


def named(value: Any) -> str:
    """A test's id."""
    if not isinstance(value, dict):
        return ""
    return ",".join(f"{key}={getattr(val, '__name__', val)}" for key, val in value.items())


@pytest.mark.parametrize(("arguments", "contains"), REFUSED, ids=named)
def test_refused(arguments: dict[str, Any], contains: list[str]) -> None:
    """A ValueError that names the argument, what was given and what is valid; at ``load`` too."""
    with pytest.raises(ValueError) as error:
        make(OffPolicyISPG, diary(), **arguments)
    missing = [part for part in contains if part not in str(error.value)]
    assert not missing, f"{missing} not in {error.value}"


def test_refused_at_load(tmp_path: Path) -> None:
    """What the constructor refuses."""
    make(OffPolicyISPG, diary()).save(tmp_path / "model")
    for arguments, contains in REFUSED:
        if "baseline" in arguments or arguments == {"kl_coef": 0}:
            continue  # another network than the one saved
        with pytest.raises(ValueError) as error:
            OffPolicyISPG.load(tmp_path / "model", device="cpu", **arguments)
        assert all(part in str(error.value) for part in contains)


#: Every value that a message recommends, in the place of what it refuses, and the ends of every interval.
ACCEPTED: list[dict[str, Any]] = [
    {"n_epochs": 1},
    {"n_epochs": np.int64(3)},
    {"batch_size": 2, "normalize_advantage": True},
    {"batch_size": None, "normalize_advantage": True},
    {"batch_size": 1, "normalize_advantage": False},
    {"batch_size": 10**6},
    {"max_weight": 1e-6},
    {"max_weight": 2},
    {"max_weight": math.inf},
    {"max_weight": None},
    {"defensive_coef": 0},
    {"defensive_coef": 0.999},
    {"min_ess": 1e-6},
    {"min_ess": 0.999},
    {"min_ess": None},
    {"n_reused_batches": 0},
    {"n_reused_batches": 3},
    {"self_normalize": True, "defensive_coef": 0.1, "max_weight": 3.0, "min_ess": 0.5, "n_reused_batches": 2},
    {"importance": "none"},
    *[{"importance": "timestep", name: value} for name, value in [("max_weight", 2.0), ("clip_range", 0.2)]],
    *[
        {"importance": level, "incomplete_episodes": name} | taming
        for level in ("trajectory", "per_decision")
        for name in ("carry", "drop")
        for taming in ({}, {"max_weight": 2.0}, {"n_reused_batches": 2, "self_normalize": True, "batch_size": 6})
    ],
    BOOTSTRAP | {"importance": "timestep"},
    {"importance": "per_decision", "returns": "reward_to_go"} | OWN_CRITIC,
    {"importance": "trajectory"} | OWN_CRITIC | {"returns": "gae"},
    {"importance": "trajectory", "returns": "total"},
    {"clip_range": 0.2, "min_ess": 0.5, "n_reused_batches": 2},
    {"clip_range": 1e-6},
    {"clip_range": lambda left: 0.2 * left},
    {"clip_range_vf": 0.2} | OWN_CRITIC,
    {"clip_range_vf": 0.2} | JOINT_CRITIC,
    {"clip_range_vf": lambda left: 0.2 * left} | JOINT_CRITIC,
    {"n_reused_batches": 2} | JOINT_CRITIC | {"value_learning_rate": 1e-3},
    *[{"kl_constraint": name, "target_kl": 0.01} for name in ("stop", "backtrack", "penalty")],
    {"target_kl": math.inf, "kl_constraint": "backtrack"},
    {"kl_coef": 1e-6},
]


@pytest.mark.parametrize("arguments", ACCEPTED, ids=named)
def test_accepted(arguments: dict[str, Any]) -> None:
    """They learn."""
    model = make(OffPolicyISPG, diary(2), **{"learning_rate": 0.01} | arguments)
    before = snapshot(model)["policy"]
    model.learn(96)
    assert differences(before, snapshot(model)["policy"]) != []
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


@pytest.mark.parametrize("estimator", [JOINT_CRITIC, OWN_CRITIC], ids=["joint critic", "own critic"])
def test_clip_range_vf(estimator: dict[str, Any]) -> None:
    """A tight one holds the critic back, a wide one does nothing."""

    def moved(clip_range_vf: Any) -> tuple[float, Any]:
        settings: dict[str, Any] = {"learning_rate": 0.01, "max_grad_norm": None, "n_epochs": 10, "vf_coef": 1.0}
        settings |= {"incomplete_episodes": "truncate"}
        if estimator["value_learning_rate"] is not None:
            settings |= {"value_learning_rate": 0.01, "n_value_updates": 10}
        model = make(OffPolicyISPG, diary(2), **estimator | settings, clip_range_vf=clip_range_vf).learn(32)
        batch = model.rollout_buffer.batch
        assert batch is not None
        with th.no_grad():
            values = model.policy.predict_values(batch.observations).flatten()
        return float((values - batch.values).abs().mean()), snapshot(model)

    tight, wide, none, falling = (moved(value) for value in (0.01, 1e6, None, lambda left: 0.01))
    assert differences(tight[1], falling[1]) == []
    assert wide[0] == pytest.approx(none[0], rel=1e-3)
    assert tight[0] < 0.5 * none[0]


#: What the RL Zoo's enjoy puts in the place of what was saved.
ZOO: dict[str, Any] = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"clip_range": 0.2},
        {"clip_range": lambda left: 0.2 * left},
        {"importance": "none"},
        {"importance": "trajectory", "max_weight": 5.0, "self_normalize": True, "n_reused_batches": 2},
        {"importance": "per_decision", "defensive_coef": 0.1},
        BOOTSTRAP | {"clip_range": 0.2, "clip_range_vf": 0.2},
        JOINT_CRITIC | {"clip_range": 0.2, "clip_range_vf": 0.2},
    ],
    ids=named,
)
def test_loaded_by_the_zoo(arguments: dict[str, Any], tmp_path: Path) -> None:
    """``enjoy`` loads a model of every kind, and it acts as the one that was saved."""
    model = make(OffPolicyISPG, diary(2), learning_rate=0.05, **arguments).learn(64)
    model.save(tmp_path / "model")
    kwargs: dict[str, Any] = {"custom_objects": dict(ZOO), "device": "cpu", "seed": 0, "print_system_info": False}
    loaded = OffPolicyISPG.load(tmp_path / "model", env=diary(), **kwargs)
    observations = np.array([[0, 1, 2], [1, 5, 3], [0, 40, 4]], dtype=np.float32)
    for is_deterministic in (True, False):
        actions = []
        for one in (model, loaded):
            one.set_random_seed(0)
            actions.append(one.predict(observations, deterministic=is_deterministic)[0])
        np.testing.assert_array_equal(actions[0], actions[1])
    assert differences(snapshot(model)["policy"], snapshot(loaded)["policy"]) == []
    again = OffPolicyISPG.load(tmp_path / "model", env=diary(), device="cpu")
    again.learn(16, reset_num_timesteps=False)


# Weights that overflow


def overflowing(importance: str, **kwargs: Any) -> OffPolicyISPG:
    """A model that learns 200 actions by heart, so that their joint probability grows by a factor of up to 3^200."""
    env = DummyVecEnv([lambda: RandomEnv(spaces.Discrete(3), spaces.Discrete(1000), 200, 0.0)] * 2)
    settings: dict[str, Any] = {"learning_rate": 1.0, "n_epochs": 8, "n_steps": 200, "baseline": "none"}
    settings |= {"policy_kwargs": {"net_arch": []}, "importance": importance}
    return make(OffPolicyISPG, env, **settings | kwargs)  # type: ignore[return-value]


every_episode_level = pytest.mark.parametrize("importance", ["trajectory", "per_decision"])


@every_episode_level
@pytest.mark.parametrize("kwargs", [{}, {"self_normalize": True}, {"n_reused_batches": 2}], ids=named)
def test_overflow(importance: str, kwargs: dict[str, Any]) -> None:
    """One warning for all updates that do, and every parameter is finite."""
    model = overflowing(importance, **kwargs)
    with pytest.warns(UserWarning, match=r"weight overflowed .*Set max_weight, .*importance='timestep'") as caught:
        model.learn(5 * 400)
    assert len(caught) == 1
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


@every_episode_level
@pytest.mark.parametrize("kwargs", [{"max_weight": 10.0}, {"defensive_coef": 0.1}], ids=named)
def test_tamed_weights_do_not_overflow(importance: str, kwargs: dict[str, Any]) -> None:
    """What the warning recommends: no warning."""
    model = overflowing(importance, **kwargs).learn(5 * 400)
    assert model.logger.name_to_value["train/ratio_max"] <= 10.0 + 1e-4
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())
