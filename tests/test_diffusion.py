"""Diffusion policies: the likelihood of a chain, its gradient, and actions with two modes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import reward_to_go
from sb3_pg.imitation import clone
from sb3_pg.policies.diffusion import CHAIN, DiffusionCriticPolicy
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.passes import all_log_probs
from tests.helpers.environments import SPACES, RandomEnv
from tests.helpers.models import JOINT_CRITIC, OWN_CRITIC, Algorithm, differences, every_algorithm, make, snapshot
from tests.helpers.recording import Batches, flat_gradient

OBSERVED = spaces.Box(-2, 2, (3,))
ACTIONS = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
SMALL = {"net_arch": [6], "n_denoising_steps": 4, "denoiser_width": 8}


def envs(n_envs: int = 3) -> DummyVecEnv:
    env = DummyVecEnv([partial(RandomEnv, ACTIONS, OBSERVED, 8, 0.1)] * n_envs)
    env.seed(0)
    return env


def small(algorithm: Algorithm, env: Any = None, **kwargs: Any) -> Any:
    kwargs = {"policy_kwargs": SMALL} | kwargs
    return make(algorithm, envs() if env is None else env, policy="MlpDiffusionPolicy", **kwargs)


def literal_log_prob(policy: Any, observation: th.Tensor, chain: th.Tensor) -> th.Tensor:
    """sum_k log N(a[k-1]; mean(s, a[k], k), std[k]) of one chain, step by step."""
    latent = policy.mlp_extractor.forward_actor(policy.extract_features(observation[None]))
    net, total = policy.action_net, th.zeros(())
    for place, step in enumerate(range(net.n_steps - 1, -1, -1)):
        mean = net(latent, chain[None, place], step)[0]
        total = total + th.distributions.Normal(mean, net.step_stds[step]).log_prob(chain[place + 1]).sum()
    return total


class Checked(Batches):
    """Looks at each batch before the update."""

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        batch, policy = self.batches[-1], self.model.policy
        if batch is None or batch.carried.any():
            return
        said = all_log_probs(policy, batch, whole_batch(batch), None)
        assert th.allclose(said, batch.behaviour_log_prob, atol=1e-4)
        assert th.allclose(batch.extras[CHAIN][:, -1].clamp(-1, 1), batch.actions)
        observations: Any = batch.observations
        for row in range(min(4, batch.n_rows)):
            one = literal_log_prob(policy, observations[row], batch.extras[CHAIN][row]).item()
            assert one == pytest.approx(float(said[row]), abs=1e-4)


@every_algorithm
@pytest.mark.parametrize("estimator", [{}, JOINT_CRITIC, OWN_CRITIC], ids=["no critic", "joint", "own"])
def test_every_row_has_its_chain(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """Carried ones too, after an update; the log-prob is the literal sum along it."""
    seen = Checked()
    model = small(algorithm, n_steps=7, **estimator)
    before = snapshot(model)
    model.learn(3 * 7 * 8, callback=seen)
    assert any(bool(batch.carried.any()) for batch in seen.updates)
    assert any(not bool(batch.carried.any()) for batch in seen.updates)
    assert len(differences(snapshot(model)["policy"], before["policy"])) >= 8


class KeepGradient(BaseCallback):
    """Keeps what the optimizer was given, and the policy's parameters before."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[th.Tensor] = []
        self.batches: list[EpisodeBatch] = []
        self.parameters: list[Any] = []

    def _on_training_start(self) -> None:
        step = self.model.policy.optimizer.step

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.gradients.append(flat_gradient(self.model.policy))  # type: ignore[arg-type]
            return step(*args, **kwargs)

        self.model.policy.optimizer.step = noted  # type: ignore[method-assign]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.batches.append(self.model.rollout_buffer.batch)  # type: ignore[attr-defined]
        self.parameters.append({name: p.clone() for name, p in self.model.policy.state_dict().items()})


def test_the_gradient_of_learn_is_literal() -> None:
    """-1/N sum_i sum_t G[i,t] grad sum_k log N(a[k-1]; ...), of whole episodes that today's policy played."""
    kwargs = SMALL | {"optimizer_class": th.optim.SGD}
    model = small(
        REINFORCE,
        baseline="none",
        loss_reduction="episode",
        n_episodes=6,
        n_steps=40,
        learning_rate=1e-3,
        max_grad_norm=None,
        policy_kwargs=kwargs,
    )
    kept = KeepGradient()
    model.learn(200, callback=kept)
    policy: Any = model.policy
    assert len(kept.gradients) >= 2
    for gradient, batch, parameters in zip(kept.gradients, kept.batches, kept.parameters, strict=False):
        policy.load_state_dict(parameters)
        earned = reward_to_go(batch.rewards, batch.episodes, model.gamma)
        observations: Any = batch.observations
        said = [literal_log_prob(policy, observations[n], batch.extras[CHAIN][n]) for n in range(batch.n_rows)]
        loss = -(th.stack(said) * earned).sum() / batch.episodes.n_episodes
        expected = th.autograd.grad(loss, list(policy.parameters()), materialize_grads=True)
        flat = th.cat([one.flatten() for one in expected])
        assert (gradient - flat).norm() < 1e-4 * flat.norm()


def test_the_kl_is_that_of_the_chains() -> None:
    """0 from itself; and the mean along the old policy's chains of sum_k (mean - mean')^2 / (2 std^2)."""
    model = small(OffPolicyISPG, learning_rate=0.0)
    seen = Batches()
    model.learn(48, callback=seen)
    batch, policy = seen.updates[0], model.policy
    divergence = Divergence(policy, batch)
    assert divergence.mean() == pytest.approx(0.0, abs=1e-6)
    net, observations = policy.action_net, batch.observations
    latent = policy.mlp_extractor.forward_actor(policy.extract_features(observations))

    def means() -> list[th.Tensor]:
        steps = enumerate(range(net.n_steps - 1, -1, -1))
        return [
            net(latent, batch.extras[CHAIN][:, place], step).detach() / net.step_stds[step] for place, step in steps
        ]

    before = means()
    with th.no_grad():
        net.net[-1].bias.add_(0.3)
    moved = sum((one - other).square().sum(dim=1) / 2 for one, other in zip(before, means(), strict=True))
    assert divergence.mean() == pytest.approx(float(moved.mean()), rel=1e-4)  # type: ignore[union-attr]


@every_algorithm
def test_saved_loaded_and_played(algorithm: Algorithm, tmp_path: Path) -> None:
    env = envs()
    model = small(algorithm, env, baseline="value").learn(100)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env, trust=False)
    assert differences(snapshot(loaded), snapshot(model)) == []
    observed = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    one, other = (m.predict(observed, deterministic=True)[0] for m in (model, loaded))
    assert np.array_equal(one, other) and np.array_equal(one, model.predict(observed, deterministic=True)[0])
    drawn = model.predict(observed)[0]
    assert not np.array_equal(drawn, model.predict(observed)[0])
    assert all(ACTIONS.contains(action) for action in [*one, *drawn])
    path = tmp_path / "policy.pth"
    model.policy.save(str(path))
    assert differences(type(model.policy).load(str(path)), model.policy) == []
    loaded.learn(50, reset_num_timesteps=False)


def test_natural_steps_reuse_and_a_reference() -> None:
    teacher = small(REINFORCE)
    small(VanillaPG, natural_gradient=True, target_kl=0.02).learn(100)
    small(OffPolicyISPG, n_reused_batches=2, target_kl=0.01, kl_constraint="backtrack").learn(200)
    for penalty in ("reward", "loss"):
        model = small(REINFORCE, reference_policy=teacher, reference_penalty=penalty, reference_coef=1.0)
        model.policy.load_state_dict(teacher.policy.state_dict())
        model.learn(48)
        assert model._reference_kl == pytest.approx(0.0, abs=1e-4)


def test_images_and_dictionaries() -> None:
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    both = spaces.Dict({"a": OBSERVED, "b": spaces.Discrete(3)})
    for policy, space in (("CnnDiffusionPolicy", image), ("MultiInputDiffusionPolicy", both)):
        for estimator in ({}, JOINT_CRITIC):
            env = RandomEnv(ACTIONS, space, 5, 0.1)
            kwargs = {"n_denoising_steps": 2, "denoiser_width": 4}
            make(VanillaPG, env, policy=policy, policy_kwargs=kwargs, n_steps=8, **estimator).learn(16)


# Two modes


class TwoGoodActions(gym.Env[np.ndarray, np.ndarray]):
    """Reward 1 within 0.2 of -0.7 and of 0.7, and 0 elsewhere: the mean of the two is bad."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(abs(abs(float(action[0])) - 0.7) < 0.2), True, False, {}


def parts(model: Any) -> tuple[float, float]:
    """Shares of 500 actions near each of the two."""
    actions = model.predict(np.zeros((500, 1), np.float32))[0][:, 0]
    return float((abs(actions + 0.7) < 0.2).mean()), float((abs(actions - 0.7) < 0.2).mean())


def test_two_modes_are_cloned_and_kept() -> None:
    """From demonstrations of both a Gaussian learns their mean; the diffusion policy has both, and keeps both when it
    learns with the clone as reference.
    """
    rng = np.random.default_rng(0)
    actions = (rng.choice([-0.7, 0.7], size=(512, 1)) + 0.05 * rng.normal(size=(512, 1))).astype(np.float32)
    demonstrations = [{"observations": np.zeros((1, 1), np.float32), "actions": one[None]} for one in actions]
    models = {}
    for policy in ("MlpPolicy", "MlpDiffusionPolicy"):
        model = REINFORCE(policy, TwoGoodActions(), n_steps=256, seed=0, device="cpu", learning_rate=1e-3)
        clone(model, demonstrations, n_epochs=40, learning_rate=3e-3)
        models[policy] = model
    assert min(parts(models["MlpDiffusionPolicy"])) > 0.3
    assert sum(parts(models["MlpPolicy"])) < 0.6
    teacher = models["MlpDiffusionPolicy"]
    learner = REINFORCE(
        "MlpDiffusionPolicy",
        TwoGoodActions(),
        n_steps=256,
        seed=1,
        device="cpu",
        learning_rate=1e-3,
        reference_policy=teacher,
        reference_coef=0.02,
    )
    learner.policy.load_state_dict(teacher.policy.state_dict())
    learner.learn(10_000)
    # The last step's deviation is 0.1: of a policy whose modes are exactly those, 95% of the actions are within 0.2
    assert min(parts(learner)) > 0.15 and sum(parts(learner)) > 0.8


# What cannot be meant


@pytest.mark.parametrize("name", ["Discrete", "MultiBinary"])
def test_other_actions(name: str) -> None:
    with pytest.raises(ValueError, match="draws actions of a bounded Box"):
        make(REINFORCE, RandomEnv(SPACES[name][0], OBSERVED, 8, 0.1), policy="MlpDiffusionPolicy")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy_kwargs": {"n_denoising_steps": 0}}, "n_denoising_steps must be an integer >= 1"),
        ({"policy_kwargs": {"min_std": 0.0}}, "min_std must be"),
        ({"policy_kwargs": {"denoiser_width": 1.5}}, "denoiser_width must be"),
        ({"use_sde": True}, "use_sde=True has no meaning"),
    ],
)
def test_arguments_that_cannot_be(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(VanillaPG, **kwargs)


def test_an_action_without_its_chain() -> None:
    policy = DiffusionCriticPolicy(OBSERVED, ACTIONS, lambda _: 0.0)
    with pytest.raises(ValueError, match="not known without the chain"):
        policy.evaluate_actions(th.zeros(2, 3), th.zeros(2, 2))
