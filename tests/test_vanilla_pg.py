"""VanillaPG: A2C where it is configured as A2C, and a natural gradient that is one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg import VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.policies.divergence import policy_kl
from sb3_pg.policies.evaluation import action_distribution
from sb3_pg.update.natural_gradient import FisherMatrix, make_natural
from tests.helpers.models import ACTION_SPACES, AS_A2C, N_ROWS, actions_of, every_action_space, policy_and_batch
from tests.helpers.spies import replace_everywhere


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"n_steps": 210, "gae_lambda": 0.9}, {"normalize_advantage": True, "ent_coef": 0.01, "n_steps": 32}],
    ids=str,
)
def test_configured_as_a2c_it_is_a2c(env_id: str, arguments: dict[str, Any]) -> None:
    """Ten updates from the same seed, parameter by parameter, to 1e-6: A2C sums its rows in a random order.

    Rollouts of 210 steps go over time limits, and Pendulum's episodes end by nothing else.
    """
    models = []
    for algorithm, settings in ((A2C, {}), (VanillaPG, AS_A2C)):
        env = make_vec_env(env_id, 3, seed=0)
        model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings | arguments)
        models.append(model.learn(10 * 3 * model.n_steps))
        assert model._n_updates == 10
    ours, theirs = (dict(model.policy.named_parameters()) for model in models)
    assert ours.keys() == theirs.keys()
    for name in ours:
        th.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6, msg=partial("{}: {}".format, name))


def matrix(fisher: FisherMatrix) -> th.Tensor:
    """The matrix, one product with a unit vector a column."""
    n = sum(parameter.numel() for parameter in fisher.parameters)
    return th.stack([fisher.product(unit) for unit in th.eye(n, dtype=th.float64)], dim=1)


@pytest.mark.parametrize("name", ["Discrete", "MultiDiscrete", "MultiBinary"])
@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_fisher_matrix_is_the_second_moment_of_the_score(name: str, micro_batch_size: int | None) -> None:
    """F = (1/n) sum_s sum_a pi(a|s) s(a|s) s(a|s)^T over every action; it does not see the critic."""
    policy, batch = policy_and_batch(ACTION_SPACES[name])
    fisher = FisherMatrix(policy, batch, micro_batch_size=micro_batch_size)
    assert {id(p) for p in policy.parameters()} - {id(p) for p in fisher.parameters} == {
        id(p) for module in (policy.mlp_extractor.value_net, policy.value_net) for p in module.parameters()
    }
    expected = th.zeros_like(matrix(fisher))
    assert isinstance(batch.observations, th.Tensor)
    for observation in batch.observations:
        for action in actions_of(ACTION_SPACES[name]):
            value = th.tensor([action], dtype=th.float64 if name == "MultiBinary" else th.long)
            log_prob = policy.get_distribution(observation[None]).log_prob(value).sum()
            score = th.cat([part.flatten() for part in th.autograd.grad(log_prob, fisher.parameters)])
            expected += log_prob.exp().detach() * th.outer(score, score) / N_ROWS
    th.testing.assert_close(matrix(fisher), expected, rtol=1e-6, atol=1e-9)


@every_action_space
def test_fisher_matrix_is_the_hessian_of_the_kl(action_space: spaces.Space[Any]) -> None:
    """The Hessian of the mean KL(old || new) at new = old, by differentiating twice."""
    policy, batch = policy_and_batch(action_space)
    fisher = FisherMatrix(policy, batch)
    names = [name for name, p in policy.named_parameters() if any(p is q for q in fisher.parameters)]
    here = th.nn.utils.parameters_to_vector(fisher.parameters).detach()
    with th.no_grad():
        old = action_distribution(policy, batch.at(slice(None)))

    def mean_kl(vector: th.Tensor) -> th.Tensor:
        pieces = vector.split([p.numel() for p in fisher.parameters])
        there = {n: x.view_as(p) for n, x, p in zip(names, pieces, fisher.parameters, strict=True)}
        with swapped(policy, there):
            return policy_kl(old, action_distribution(policy, batch.at(slice(None)))).mean()

    hessian = th.autograd.functional.hessian(mean_kl, here)
    th.testing.assert_close(matrix(fisher), hessian, rtol=1e-6, atol=1e-9)
    assert th.linalg.eigvalsh(hessian).min() > -1e-9


def swapped(policy: ActorCriticPolicy, parameters: dict[str, th.Tensor]) -> Any:
    """The policy with other tensors in the place of some parameters."""
    return th.nn.utils.stateless._reparametrize_module(policy, parameters)


@every_action_space
def test_natural_direction_solves_the_damped_system(action_space: spaces.Space[Any]) -> None:
    """(F + damping I)^-1 g by conjugate gradients equals the solution by elimination.

    The solver stops at a residual of 1e-5 of |g|, which the smallest eigenvalue, 0.1 at least, can make 1e-4 of |g|.
    """
    policy, batch = policy_and_batch(action_space)
    fisher = FisherMatrix(policy, batch, damping=0.1)
    dense = matrix(fisher)
    gradient = th.randn(len(dense), dtype=th.float64, generator=th.Generator().manual_seed(1))
    for scale in (1.0, 1e-8, 1e8):
        direction = fisher.solve(scale * gradient, max_iter=3 * len(dense))
        error = direction / scale - th.linalg.solve(dense, gradient)
        assert error.norm() <= 1.01e-4 * gradient.norm()
    assert fisher.solve(0 * gradient, max_iter=5).eq(0).all()


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_natural_step_of_learn(max_grad_norm: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that ``learn`` takes is -learning_rate F^-1 g on the actor, g being clipped before."""
    seen: list[tuple[th.Tensor, th.Tensor]] = []

    def watched(policy: ActorCriticPolicy, batch: EpisodeBatch, damping: float, *args: Any) -> None:
        fisher = FisherMatrix(policy, batch, damping)
        gradient = th.cat([p.grad.flatten() for p in fisher.parameters if p.grad is not None])
        assert max_grad_norm is None or float(gradient.norm()) == pytest.approx(max_grad_norm, rel=1e-3)
        n = len(gradient)
        dense = th.stack([fisher.product(unit) for unit in th.eye(n)], dim=1)
        before = th.nn.utils.parameters_to_vector(fisher.parameters).detach().clone()
        seen.append((before, th.linalg.solve(dense.double(), gradient.double())))
        make_natural(policy, batch, damping, *args)

    replace_everywhere(monkeypatch, make_natural, watched)
    model = VanillaPG(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 2, seed=0),
        n_steps=64,
        learning_rate=0.05,
        natural_gradient=True,
        cg_max_steps=200,
        max_grad_norm=max_grad_norm,
        policy_kwargs={"net_arch": [4]},
        seed=0,
        device="cpu",
    ).learn(128)
    (before, direction), fisher = seen[0], FisherMatrix(model.policy, model.rollout_buffer.batch)  # type: ignore[arg-type]
    after = th.nn.utils.parameters_to_vector(fisher.parameters)
    th.testing.assert_close((before - after).double() / 0.05, direction, rtol=2e-3, atol=2e-3 * float(direction.norm()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cg_max_steps": 0}, "cg_max_steps must be an integer >= 1"),
        ({"cg_damping": -1.0}, "cg_damping must be a number >= 0"),
        (
            {"baseline": "leave_one_out", "value_learning_rate": 1e-3},
            r"^value_learning_rate needs a learned critic: write baseline='value'",
        ),
        ({"gae_lambda": 1.5}, r"gae_lambda must be a number in \[0, 1\]"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """What was wrong, what to write instead."""
    with pytest.raises(ValueError, match=message):
        VanillaPG("MlpPolicy", "CartPole-v1", **arguments)


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.AdamW])
def test_steps_for_all_parameters_at_once_are_those_of_the_loop(optimizer_class: type[th.optim.Optimizer]) -> None:
    """With an optimizer of its own for the critic: to the rounding of 10 updates of 1 and 5 steps."""

    def parameters(**given: Any) -> th.Tensor:
        kwargs = {"optimizer_class": optimizer_class, "optimizer_kwargs": given}
        env = make_vec_env("CartPole-v1", 4, seed=0)
        model = VanillaPG("MlpPolicy", env, n_value_updates=5, policy_kwargs=kwargs, seed=0, device="cpu")
        assert model.value_optimizer is not None
        for optimizer in (model.policy.optimizer, model.value_optimizer):
            assert optimizer.param_groups[0]["fused"] == given.get("fused", True)
        model.learn(10 * model.n_steps * 4)
        return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()

    th.testing.assert_close(parameters(eps=1e-5), parameters(eps=1e-5, fused=False), rtol=0, atol=1e-6)
