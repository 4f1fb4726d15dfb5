"""Bonuses, policies and settings that a user changes, where A2C and PPO have nothing to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg import OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from tests.helpers.edits import Editor, assign, compute_again, distance
from tests.helpers.environments import diary
from tests.helpers.gradients import callable_baseline, gradient_in
from tests.helpers.models import (
    ALGORITHMS,
    JOINT_CRITIC,
    MONTE_CARLO,
    OWN_CRITIC,
    TINY,
    differences,
    every_algorithm,
    make,
    n_updates,
    snapshot,
)
from tests.helpers.recording import Batches, flat_gradient

# --- bonuses, literally ---------------------------------------------------------------------------------------------


class Bonus(BaseCallback):
    """Adds to advantages or returns what a function of the observation says, and ends after the first update."""

    model: PolicyGradientAlgorithm

    def __init__(self, name: str, scale: float) -> None:
        super().__init__()
        self.name, self.scale = name, scale

    def _on_step(self) -> bool:
        return self.model._n_updates == 0

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        bonus = self.scale * bonus_of(th.as_tensor(buffer.observations)).numpy()
        setattr(buffer, self.name, getattr(buffer, self.name) + bonus)


def bonus_of(observations: th.Tensor) -> th.Tensor:
    return th.sin(observations.sum(dim=-1))


def first_gradient(algorithm: Any, name: str, scale: float, **kwargs: Any) -> tuple[Any, Any, th.Tensor]:
    """The model, its first batch, and the gradient that the actor's optimizer got."""
    extras = {"n_epochs": 1} if algorithm is OffPolicyISPG else {}
    model = make(algorithm, diary(2, lengths=(20, 5)), **extras | kwargs)
    seen: list[Any] = []
    gradient = model._gradient

    def noted(batch: Any, part: Any, *args: Any, **kwargs: Any) -> Any:
        losses = gradient(batch, part, *args, **kwargs)
        seen.append((batch, copy.deepcopy(model.policy), flat_gradient(model.policy)))
        return losses

    model._gradient = noted  # type: ignore[method-assign]
    model.learn(10_000, callback=Bonus(name, scale))
    batch, policy, flat = seen[0]
    return policy, batch, flat


BASELINES: list[Any] = ["none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal", 2.0]
BASELINES += [callable_baseline]


@pytest.mark.filterwarnings("ignore:No episode ended", "ignore:n_steps=16 ended")
@every_algorithm
@pytest.mark.parametrize("n_episodes", [None, 4])
@pytest.mark.parametrize("baseline", BASELINES, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_bonus_on_advantages_is_in_the_gradient(algorithm: Any, baseline: Any, n_episodes: int | None) -> None:
    """Of carried steps too: the first episodes go over the first rollout's edge, or wait for their quota."""
    kwargs: dict[str, Any] = {
        "baseline": baseline,
        "n_episodes": n_episodes,
        "max_grad_norm": None,
        "loss_reduction": "step",
        "policy_kwargs": {"net_arch": []},
    }
    policy, batch, plain = first_gradient(algorithm, "advantages", 0.0, **kwargs)
    _, _, edited = first_gradient(algorithm, "advantages", 100.0, **kwargs)
    assert batch.carried.any()
    _, log_prob, _ = policy.evaluate_actions(batch.observations, batch.actions)
    loss = -(100.0 * bonus_of(batch.observations) * log_prob).sum() / batch.n_rows
    expected = gradient_in(policy, loss)
    assert float(expected.norm()) > 1
    th.testing.assert_close(edited - plain, expected, rtol=1e-4, atol=1e-4 * float(expected.norm()))


@pytest.mark.filterwarnings("ignore:No episode ended", "ignore:n_steps=16 ended")
@every_algorithm
def test_a_bonus_on_returns_is_what_a_joint_critic_learns(algorithm: Any) -> None:
    """And advantages stay what they were."""
    kwargs = {**JOINT_CRITIC, "max_grad_norm": None, "policy_kwargs": {"net_arch": []}}
    policy, batch, plain = first_gradient(algorithm, "returns", 0.0, **kwargs)
    _, _, edited = first_gradient(algorithm, "returns", 100.0, **kwargs)
    assert batch.carried.any()
    values = policy.predict_values(batch.observations).flatten()
    expected = gradient_in(policy, -(0.5 * 2 * 100.0 * bonus_of(batch.observations) * values).sum() / batch.n_rows)
    assert float(expected.norm()) > 1
    th.testing.assert_close(edited - plain, expected, rtol=1e-4, atol=1e-4 * float(expected.norm()))


@every_algorithm
@pytest.mark.parametrize("value", [np.zeros((3, 2)), 1.0, np.zeros(7)], ids=["shape", "number", "flat"])
def test_a_column_of_another_shape_is_refused(algorithm: Any, value: Any) -> None:
    model = make(algorithm, diary(2))
    with pytest.raises(ValueError, match=r"rollout_buffer.advantages must be an array of shape \(16, 2\)"):
        model.learn(64, callback=Editor(assign("advantages", lambda column: value), in_step=False))


# --- policies and optimizers that come and go -----------------------------------------------------------------------


def of_group(optimizer: Any) -> set[Any]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


@every_algorithm
def test_an_optimizer_of_the_user_s_stays(algorithm: Any) -> None:
    """With a critic of its own optimizer too, whose moments stay as well; it is saved without the critic."""
    model = make(algorithm, diary(2), **OWN_CRITIC)
    model.learn(64)
    value_optimizer = model.value_optimizer
    mine = th.optim.SGD(model.policy.action_net.parameters(), lr=0.1, momentum=0.9)
    model.policy.optimizer = mine
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(64)
    assert model.policy.optimizer is mine
    assert of_group(mine) == set(model.policy.action_net.parameters())
    assert model.value_optimizer is value_optimizer
    after = model.policy.state_dict()
    assert not th.equal(before["action_net.weight"], after["action_net.weight"])
    assert not th.equal(before["value_net.weight"], after["value_net.weight"])
    assert th.equal(before["mlp_extractor.policy_net.0.weight"], after["mlp_extractor.policy_net.0.weight"])


@every_algorithm
@pytest.mark.parametrize("learns_first", [True, False])
def test_a_policy_that_a2c_trained_goes_on(algorithm: Any, learns_first: bool, tmp_path: Any) -> None:
    """Actor and critic both learn, and the model can be saved at once, and loaded."""
    policy = A2C("MlpPolicy", diary(2), policy_kwargs=dict(TINY), device="cpu").learn(40).policy
    policy.optimizer_class = th.optim.RMSprop
    model = make(algorithm, diary(2), **OWN_CRITIC, policy_kwargs=TINY | {"optimizer_class": th.optim.RMSprop})
    model.policy = policy
    before = copy.deepcopy(policy.state_dict())
    if learns_first:
        model.learn(64)
        for name in ("action_net.weight", "value_net.weight"):
            assert not th.equal(before[name], policy.state_dict()[name])
    model.save(tmp_path / "model")
    assert of_group(model.policy.optimizer) | of_group(model.value_optimizer) == set(policy.parameters())
    assert not of_group(model.policy.optimizer) & of_group(model.value_optimizer)
    loaded = algorithm.load(tmp_path / "model", diary(2), device="cpu")
    assert differences(snapshot(loaded), snapshot(model)) == []
    loaded.learn(64)


class Copier(BaseCallback):
    """Copies the policy whenever it is called, and counts."""

    n_copies = 0

    def copy(self) -> bool:
        twin = copy.deepcopy(self.model.policy)
        assert differences(dict(twin.state_dict()), dict(self.model.policy.state_dict())) == []
        self.n_copies += 1
        return True

    def _on_training_start(self) -> None:
        self.copy()

    def _on_rollout_start(self) -> None:
        self.copy()

    def _on_step(self) -> bool:
        return self.copy()

    def _on_rollout_end(self) -> None:
        self.copy()


COPIED: list[tuple[Any, dict[str, Any]]] = [
    *((algorithm, OWN_CRITIC) for algorithm in ALGORITHMS),
    *((algorithm, JOINT_CRITIC) for algorithm in ALGORITHMS),
    *((algorithm, {"baseline": "optimal", "log_gradient_variance": True}) for algorithm in ALGORITHMS),
    (VanillaPG, {"natural_gradient": True, **OWN_CRITIC}),
    *((OffPolicyISPG, {"target_kl": 0.01, "kl_constraint": one}) for one in ("stop", "backtrack", "penalty")),
    (OffPolicyISPG, {"n_reused_batches": 2}),
]


@pytest.mark.parametrize(("algorithm", "kwargs"), COPIED)
@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(-1, 1, (2,))], ids=["Discrete", "Box"])
def test_a_policy_can_be_copied_at_any_time(algorithm: Any, kwargs: dict[str, Any], space: Any) -> None:
    model = make(algorithm, diary(2, action_space=space), **kwargs)
    copier = Copier()
    model.learn(96, callback=copier)
    assert copier.n_copies == 1 + 3 * (1 + 16 + 1)
    copy.deepcopy(model.policy)


# --- what only this package has -------------------------------------------------------------------------------------


LIVE: dict[str, tuple[dict[str, Any], Callable[[Any], None], str]] = {
    "value_lr_schedule": ({}, lambda m: setattr(m, "value_lr_schedule", lambda progress: 0.0), "critic"),
    "lr_schedule": ({}, lambda m: setattr(m, "lr_schedule", lambda progress: 0.0), "actor"),
    "max_grad_norm": (
        {"policy_kwargs": TINY | {"optimizer_class": th.optim.SGD}},
        lambda m: setattr(m, "max_grad_norm", 1e-30),
        "actor critic",
    ),
}


@every_algorithm
@pytest.mark.parametrize(("kwargs", "edit", "stops"), LIVE.values(), ids=LIVE.keys())
def test_settings_are_read_live(algorithm: Any, kwargs: dict[str, Any], edit: Any, stops: str) -> None:
    """Set by a callback to what makes a part stand still, in the middle of learning."""
    model = make(algorithm, diary(2), **OWN_CRITIC | kwargs)
    states: list[dict[str, th.Tensor]] = []

    def note(_: Any, __: Any) -> None:
        states.append(copy.deepcopy(dict(model.policy.state_dict())))
        if len(states) == 2:
            edit(model)

    model.learn(3 * 32, callback=Editor(note, in_step=False))
    states.append(dict(model.policy.state_dict()))
    for name, part in (("action_net.weight", "actor"), ("value_net.weight", "critic")):
        assert not th.equal(states[0][name], states[1][name])
        assert th.equal(states[2][name], states[1][name]) == (part in stops)


@every_algorithm
@pytest.mark.parametrize("ent_coef", [1.0, lambda progress: 1.0 + 0 * progress], ids=["number", "schedule"])
def test_an_entropy_coefficient_set_later(algorithm: Any, ent_coef: Any) -> None:
    """The same as one that was there from the beginning, and not the same as none."""
    ends = []
    for first, later in ((1.0, None), (0.0, ent_coef), (0.0, None)):
        model = make(algorithm, diary(2), **OWN_CRITIC, ent_coef=first)

        def edit(model: Any, _: Any, later: Any = later) -> None:
            model.ent_coef = model.ent_coef if later is None else later

        model.learn(64, callback=Editor(edit, in_step=True))
        ends.append({name: value.detach().clone() for name, value in model.policy.named_parameters()})
    assert distance(ends[0], ends[1]) == 0
    assert distance(ends[0], ends[2]) > 0


@every_algorithm
@pytest.mark.parametrize("kwargs", [{}, {"n_episodes": 4}, {"incomplete_episodes": "truncate"}], ids=str)
@pytest.mark.filterwarnings("ignore:n_steps=16 ended", "ignore:No episode ended")
def test_computing_again_changes_nothing_without_an_edit(algorithm: Any, kwargs: dict[str, Any]) -> None:
    """Over several rollouts, with episodes that are carried, to the bit."""
    ends = []
    for n_times in (0, 1, 3):
        model = make(algorithm, diary(2, lengths=(20, 5, 7, 30)), **OWN_CRITIC | kwargs)

        def edit(model: Any, _: Any, n_times: int = n_times) -> None:
            for _ in range(n_times):
                compute_again(model)

        model.learn(6 * 32, callback=Editor(edit, in_step=False))
        assert n_updates(model) > 1
        ends.append(snapshot(model))
    assert differences(ends[0], ends[1]) == differences(ends[0], ends[2]) == []


@pytest.mark.filterwarnings("ignore:No episode ended")
@every_algorithm
def test_edited_rewards_of_carried_episodes_count(algorithm: Any) -> None:
    """Doubled with the returns computed again: as if the environment had paid double."""
    batches: list[list[Any]] = []
    for doubles in (False, True):
        model = make(algorithm, diary(2, lengths=(20, 5, 7, 30)), **MONTE_CARLO | {"learning_rate": 0.0})
        seen = Batches()

        def edit(model: Any, _: Any, doubles: bool = doubles) -> None:
            if doubles:
                model.rollout_buffer.rewards *= 2
                compute_again(model)

        model.learn(4 * 32, callback=[Editor(edit, in_step=False), seen])
        batches.append(seen.updates)
    assert any(one.carried.any() for one in batches[0])
    for plain, doubled in zip(*batches, strict=True):
        assert th.equal(2 * plain.rewards, doubled.rewards)


@pytest.mark.parametrize("importance", ["timestep", "trajectory", "per_decision"])
def test_a_bonus_of_a_reused_batch_counts_again(importance: str) -> None:
    """At a learning rate of 0 all weights are 1: the advantages used are those of both batches, bonus and all."""
    kwargs = {"n_reused_batches": 1, "importance": importance, "learning_rate": 0.0, "n_epochs": 1}
    model: Any = make(OffPolicyISPG, diary(2), **kwargs)
    plain: Any = make(OffPolicyISPG, diary(2), **kwargs)
    credits: list[list[tuple[EpisodeBatch, th.Tensor]]] = []
    for one, edit in ((plain, lambda m, _: None), (model, add_wave_of_observations)):
        seen: list[tuple[EpisodeBatch, th.Tensor]] = []

        def noted(*args: Any, sample: Any = one.replay_buffer.sample, seen: list[Any] = seen) -> Any:
            result = sample(*args)
            seen.append((result.batch, result.credit.advantages))
            return result

        one.replay_buffer.sample = noted
        one.learn(96, callback=Editor(edit, in_step=False))
        credits.append(seen)
    for (batch, before), (_, after) in zip(*credits, strict=True):
        th.testing.assert_close(after - before, bonus_of(batch.observations), atol=1e-5, rtol=1e-5)
    assert credits[0][2][0].n_rows > credits[0][0][0].n_rows


def add_wave_of_observations(model: Any, _: Any) -> None:
    buffer = model.rollout_buffer
    buffer.advantages += bonus_of(th.as_tensor(buffer.observations)).numpy()
