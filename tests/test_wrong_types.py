"""What is no valid argument is refused at construction, in words that name it; what is a number is taken as one."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.environments import diary
from tests.helpers.models import ALGORITHMS, TINY, Algorithm, every_algorithm

NAN, INF = float("nan"), float("inf")
NOT_A_TYPE: list[Any] = ["x", [1], 1j, object(), th.ones(2)]
NUMBER = [*NOT_A_TYPE, "0.1", True, np.bool_(True), NAN, np.float32("nan"), {}]
POSITIVE, FRACTION = [*NUMBER, 0, -1, -0.5], [*NUMBER, INF, -1, 1.5]
INTEGER = [*NUMBER, INF, 3.5, 2.0, np.float64(2.0), -2]
SWITCH = [*NOT_A_TYPE, "True", 0, 1, 2.0, NAN, {}]
SCHEDULE = [*NUMBER, lambda: 0, lambda progress: "x", lambda progress: NAN]
NAME = [*NOT_A_TYPE, "", 0, 3.5, True, {}]
DICTIONARY = [0, 3, "x", [1], True, object()]

#: What each argument is not, beside the None that only some of them take.
WRONG: dict[str, list[Any]] = {
    "policy": [None, 3, "x", int, object()],
    "env": [None],
    "learning_rate": [*SCHEDULE, INF, -1, lambda progress: -1.0],
    "value_learning_rate": [*SCHEDULE, INF, -1, lambda progress: -1.0],
    "ent_coef": [*SCHEDULE, INF],
    "clip_range": [*SCHEDULE, -1, 0],
    "clip_range_vf": [*SCHEDULE, -1, 0],
    "n_steps": [*INTEGER, 0],
    "batch_size": [*INTEGER, 0],
    "n_epochs": [*INTEGER, 0],
    "n_episodes": [*INTEGER, 0],
    "n_value_updates": [*INTEGER, 0],
    "value_batch_size": [*INTEGER, 0],
    "micro_batch_size": [*INTEGER, 0],
    "cg_max_steps": [*INTEGER, 0],
    "line_search_max_iter": [*INTEGER, -1],
    "line_search_shrinking_factor": [*FRACTION, 0, 1],
    "n_reused_batches": [*INTEGER, -1],
    "sde_sample_freq": INTEGER,
    "stats_window_size": INTEGER,
    "seed": [*INTEGER, -1, 2**32],
    "verbose": ["x", None, 1.0, [1], NAN],
    "gamma": FRACTION,
    "gae_lambda": FRACTION,
    "defensive_coef": [*FRACTION, 1.0],
    "min_ess": [*FRACTION, 0, 1],
    "vf_coef": [*NUMBER, INF, -1],
    "cg_damping": [*NUMBER, INF, -1],
    "max_grad_norm": POSITIVE,
    "target_kl": POSITIVE,
    "max_weight": POSITIVE,
    "vtrace_max_ratio": POSITIVE,
    "kl_coef": [*POSITIVE, INF],
    **dict.fromkeys(("returns", "loss_reduction", "incomplete_episodes", "importance", "kl_constraint"), NAME),
    "reused_advantages": NAME,
    "reference_penalty": NAME,
    "reference_coef": [*SCHEDULE, INF, -1, lambda progress: -1.0],
    "reference_policy": [3, 0, True, [1], object(), th.ones(2), int],
    **dict.fromkeys(("use_sde", "normalize_advantage", "discount_gradient", "bootstrap_truncated"), SWITCH),
    **dict.fromkeys(("log_gradient_variance", "natural_gradient", "normalize_value", "self_normalize"), SWITCH),
    "baseline": [None, "x", [1], True, NAN, INF, int, lambda: 0, lambda one, two: 0, th.ones(2)],
    "rollout_buffer_class": [int, "x", 3, object()],
    "rollout_buffer_kwargs": DICTIONARY,
    "policy_kwargs": DICTIONARY,
    "tensorboard_log": [3, True, [1], object()],
    "device": ["x", -1, 3.5, None, [1]],
}
#: None means something there, and is what many of them are by default.
TAKES_NONE = {
    *("value_learning_rate", "clip_range", "clip_range_vf", "batch_size", "n_episodes", "micro_batch_size", "seed"),
    "value_batch_size",
    "vtrace_max_ratio",
    *("min_ess", "max_grad_norm", "target_kl", "max_weight", "rollout_buffer_class", "rollout_buffer_kwargs"),
    *("policy_kwargs", "tensorboard_log", "reference_policy"),
}
#: None means what suits the other arguments, or the environments; some only in algorithms that have a critic.
SUITS = {"returns", "incomplete_episodes", "bootstrap_truncated", "n_value_updates", "learning_rate", "n_steps"}
SUITS |= {"natural_gradient", "normalize_value"}


def names_of(algorithm: Algorithm) -> list[str]:
    return [name for name in inspect.signature(algorithm).parameters if name != "_init_setup_model"]


def build(algorithm: Algorithm, **arguments: Any) -> PolicyGradientAlgorithm:
    defaults: dict[str, Any] = {"policy": "MlpPolicy", "env": "CartPole-v1", "n_steps": 8, "device": "cpu"}
    return algorithm(**defaults | {"policy_kwargs": TINY} | arguments)


@pytest.mark.parametrize(
    ("algorithm", "name"), [(algorithm, name) for algorithm in ALGORITHMS for name in names_of(algorithm)]
)
def test_what_is_no_such_argument_is_refused_by_name(algorithm: Algorithm, name: str) -> None:
    wrong = list(WRONG[name])
    if name not in TAKES_NONE | SUITS | {"policy", "env", "baseline", "device", "verbose"}:
        wrong.append(None)
    for value in wrong:
        with pytest.raises((ValueError, TypeError)) as caught:
            build(algorithm, **{name: value})
        assert name in str(caught.value), f"{name}={value!r}: {caught.value}"


@every_algorithm
@pytest.mark.parametrize("env", [3, [1], object()])
def test_what_is_no_environment_is_refused(algorithm: Algorithm, env: Any) -> None:
    with pytest.raises(ValueError, match="environment is of type"):
        build(algorithm, env=env)


# What is right

NUMBERS: dict[str, Any] = {
    "learning_rate": np.float32(0.25),
    "n_steps": np.int64(16),
    "gamma": np.float32(0.5),
    "gae_lambda": np.float32(0.5),
    "ent_coef": np.float64(0.25),
    "vf_coef": np.float32(0.25),
    "max_grad_norm": np.float64(0.25),
    "sde_sample_freq": np.int32(-1),
    "normalize_advantage": np.bool_(True),
    "n_episodes": np.int16(4),
    "discount_gradient": np.bool_(True),
    "micro_batch_size": np.int64(4),
    "natural_gradient": np.bool_(True),
    "cg_max_steps": np.int64(3),
    "line_search_max_iter": np.int64(4),
    "line_search_shrinking_factor": np.float32(0.5),
    "cg_damping": np.float32(0.5),
    "batch_size": np.int64(8),
    "n_epochs": np.uint8(2),
    "clip_range": np.float32(0.25),
    "target_kl": np.float64(0.5),
    "kl_coef": np.float32(0.5),
    "n_reused_batches": np.int64(1),
    "min_ess": np.float32(0.125),
    "stats_window_size": np.int64(5),
    "seed": np.int64(3),
    "verbose": np.int64(0),
}
#: A clip range is a schedule once the model is set up, and SB3 keeps the window under another name.
SCALARS = {*NUMBERS, "baseline"} - {"clip_range", "stats_window_size"}


@every_algorithm
@pytest.mark.parametrize("baseline", [np.float32(2.5), np.int64(3)])
def test_numbers_of_numpy_are_numbers(algorithm: Algorithm, baseline: Any) -> None:
    """A model made of them is that made of Python's, learns the same, and is the same once saved and loaded."""
    numpy = {name: value for name, value in NUMBERS.items() if name in names_of(algorithm)} | {"baseline": baseline}
    python = {name: value.item() for name, value in numpy.items()}

    def learned(arguments: Mapping[str, Any]) -> PolicyGradientAlgorithm:
        return build(algorithm, **{"env": diary(2, lengths=(5,))} | dict(arguments)).learn(64)

    model, twin = learned(numpy), learned(python)
    for name, value in python.items():
        if name in SCALARS:
            assert type(getattr(model, name)) is type(value) and getattr(model, name) == value, name
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = algorithm.load(file, env=diary(2, lengths=(5,)), device="cpu").learn(32)
    assert all(getattr(loaded, name) == value for name, value in python.items() if name in SCALARS)
    for one, other in zip(model.policy.parameters(), twin.policy.parameters(), strict=True):
        assert th.equal(one, other)


WITHOUT_CRITIC = ["none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal", 20.0]
CALLABLES = [lambda batch: 3.0, lambda batch: th.tensor(3.0), lambda batch: np.float64(3), lambda batch: 3]


@every_algorithm
@pytest.mark.parametrize("baseline", [*WITHOUT_CRITIC, *CALLABLES])
def test_a_baseline_that_is_no_critic_needs_no_other_argument(algorithm: Algorithm, baseline: Any) -> None:
    model = build(algorithm, env=diary(2, lengths=(5,)), n_steps=12, baseline=baseline).learn(48)
    assert model._n_updates > 0
    assert (model.returns, model.incomplete_episodes, model.bootstrap_truncated) == ("reward_to_go", "carry", False)
    assert (model.value_learning_rate, model.value_optimizer, model.n_value_updates) == (None, None, 1)


class Advantages(BaseCallback):
    """Keeps returns less advantages of the first batch."""

    model: PolicyGradientAlgorithm

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        batch = buffer.batch
        assert batch is not None
        used = buffer.advantages[: buffer.pos][:, 0]
        self.first = (batch.rewards.numpy(), used)
        self.training_env.reset()


@every_algorithm
@pytest.mark.parametrize("baseline", [3.0, np.float32(3), *CALLABLES])
def test_one_number_is_subtracted_from_every_return(algorithm: Algorithm, baseline: Any) -> None:
    """Rewards 2, 3, 1, 2, 3 with gamma 1: rewards to go 11, 9, 6, 5, 3."""
    callback = Advantages()
    build(algorithm, env=diary(lengths=(5,)), n_steps=5, gamma=1.0, baseline=baseline).learn(5, callback)
    rewards, advantages = callback.first
    assert rewards.tolist() == [2, 3, 1, 2, 3]
    assert advantages.tolist() == [8, 6, 3, 2, 0]


@every_algorithm
@pytest.mark.parametrize("given", ["x", None, NAN, th.tensor(INF), {}])
def test_what_a_callable_baseline_may_not_return(algorithm: Algorithm, given: Any) -> None:
    model = build(algorithm, env=diary(lengths=(5,)), n_steps=10, baseline=lambda batch: given)
    with pytest.raises(ValueError, match="callable baseline must return"):
        model.learn(10)


# What contradicts itself

CONTRADICTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"returns": "gae", "baseline": "none"}, ["returns='gae'", "baseline='none'"]),
    ({"returns": "gae", "baseline": 20.0}, ["returns='gae'", "baseline=20.0"]),
    ({"value_learning_rate": 1e-3, "baseline": "none"}, ["value_learning_rate", "critic"]),
    ({"value_learning_rate": float("3e-3"), "baseline": "none"}, ["value_learning_rate", "critic"]),
    ({"bootstrap_truncated": True, "baseline": "time_mean"}, ["bootstrap_truncated=True", "critic"]),
    ({"n_value_updates": 3, "baseline": "none"}, ["n_value_updates", "critic"]),
    ({"value_batch_size": 64, "baseline": "none"}, ["value_batch_size", "critic"]),
    ({"incomplete_episodes": "bootstrap", "baseline": "none"}, ["incomplete_episodes='bootstrap'", "critic"]),
    ({"returns": "total", "discount_gradient": True}, ["discount_gradient=True", "returns='total'"]),
]
ARGUMENTS = {name for algorithm in ALGORITHMS for name in names_of(algorithm)} - {"policy", "env", "device", "seed"}


@pytest.mark.parametrize(
    ("algorithm", "given", "words"),
    [(algorithm, *one) for algorithm in (VanillaPG, OffPolicyISPG) for one in CONTRADICTIONS],
)
def test_a_contradiction_is_refused_and_names_what_was_written(
    algorithm: Algorithm, given: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        build(algorithm, **given)
    message = str(caught.value)
    assert all(word in message for word in words), message
    named = {name for name in ARGUMENTS if f"{name}=" in message}
    assert named <= {*given, "baseline", "returns"}, f"{message} names {named - given.keys()}"


@pytest.mark.parametrize("importance", ["trajectory", "per_decision"])
def test_the_levels_of_whole_episodes_need_no_other_argument(importance: str) -> None:
    model = build(OffPolicyISPG, env=diary(2, lengths=(5,)), importance=importance).learn(32)
    assert model.incomplete_episodes == "carry"
    assert model.returns == ("reward_to_go" if importance == "per_decision" else "gae")


def test_reinforce_points_to_the_algorithm_that_has_a_critic() -> None:
    message = r"returns must be one of .*, got 'gae'.*write VanillaPG\(policy, env\) for that"
    with pytest.raises(ValueError, match=message):
        build(REINFORCE, returns="gae")
