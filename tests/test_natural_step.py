"""The natural step that is scaled to a KL bound: TRPO where it is configured as TRPO, its length, its line search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib.trpo.trpo as trpo
import torch as th
from sb3_contrib import TRPO
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.update import natural_gradient
from sb3_pg.update.natural_gradient import FisherMatrix, make_natural
from tests.helpers.environments import OBSERVATIONS, SPACES, RandomEnv, diary
from tests.helpers.models import (
    ACTION_SPACES,
    JOINT_CRITIC,
    MONTE_CARLO,
    OWN_CRITIC,
    every_action_space,
    make,
    no_episode_ended,
    policy_and_batch,
)
from tests.helpers.recording import double_precision

BOUNDED: dict[str, Any] = {"natural_gradient": True, "target_kl": 0.01, "max_grad_norm": None}
#: TRPO's own settings, where VanillaPG has others; its critic in four minibatches of the 128 rows here.
AS_TRPO: dict[str, Any] = BOUNDED | {
    "gae_lambda": 0.95,
    "normalize_advantage": True,
    "value_learning_rate": 1e-3,
    "value_batch_size": 32,
    "n_value_updates": 10,
}


def random_envs(name: str, policy: str = "MlpPolicy") -> DummyVecEnv:
    env = DummyVecEnv([lambda: RandomEnv(SPACES[name][0], OBSERVATIONS[policy], 30, 0.05)] * 2)
    env.seed(0)
    return env


ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    "CartPole-v1": partial(make_vec_env, "CartPole-v1", 2, seed=0),
    **{name: partial(random_envs, name) for name in ("Box", "Discrete", "MultiDiscrete")},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_configured_as_trpo_it_is_trpo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten updates from the same seed in float64, parameter by parameter, to 1e-5 (buffers hold single precision).

    TRPO draws one more permutation an update than it uses: here nobody permutes. And its solver stops at an absolute
    residual, which ours takes of a gradient of length 1: here both go on to the last of their iterations. In the
    environments of this test nothing that a rounding changes grows: on Pendulum, TRPO itself is 0.1 away from a TRPO
    whose first parameters differ by 1e-7 of themselves. TRPO's KL is a mean over the dimensions of a Box action, ours
    that of the whole action: bound and damping are as many times as large.
    """
    dimensions = {"Box": 2}.get(name, 1)
    settings: dict[str, Any] = AS_TRPO | {"target_kl": 0.01 * dimensions, "cg_damping": 0.1 * dimensions}
    monkeypatch.setattr(np.random, "permutation", np.arange)
    for module in (trpo, natural_gradient):
        solver = partial(conjugate_gradient_solver, residual_tol=0.0)
        monkeypatch.setattr(module, "conjugate_gradient_solver", solver)
    models, found = [], []
    for algorithm, arguments in ((TRPO, {"batch_size": 32}), (VanillaPG, settings)):
        model: Any = algorithm("MlpPolicy", ENVIRONMENTS[name](), n_steps=64, seed=0, device="cpu", **arguments)
        model.policy = double_precision(model.policy)
        models.append(model.learn(10 * 2 * 64))
        found.append(model.logger.name_to_value["train/is_line_search_success"])
    assert models[1]._n_updates == 10
    assert found == [1.0, 1.0]
    ours, theirs = (dict(model.policy.named_parameters()) for model in reversed(models))
    assert ours.keys() == theirs.keys()
    for key in ours:
        th.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-5, msg=partial("{}: {}".format, key))


def with_gradient(action_space: Any, seed: int = 1) -> tuple[Any, EpisodeBatch, FisherMatrix]:
    """A random policy with a random gradient, its states, and its Fisher matrix."""
    policy, batch = policy_and_batch(action_space)
    fisher = FisherMatrix(policy, batch)
    generator = th.Generator().manual_seed(seed)
    for parameter in fisher.parameters:
        parameter.grad = th.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    return policy, batch, fisher


def gradient_of(fisher: FisherMatrix) -> th.Tensor:
    return th.cat([parameter.grad.flatten() for parameter in fisher.parameters if parameter.grad is not None])


@every_action_space
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_the_step_has_the_length_of_the_bound(action_space: Any, damping: float) -> None:
    """x = c F^-1 g with x^T (F + damping I) x / 2 = target_kl, whatever the scale of g."""
    directions = []
    for scale in (1.0, 1e-6, 1e6):
        policy, batch, fisher = with_gradient(action_space)
        fisher.damping = damping
        for parameter in fisher.parameters:
            assert parameter.grad is not None
            parameter.grad *= scale
        plain = gradient_of(fisher)
        make_natural(policy, batch, damping, 100, None, target_kl=0.02)
        step = gradient_of(fisher)
        assert (step @ fisher.product(step)).item() / 2 == pytest.approx(0.02, rel=1e-6)
        cosine = th.nn.functional.cosine_similarity(fisher.product(step), plain, dim=0)
        assert cosine.item() == pytest.approx(1.0, abs=1e-6)
        directions.append(step)
    for direction in directions[1:]:
        th.testing.assert_close(direction, directions[0], rtol=1e-4, atol=1e-6)


@every_action_space
def test_the_kl_of_a_small_step_is_the_bound(action_space: Any) -> None:
    """Less the damping's part, damping |x|^2 / 2, and to second order: an error of 3% at a KL of 1e-5.

    Of a gradient that the KL sees, as a policy's own is.
    """
    policy, batch, fisher = with_gradient(action_space)
    parts = fisher.product(gradient_of(fisher)).split([parameter.numel() for parameter in fisher.parameters])
    for parameter, part in zip(fisher.parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()
    divergence, damping = Divergence(policy, batch), 1e-4
    make_natural(policy, batch, damping, 200, None, target_kl=1e-5)
    expected = 1e-5 - damping * gradient_of(fisher).square().sum().item() / 2
    assert 0.8e-5 < expected < 1e-5
    th.optim.SGD(policy.parameters(), lr=1.0).step()
    assert divergence.mean() == pytest.approx(expected, rel=0.03)


def test_no_gradient_is_no_step() -> None:
    policy, batch, fisher = with_gradient(ACTION_SPACES["Discrete"])
    for parameter in fisher.parameters:
        parameter.grad = th.zeros_like(parameter)
    make_natural(policy, batch, 0.1, 10, None, target_kl=0.01)
    assert not gradient_of(fisher).any()


class Steps:
    """What a model's updates did: the actor before and after, the step as it would have been, the divergence."""

    def __init__(self, model: VanillaPG, monkeypatch: pytest.MonkeyPatch):
        self.model = model
        self.seen: list[tuple[th.Tensor, th.Tensor, th.Tensor, float, dict[str, float]]] = []
        train = model.train
        monkeypatch.setattr(model, "train", lambda: self._watched(train))

    def _actor(self) -> list[th.nn.Parameter]:
        critic = set(own_parameters_of_critic(self.model.policy))
        return [parameter for parameter in self.model.policy.parameters() if parameter not in critic]

    def _watched(self, train: Callable[[], None]) -> None:
        batch = self.model.rollout_buffer.batch
        assert batch is not None
        divergence = Divergence(self.model.policy, batch)
        before = th.nn.utils.parameters_to_vector(self._actor()).detach().clone()
        train()
        after = th.nn.utils.parameters_to_vector(self._actor()).detach().clone()
        full = -th.cat([p.grad.flatten() for p in self._actor() if p.grad is not None])
        logged = {key: value for key, value in self.model.logger.name_to_value.items() if key.startswith("train/")}
        self.seen.append((before, after, full, divergence.mean(), logged))


def learned(monkeypatch: pytest.MonkeyPatch, n_updates: int = 8, **arguments: Any) -> Steps:
    defaults: dict[str, Any] = {"n_steps": 32, "policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    model = VanillaPG("MlpPolicy", random_envs("Discrete"), **defaults | arguments)
    steps = Steps(model, monkeypatch)
    model.learn(n_updates * 64)
    assert len(steps.seen) == n_updates
    return steps


@pytest.mark.parametrize("critic", [{}, {"value_learning_rate": None}], ids=["own critic", "joint critic"])
@pytest.mark.parametrize("target_kl", [0.01, 1.0, 20.0])
def test_the_line_search_takes_the_longest_step_that_is_good(
    critic: dict[str, Any], target_kl: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power of the shrinking factor along the whole step, within the bound; or none of it."""
    steps = learned(monkeypatch, **BOUNDED | critic | {"target_kl": target_kl, "line_search_shrinking_factor": 0.5})
    powers = []
    for before, after, full, kl, logged in steps.seen:
        assert logged["train/approx_kl"] == pytest.approx(kl, abs=1e-6)
        assert kl <= target_kl
        if logged["train/is_line_search_success"] == 0:
            assert th.equal(after, before)
            continue
        power = round(float(th.log2(full.norm() / (after - before).norm())))
        th.testing.assert_close(after - before, full * 0.5**power, rtol=1e-3, atol=1e-6)
        powers.append(power)
    assert powers and all(0 <= power < 10 for power in powers)
    assert max(powers) > 0 or target_kl < 20, "a long step is cut somewhere"


def test_a_step_that_no_try_makes_good_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uphill, nothing is better; the joint critic learns all the same."""
    monkeypatch.setattr(th.optim.SGD, "step", lambda self, closure=None: _climb(self))
    steps = learned(monkeypatch, 2, **BOUNDED, value_learning_rate=None)
    critic = own_parameters_of_critic(steps.model.policy)
    assert all(parameter.grad is not None for parameter in critic)
    for before, after, _, kl, logged in steps.seen:
        assert th.equal(before, after)
        assert logged["train/is_line_search_success"] == 0.0
        assert kl == pytest.approx(0.0, abs=1e-7)


@th.no_grad()
def _climb(optimizer: th.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.add_(parameter.grad)


def test_without_a_line_search_the_whole_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = learned(monkeypatch, **BOUNDED, line_search_max_iter=0)
    for before, after, full, kl, logged in steps.seen:
        th.testing.assert_close(after - before, full, rtol=1e-5, atol=1e-6)
        assert logged["train/approx_kl"] == pytest.approx(kl, abs=1e-6)
        assert 0.002 < kl < 0.05
        assert "train/is_line_search_success" not in logged


def test_the_learning_rate_is_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = BOUNDED | {"line_search_max_iter": 0}
    whole, half = (learned(monkeypatch, 1, **arguments, **rate).seen[0] for rate in ({}, {"learning_rate": 0.5}))
    th.testing.assert_close(half[1] - half[0], 0.5 * (whole[1] - whole[0]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("estimator", [MONTE_CARLO, JOINT_CRITIC, OWN_CRITIC], ids=["none", "joint", "own"])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("micro_batch_size", [None, 7])
def test_it_goes_with_every_estimator(estimator: dict[str, Any], policy: str, micro_batch_size: int | None) -> None:
    env = random_envs("Discrete", policy)
    arguments = estimator | BOUNDED | {"micro_batch_size": micro_batch_size, "ent_coef": 0.01}
    model = make(VanillaPG, env, policy=policy, **arguments)
    model.learn(96)
    assert 0 <= model.logger.name_to_value["train/approx_kl"] <= 0.01


def test_the_same_keys_in_every_iteration() -> None:
    """Where there is no update too: an episode of 5 steps does not end in rollouts of 4."""
    model = make(VanillaPG, diary(lengths=(5,)), n_steps=4, **BOUNDED)
    keys, counts = [], set()
    with no_episode_ended():
        for _ in range(4):
            before = model._n_updates
            model.learn(4, reset_num_timesteps=False)
            keys.append({key for key in model.logger.name_to_value if key.startswith("train/")})
            counts.add(model._n_updates - before)
    assert counts == {0, 1}
    assert all(one == keys[0] for one in keys) and {"train/approx_kl", "train/is_line_search_success"} <= keys[0]


def test_plain_steps_suit_the_actor_alone() -> None:
    """Where SGD steps along the natural gradient because nobody asked for another, the critic has Adam."""
    natural = make(VanillaPG, diary(), **OWN_CRITIC, natural_gradient=True)
    assert type(natural.policy.optimizer) is th.optim.SGD and type(natural.value_optimizer) is th.optim.Adam
    plain = make(VanillaPG, diary(), **OWN_CRITIC, natural_gradient=False)
    assert type(plain.policy.optimizer) is type(plain.value_optimizer) is th.optim.Adam
    rms = {"optimizer_class": th.optim.RMSprop}
    other = make(VanillaPG, diary(), **OWN_CRITIC, natural_gradient=True, policy_kwargs=rms)
    assert type(other.policy.optimizer) is type(other.value_optimizer) is th.optim.RMSprop


ADAM: dict[str, Any] = {"policy_kwargs": {"optimizer_class": th.optim.Adam}}
STEPS: list[tuple[dict[str, Any], tuple[bool, float | None, float, int]]] = [
    ({}, (True, 0.02, 1.0, 2048)),
    ({"target_kl": 0.05}, (True, 0.05, 1.0, 2048)),
    ({"target_kl": 0.05, "learning_rate": 0.5}, (True, 0.05, 0.5, 2048)),
    ({"baseline": "time_leave_one_out", "n_steps": 128}, (True, 0.02, 1.0, 128)),
    # What says how long a plain step is asks for one
    ({"learning_rate": 0.001}, (False, None, 0.001, 8)),
    ({"learning_rate": 0.001, "n_steps": 128}, (False, None, 0.001, 128)),
    (ADAM, (False, None, 3e-3, 8)),
    ({"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}}}, (False, None, 3e-3, 8)),
    ({"value_learning_rate": None}, (False, None, 3e-3, 8)),
    ({"natural_gradient": False}, (False, None, 3e-3, 8)),
    # And a natural one that is not asked to have a length has that of its direction
    ({"natural_gradient": True}, (True, None, 0.3, 2048)),
    ({"natural_gradient": True, **ADAM}, (True, None, 3e-3, 2048)),
]


@pytest.mark.parametrize(("arguments", "expected"), STEPS)
def test_the_step_is_scaled_unless_its_length_is_given(
    arguments: dict[str, Any], expected: tuple[bool, float | None, float, int]
) -> None:
    model = VanillaPG("MlpPolicy", "CartPole-v1", device="cpu", **arguments)
    assert (model.natural_gradient, model.target_kl, model.learning_rate, model.n_steps) == expected


def test_the_user_s_policy_kwargs_stay_the_user_s(tmp_path: Path) -> None:
    """As given, so that ``load`` can compare them; and the optimizer is SGD again."""
    given = {"net_arch": [4]}
    model = VanillaPG("MlpPolicy", "CartPole-v1", n_steps=16, policy_kwargs=given, device="cpu").learn(16)
    assert model.policy_kwargs == given == {"net_arch": [4]}
    model.save(tmp_path / "model")
    again = VanillaPG.load(tmp_path / "model", env=model.get_env(), policy_kwargs=given).learn(16)
    assert type(again.policy.optimizer) is type(model.policy.optimizer) is th.optim.SGD


BAD: list[tuple[dict[str, Any], str]] = [
    ({"target_kl": 0.01, "natural_gradient": False}, "target_kl=0.01 .*natural_gradient=True.*OffPolicyISPG"),
    ({**BOUNDED, "policy_kwargs": {"optimizer_class": th.optim.Adam}}, "target_kl=0.01 .*optimizer_class"),
    ({**BOUNDED, "target_kl": 0}, "target_kl must be a number > 0"),
    ({**BOUNDED, "line_search_max_iter": -1}, "line_search_max_iter must be an integer >= 0"),
    ({**BOUNDED, "line_search_shrinking_factor": 1.0}, "line_search_shrinking_factor must be a number between 0 and 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VanillaPG("MlpPolicy", "CartPole-v1", **arguments)
