"""What a gradient step is of: the critic's minibatches and further losses, against a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.nn import functional as F

from sb3_pg import OffPolicyISPG, VanillaPG
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import score_function_surrogate
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.update.critic import ValueLoss, fit_critic
from sb3_pg.update.gradient import Objective, accumulate_gradient, logged_losses
from tests.helpers.environments import diary
from tests.helpers.models import N_ROWS, OWN_CRITIC, make, policy_and_batch

PASSES = 3


@pytest.mark.parametrize("batch_size", [None, 1, 4, N_ROWS, 100])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_the_critic_is_fitted_as_by_a_plain_loop(
    batch_size: int | None, micro_batch_size: int | None, max_grad_norm: float | None
) -> None:
    """Passes over minibatches in the order that NumPy's generator gives, as SB3's buffers draw them; to 1e-10."""
    policy, batch = policy_and_batch(spaces.Discrete(3))
    twin = copy.deepcopy(policy)
    targets = th.linspace(-1, 1, N_ROWS, dtype=th.float64)
    assert isinstance(batch.observations, th.Tensor)

    ours = th.optim.Adam(own_parameters_of_critic(policy), lr=0.1)
    np.random.seed(1)
    value_loss = ValueLoss(targets, batch.values)
    logged = fit_critic(policy, ours, batch, value_loss, PASSES, batch_size, micro_batch_size, max_grad_norm)

    theirs = th.optim.Adam(own_parameters_of_critic(twin), lr=0.1)
    np.random.seed(1)
    size, losses = min(batch_size or N_ROWS, N_ROWS), th.zeros(0)
    for _ in range(PASSES):
        order = np.arange(N_ROWS) if size == N_ROWS else np.random.permutation(N_ROWS)
        errors = []
        for begin in range(0, N_ROWS, size):
            rows = order[begin : begin + size]
            error = twin.predict_values(batch.observations[rows]).flatten() - targets[rows]
            theirs.zero_grad()
            error.square().mean().backward()
            if max_grad_norm is not None:
                th.nn.utils.clip_grad_norm_(own_parameters_of_critic(twin), max_grad_norm)
            theirs.step()
            errors.append(error.detach())
        losses = th.cat(errors)
    for (name, one), other in zip(policy.named_parameters(), twin.parameters(), strict=True):
        th.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=name)
    assert logged == pytest.approx(F.mse_loss(losses, th.zeros_like(losses)).item(), rel=1e-6)


def test_a_model_takes_as_many_steps_as_there_are_minibatches() -> None:
    """Two batches of 16 rows in minibatches of 6, two passes each: 12 steps. Nothing of it in the actor."""
    critic = OWN_CRITIC | {"n_value_updates": 2, "value_batch_size": 6}
    model = make(VanillaPG, diary(2, lengths=(4,)), **critic | {"n_steps": 8})
    assert model.value_optimizer is not None
    model.learn(32)
    steps = {int(state["step"]) for state in model.value_optimizer.state.values()}
    assert steps == {2 * 2 * 3}
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {2}


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_any_number_of_penalties(micro_batch_size: int | None) -> None:
    """Each adds its mean over the rows to the loss, and is logged by its name."""
    policy, batch = policy_and_batch(spaces.Discrete(3))
    weights, actions = th.linspace(0, 1, N_ROWS, dtype=th.float64), th.arange(N_ROWS) % 3
    batch = copy.copy(batch)
    object.__setattr__(batch, "actions", actions)

    def penalty(power: int) -> Callable[[slice | th.Tensor], th.Tensor]:
        return lambda rows: policy.evaluate_actions(batch.at(rows).observations, actions[rows])[1].pow(power).sum()

    def gradient(penalties: dict[str, Callable[[slice | th.Tensor], th.Tensor]]) -> tuple[th.Tensor, dict[str, float]]:
        policy.zero_grad()
        objective = Objective(
            lambda log_prob, rows: -score_function_surrogate(log_prob, weights[rows], N_ROWS),
            th.tensor(float(N_ROWS)),
            ent_coef=0.0,
            penalties=penalties,
        )
        losses = accumulate_gradient(policy, batch, whole_batch(batch), objective, micro_batch_size)
        found = [th.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]
        logged = logged_losses([losses])
        assert losses.total.item() == pytest.approx(sum(v for k, v in logged.items() if k != "entropy_loss"), abs=1e-6)
        return th.cat([one.flatten() for one in found]), logged

    plain, _ = gradient({})
    squares, one = gradient({"squares": penalty(2)})
    cubes, _ = gradient({"cubes": penalty(3)})
    both, logged = gradient({"squares": penalty(2), "cubes": penalty(3)})
    assert not th.allclose(squares, plain) and not th.allclose(cubes, squares)
    th.testing.assert_close(both, squares + cubes - plain, rtol=1e-10, atol=1e-12)
    log_prob = policy.evaluate_actions(batch.observations, actions)[1]
    assert logged["squares"] == one["squares"] == pytest.approx(log_prob.square().mean().item(), rel=1e-6)
    assert logged["cubes"] == pytest.approx(log_prob.pow(3).mean().item(), rel=1e-6)


def test_the_penalty_of_a_trust_region_is_logged() -> None:
    """The mean over the steps, of which the first has no KL."""
    settings: dict[str, Any] = {"learning_rate": 0.1, "target_kl": 0.01, "kl_constraint": "penalty", "kl_coef": 1.0}
    penalties, kls = [], []
    for n_epochs in (1, 2):
        model = make(OffPolicyISPG, diary(2, lengths=(4,)), n_epochs=n_epochs, **settings).learn(32)
        penalties.append(model.logger.name_to_value["train/kl_penalty"])
        kls.append(model.logger.name_to_value["train/approx_kl"])
    assert penalties[0] == pytest.approx(0.0, abs=1e-6)
    assert penalties[1] == pytest.approx(kls[0] / 2, rel=1e-4) and kls[0] > 1e-3
