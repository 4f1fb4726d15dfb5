"""The three rules that bound how far an update goes, watched from outside; ``test_divergence.py`` has the KL itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_pg import OffPolicyISPG
from sb3_pg.data.minibatches import Minibatch, minibatches
from sb3_pg.update.trust_region import MAX_HALVINGS, TrustRegion
from tests.helpers.models import (
    EXTRACTED,
    JOINT_CRITIC,
    TINY,
    differences,
)
from tests.helpers.recording import flat_gradient
from tests.helpers.spies import replace_everywhere
from tests.helpers.updates import BOX, TARGET, Seen, Watch, ispg, sample_size, watched

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


#: Optimizers whose steps are far too large. The entropy bonus keeps the policy from an end where nothing moves it.
ADAM: dict[str, Any] = {"learning_rate": 2.0, "ent_coef": 0.5}
SGD: dict[str, Any] = {
    "learning_rate": 20.0,
    "ent_coef": 0.5,
    "policy_kwargs": TINY | {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}},
}
every_optimizer = pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["Adam", "SGD"])
every_space = pytest.mark.parametrize("action_space", [None, BOX], ids=["Discrete", "Box"])
BACKTRACK: dict[str, Any] = {"target_kl": TARGET, "kl_constraint": "backtrack"}


# --- "backtrack" ----------------------------------------------------------------------------------------------------

#: The bound is kept as it is computed, in float32: in float64 the KL may be above it by a rounding error.
BOUND = TARGET * (1 + 1e-6)


def assert_bounded(updates: list[Seen]) -> None:
    """The bound held after every update; most steps would have passed it by far; the policy moved all the same."""
    assert max(seen.kl for seen in updates) <= BOUND
    assert median(kl for seen in updates for kl in seen.steps) > 10 * TARGET
    moved = [seen.kl for seen in updates if seen.moved]
    assert len(moved) > len(updates) / 2
    assert max(moved) > TARGET / 2, "a bound that is never nearly reached proves nothing"


@every_space
@every_optimizer
@pytest.mark.parametrize("n_epochs", [1, 4])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_backtracking_keeps_the_bound(
    action_space: Any, optimizer: dict[str, Any], n_epochs: int, batch_size: int | None
) -> None:
    """Under a learning rate that is far too large, after each of 40 updates."""
    assert_bounded(watched(ispg(action_space, n_epochs=n_epochs, batch_size=batch_size, **BACKTRACK | optimizer), 40))


def test_backtracking_keeps_the_bound_over_500_updates() -> None:
    assert_bounded(watched(ispg(n_epochs=1, batch_size=16, **BACKTRACK | ADAM), 500))


@pytest.mark.parametrize(
    "kwargs",
    [
        JOINT_CRITIC,
        {"policy_kwargs": EXTRACTED | {"features_extractor_kwargs": {"width": 5, "drop": 0.5}}},
        {"action_space": BOX, "use_sde": True},
        {"n_reused_batches": 2, "micro_batch_size": 7},
        {"clip_range": 0.2, "batch_size": 16},
    ],
    ids=["joint critic", "dropout", "gSDE", "reused batches", "clipped"],
)
def test_backtracking_keeps_the_bound_for(kwargs: dict[str, Any]) -> None:
    """Other models: the KL is that of the policy as it acts, and over the states of this rollout alone."""
    assert_bounded(watched(ispg(**ADAM | kwargs | BACKTRACK | {"incomplete_episodes": "truncate"}), 30))


@every_space
@every_optimizer
def test_without_a_bound_it_is_passed(action_space: Any, optimizer: dict[str, Any]) -> None:
    """What the same settings do without: the first update of 15 models."""
    models = [ispg(action_space, n_epochs=1, target_kl=None, seed=seed, **optimizer) for seed in range(15)]
    kls = [watched(model, 1, each_step=False)[0].kl for model in models]
    assert median(kls) > 10 * TARGET
    assert sum(kl > TARGET for kl in kls) >= 13


@dataclass
class Tried:
    """A step of a trust region.

    :param full: the parameters after the optimizer's own step
    """

    before: list[th.Tensor]
    full: list[th.Tensor]
    after: list[th.Tensor]
    is_within: bool
    critic_moved: bool


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Tried]:
    """Every step that a trust region takes."""
    every: list[Tried] = []
    genuine = TrustRegion.step

    def step(region: TrustRegion, optimizer: th.optim.Optimizer) -> bool:
        full: list[th.Tensor] = []
        full_of_critic: list[th.Tensor] = []

        def now(is_critic: bool = False) -> list[th.Tensor]:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            return [p.detach().clone() for p in parameters if (p in region.critic) == is_critic]

        def note(*_: Any) -> None:
            full.extend(now())
            full_of_critic.extend(now(is_critic=True))

        handle = optimizer.register_step_post_hook(note)
        before, critic = now(), now(is_critic=True)
        is_within = genuine(region, optimizer)
        handle.remove()
        assert differences(full_of_critic, now(is_critic=True)) == [], "no bound holds the critic back"
        every.append(Tried(before, full, now(), is_within, differences(critic, full_of_critic) != []))
        return is_within

    monkeypatch.setattr(TrustRegion, "step", step)
    return every


def difference(one: list[th.Tensor], other: list[th.Tensor]) -> th.Tensor:
    """From one to the other, flat and in float64."""
    return th.cat([(b.double() - a.double()).flatten() for a, b in zip(one, other, strict=True)])


@every_space
@every_optimizer
@pytest.mark.parametrize("estimator", [{}, JOINT_CRITIC], ids=["actor", "joint critic"])
def test_halved_steps_lie_on_the_line_between(
    tried: list[Tried], action_space: Any, optimizer: dict[str, Any], estimator: dict[str, Any]
) -> None:
    """What is left of a step is a power of 1/2 of it, in every parameter of the actor; or nothing, bit for bit."""
    kwargs = BACKTRACK | optimizer | estimator | {"incomplete_episodes": "truncate", "batch_size": 16}
    ispg(action_space, **kwargs).learn(20 * 32)
    shares = []
    for one in tried:
        full, taken = difference(one.before, one.full), difference(one.before, one.after)
        if not one.is_within:
            assert differences(one.before, one.after) == []
            shares.append(0.0)
            continue
        share = float(taken @ full / (full @ full))
        n_halvings = round(-np.log2(share))
        assert 0 <= n_halvings <= MAX_HALVINGS
        scale = max(float(p.abs().max()) for p in [*one.before, *one.full])
        th.testing.assert_close(taken, full * 0.5**n_halvings, rtol=1e-5, atol=1e-6 * scale)
        shares.append(0.5**n_halvings)
    assert 0 < sum(0 < share < 1 for share in shares)
    assert len(set(shares)) > 3, "steps of several lengths"
    assert all(one.critic_moved == bool(estimator) for one in tried)


@every_space
@every_optimizer
def test_a_step_that_cannot_be_halved_enough_is_undone(
    tried: list[Tried], action_space: Any, optimizer: dict[str, Any]
) -> None:
    """Under a bound that nothing meets the parameters stay as they are, bit for bit, and the update ends."""
    model = ispg(action_space, **BACKTRACK | optimizer | {"target_kl": 1e-30, "batch_size": 16})
    updates = watched(model, 5)
    assert [seen.moved for seen in updates] == [False] * 5
    assert [seen.kl for seen in updates] == [0.0] * 5
    assert len(tried) == 5, "one step an update was tried"
    assert all(differences(one.before, one.after) == [] for one in tried)
    assert all(float(difference(one.before, one.full).norm()) > 0.1 for one in tried)


@every_space
@pytest.mark.parametrize("learning_rate", [1e3, 1e38])
def test_backtracking_from_where_there_is_no_policy(action_space: Any, learning_rate: float) -> None:
    """A step to where the distribution does not exist (a deviation of 0 or inf) is a step too far, and is undone.

    PyTorch raises a ValueError there. It must not leave the model with these parameters.
    """
    model = ispg(action_space, **BACKTRACK | SGD | {"learning_rate": learning_rate})
    updates = watched(model, 10, each_step=False)
    assert max(seen.kl for seen in updates) <= BOUND
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


# --- "stop" ---------------------------------------------------------------------------------------------------------


def assert_stopped_at(limit: float, after_steps: list[float], n_most: int, is_over: Callable[[float], bool]) -> None:
    """An update went on until a step took it over the limit, or as long as it could."""
    assert after_steps, "the first step is always taken"
    assert not any(is_over(value) for value in after_steps[:-1]), f"went on past {limit}: {after_steps}"
    assert len(after_steps) == n_most or is_over(after_steps[-1]), f"stopped before {limit}: {after_steps}"


@every_space
@pytest.mark.parametrize("learning_rate", [0.01, 0.05, 2.0])
def test_stop(action_space: Any, learning_rate: float) -> None:
    """No step after the one that took the KL over 1.5 times the target, none left out before; epochs are counted.

    The KL that decides is that after the step before, not the 0 of the policy with itself (OpenAI's Spinning Up,
    issue 211).
    """
    model = ispg(action_space, target_kl=TARGET, kl_constraint="stop", n_epochs=10, learning_rate=learning_rate)
    updates = watched(model, 30)
    for seen in updates:
        assert_stopped_at(1.5 * TARGET, seen.steps, 10, lambda kl: kl > 1.5 * TARGET)
        assert seen.logged["epochs"] == len(seen.steps)
        assert seen.kl == seen.steps[-1]
    n_steps = [len(seen.steps) for seen in updates]
    assert min(n_steps) < 10
    if learning_rate == 2.0:
        assert median(n_steps) == 1, "one step is far too much"
    if learning_rate == 0.01:
        assert max(n_steps) > 2, "the KL of the step before is not that of the first"
    assert model._n_updates == sum(n_steps)


def test_stop_looks_at_the_rows_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In minibatches as SB3's PPO does; the epoch that a step was taken in counts."""
    model = ispg(target_kl=TARGET, kl_constraint="stop", n_epochs=10, learning_rate=0.03, batch_size=10)
    watch, asked = Watch(), []
    genuine = TrustRegion.must_stop

    def must_stop(region: TrustRegion, part: Minibatch) -> bool:
        answer = genuine(region, part)
        seen = watch.updates[-1]
        asked.append((float(watch._kl(seen)[part.rows].mean()), answer, len(watch.updates), len(seen.steps)))
        return answer

    monkeypatch.setattr(TrustRegion, "must_stop", must_stop)
    model.learn(30 * 32, callback=watch)
    for kl, answer, _, _ in asked:
        if kl != pytest.approx(1.5 * TARGET, rel=1e-4):
            assert answer == (kl > 1.5 * TARGET)
    answers = [answer for _, answer, _, _ in asked]
    assert any(answers) and not all(answers)
    for number, seen in enumerate(watch.updates, start=1):
        mine = [(answer, n_steps) for _, answer, update, n_steps in asked if update == number]
        # Asked before each step but the first, and for the last time where the answer was yes
        assert [n_steps for _, n_steps in mine] == list(range(1, len(mine) + 1))
        assert [answer for answer, _ in mine[:-1]] == [False] * (len(mine) - 1)
        assert len(seen.steps) == len(mine) + (not mine[-1][0])
        assert seen.logged["epochs"] == -(-len(seen.steps) // 4), "4 minibatches of 32 rows"


@pytest.mark.parametrize("target_kl", [1e6, None])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_bound_far_away_stops_nothing(target_kl: float | None, batch_size: int | None) -> None:
    """Every step of every epoch is taken."""
    model = ispg(target_kl=target_kl, n_epochs=5, batch_size=batch_size, learning_rate=0.05, ent_coef=0.5)
    for seen in watched(model, 10):
        assert len(seen.steps) == (5 if batch_size is None else 10)
        assert seen.logged["epochs"] == 5
        assert max(seen.steps) > 1e-3


# --- "penalty" ------------------------------------------------------------------------------------------------------


def test_penalty_adapts_its_coefficient(tmp_path: Path) -> None:
    """Doubled above 1.5 times the target, halved below 2/3 of it, kept in between; saved, loaded, logged."""
    model = ispg(target_kl=TARGET, kl_constraint="penalty", kl_coef=2.0, learning_rate=0.05, ent_coef=0.5)
    updates = watched(model, 60)
    coefs = [2.0, *(seen.logged["kl_coef"] for seen in updates)]
    factors = []
    for seen, (before, after) in zip(updates, pairwise(coefs), strict=True):
        expected = 2.0 if seen.kl > 1.5 * TARGET else 0.5 if seen.kl < TARGET / 1.5 else 1.0
        assert after == pytest.approx(expected * before), seen.kl
        factors.append(expected)
    assert set(factors) == {0.5, 1.0, 2.0}
    assert all(len(seen.steps) == 4 for seen in updates), "a penalty stops nothing"
    assert model.kl_coef == coefs[-1] != 2.0
    model.save(tmp_path / "model")
    assert OffPolicyISPG.load(tmp_path / "model", device="cpu").kl_coef == model.kl_coef


@pytest.mark.parametrize(("kl_coef", "kl", "expected"), [(9e5, 1.0, 1e6), (1.5e-6, 0.0, 1e-6), (3.0, TARGET, 3.0)])
def test_coefficient_of_the_penalty_is_bounded(kl_coef: float, kl: float, expected: float) -> None:
    """Between 1e-6 and 1e6, so that a run that cannot move, or cannot stay, comes back from it."""
    region = TrustRegion(TARGET, "penalty", kl_coef, None, None)  # type: ignore[arg-type]
    assert region.adapted_coef(kl) == expected


@every_space
@pytest.mark.parametrize("learning_rate", [0.05, 0.1])
def test_penalty_brings_the_kl_near_to_the_target(action_space: Any, learning_rate: float) -> None:
    """Where steps are too large, the KL of the last 30 of 60 updates is nearer to the target than without."""
    settings = {"learning_rate": learning_rate, "ent_coef": 0.5, "n_epochs": 5}
    penalised = ispg(action_space, target_kl=TARGET, kl_constraint="penalty", **settings)
    with_penalty = watched(penalised, 60, each_step=False)
    without = watched(ispg(action_space, target_kl=None, **settings), 60, each_step=False)
    ours, theirs = (mean(seen.kl for seen in updates[30:]) for updates in (with_penalty, without))
    assert abs(ours - TARGET) < abs(theirs - TARGET) / 2


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_penalty_is_the_mean_kl_over_the_rows_of_the_step(
    monkeypatch: pytest.MonkeyPatch, batch_size: int | None, micro_batch_size: int | None
) -> None:
    """The first step has no KL, and is that without a penalty; the second has the gradient of kl_coef * KL added."""
    parts: list[Minibatch] = []

    def noted(*arguments: Any) -> Iterator[Minibatch]:
        for part in minibatches(*arguments):
            parts.append(part)
            yield part

    replace_everywhere(monkeypatch, minibatches, noted)

    def steps(kl_coef: float) -> list[tuple[th.Tensor, th.Tensor]]:
        """The gradient of each step, and that of the KL."""
        settings: dict[str, Any] = {"kl_constraint": "penalty", "target_kl": TARGET, "kl_coef": kl_coef}
        settings |= {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "n_epochs": 2}
        model = ispg(learning_rate=0.05, max_grad_norm=None, **settings)
        actor, watch = list(model.policy.parameters()), Watch()
        seen: list[tuple[th.Tensor, th.Tensor]] = []

        def note(*_: Any) -> None:
            update = watch.updates[-1]
            distribution = model.policy.get_distribution(update.batch.observations).distribution
            assert isinstance(distribution, th.distributions.Categorical)
            logits = distribution.logits
            kl = (update.before[0].exp() * (update.before[0] - logits)).sum(dim=-1)[parts[-1].rows].mean()
            of_kl = th.cat([part.flatten() for part in th.autograd.grad(kl, actor)])
            seen.append((flat_gradient(model.policy), of_kl))

        model.policy.optimizer.register_step_pre_hook(note)
        model.learn(32, callback=watch)
        return seen

    free, penalised = steps(1e-9), steps(3.0)
    th.testing.assert_close(free[0][0], penalised[0][0])
    assert penalised[1][1].norm() > 1e-3
    th.testing.assert_close(penalised[1][0] - free[1][0], 3 * penalised[1][1].float(), rtol=1e-3, atol=1e-5)


# --- min_ess, and what is logged ------------------------------------------------------------------------------------


@every_space
@pytest.mark.parametrize("min_ess", [0.9, 0.999999])
def test_min_ess(action_space: Any, min_ess: float) -> None:
    """No step after the one that took the effective sample size below the fraction; at least one step an update."""
    model = ispg(action_space, target_kl=None, min_ess=min_ess, n_epochs=10, learning_rate=0.03)
    updates = watched(model, 30)
    for seen in updates:
        assert_stopped_at(min_ess, seen.sample_sizes, 10, lambda ess: ess < min_ess)
        assert seen.logged["epochs"] == len(seen.steps)
    n_steps = [len(seen.steps) for seen in updates]
    assert max(n_steps) > 1 if min_ess == 0.9 else max(n_steps) <= 2
    assert min(n_steps) < 10


@every_space
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"clip_range": 0.2},
        {"max_weight": 1.1},
        {"max_weight": 1.1, "self_normalize": True},
        {"clip_range": lambda left: 0.3 * left},
        {"batch_size": 10},
    ],
    ids=["plain", "clip_range", "max_weight", "self-normalized", "clip_range schedule", "batch_size"],
)
def test_logged_of_the_weights(action_space: Any, kwargs: dict[str, Any]) -> None:
    """Every number as computed from the log-probs of before and after the update."""
    n_updates = 15
    model = ispg(action_space, target_kl=None, n_epochs=3, learning_rate=0.03, **kwargs)
    clipped = []
    for number, seen in enumerate(watched(model, n_updates), start=1):
        weights = seen.ratios.clamp(max=kwargs.get("max_weight", np.inf))
        if "self_normalize" in kwargs:
            weights = weights / weights.mean()
        expected = {
            "ess": sample_size(weights),
            "ratio_max": float(weights.max()),
            "ratio_std": float(weights.std()),
            "approx_kl": seen.kl,
            "epochs": 3,
            "n_updates": 3 * number,
        }
        near = 1e-4
        if "clip_range" in kwargs:
            eps = kwargs["clip_range"]
            eps = max(0.0, eps(1 - number / n_updates)) if callable(eps) else eps
            assert seen.logged["clip_range"] == pytest.approx(eps)
            off = (seen.ratios - 1).abs() - eps
        else:
            assert "clip_range" not in seen.logged
            off = seen.ratios - kwargs.get("max_weight", np.inf)
        least, most = (off > near).float().mean(), (off > -near).float().mean()
        assert float(least) - 1e-6 <= seen.logged["clip_fraction"] <= float(most) + 1e-6
        clipped.append(seen.logged["clip_fraction"])
        for key, value in expected.items():
            assert seen.logged[key] == pytest.approx(value, rel=2e-4, abs=1e-5), key
        assert len(seen.steps) == (12 if "batch_size" in kwargs else 3)
    is_clipping = "clip_range" in kwargs or "max_weight" in kwargs
    assert (max(clipped) > 0.05) == is_clipping
