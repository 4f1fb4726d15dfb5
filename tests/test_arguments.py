"""What cannot be meant is refused, with what was given and what to write instead."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg import REINFORCE, ActorPolicy, EpisodeDictRolloutBuffer, EpisodeRolloutBuffer
from tests.helpers.environments import diary
from tests.helpers.models import JOINT_CRITIC, Algorithm, cases, every_algorithm, make, n_updates

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


BASELINES = ("none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal", "value")
NEEDS_OTHERS = ("batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal")

#: Arguments -> what the message must contain.
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    # Names
    ({"returns": "reward-to-go"}, ["returns", "'reward-to-go'", "'reward_to_go'", "'total'"]),
    ({"returns": 3}, ["returns", "3", "'total'"]),
    ({"baseline": "mean"}, ["baseline", "'mean'", *map(repr, BASELINES), "callable"]),
    ({"baseline": None}, ["baseline", "None", "'none'"]),
    ({"loss_reduction": "mean"}, ["loss_reduction", "'mean'", "'step'", "'episode'", "'mean_length'"]),
    (
        {"incomplete_episodes": "keep"},
        ["incomplete_episodes", "'keep'", "'carry'", "'bootstrap'", "'truncate'", "'drop'"],
    ),
    (
        {"policy": "MlpGruPolicy"},
        ["policy", "'MlpGruPolicy'", "'MlpLstmPolicy'", "'MlpPolicy'", "'CnnPolicy'", "'MultiInputPolicy'"],
    ),
    # Numbers
    *[({"gamma": gamma}, ["gamma", "[0, 1]", str(gamma)]) for gamma in (-0.1, 1.01, 99, math.nan)],
    *[({"n_steps": n}, ["n_steps", "integer >= 1", repr(n)]) for n in (0, -5, 16.0, True, "16")],
    *[({"n_episodes": n}, ["n_episodes", "integer >= 1 or None", repr(n)]) for n in (0, -2, 4.0)],
    *[({"micro_batch_size": n}, ["micro_batch_size", "integer >= 1 or None", repr(n)]) for n in (0, -1, 64.0)],
    *[({"max_grad_norm": norm}, ["max_grad_norm", "None", str(norm)]) for norm in (0, -0.5, math.nan)],
    ({"n_value_updates": 0}, ["n_value_updates", "integer >= 1", "0"]),
    # Keyword arguments as text, as a configuration file may hold them
    ({"rollout_buffer_kwargs": "dict(cut_length=100)"}, ["rollout_buffer_kwargs", "dictionary", "str"]),
    ({"policy_kwargs": "dict(net_arch=[8])"}, ["policy_kwargs", "dictionary", "str"]),
    # A quota
    ({"n_envs": 4, "n_episodes": 10}, ["n_episodes=10", "4 environments", "n_episodes=8 or 12"]),
    ({"n_envs": 4, "n_episodes": 3}, ["n_episodes=3", "4 environments", "n_episodes=4"]),
    *[
        ({"n_episodes": 1, "baseline": name}, [f"baseline='{name}'", "n_episodes=1", "n_episodes >= 2", "'none'"])
        for name in NEEDS_OTHERS
    ],
    # A critic
    ({"baseline": "value", "policy": ActorPolicy}, ["baseline='value'", "critic", "policy='MlpPolicy'"]),
    *[
        (arguments, [message, "baseline='value'"])
        for arguments, message in cases(
            ({"incomplete_episodes": "bootstrap"}, "incomplete_episodes='bootstrap'"),
            ({"bootstrap_truncated": True}, "bootstrap_truncated=True"),
            ({"value_learning_rate": 1e-3}, "value_learning_rate"),
            ({"n_value_updates": 5}, "n_value_updates"),
        )
    ],
    (
        {"n_value_updates": 5, "bootstrap_truncated": True},
        ["bootstrap_truncated=True", "n_value_updates", "baseline='value'"],
    ),
    ({"baseline": "value", "n_value_updates": 5}, ["n_value_updates=5", "value_learning_rate"]),
    ({"baseline": "value", "value_batch_size": 64}, ["value_batch_size=64", "value_learning_rate"]),
]


def named(value: Any) -> str:
    """A test's id."""
    if not isinstance(value, dict):
        return ""
    return ",".join(f"{key}={getattr(val, '__name__', val)}" for key, val in value.items())


@every_algorithm
@pytest.mark.parametrize(("arguments", "contains"), REFUSED, ids=named)
def test_refused(algorithm: Algorithm, arguments: dict[str, Any], contains: list[str]) -> None:
    """A ValueError that names the argument, what was given and what is valid."""
    arguments = dict(arguments)
    env = diary(arguments.pop("n_envs", 1))
    with pytest.raises(ValueError) as error:
        make(algorithm, env, **arguments)
    missing = [part for part in contains if part not in str(error.value)]
    assert not missing, f"{missing} not in {error.value}"


def test_gae_is_not_for_reinforce() -> None:
    """REINFORCE credits a step with rewards, not with a critic's estimates."""
    with pytest.raises(ValueError, match=r"one of 'reward_to_go', 'total', got 'gae', .*: write VanillaPG"):
        make(REINFORCE, diary(), **JOINT_CRITIC | {"returns": "gae"})


@every_algorithm
@pytest.mark.parametrize("name", ["n_stepss", "batchsize", "episodes"])
def test_unknown_argument(algorithm: Algorithm, name: str) -> None:
    """A misspelt argument is an error."""
    with pytest.raises(TypeError, match=name):
        make(algorithm, diary(), **{name: 1})


#: The ends of what is valid.
ACCEPTED: list[dict[str, Any]] = [
    {"gamma": 0.0},
    {"gamma": 1.0},
    {"n_steps": np.int64(16)},
    {"max_grad_norm": None},
    {"max_grad_norm": math.inf},
    {"micro_batch_size": 1},
    {"micro_batch_size": 10**6},
    {"n_episodes": 1, "baseline": "none"},
    {"n_episodes": 1, "baseline": "value"},
    {"n_envs": 3, "n_episodes": 3},
    {"baseline": lambda batch: th.zeros_like(batch.returns)},
    {"baseline": "value", "policy": ActorCriticPolicy},
    {"policy": ActorCriticPolicy},
    {"learning_rate": lambda remaining: 1e-3 * remaining},
    *[{"baseline": name} for name in BASELINES],
    *[{"returns": "total", "baseline": name} for name in BASELINES],
    *[{"loss_reduction": name} for name in ("step", "episode", "mean_length")],
    *[{"incomplete_episodes": name} for name in ("carry", "truncate", "drop")],
    {"incomplete_episodes": "bootstrap", "baseline": "value"},
    {"discount_gradient": True, "normalize_advantage": False},
]


@every_algorithm
@pytest.mark.parametrize("arguments", ACCEPTED, ids=named)
def test_accepted(algorithm: Algorithm, arguments: dict[str, Any]) -> None:
    """Every value that a message recommends, and the ends of every interval, learn."""
    arguments = dict(arguments)
    n_envs = arguments.pop("n_envs", 1)
    model = make(algorithm, diary(n_envs), **arguments).learn(16 * n_envs)
    assert n_updates(model) >= 1


# Buffers


@every_algorithm
@pytest.mark.parametrize("method", ["learn", "load and learn"])
def test_stock_buffer_is_refused_at_learn(algorithm: Algorithm, method: str, tmp_path: Any) -> None:
    """A buffer that keeps no episodes can be constructed with, as SB3's own tests do, but not be learned from."""
    model = make(algorithm, diary(), rollout_buffer_class=RolloutBuffer)
    if method == "load and learn":
        model.save(tmp_path / "model")
        model = algorithm.load(tmp_path / "model", env=diary(), device="cpu")
    with pytest.raises(ValueError, match=r"RolloutBuffer.*rollout_buffer_class.*EpisodeRolloutBuffer"):
        model.learn(16)


@pytest.mark.parametrize("stock", [PPO, A2C])
@pytest.mark.parametrize("kwargs", [{"incomplete_episodes": "carry"}, {"episodes_per_env": 2}], ids=named)
def test_whole_episodes_are_refused_in_stock_algorithms(stock: Any, kwargs: dict[str, Any]) -> None:
    """They read the rows of one rollout, so memory over rollouts would be lost on them."""
    model = stock(
        ActorPolicy,
        diary(),
        n_steps=64,
        rollout_buffer_class=EpisodeRolloutBuffer,
        rollout_buffer_kwargs=kwargs,
        device="cpu",
    )
    with pytest.raises(ValueError, match=r"incomplete_episodes='bootstrap', 'truncate' or 'drop'.*episodes_per_env"):
        model.learn(64)


#: Arguments of a buffer -> what the message must contain.
REFUSED_BY_BUFFER: list[tuple[dict[str, Any], list[str]]] = [
    ({"returns": "rtg"}, ["returns", "'rtg'", "'reward_to_go'", "'gae'"]),
    ({"baseline": "mean"}, ["baseline", "'mean'", "'batch_mean'", "callable"]),
    ({"baseline": "optimal"}, ["baseline", "'optimal'", "'batch_mean'"]),
    ({"incomplete_episodes": "keep"}, ["incomplete_episodes", "'keep'", "'truncate'"]),
    ({"returns": "gae", "baseline": "batch_mean"}, ["returns='gae'", "baseline='value'", "'batch_mean'"]),
]


@pytest.mark.parametrize(("arguments", "contains"), REFUSED_BY_BUFFER, ids=named)
def test_refused_by_buffer(arguments: dict[str, Any], contains: list[str]) -> None:
    env = diary()
    with pytest.raises(ValueError) as error:
        EpisodeRolloutBuffer(8, env.observation_space, env.action_space, **arguments)
    missing = [part for part in contains if part not in str(error.value)]
    assert not missing, f"{missing} not in {error.value}"


# What a hurried user gets wrong


@every_algorithm
@pytest.mark.parametrize(
    "kwargs",
    [{"returns": "total"}, {"baseline": "none"}, {"incomplete_episodes": "drop"}, {"episodes_per_env": 2}],
    ids=named,
)
def test_buffer_arguments_of_the_algorithm(algorithm: Algorithm, kwargs: dict[str, Any]) -> None:
    """What the algorithm decides cannot be said a second time, and otherwise, to its buffer."""
    with pytest.raises(ValueError, match=rf"rollout_buffer_kwargs.*{next(iter(kwargs))}"):
        make(algorithm, diary(), rollout_buffer_kwargs=kwargs)


@every_algorithm
@pytest.mark.parametrize("cut_length", [0, -1, 2.5])
def test_cut_length(algorithm: Algorithm, cut_length: Any) -> None:
    with pytest.raises(ValueError, match=rf"cut_length must be .*{re.escape(str(cut_length))}"):
        make(algorithm, diary(), rollout_buffer_kwargs={"cut_length": cut_length})


@every_algorithm
@pytest.mark.parametrize(
    "baseline",
    [
        lambda batch: th.zeros(len(batch.returns), 1),
        lambda batch: th.zeros(batch.episodes.n_episodes),
        lambda batch: th.zeros(1),
    ],
    ids=["a column", "one an episode", "one"],
)
def test_shape_of_a_callable_baseline(algorithm: Algorithm, baseline: Any) -> None:
    """One value a row, and nothing that would broadcast to something else."""
    model = make(algorithm, diary(), baseline=baseline)
    with pytest.raises(ValueError, match=r"baseline must have shape \(15,\), got \("):
        model.learn(16)


@every_algorithm
def test_gradient_of_a_callable_baseline(algorithm: Algorithm) -> None:
    """A baseline computed by a network of the user's own is a number here: no gradient flows into it."""
    network = th.nn.Linear(3, 1)
    model = make(algorithm, diary(), baseline=lambda batch: network(batch.observations).flatten())
    model.learn(16)
    assert n_updates(model) == 1
    assert network.weight.grad is None


@every_algorithm
@pytest.mark.parametrize("as_dict", [False, True])
def test_buffer_for_the_other_kind_of_observation(algorithm: Algorithm, as_dict: bool) -> None:
    """An array buffer for dictionaries, or the other way round, is refused by name."""
    wrong = EpisodeRolloutBuffer if as_dict else EpisodeDictRolloutBuffer
    right = EpisodeDictRolloutBuffer if as_dict else EpisodeRolloutBuffer
    with pytest.raises(ValueError, match=rf"rollout_buffer_class.*{right.__name__}"):
        make(
            algorithm,
            diary(as_dict=as_dict),
            policy="MultiInputPolicy" if as_dict else "MlpPolicy",
            rollout_buffer_class=wrong,
        )


def test_every_argument_of_a2c_that_means_something_here() -> None:
    """Whoever replaces A2C keeps his arguments; those of its optimizer and of GAE have no place here."""
    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (REINFORCE, A2C))
    assert set(theirs) - set(ours) == {"gae_lambda", "use_rms_prop", "rms_prop_eps"}
    shared = [name for name in ours if name in theirs]
    assert shared[:6] == [name for name in theirs if name in ours][:6], "the first arguments may be positional"
    without_default = [name for name, kind in ours.items() if kind.default is inspect.Parameter.empty]
    assert without_default == ["self", "policy", "env"]
