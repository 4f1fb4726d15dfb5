"""A critic that takes its steps in units of its targets."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn.utils import parametrizations

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.update.critic import Units, ValueLoss, fit_critic, units_of_targets
from tests.helpers.environments import diary
from tests.helpers.models import N_ROWS, OWN_CRITIC, TINY, make, policy_and_batch

TARGETS = th.linspace(-1, 1, N_ROWS, dtype=th.float64)


@pytest.fixture
def critic() -> tuple[ActorCriticPolicy, EpisodeBatch]:
    return policy_and_batch(spaces.Discrete(3))


def fit(policy: ActorCriticPolicy, batch: EpisodeBatch, loss: ValueLoss, normalize: bool = True) -> float:
    optimizer = th.optim.Adam(own_parameters_of_critic(policy), lr=0.01)
    np.random.seed(1)
    return fit_critic(policy, optimizer, batch, loss, 20, 4, None, 0.5, normalize)


def values_of(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    assert isinstance(batch.observations, th.Tensor)
    with th.no_grad():
        return policy.predict_values(batch.observations).flatten()


@pytest.mark.parametrize("clip_range", [None, 0.5])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1024.0), (-600.0, 128.0), (3.0, 2.0**-10)])
def test_no_scale_is_another(critic: Any, shift: float, scale: float, clip_range: float | None) -> None:
    """Targets, values and clip of another scale: the same critic on that scale, to 1e-9, and a loss of its square."""
    policy, batch = critic
    other = copy.deepcopy(policy)
    with th.no_grad():
        other.value_net.weight.mul_(scale)
        other.value_net.bias.mul_(scale).add_(shift)
    before = values_of(policy, batch)
    loss = fit(policy, batch, ValueLoss(TARGETS, before, clip_range))
    scaled_clip = None if clip_range is None else clip_range * scale
    other_loss = fit(other, batch, ValueLoss(shift + scale * TARGETS, shift + scale * before, scaled_clip))
    values = values_of(policy, batch)
    assert float((values - before).abs().max()) > 0.05
    th.testing.assert_close(values_of(other, batch), shift + scale * values, rtol=1e-9, atol=1e-9 * scale)
    assert other_loss == pytest.approx(scale**2 * loss, rel=1e-6)


def test_a_far_target_is_reached(critic: Any) -> None:
    """Where plain steps have moved by the rate times their number."""
    plain, batch = critic
    normalized = copy.deepcopy(plain)
    loss = ValueLoss(500 + 100 * TARGETS, batch.values)
    for _ in range(5):
        fit(plain, batch, loss, normalize=False)
        fit(normalized, batch, loss)
    assert float((values_of(plain, batch) - loss.targets).abs().mean()) > 400
    assert float((values_of(normalized, batch) - loss.targets).abs().mean()) < 100


def test_outside_of_its_steps_the_critic_has_its_own_units(critic: Any) -> None:
    """Inside they are the targets'; an exception ends them too. The deviation is rounded to a power of 2."""
    policy, batch = critic
    targets, before = 500 + 100 * TARGETS, values_of(policy, batch)
    weight, bias = policy.value_net.weight.clone(), policy.value_net.bias.clone()
    with pytest.raises(KeyboardInterrupt):
        with units_of_targets(policy, own_parameters_of_critic(policy), batch, targets) as units:
            assert units.shift == pytest.approx(500) and units.scale == 64.0
            th.testing.assert_close(values_of(policy, batch), (before - 500) / 64)
            raise KeyboardInterrupt
    assert th.equal(policy.value_net.weight, weight)
    th.testing.assert_close(policy.value_net.bias, bias, rtol=0, atol=1e-12)


class Tenfold(ActorCriticPolicy):
    """Whose values are not those of its head."""

    def predict_values(self, obs: Any) -> th.Tensor:
        return 10 * super().predict_values(obs)


def weight_normed(policy: ActorCriticPolicy) -> None:
    parametrizations.weight_norm(policy.value_net)


def frozen(policy: ActorCriticPolicy) -> None:
    policy.value_net.requires_grad_(False)


def two_layers(policy: ActorCriticPolicy) -> None:
    policy.value_net = th.nn.Sequential(policy.value_net, th.nn.Linear(1, 1).double())  # type: ignore[assignment]


def tenfold(policy: ActorCriticPolicy) -> None:
    policy.__class__ = Tenfold


@pytest.mark.parametrize("change", [weight_normed, frozen, two_layers, tenfold])
def test_a_critic_of_another_kind_takes_plain_steps(critic: Any, change: Any) -> None:
    """To the bit, frozen parameters among them."""
    policy, batch = critic
    change(policy)
    plain = copy.deepcopy(policy)
    loss = ValueLoss(500 + 100 * TARGETS, batch.values)
    assert fit(policy, batch, loss) == fit(plain, batch, loss, normalize=False)
    for one, other in zip(policy.parameters(), plain.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.parametrize("targets", [[7.0] * N_ROWS, [0.0] * N_ROWS, [1e300, -1e300] * 3, [float("nan")] * N_ROWS])
def test_targets_that_have_no_deviation_have_no_units(critic: Any, targets: list[float]) -> None:
    """Equal ones, and those whose squares are no numbers any more."""
    policy, batch = critic
    with units_of_targets(policy, own_parameters_of_critic(policy), batch, th.tensor(targets).double()) as units:
        assert units == Units()


DEFAULTS: list[tuple[Any, dict[str, Any], bool]] = [
    (VanillaPG, {}, True),
    (OffPolicyISPG, {}, True),
    (REINFORCE, {}, False),
    # Plain steps of the actor go with plain steps of the critic
    (VanillaPG, {"learning_rate": 1e-3}, False),
    (VanillaPG, {"learning_rate": 1e-3, "baseline": "none"}, False),
    (VanillaPG, {"learning_rate": 1e-3, "normalize_value": True}, True),
    # A rate that is given is one of plain steps
    (VanillaPG, {"value_learning_rate": 1e-3}, False),
    (OffPolicyISPG, {"value_learning_rate": 1e-3, "normalize_value": True}, True),
    (REINFORCE, {"baseline": "value", "value_learning_rate": 1e-3, "normalize_value": True}, True),
    (VanillaPG, {"normalize_value": False}, False),
    (VanillaPG, {"value_learning_rate": None}, False),
    (VanillaPG, {"baseline": "none"}, False),
]


@pytest.mark.parametrize(("algorithm", "given", "expected"), DEFAULTS)
def test_the_default(algorithm: Any, given: dict[str, Any], expected: bool) -> None:
    assert algorithm("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs=TINY, **given).normalize_value is expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"normalize_value": True, "value_learning_rate": None}, "normalize_value=True needs an optimizer"),
        ({"normalize_value": True, "baseline": "none"}, "normalize_value=True needs a learned critic"),
        ({"normalize_value": "yes"}, "normalize_value must be True or False"),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VanillaPG("MlpPolicy", "CartPole-v1", **given)


def test_a_model_is_saved_with_it(tmp_path: Any) -> None:
    model = make(VanillaPG, diary(2), **OWN_CRITIC, normalize_value=True).learn(32)
    model.save(tmp_path / "model")
    assert VanillaPG.load(tmp_path / "model").normalize_value
