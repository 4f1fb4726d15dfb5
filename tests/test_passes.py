"""Rows that go in pieces give what the policy itself says of them, and the same gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg import ActorPolicy
from sb3_pg.data.batch import Steps
from sb3_pg.data.minibatches import CACHE_ROWS
from sb3_pg.policies.fast.kept_critic import KeptCritic
from sb3_pg.policies.fast.stock import is_stock
from sb3_pg.policies.passes import Passes
from tests.helpers.gradients import gradient_in

N_ROWS = 50
ACTION_SPACES = {
    "Discrete": spaces.Discrete(5),
    "Box": spaces.Box(-1, 1, (3,)),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
}


def policy_and_rows(
    cls: type[ActorCriticPolicy], action_space: spaces.Space[Any], **kwargs: Any
) -> tuple[Any, Any, Any]:
    """A policy with some bite, observations, and actions that it drew."""
    th.manual_seed(0)
    policy = cls(spaces.Box(-1, 1, (2, 2)), action_space, lambda _: 0.0, net_arch=[16, 8], **kwargs)
    for parameter in policy.parameters():
        th.nn.init.normal_(parameter, std=0.7)
    observations = th.randn(N_ROWS, 2, 2)
    with th.no_grad():
        actions = policy(observations)[0]
    return policy, observations, actions


@pytest.mark.parametrize("cls", [ActorCriticPolicy, ActorPolicy])
@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
@pytest.mark.parametrize("activation_fn", [th.nn.Tanh, th.nn.ReLU, th.nn.ELU])
@pytest.mark.parametrize(
    ("micro_batch_size", "known_to_sb3"), [(N_ROWS - 1, True), (None, False)], ids=["pieces", "ours"]
)
def test_values_log_probs_entropies_and_their_gradients(
    cls: type[ActorCriticPolicy],
    action_space: spaces.Space[Any],
    activation_fn: type[th.nn.Module],
    micro_batch_size: int | None,
    known_to_sb3: bool,
) -> None:
    """Relative to the norm of the gradient: 1e-6, the rounding of single precision in two orders of operations."""
    policy, observations, actions = policy_and_rows(cls, action_space, activation_fn=activation_fn)
    passes = Passes(policy, N_ROWS, micro_batch_size, known_to_sb3)
    assert passes._is_quick == (activation_fn is not th.nn.ELU and not isinstance(action_space, spaces.MultiDiscrete))
    weights = th.randn(3, N_ROWS)
    own, other = (
        passes.evaluate(Steps(observations, actions), values=True, entropy_gradient=True),
        policy.evaluate_actions(observations, actions),
    )
    slopes = []
    for parts in (own, other):
        rows = [part.flatten() for part in parts if part is not None]
        slopes.append(gradient_in(policy, (weights * th.stack(rows)).sum()))
    assert (slopes[0] - slopes[1]).norm() <= 1e-6 * slopes[1].norm()
    for one, expected in zip(own, other, strict=True):
        th.testing.assert_close(one, expected, rtol=1e-6, atol=2e-6)
    th.testing.assert_close(
        passes.values(Steps(observations, actions)), policy.predict_values(observations), rtol=1e-6, atol=2e-6
    )


@pytest.mark.parametrize("micro_batch_size", [None, N_ROWS, N_ROWS + 1])
def test_one_piece_is_the_policy_itself(micro_batch_size: int | None) -> None:
    """Bit for bit."""
    policy, observations, actions = policy_and_rows(ActorCriticPolicy, spaces.Discrete(3))
    passes = Passes(policy, N_ROWS, micro_batch_size, known_to_sb3=True)
    for one, other in zip(
        passes.evaluate(Steps(observations, actions)), policy.evaluate_actions(observations, actions), strict=True
    ):
        assert one is not None
        assert th.equal(one, other)
    assert th.equal(passes.values(Steps(observations, actions)), policy.predict_values(observations))


def test_no_values_where_nobody_asks() -> None:
    policy, observations, actions = policy_and_rows(ActorCriticPolicy, spaces.Discrete(3))
    assert Passes(policy, N_ROWS, 10, known_to_sb3=True).evaluate(Steps(observations, actions))[0] is None


def test_observations_stay_as_they_are() -> None:
    """A network without hidden layers, or a first layer that works in place, must not write on the user's data."""
    for net_arch in ([], [4]):
        policy = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 0.0, net_arch=net_arch)
        assert is_stock(policy)
        observations = th.randn(20, 3)
        before = observations.clone()
        steps = Steps(observations, th.zeros(20, dtype=th.long))
        Passes(policy, 20, 10, known_to_sb3=True).evaluate(steps, values=True)
        assert th.equal(observations, before)


def test_values_of_the_kept_critic() -> None:
    """More rows than go in one piece."""
    policy = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 0.0)
    observations = th.randn(2 * CACHE_ROWS + 7, 3)
    expected = policy.predict_values(observations).flatten().detach()
    th.testing.assert_close(KeptCritic(policy).values(observations), expected, rtol=1e-6, atol=2e-6)
