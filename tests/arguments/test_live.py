"""A callback may set an argument of the model; what cannot be one is refused by name, at its next use."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.environments import diary
from tests.helpers.models import JOINT_CRITIC, OWN_CRITIC, Algorithm, differences, every_algorithm, make, snapshot


class Set(BaseCallback):
    """Sets an attribute, of the model or of a part of it, in the second rollout, and keeps the parameters."""

    def __init__(self, name: str, value: Any, when: str) -> None:
        super().__init__()
        *self.path, self.name = name.split(".")
        self.value, self.when, self.n_rollouts = value, when, 0

    def _set(self, when: str) -> None:
        if self.n_rollouts == 2 and when == self.when:
            owner: Any = self.model
            for part in self.path:
                owner = getattr(owner, part)
            setattr(owner, self.name, self.value)
            self.before = snapshot(self.model)  # type: ignore[arg-type]

    def _on_rollout_start(self) -> None:
        self.n_rollouts += 1
        self._set("before the rollout")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._set("before the update")


class Late(Exception):
    """The run went on."""


class NoFurther(BaseCallback):
    """Ends a run that was to be refused by now."""

    def _on_rollout_start(self) -> None:
        self.n_rollouts = getattr(self, "n_rollouts", 0) + 1
        if self.n_rollouts == 4:
            raise Late

    def _on_step(self) -> bool:
        return True


NAN = math.nan
NONSENSE: list[tuple[str, list[Any]]] = [
    ("learning_rate", [NAN, -1, "0.1", None]),
    ("lr_schedule", [NAN, -1.0, lambda progress: NAN, FloatSchedule(ConstantSchedule(cast(Any, "0.1"))), "x", None]),
    ("ent_coef", [NAN, math.inf, "x", None, lambda progress: NAN]),
    ("vf_coef", [NAN, -1, math.inf, "0.5", None]),
    ("gamma", [NAN, -0.1, 1.1, "0.9", None, True]),
    ("gae_lambda", [NAN, 2.0]),
    ("rollout_buffer.gamma", [NAN, 1.5, "0.9"]),
    ("rollout_buffer.gae_lambda", [NAN, -1]),
    ("max_grad_norm", [0, -1, NAN, "0.5"]),
    ("n_steps", [0, -1, 1.5, "8", None, 10**6]),
    ("n_episodes", [0, 1.5]),
    ("n_value_updates", [0, 1.5, None]),
    ("micro_batch_size", [0, 2.5]),
    ("normalize_advantage", ["no", 1, None]),
    ("discount_gradient", ["no"]),
    ("log_gradient_variance", [2]),
    ("returns", ["gea", None]),
    ("loss_reduction", ["mean"]),
    ("baseline", ["x", None, NAN]),
]
OF_ISPG: list[tuple[str, list[Any]]] = [
    ("clip_range", [NAN, 0, -0.1, "0.2", math.inf, lambda progress: NAN]),
    ("clip_range_vf", [NAN, 0, lambda progress: -1.0]),
    ("n_epochs", [0, 1.5, None]),
    ("batch_size", [0, 1.5, "64"]),
    ("target_kl", [0, -1, NAN, "x"]),
    ("kl_coef", [0, NAN, math.inf]),
    ("kl_constraint", ["halt"]),
    ("max_weight", [0, NAN]),
    ("min_ess", [0, 1, NAN]),
    ("defensive_coef", [1, NAN]),
    ("importance", ["x"]),
]
OF_VANILLA: list[tuple[str, list[Any]]] = [
    ("target_kl", [math.inf, NAN, 0, "x"]),
    ("cg_damping", [math.inf, -1]),
    ("cg_max_steps", [0, 1.5]),
    ("line_search_max_iter", [-1, 0.5]),
    ("line_search_shrinking_factor", [0, 1, NAN]),
    ("natural_gradient", ["no", None]),
]
WHEN = ("before the rollout", "before the update")
CASES = [
    (algorithm, name, value, WHEN[number % 2])
    for algorithm, own in ((REINFORCE, []), (VanillaPG, OF_VANILLA), (OffPolicyISPG, OF_ISPG))
    for name, values in [*NONSENSE, *own]
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("algorithm", "name", "value", "when"), CASES)
def test_nonsense_is_refused_at_the_next_use(algorithm: Algorithm, name: str, value: Any, when: str) -> None:
    """By an error of ours that names it; it has changed nothing, but for what an update in the meantime did."""
    extras = {"natural_gradient": True, "target_kl": 0.02} if algorithm is VanillaPG else {}
    model = make(algorithm, diary(2), n_steps=8, **JOINT_CRITIC | extras)
    callback = Set(name, value, when)
    with pytest.raises(ValueError) as caught:
        model.learn(200, [callback, NoFurther()])
    assert (name if name != "lr_schedule" else "learning_rate") in str(caught.value)
    if when == "before the update":
        assert differences(callback.before["policy"], snapshot(model)["policy"]) == []


@every_algorithm
@pytest.mark.parametrize("value", [NAN, -1.0, "x"])
def test_the_critics_own_rate(algorithm: Algorithm, value: Any) -> None:
    model = make(algorithm, diary(2), n_steps=8, **OWN_CRITIC)
    with pytest.raises(ValueError, match=r"^value_learning_rate must be"):
        model.learn(200, [Set("value_lr_schedule", value, "before the update"), NoFurther()])


SENSIBLE: dict[str, Any] = {
    "ent_coef": [0.1, np.float32(0.1), lambda progress: 0.1 * progress, -0.1],
    "vf_coef": [0.0, 1],
    "gamma": [0.5],
    "max_grad_norm": [None, 1.0],
    "n_steps": [4],
    "normalize_advantage": [False, True],
    "lr_schedule": [1e-3, lambda progress: 1e-3],
}


@every_algorithm
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SENSIBLE.items() for value in values])
def test_what_may_be_set_is_used(algorithm: Algorithm, name: str, value: Any) -> None:
    model = make(algorithm, diary(2), n_steps=8, **JOINT_CRITIC)
    model.learn(64, Set(name, value, "before the update"))
    assert model.num_timesteps >= 64


@every_algorithm
def test_a_model_that_was_mended_goes_on(algorithm: Algorithm) -> None:
    """And a copy of it, and what was saved of it, are checked by themselves."""
    model: PolicyGradientAlgorithm = make(algorithm, diary(2), n_steps=8, **JOINT_CRITIC).learn(32)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.gamma = NAN
        with pytest.raises(ValueError, match="gamma"):
            one.learn(32)
        one.gamma = 0.9
        one.learn(32)
