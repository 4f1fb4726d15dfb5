"""A schedule is asked at every use, and what it says then is held to what its argument may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_pg import OffPolicyISPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.checks import scheduled_value
from tests.helpers.environments import diary
from tests.helpers.models import (
    ALGORITHMS,
    JOINT_CRITIC,
    OWN_CRITIC,
    Algorithm,
    differences,
    make,
    snapshot,
)


def missing(progress: float) -> float:
    return {}["rate"]  # type: ignore[index]


NO_NUMBER: dict[str, Any] = {
    "text": "0.1",
    "a truth value": True,
    "None": None,
    "an array": np.ones(2),
    "an array of one": np.ones(1),
    "a tensor": th.ones(2),
    "a list": [0.1],
    "a complex number": 1j,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "a tensor of nan": th.tensor(math.nan),
    "too large for a float": 10**400,
}
#: What says the nonsense: a function, and SB3's wrapper, which takes text and truth values for numbers.
BAD: dict[str, Callable[[float], Any]] = {
    **{name: lambda progress, value=value: value for name, value in NO_NUMBER.items()},  # type: ignore[misc]
    "a KeyError": missing,
    "a division by 0": lambda progress: 1 / 0,
    "another number of arguments": lambda: 0.1,  # type: ignore[dict-item, misc]
}
SCHEDULES = ["learning_rate", "ent_coef", "value_learning_rate"]
CASES = [(algorithm, name) for algorithm in ALGORITHMS for name in SCHEDULES]
CASES += [(OffPolicyISPG, "clip_range"), (OffPolicyISPG, "clip_range_vf")]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("wrap", [lambda schedule: schedule, FloatSchedule], ids=["as it is", "FloatSchedule"])
def test_what_a_schedule_may_not_say(bad: Any, wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"^ent_coef must be a number.* (is|fails) .*at 0\.25"):
        scheduled_value("ent_coef", wrap(bad), 0.25, may_be_negative=True)


@pytest.mark.parametrize(
    "no_schedule", [*NO_NUMBER.values(), float, int, np.array(0.1), th.tensor(0.1), {}, object(), -0.1]
)
def test_what_is_no_schedule(no_schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"^clip_range must be a number >= 0, .*, or None for no clipping, got"):
        scheduled_value("clip_range", no_schedule, 0.5, or_none="no clipping")


@pytest.mark.parametrize(
    "schedule",
    [
        0.25,
        np.float32(0.25),
        lambda progress: progress / 2,
        lambda progress: np.float64(0.25),
        lambda progress: np.array(0.25),
        lambda progress: th.tensor(0.25),
        ConstantSchedule(0.25),
        LinearSchedule(0.5, 0.0, 1.0),
        FloatSchedule(LinearSchedule(0.5, 0.0, 1.0)),
    ],
)
def test_what_a_schedule_may_be(schedule: Any) -> None:
    value = scheduled_value("learning_rate", schedule, 0.5)
    assert type(value) is float and value == 0.25


def with_schedule(algorithm: Algorithm, name: str, schedule: Any) -> PolicyGradientAlgorithm:
    estimator = OWN_CRITIC if name == "value_learning_rate" else JOINT_CRITIC
    return make(algorithm, diary(2), **estimator | {name: schedule})


class Snapshots(BaseCallback):
    """The parameters at the beginning of each rollout."""

    model: PolicyGradientAlgorithm

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[dict[str, Any]] = []

    def _on_rollout_start(self) -> None:
        self.taken.append(snapshot(self.model))

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(("algorithm", "name"), CASES)
@pytest.mark.parametrize("value", [math.nan, -1.0, "0.1", True, None], ids=repr)
def test_a_schedule_that_goes_wrong_late(algorithm: Algorithm, name: str, value: Any) -> None:
    """The first half of the run learns; then the error names it, and no parameter has moved since."""
    if name == "ent_coef" and value == -1.0:
        return  # may be negative
    model = with_schedule(algorithm, name, lambda progress: 0.1 if progress > 0.5 else value)
    snapshots = Snapshots()
    with pytest.raises(ValueError, match=rf"^{name} must be .* is .* at 0\.5"):
        model.learn(128, snapshots)
    first, second = snapshots.taken
    assert differences(first["policy"], second["policy"]), "as long as it is a number, it learns"
    assert differences(second["policy"], snapshot(model)["policy"]) == []


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_an_error_in_a_schedule_names_it(algorithm: Algorithm, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .* fails at 1 with KeyError: 'rate'") as caught:
        with_schedule(algorithm, name, missing)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_clip_range_may_fall_to_0() -> None:
    """The Zoo's linear schedules end there, and its ``enjoy`` puts a schedule of 0 into a model it only looks at."""
    make(OffPolicyISPG, diary(2), clip_range=LinearSchedule(0.2, 0.0, 1.0)).learn(64)
