"""Cloning is the policy gradient at weight 1; what it is given is taken as it is meant, or refused in words."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_pg import REINFORCE, MaskableActorPolicy, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch, ReturnsBatch
from sb3_pg.imitation import Demonstration, clone, demonstrations_from, played_by, warm_start
from sb3_pg.imitation.batch import batch_of
from sb3_pg.imitation.cloning import exponential_weights
from tests.helpers.environments import ProbeEnv
from tests.helpers.masks import masked_diary
from tests.helpers.models import ACTION_SPACES, TINY

#: Steps of plain gradients, and actions within the bounds of Pendulum's torque.
SGD: dict[str, Any] = {
    "policy_kwargs": TINY | {"optimizer_class": th.optim.SGD, "log_std_init": -2.0},
    "device": "cpu",
    "seed": 0,
}


class Keep(BaseCallback):
    """Keeps the batch of a rollout."""

    batch: EpisodeBatch

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        batch = self.model.rollout_buffer.batch  # type: ignore[attr-defined]
        assert batch is not None
        self.batch = batch


def episodes_in(batch: EpisodeBatch) -> list[Demonstration]:
    observations = batch.observations
    assert isinstance(observations, th.Tensor)
    return [
        Demonstration(observations[rows].numpy(), batch.actions[rows].numpy(), batch.rewards[rows].numpy())
        for rows in batch.each_episode()
    ]


def parameters(model: Any) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


def advantage_of_one(batch: ReturnsBatch) -> th.Tensor:
    return batch.returns - 1


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_gradient_is_that_of_reinforce_with_advantage_1(env_id: str) -> None:
    """One plain step of learn() with the baseline G - 1, and one of cloning the episodes that it was on."""
    steps: dict[str, Any] = {"learning_rate": 1.0, "max_grad_norm": None, "n_steps": 400, "baseline": advantage_of_one}
    model = REINFORCE("MlpPolicy", make_vec_env(env_id, 2, seed=0), **steps, **SGD)
    before, keep = parameters(model), Keep()
    start = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(800, callback=keep)
    learned = parameters(model) - before
    model.policy.load_state_dict(start)
    whole: dict[str, Any] = {"n_epochs": 1, "batch_size": None, "optimizer_class": th.optim.SGD, "learning_rate": 1.0}
    (loss,) = clone(model, episodes_in(keep.batch), **whole)
    assert learned.norm() > 0.01
    assert th.allclose(parameters(model) - before, learned, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(-keep.batch.behaviour_log_prob.mean().item(), rel=1e-5)


def test_weights_are_those_of_the_formula() -> None:
    earned = [1.5, 1.0, 2.0, -4.0]
    mean = sum(earned) / 4
    deviation = math.sqrt(sum((one - mean) ** 2 for one in earned) / 3)
    literal = [min(math.exp((one - mean) / (2 * deviation)), 1.2) for one in earned]
    found = exponential_weights(th.tensor(earned), temperature=2.0, max_weight=1.2)
    assert found.tolist() == pytest.approx([one / (sum(literal) / 4) for one in literal], rel=1e-5)
    assert max(literal) == 1.2 > sorted(literal)[0]


def good_and_bad() -> list[Demonstration]:
    """Of one observation: action 0, which earned 1, and as often action 1, which earned -1."""
    return [Demonstration(np.ones((1, 4)), np.array([one]), np.array([1.0 - 2 * one])) for one in (0, 1) * 20]


@pytest.mark.parametrize(
    ("weights", "likely"), [("none", 0.5), ("return", 1 / (1 + math.exp(-2 * math.sqrt(39 / 40))))]
)
def test_what_earned_more_is_cloned_more(weights: Any, likely: float) -> None:
    """pi(0) : pi(1) is the ratio of the weights."""
    model = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs=TINY, device="cpu", seed=0)
    clone(model, good_and_bad(), n_epochs=300, batch_size=None, learning_rate=0.05, weights=weights)
    distribution: Any = model.policy.get_distribution(th.ones(1, 4)).distribution
    assert distribution.probs[0, 0].item() == pytest.approx(likely, abs=1e-3)


def test_by_advantage_an_action_counts_by_what_it_earned_beyond_its_state() -> None:
    """Two observations, one worth 10 more: among rewards to go, which deviate by 5, what the action earned is little,
    and the good one's share would be 0.6. Less what the critic says it is all that there is.
    """
    seen = np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    episodes = [
        Demonstration(seen[[state]], np.array([action]), np.array([10.0 * state + 1 - 2 * action]))
        for state in (0, 1)
        for action in (0, 1) * 20
    ]
    model = VanillaPG("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [32]}, device="cpu", seed=0)
    sizes: dict[str, Any] = {"n_epochs": 300, "batch_size": None, "learning_rate": 0.02}
    warm_start(model, episodes, 300, None, 0.02, weights="advantage", **sizes)
    distribution: Any = model.policy.get_distribution(th.as_tensor(seen).float()).distribution
    likely = 1 / (1 + math.exp(-2 * math.sqrt(79 / 80)))
    assert distribution.probs[:, 0].tolist() == pytest.approx([likely] * 2, abs=0.02)


@pytest.mark.parametrize("learner", [REINFORCE, VanillaPG, OffPolicyISPG, PPO, A2C])
def test_a_clone_does_what_its_model_does(learner: Any) -> None:
    """Four actions for four observations, which the demonstrations say and nobody has learned."""
    env = DummyVecEnv([lambda: IdentityEnv(4, ep_length=25)])
    episodes = [Demonstration(*[np.random.default_rng(0).integers(4, size=200)] * 2)]
    model = learner("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, device="cpu", seed=0)
    losses = clone(model, episodes, n_epochs=40, batch_size=20, learning_rate=1e-2)
    assert len(losses) == 40 and losses[-1] < 0.1 < 1.0 < losses[0]
    assert evaluate_policy(model, env, n_eval_episodes=4, warn=False) == (25.0, 0.0)
    assert not model.policy.training and all(one.grad is None for one in model.policy.parameters())
    model.learn(64)


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_every_action_space(name: str) -> None:
    """The demonstrated actions become likelier."""
    space = ACTION_SPACES[name]
    space.seed(0)
    env = DummyVecEnv([partial(ActionEnv, space)])
    model = VanillaPG("MlpPolicy", env, policy_kwargs=TINY, device="cpu", seed=0)
    actions = np.repeat(np.asarray(space.sample())[None], 30, axis=0)
    losses = clone(model, [{"obs": np.zeros((31, 3)), "acts": actions}], n_epochs=20, batch_size=10, learning_rate=1e-2)
    assert losses[-1] < losses[0] - 0.1


class ActionEnv(ProbeEnv):
    """With any action space; only its spaces are asked for."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        super().__init__(lambda *_: 0.0, 1)
        self.observation_space, self.action_space = spaces.Box(-1, 1, (3,)), action_space


def test_a_squashed_policy_is_shown_its_own_scale() -> None:
    """The environment's actions reach from -2 to 2, the policy's from -1 to 1."""
    sde: dict[str, Any] = {"use_sde": True, "policy_kwargs": TINY | {"squash_output": True}}
    model = VanillaPG("MlpPolicy", "Pendulum-v1", **sde, device="cpu", seed=0)
    batch = batch_of(model, [Demonstration(np.zeros((2, 3)), np.array([[1.0], [-2.0]]))])
    assert batch.actions.tolist() == [[0.5], [-1.0]]


def test_dictionaries_and_images_are_shown_as_the_policy_knows_them() -> None:
    env = DummyVecEnv([lambda: SimpleMultiObsEnv(random_start=False)])
    model = REINFORCE("MultiInputPolicy", env, policy_kwargs=TINY, device="cpu", seed=0)
    episodes: Any = played_by(model, env, n_episodes=2, deterministic=False)
    clone(model, episodes, n_epochs=1)
    observations = batch_of(model, episodes).observations
    assert isinstance(observations, dict)
    images = np.concatenate([one.observations["img"] for one in episodes])
    assert observations["img"].shape == (len(images), 1, 64, 64)
    assert np.array_equal(observations["img"].numpy().reshape(images.shape), images)


# What a model plays


def test_each_environment_plays_its_share() -> None:
    """Of lengths 1, 2 and 3: the first five to end would be of 1, 1, 1, 2, 1 steps."""
    env = DummyVecEnv([partial(ProbeEnv, lambda *_: 1.0, length) for length in (1, 2, 3)])
    model = REINFORCE("MlpPolicy", env, policy_kwargs=TINY, device="cpu", seed=0)
    assert sorted(map(len, played_by(model, n_episodes=5))) == [1, 1, 2, 2, 3]


def test_what_is_played_is_in_the_environments_numbers() -> None:
    """Behind VecNormalize, whose statistics nobody moves; cloned, it is normalised as the model sees it."""
    env: Any = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = PPO("MlpPolicy", env, n_steps=64, policy_kwargs=TINY, device="cpu", seed=0).learn(128)
    before = env.obs_rms.mean.copy()
    episodes: Any = played_by(model, n_episodes=2)
    assert np.array_equal(env.obs_rms.mean, before) and env.training
    seen = np.concatenate([one.observations for one in episodes])
    rewards = np.concatenate([one.rewards for one in episodes])
    assert np.allclose(seen[:, 0] ** 2 + seen[:, 1] ** 2, 1, atol=1e-5) and rewards.min() < -5
    shown: Any = batch_of(model, episodes).observations
    assert np.allclose(shown, env.normalize_obs(seen), atol=1e-6)
    model.learn(128)
    with pytest.raises(ValueError, match="VecNormalize has to be the outermost"):
        played_by(model, VecFrameStack(env, 2))


def test_masks_are_noted_and_told() -> None:
    env = masked_diary(2)
    models: tuple[Any, ...] = (
        REINFORCE(MaskableActorPolicy, env, policy_kwargs=TINY, device="cpu", seed=0),
        MaskablePPO("MlpPolicy", env, policy_kwargs=TINY, device="cpu", seed=0, n_steps=8, batch_size=8),
    )
    for model in models:
        episodes = played_by(model, n_episodes=4, deterministic=False)
        masks = np.concatenate([one.action_masks for one in episodes if one.action_masks is not None])
        assert len(masks) == sum(map(len, episodes)) and not masks.all()
        assert np.array_equal(batch_of(model, episodes).extras["action_masks"], masks)
        assert math.isfinite(clone(model, episodes, n_epochs=1)[0])


# What others keep


def test_episodes_as_others_keep_them() -> None:
    """Minari's have the observation after the last action too."""
    minari = SimpleNamespace(observations=np.zeros((4, 2)), actions=np.zeros(3), rewards=np.ones(3), infos={})
    imitation = SimpleNamespace(obs=np.zeros((4, 2)), acts=np.zeros(3), rews=np.ones(3), terminal=True)
    mapping = {"observations": {"a": np.zeros((3, 2)), "b": np.zeros((3, 1))}, "actions": [0, 1, 0]}
    found = demonstrations_from([minari, imitation, mapping, Demonstration(np.zeros((1, 2)), np.zeros(1))])
    assert [len(one) for one in found] == [3, 3, 3, 1]
    assert [one.rewards is None for one in found] == [False, False, True, True]
    assert {len(one.observations) for one in found[:2]} == {3}


ZEROS = {"observations": np.zeros((2, 4)), "actions": np.zeros(2)}


@pytest.mark.parametrize(
    ("demonstrations", "message"),
    [
        ([], "no episodes"),
        (ZEROS, "give a list of them, or played_by.*got dict"),
        (demonstrations_from([ZEROS])[0], "give a list of them, or played_by.*got Demonstration"),
        ([{"observations": [1]}], "episode 0 has no actions or acts"),
        ([ZEROS, [3]], "episode 1 has no observations or obs"),
        ([ZEROS | {"observations": np.zeros((5, 4))}], "episode 0: .*'observations': 5, 'actions': 2"),
        ([ZEROS | {"observations": {"a": {"b": np.zeros((2, 4))}}}], "episode 0: len"),
        ([ZEROS | {"rewards": [1.0]}], r"episode 0: .*'rewards': 1"),
        ([{"observations": np.zeros((0, 4)), "actions": []}], "at least one"),
        ([ZEROS | {"observations": np.zeros((2, 3))}], "observations are not of Box"),
        ([ZEROS | {"observations": {"a": np.zeros((2, 4))}}], "observations are not of Box"),
        ([ZEROS, ZEROS | {"observations": {"a": np.zeros((2, 4))}}], "not all dictionaries with the same keys"),
        ([ZEROS | {"observations": np.full((2, 4), np.nan)}], "observations that are not all finite"),
        ([ZEROS | {"rewards": [1.0, np.inf]}], "rewards that are not all finite"),
        ([ZEROS | {"rewards": np.ones((2, 1))}], r"shape \(n_steps,\), got \(2, 1\)"),
        ([ZEROS | {"actions": np.array([0, 2])}], r"not in Discrete\(2\): whole numbers"),
        ([ZEROS | {"actions": np.array([0.5, 1])}], r"not in Discrete\(2\): whole numbers"),
        ([ZEROS | {"actions": np.zeros((2, 2))}], r"not in Discrete\(2\): they have the shape \(2,\)"),
        ([ZEROS | {"actions": np.array([np.nan, 1])}], "one is not finite"),
    ],
)
def test_what_is_no_demonstration_is_refused(demonstrations: Any, message: str) -> None:
    model = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs=TINY, device="cpu", seed=0)
    before = parameters(model)
    with pytest.raises(ValueError, match=message):
        clone(model, demonstrations)
    assert th.equal(parameters(model), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_epochs": 0},
        {"batch_size": 1.5},
        {"learning_rate": -1},
        {"weights": "value"},
        {"temperature": 0},
        {"max_weight": "many"},
        {"ent_coef": -1},
        {"max_grad_norm": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arguments_that_are_none(wrong: dict[str, Any]) -> None:
    model = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs=TINY, device="cpu", seed=0)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        clone(model, [ZEROS], **wrong)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (partial(DQN, "MlpPolicy", "CartPole-v1", buffer_size=10), "only an on-policy model"),
        (partial(RecurrentPPO, "MlpLstmPolicy", "CartPole-v1", n_steps=8), "keeps a state between steps"),
        (partial(VanillaPG, "MlpPolicy", "CartPole-v1"), "demonstration 0 has no rewards"),
        (partial(VanillaPG, "MlpPolicy", "Pendulum-v1"), "observations are not of Box"),
    ],
    ids=["DQN", "RecurrentPPO", "rewards", "spaces"],
)
def test_what_cannot_be_cloned_into(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clone(model(device="cpu"), [ZEROS], weights="return")


def test_advantages_without_a_critic() -> None:
    with pytest.raises(ValueError, match="needs a critic, and ActorPolicy has none: write 'return'"):
        clone(REINFORCE("MlpPolicy", "CartPole-v1", device="cpu"), good_and_bad(), weights="advantage")


def test_an_action_out_of_bounds() -> None:
    model = VanillaPG("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match=r"action that is not in Box.*the largest 2.1"):
        clone(model, [Demonstration(np.zeros((1, 3)), np.array([[2.1]]))])
