"""What is no action mask: one clear error each, that names the environment, what it gave, and what to write."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, VanillaPG
from tests.helpers.environments import diary
from tests.helpers.masks import Fixed, MaskedDiary, masked_diary
from tests.helpers.models import make
from tests.helpers.recording import Batches

BAD: dict[str, tuple[Any, str]] = {
    "too short": ([True, False], r"must have 3 truth values, got an array of shape \(2,\): return one for each action"),
    "too long": (np.ones(7, bool), r"must have 3 truth values, got an array of shape \(7,\)"),
    "a number": (1, r"must have 3 truth values, got an array of shape \(\)"),
    "nothing": (None, r"must have 3 truth values, got None"),
    "words": (["yes", "no", "no"], r"must have 3 truth values, got \['yes', 'no', 'no'\]"),
    "ragged": ([[True], [True, False]], r"must have 3 truth values, got \[\[True\], \[True, False\]\]"),
    "probabilities": ([0.5, 0.5, 0.0], r"must be of True and False \(or 1 and 0\), got \[0.5 0.5 0. \]: write True"),
    "indices": ([0, 1, 2], r"must be of True and False \(or 1 and 0\), got \[0 1 2\]"),
    "nan": ([1.0, np.nan, 0.0], r"must be of True and False \(or 1 and 0\), got \[ 1. nan  0.\]"),
    "all masked": ([False] * 3, r"allows no action, got \[0 0 0\]: leave at least one True"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("step", [0, 2])
def test_bad_masks_are_refused(name: str, step: int) -> None:
    """Naming the environment, what it gave and what to write; the policy is as it was, and learning can go on."""
    good = np.ones(3, bool)
    bad, message = BAD[name]
    env = DummyVecEnv([partial(Fixed, *[good] * step, masks) for masks in (good, bad)])
    model = make(REINFORCE, env)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=rf"^The action mask of environment 1 {message}"):
        model.learn(64)
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
    model.set_env(DummyVecEnv([partial(Fixed, good)] * 2))
    model.learn(64)


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        (spaces.MultiDiscrete([2, 3]), [1, 0, 0, 0, 0], r"allows no action in dimension 1, got \[1 0 0 0 0\]"),
        (spaces.MultiBinary(2), [0, 0, 1, 1], r"allows no action in dimension 0"),
        (spaces.MultiDiscrete([2, 3]), [True] * 6, r"must have 5 truth values, for 2\+3 actions, got .* shape \(6,\)"),
    ],
    ids=str,
)
def test_bad_masks_of_several_dimensions(space: spaces.Space[Any], given: Any, message: str) -> None:
    model = make(REINFORCE, DummyVecEnv([partial(Fixed, given, space=space)]))
    with pytest.raises(ValueError, match=rf"environment 0 {message}"):
        model.learn(64)


@pytest.mark.parametrize(
    "given", [[1, 0, 1], np.array([1.0, 0.0, 1.0]), (True, False, True), np.array([[1, 0, 1]])], ids=str
)
def test_masks_of_zeros_and_ones(given: Any) -> None:
    """Lists, floats and a mask of a row of its own count as what they say."""
    seen = Batches()
    make(REINFORCE, DummyVecEnv([partial(Fixed, given)] * 2)).learn(64, callback=seen)
    assert all((batch.extras["action_masks"] == th.tensor([True, False, True])).all() for batch in seen.updates)
    assert all((batch.actions != 1).all() for batch in seen.updates)


class Broken(MaskedDiary):
    """Its own mistake in ``action_masks``."""

    def action_masks(self) -> np.ndarray:
        raise ValueError("no mask today")


def test_an_environments_own_error_is_its_own() -> None:
    with pytest.raises(ValueError, match=r"^no mask today$"):
        make(REINFORCE, DummyVecEnv([partial(Broken)])).learn(64)


def test_masks_of_predictions_are_checked() -> None:
    model, plain = make(VanillaPG, masked_diary()), make(VanillaPG, diary())
    obs = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"environment 0 must have 4 truth values.*shape \(3,\)"):
        model.predict(obs[0], action_masks=[True, False, True])
    with pytest.raises(ValueError, match=r"environment 1 allows no action"):
        model.predict(obs, action_masks=[[1, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"ActorPolicy takes no action_masks: leave them out"):
        plain.predict(obs[0], action_masks=[True, False])
