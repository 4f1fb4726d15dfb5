"""A reference policy: what straying from it costs, exactly; how it is given, kept and refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_pg import REINFORCE, OffPolicyISPG, ResumeCallback, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.update.critic import ValueLoss
from tests.helpers import literal
from tests.helpers.environments import ProbeEnv, RandomEnv, diary
from tests.helpers.gradients import drawn_action, evaluate, pieces_of_learn
from tests.helpers.masks import masked_diary
from tests.helpers.models import ESTIMATORS, MONTE_CARLO, TINY, Algorithm, differences, every_algorithm, make, snapshot
from tests.helpers.recording import Batches, double_precision, log_to_memory, record

OBSERVED = spaces.Box(-2, 2, (3,))
N_ACTIONS = 4


def random_env(action_space: spaces.Space[Any] | None = None) -> RandomEnv:
    return RandomEnv(spaces.Discrete(N_ACTIONS) if action_space is None else action_space, OBSERVED, 8, 0.1)


def another_policy(action_space: spaces.Space[Any] | None = None, seed: int = 7) -> ActorCriticPolicy:
    """A random one, of another network than the models'."""
    th.manual_seed(seed)
    space = spaces.Discrete(N_ACTIONS) if action_space is None else action_space
    policy = ActorCriticPolicy(OBSERVED, space, lambda _: 0.0, net_arch=[5], ortho_init=False)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(th.randn_like(parameter))
    return policy


# What straying costs


def every_action(observation: th.Tensor) -> EpisodeBatch:
    """An episode of one step for each action."""
    zeros, flags = th.zeros(N_ACTIONS), th.zeros(N_ACTIONS, dtype=th.bool)
    index = EpisodeIndex.from_lengths(th.ones(N_ACTIONS, dtype=th.long))
    rewards = th.tensor([1.0, -0.5, 0.3, 2.0])
    facts = (index, observation.expand(N_ACTIONS, 3), th.arange(N_ACTIONS), rewards, zeros, zeros, flags)
    return EpisodeBatch(*facts, th.arange(N_ACTIONS), ~flags, flags, last_values=zeros)


def with_log_probs(model: PolicyGradientAlgorithm, batch: EpisodeBatch) -> tuple[EpisodeBatch, th.Tensor]:
    """The batch as the model's policy would have played it, and the log-probs with a gradient."""
    log_probs = model.policy.evaluate_actions(batch.observations, batch.actions)[1]
    facts = vars(batch) | {"behaviour_log_prob": log_probs.detach()}
    return EpisodeBatch(**facts), log_probs


@pytest.mark.parametrize("coef", [0.05, 0.7, 5.0])
def test_the_optimum_is_the_reference_tilted_by_the_reward(coef: float) -> None:
    """By enumeration: sum_a pi(a) r'(a) grad log pi(a) is the gradient of J = E[r] - coef KL(pi || pi_ref), which is 0
    at pi_ref exp(r / coef) / Z; there r' is the same for all actions.
    """
    model = make(
        REINFORCE, random_env(), reference_policy=another_policy(), reference_coef=coef, policy_kwargs={"net_arch": []}
    )
    batch, _ = with_log_probs(model, every_action(th.tensor([0.3, -1.0, 0.5])))
    reference = model.reference_policy.get_distribution(batch.observations[:1]).distribution.logits[0]  # type: ignore[index]
    parameters = [p for p in model.policy.parameters() if p.requires_grad]

    def by_rewards() -> tuple[th.Tensor, th.Tensor]:
        known, log_probs = with_log_probs(model, batch)
        rewards = model._near_reference(known).rewards
        estimate = (log_probs.exp().detach() * rewards * log_probs).sum()
        return rewards, th.cat([g.flatten() for g in th.autograd.grad(estimate, parameters, materialize_grads=True)])

    _, got = by_rewards()
    _, log_probs = with_log_probs(model, batch)
    objective = (log_probs.exp() * (batch.rewards - coef * (log_probs - reference))).sum()
    expected = th.cat([g.flatten() for g in th.autograd.grad(objective, parameters, materialize_grads=True)])
    assert th.allclose(got, expected, atol=1e-5 * max(1.0, coef)) and expected.norm() > 0.01
    tilted = th.log_softmax(reference + batch.rewards / coef, dim=0)
    action_net: Any = model.policy.action_net
    with th.no_grad():
        action_net.weight.zero_()
        action_net.bias.copy_(tilted)
    rewards, at_optimum = by_rewards()
    assert th.allclose(rewards, rewards[:1].expand(N_ACTIONS), atol=1e-4)
    assert at_optimum.norm() < 1e-4 * expected.norm() + 1e-5


@pytest.mark.parametrize("coef", [0.05, 5.0])
def test_the_loss_has_the_gradient_of_the_kl(coef: float) -> None:
    """In closed form, the mean over the states; nothing is taken from the rewards."""
    model = make(
        REINFORCE, random_env(), reference_policy=another_policy(), reference_coef=coef, reference_penalty="loss"
    )
    batch, _ = with_log_probs(model, every_action(th.tensor([0.3, -1.0, 0.5])))
    assert th.equal(model._near_reference(batch).rewards, batch.rewards)
    loss = ValueLoss(batch.rewards, batch.values)
    one = th.ones(())
    model._gradient(batch, whole_batch(batch), lambda log_prob, rows: 0 * log_prob.sum(), one, loss)
    got = [p.grad for p in model.policy.parameters()]
    ours = model.policy.get_distribution(batch.observations).distribution.logits  # type: ignore[union-attr]
    theirs = model.reference_policy.get_distribution(batch.observations).distribution.logits
    kl = (ours.exp() * (ours - theirs)).sum(dim=1).mean()
    expected = th.autograd.grad(coef * kl, list(model.policy.parameters()), allow_unused=True)
    for one_got, one_expected in zip(got, expected, strict=True):
        if one_expected is not None:
            assert one_got is not None and th.allclose(one_got, one_expected, atol=1e-6 * max(1.0, coef))


@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(N_ACTIONS), spaces.Box(-50, 50, (2,))], ids=["Discrete", "Box"]
)
def test_the_gradient_of_learn_is_literal(action_space: spaces.Space[Any]) -> None:
    """-1/N sum_i sum_t rho G'[i,t] grad log pi, with the rewards to go of r - coef (log pi - log pi_ref)."""
    reference, coef = another_policy(action_space), 0.3
    model, tape = record(
        lambda: random_env(action_space),
        n_envs=2,
        algorithm=REINFORCE,
        n_steps=11,
        learning_rate=0.02,
        baseline="none",
        loss_reduction="episode",
        reference_policy=reference,
        reference_coef=coef,
    )
    exact = double_precision(reference)
    used = pieces_of_learn(model, tape)
    assert len(used) >= 2
    for iteration, pieces in used.items():
        now, loss = tape.policies[iteration], th.zeros((), dtype=th.float64)
        for piece in pieces:
            taken = [(step, drawn_action(tape, piece, step)) for step in piece.steps]
            said = [evaluate(now, step.observation, action)[1] for step, action in taken]
            theirs = [evaluate(exact, step.observation, action)[1].item() for step, action in taken]
            rewards = [s.reward - coef * (o.item() - r) for s, o, r in zip(piece.steps, said, theirs, strict=True)]
            to_go = literal.reward_to_go([rewards], model.gamma, [0.0])[0]
            for (step, action), ours, earned in zip(taken, said, to_go, strict=True):
                then = evaluate(tape.policies[step.iteration], step.observation, action)[1].item()
                ratio = 1.0 if step.iteration == iteration else min(math.exp(ours.item() - then), 10.0)
                loss = loss - ratio * earned * ours / len(pieces)
        gradients = th.autograd.grad(loss, list(now.parameters()), materialize_grads=True)
        expected = th.cat([one.flatten() for one in gradients])
        assert (tape.gradients[iteration] - expected).norm() < 1e-5 * expected.norm()


@every_algorithm
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_without_a_coefficient_it_changes_nothing(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    states = []
    for arguments in ({}, {"reference_policy": another_policy(), "reference_coef": 0.0}):
        model = make(algorithm, random_env(), **estimator | arguments)
        states.append(snapshot(model.learn(200)))
    assert differences(states[0], states[1]) == []


@every_algorithm
@pytest.mark.parametrize("penalty", ["reward", "loss"])
def test_a_large_coefficient_keeps_the_policy_there(algorithm: Algorithm, penalty: str) -> None:
    """From another policy it comes nearer, whatever the rewards say; and the distance is logged."""
    model = make(
        algorithm,
        random_env(),
        reference_policy=another_policy(),
        reference_coef=lambda progress: 20.0,
        reference_penalty=penalty,
        learning_rate=0.02,
        normalize_advantage=False,
        n_steps=128,
    )
    memory = log_to_memory(model)
    model.learn(128 * 25)
    logged = [dump["train/reference_kl"] for dump in memory if "train/reference_kl" in dump]
    assert np.mean(logged[-5:]) < 0.3 * logged[0]


def test_natural_steps_and_past_batches() -> None:
    """The line search sees the penalty too, and batches that are used again keep the rewards of their time."""
    arguments = {"reference_policy": another_policy(), "reference_coef": 20.0}
    for penalty in ("reward", "loss"):
        model = make(
            VanillaPG, random_env(), natural_gradient=True, target_kl=0.05, reference_penalty=penalty, **arguments
        )
        model.learn(16 * 40)
        assert model._reference_kl < 1.0
    seen = Batches()
    make(OffPolicyISPG, random_env(), n_reused_batches=2, **arguments).learn(16 * 10, callback=seen)
    assert len(seen.updates) > 3


# How it is given, and kept


@every_algorithm
@pytest.mark.parametrize("kind", ["policy", "model", "path", "path of another algorithm", "path of a maskable one"])
def test_however_it_is_given_it_is_that_policy(algorithm: Algorithm, kind: str, tmp_path: Path) -> None:
    """A copy that does not learn; saved with the model and loaded, also without trust."""
    is_masked = kind == "path of a maskable one"
    env: Any = masked_diary(2) if is_masked else random_env()
    maker: Any = {"path of another algorithm": A2C, "path of a maskable one": MaskablePPO}.get(kind, PPO)
    teacher = maker("MlpPolicy", env, seed=5, policy_kwargs={"net_arch": [6]})
    teacher.save(tmp_path / "teacher.zip")
    given: Any = {"policy": teacher.policy, "model": teacher}.get(kind, str(tmp_path / "teacher.zip"))
    model = make(algorithm, env, reference_policy=given)
    before = {name: tensor.clone() for name, tensor in teacher.policy.state_dict().items()}
    model.learn(100)
    assert not any(parameter.requires_grad for parameter in model.reference_policy.parameters())
    assert differences(model.reference_policy.state_dict(), before) == []
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env, trust=False)
    assert differences(loaded.reference_policy.state_dict(), before) == []
    if "path" in kind:
        (tmp_path / "teacher.zip").unlink()
        with pytest.raises(ValueError, match=r"reference_policy=.*teacher\.zip"):
            algorithm.load(tmp_path / "model", env)
    if not is_masked:
        again = algorithm.load(tmp_path / "model", env, reference_policy=another_policy())
        assert differences(again.reference_policy, another_policy()) == []
    loaded.learn(50, reset_num_timesteps=False)


class Renew(BaseCallback):
    """Takes the policy as it is for the new reference, after every other rollout; None at last."""

    n_rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.n_rollouts += 1
        if self.n_rollouts % 2 == 0:
            self.model.reference_policy = self.model.policy  # type: ignore[attr-defined]
        if self.n_rollouts == 7:
            self.model.reference_policy = None  # type: ignore[attr-defined]


@every_algorithm
def test_a_callback_may_change_it(algorithm: Algorithm) -> None:
    model = make(algorithm, random_env(), reference_policy=another_policy())
    callback = Renew()
    for _ in range(6):
        model.learn(16, callback=callback, reset_num_timesteps=False)
        assert model.reference_policy is not model.policy
    model.learn(16, callback=callback, reset_num_timesteps=False)
    assert model.reference_policy is None


def test_policies_that_remember(tmp_path: Path) -> None:
    """As the reference, and as what stays near it; each has its own memory."""
    lstm = {"lstm_hidden_size": 4, "net_arch": [4]}
    env = random_env()
    teacher = make(REINFORCE, env, policy="MlpLstmPolicy", policy_kwargs=lstm)
    for policy, kwargs in (("MlpLstmPolicy", lstm), ("MlpPolicy", TINY)):
        model = make(REINFORCE, env, policy=policy, policy_kwargs=kwargs, reference_policy=teacher, learning_rate=0.0)
        if policy == "MlpLstmPolicy":
            model.policy.load_state_dict(teacher.policy.state_dict())
        model.learn(16 * 5)
        assert (abs(model._reference_kl) < 1e-5) == (policy == "MlpLstmPolicy")
        model.save(tmp_path / "model")
        assert differences(REINFORCE.load(tmp_path / "model").reference_policy, model.reference_policy) == []


def test_a_run_with_one_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    def run(steps: int) -> PolicyGradientAlgorithm:
        env = diary(2)
        reference = another_policy_of(env)
        model = make(REINFORCE, env, reference_policy=reference, reference_coef=1.0)
        return model.learn(steps, callback=ResumeCallback(tmp_path / str(steps), every=50))

    whole, part = run(400), run(200)
    del part
    resumed = REINFORCE.resume(tmp_path / "200", diary(2))
    with pytest.warns(UserWarning, match="schedules follow"):
        resumed.learn(400)
    assert differences(snapshot(resumed), snapshot(whole)) == []
    assert differences(resumed.reference_policy, whole.reference_policy) == []


def another_policy_of(env: Any) -> ActorCriticPolicy:
    th.manual_seed(3)
    return ActorCriticPolicy(env.observation_space, env.action_space, lambda _: 0.0, net_arch=[4])


# What cannot be meant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference_policy": 3}, "reference_policy must be an actor-critic policy, an on-policy model, the path"),
        ({"reference_policy": "MlpPolicy"}, "reference_policy='MlpPolicy' is no file that can be read"),
        ({"reference_policy": another_policy(spaces.Discrete(2))}, "reference_policy has the action_space"),
        ({"reference_policy": another_policy(spaces.Box(-1, 1, (2,)))}, "reference_policy has the action_space"),
        ({"reference_coef": -1.0}, "reference_coef must"),
        ({"reference_coef": math.nan}, "reference_coef must"),
        ({"reference_coef": "0.1"}, "reference_coef must"),
        ({"reference_penalty": "kl"}, "reference_penalty must be one of"),
    ],
    ids=str,
)
@every_algorithm
def test_what_is_no_reference(algorithm: Algorithm, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(algorithm, random_env(), **arguments)


def test_other_refusals() -> None:
    teacher = make(REINFORCE, random_env(), policy="MlpLstmPolicy")
    with pytest.raises(ValueError, match="has to see episodes from their beginning"):
        VanillaPG("MlpPolicy", random_env(), reference_policy=teacher)
    with pytest.raises(ValueError, match="which are no whole episodes"):
        make(REINFORCE, random_env(), reference_policy=teacher, reference_penalty="loss")
    other = make(REINFORCE, RandomEnv(spaces.Discrete(N_ACTIONS), spaces.Box(-1, 1, (2,)), 8, 0.1))
    with pytest.raises(ValueError, match="reference_policy has the observation_space"):
        make(REINFORCE, random_env(), reference_policy=other)
    masked = MaskablePPO("MlpPolicy", masked_diary(2))
    with pytest.raises(ValueError, match="takes action_masks, which ActorPolicy is not given"):
        make(REINFORCE, diary(2, action_space=spaces.Discrete(4)), reference_policy=masked)
    env = random_env(spaces.Box(-1, 1, (2,)))
    squashed = {"squash_output": True, "net_arch": [4]}
    teacher = make(REINFORCE, env, use_sde=True, policy_kwargs=squashed)
    make(REINFORCE, env, use_sde=True, policy_kwargs=squashed, reference_policy=teacher).learn(64)


class Features(BaseFeaturesExtractor):
    """With parameters, and apart for actor and critic."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.linear = th.nn.Linear(observation_space.shape[0], 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        said: th.Tensor = self.linear(observations)
        return said


class Scaled(ActorCriticPolicy):
    """A user's, with an argument that SB3 knows nothing of."""

    def __init__(self, *args: Any, scale: float = 1.0, width: int = 3, **kwargs: Any) -> None:
        self.scale = scale
        kwargs["net_arch"] = [width]
        super().__init__(*args, **kwargs)

    def get_distribution(self, obs: Any) -> Any:
        distribution: Any = super().get_distribution(obs)
        return distribution.proba_distribution(self.scale * distribution.distribution.logits)


def test_a_saved_reference_is_the_same_policy_whatever_it_was_made_with(tmp_path: Path) -> None:
    apart = {"features_extractor_class": Features, "share_features_extractor": False}
    teachers = [
        PPO("MlpPolicy", random_env(), policy_kwargs=apart, n_steps=8).policy,
        PPO(Scaled, random_env(), policy_kwargs={"scale": 7.0, "width": 5}, n_steps=8),
    ]
    observations = th.rand(9, 3)
    for teacher in teachers:
        policy: Any = getattr(teacher, "policy", teacher)
        with th.no_grad():
            for parameter in policy.parameters():
                parameter.add_(th.randn_like(parameter))
        make(REINFORCE, random_env(), reference_policy=teacher).save(tmp_path / "model")
        loaded = REINFORCE.load(tmp_path / "model", random_env())
        for asked in (policy, loaded.reference_policy):
            assert th.equal(
                asked.get_distribution(observations).distribution.logits,
                policy.get_distribution(observations).distribution.logits,
            )
        assert REINFORCE.load(tmp_path / "model", random_env(), reference_policy=None).reference_policy is None


def test_no_random_number_is_drawn_for_it(tmp_path: Path) -> None:
    teacher = make(REINFORCE, random_env(), seed=4)
    teacher.save(tmp_path / "teacher.zip")
    states = []
    for reference in (None, teacher, str(tmp_path / "teacher.zip")):
        model = make(REINFORCE, random_env(), reference_policy=reference, reference_coef=0.0).learn(64)
        model.save(tmp_path / "model")
        again = REINFORCE.load(tmp_path / "model", random_env())
        again.set_random_seed(1)
        states.append((snapshot(model), snapshot(again.learn(64))))
    assert differences(states[0], states[1]) == [] and differences(states[0], states[2]) == []


def test_kinds_of_actions_that_do_not_fit() -> None:
    env = random_env(spaces.Box(0, 10, (1,)))
    gaussian = make(REINFORCE, env)
    squashed = {"use_sde": True, "policy_kwargs": {"squash_output": True, "net_arch": [4]}}
    for penalty in ("reward", "loss"):
        with pytest.raises(ValueError, match="has another kind of action"):
            make(REINFORCE, env, reference_policy=gaussian, reference_penalty=penalty, **squashed)
        with pytest.raises(ValueError, match="has another kind of action"):
            make(REINFORCE, env, policy="MlpDiffusionPolicy", reference_policy=gaussian, reference_penalty=penalty)
    three = make(REINFORCE, env, policy="MlpDiffusionPolicy", policy_kwargs={"n_denoising_steps": 3})
    with pytest.raises(ValueError, match=r"n_denoising_steps=3; the policy has .*n_denoising_steps=5"):
        make(REINFORCE, env, policy="MlpDiffusionPolicy", policy_kwargs={}, reference_policy=three)
    with pytest.raises(ValueError, match="needs a KL in closed form"):
        make(REINFORCE, env, use_sde=True, reference_policy=gaussian, reference_penalty="loss")
    make(REINFORCE, env, use_sde=True, reference_policy=gaussian).learn(48)
    with pytest.raises(ValueError, match="cannot be asked about whole episodes"):
        make(REINFORCE, random_env(), reference_policy=RecurrentPPO("MlpLstmPolicy", random_env(), n_steps=8))


def test_a_callback_that_asks_for_nonsense_leaves_a_model_that_can_be_saved(tmp_path: Path) -> None:
    model = make(REINFORCE, random_env(), reference_policy=another_policy())
    memory = log_to_memory(model)
    model.learn(64)
    model.reference_policy = 3
    with pytest.raises(ValueError, match="reference_policy must be"):
        model.learn(64)
    model.save(tmp_path / "model")
    assert differences(REINFORCE.load(tmp_path / "model").reference_policy, another_policy()) == []
    model.reference_policy = None
    model.learn(64)
    assert all("train/reference_kl" in dump for dump in memory if "train/policy_loss" in dump)


def test_the_penalty_is_of_the_policy_as_it_is() -> None:
    """Of carried steps too, which an earlier policy sampled: what is logged is E[log pi - log pi_ref] of today's."""
    env = ProbeEnv(lambda sign, action, t: float(action == 0), length=5)
    model = make(REINFORCE, env, n_steps=7, reference_policy=another_policy_of(env), learning_rate=0.1, **MONTE_CARLO)
    seen = Batches()

    class Ask(BaseCallback):
        """Computes it before the update."""

        def __init__(self) -> None:
            super().__init__()
            self.expected: list[float] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            batch = self.model.rollout_buffer.batch  # type: ignore[attr-defined]
            policies: list[Any] = [self.model.policy, self.model.reference_policy]  # type: ignore[attr-defined]
            said = [
                copy.deepcopy(one).evaluate_actions(batch.observations, batch.actions)[1].detach() for one in policies
            ]
            self.expected.append(float((said[0] - said[1]).mean()))

    ask, memory = Ask(), log_to_memory(model)
    model.learn(70, callback=[seen, ask])
    logged = [dump["train/reference_kl"] for dump in memory if "train/reference_kl" in dump]
    assert any(bool(batch.carried.any()) for batch in seen.updates)
    assert len(logged) >= 8 and logged == pytest.approx(ask.expected[: len(logged)], abs=1e-5)
