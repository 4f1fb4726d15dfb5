"""Action masks in every situation: who has them, who is asked, and which row has which.

The environments of :mod:`tests.helpers.masks` refuse an action that is not allowed, and their masks can be read off
their observations: a row with a mask that is not its own, and an action drawn past it, do not go unnoticed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor, VecNormalize

from sb3_pg import (
    REINFORCE,
    ActorPolicy,
    EpisodeRolloutBuffer,
    GymnasiumVecEnv,
    MaskableActorCnnPolicy,
    MaskableActorPolicy,
    MaskableMultiInputActorPolicy,
    OffPolicyISPG,
    VanillaPG,
)
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.policies.critic import (
    CriticPolicy,
    MaskableCriticCnnPolicy,
    MaskableCriticPolicy,
    MaskableMultiInputCriticPolicy,
)
from sb3_pg.policies.evaluation import evaluate_actions
from sb3_pg.policies.fast.fast_actor import CategoricalActor
from sb3_pg.rollout.acting import RolloutActor
from tests.helpers.environments import DiaryEnv, diary
from tests.helpers.masks import (
    MASKED_SPACES,
    Fixed,
    MaskedDiary,
    MaskedVector,
    assert_own_masks,
    mask_at,
    masked_diary,
    where_of,
)
from tests.helpers.models import OWN_CRITIC, TINY, every_algorithm, make
from tests.helpers.recording import Batches

SIZES = MASKED_SPACES["Discrete"][1]


def assert_learns_masked(model: Any, total_timesteps: int, sizes: Any = SIZES) -> list[EpisodeBatch]:
    """Learn; every row of every batch has its own mask, under which its action has the log-prob that was stored."""
    seen = CheckedBatches(sizes)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(total_timesteps, callback=seen)
    assert seen.updates
    assert any(not th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    return seen.updates


class CheckedBatches(Batches):
    """Looks at each batch before the update."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.sizes = sizes

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        batch = self.batches[-1]
        if batch is not None:
            assert_own_masks(batch, self.sizes)
            with th.no_grad():
                log_prob = evaluate_actions(self.model.policy, batch.at(~batch.carried))[1]
            th.testing.assert_close(log_prob, batch.behaviour_log_prob[~batch.carried], rtol=1e-5, atol=1e-5)


# Which row has which mask


@every_algorithm
@pytest.mark.parametrize("space", MASKED_SPACES)
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dict"])
def test_every_row_has_its_own_mask(algorithm: Any, space: str, as_dict: bool) -> None:
    """Also where it waited for its episode's end; environments are asked once a step, and once in none."""
    env = masked_diary(lengths=[5, 9], space=space, as_dict=as_dict)
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    model = make(algorithm, env, policy=policy, n_steps=7, **OWN_CRITIC)
    batches = assert_learns_masked(model, 5 * 7 * 3, MASKED_SPACES[space][1])
    assert any(bool(batch.carried.any()) for batch in batches)
    assert {one.n_asked for one in env.envs} == {5 * 7}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_reused_batches": 2},
        {"n_reused_batches": 1, "batch_size": 10, "importance": "trajectory", "micro_batch_size": 8},
        {"target_kl": 1e-3, "kl_constraint": "backtrack", "baseline": "value", "value_learning_rate": 1e-3},
        {"target_kl": 1e-3, "kl_constraint": "penalty", "batch_size": 16, "baseline": "optimal"},
        {"log_gradient_variance": True, "min_ess": 0.5, "ent_coef": 0.1, "n_episodes": 6, "n_steps": 15},
    ],
    ids=str,
)
def test_every_option_of_ispg(kwargs: dict[str, Any]) -> None:
    """With carried episodes, all at once."""
    model = make(OffPolicyISPG, masked_diary(lengths=[5, 9]), **{"n_steps": 13} | kwargs)
    assert_learns_masked(model, 5 * 15 * 3)


def test_reused_batches_keep_their_masks(tmp_path: Path) -> None:
    """In the sample beside the newest, and in the file of a saved buffer; log-probs under each policy are masked."""
    model = make(OffPolicyISPG, masked_diary(lengths=[5, 9]), n_steps=13, n_reused_batches=2)
    assert isinstance(model, OffPolicyISPG)
    assert_learns_masked(model, 4 * 13 * 3)
    model.save_replay_buffer(tmp_path / "past")
    loaded = make(OffPolicyISPG, masked_diary(lengths=[5, 9]), n_steps=13, n_reused_batches=2)
    assert isinstance(loaded, OffPolicyISPG)
    loaded.load_replay_buffer(tmp_path / "past")
    for history in (model.replay_buffer, loaded.replay_buffer):
        newest, oldest = history
        for past in (newest, oldest):
            assert_own_masks(past.batch, SIZES)
        with th.no_grad():
            log_prob = evaluate_actions(newest.policy, oldest.batch.at(slice(None)))[1]
        th.testing.assert_close(oldest.log_probs[newest.number], log_prob)
    assert_learns_masked(loaded, 3 * 13 * 3)


def vector_env(mode: AutoresetMode) -> GymnasiumVecEnv:
    """A SyncVectorEnv of diaries."""
    envs = [partial(MaskedDiary, [4, 6], index) for index in range(2)]
    return GymnasiumVecEnv(SyncVectorEnv(envs, autoreset_mode=mode))


DIARIES = [partial(MaskedDiary, [4, 6], index) for index in range(2)]
VEC_ENVS: dict[str, Any] = {
    "SubprocVecEnv": lambda: SubprocVecEnv(DIARIES, start_method="fork"),  # type: ignore[arg-type]
    "under wrappers": lambda: VecMonitor(VecNormalize(DummyVecEnv(DIARIES), norm_obs=False)),  # type: ignore[arg-type]
    **{f"SyncVectorEnv {mode.name}": partial(vector_env, mode) for mode in AutoresetMode},
    "AsyncVectorEnv": lambda: GymnasiumVecEnv(AsyncVectorEnv(DIARIES)),
    "all at once": lambda: GymnasiumVecEnv(MaskedVector(lengths=[4, 6])),
}


@pytest.mark.parametrize("name", VEC_ENVS)
def test_every_vec_env(name: str) -> None:
    """The mask is that of the observation, after the reset that ends an episode too; one call of the VecEnv a step."""
    env: VecEnv = VEC_ENVS[name]()
    calls: list[str] = []
    spied: Any = env
    original = env.env_method

    def counted(method: str, *args: Any, **kwargs: Any) -> list[Any]:
        calls.append(method)
        return original(method, *args, **kwargs)

    spied.env_method = counted
    try:
        model = make(REINFORCE, env, n_steps=10)
        assert_learns_masked(model, 3 * 10 * 2)
    finally:
        env.close()
    assert calls == ["action_masks"] * 30


def test_other_processes_are_asked_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they have masks is known from the first time."""
    names: list[str] = []
    original = AsyncVectorEnv.call

    def noted(self: Any, name: str, *args: Any) -> Any:
        names.append(name)
        return original(self, name, *args)

    monkeypatch.setattr(AsyncVectorEnv, "call", noted)
    env = GymnasiumVecEnv(AsyncVectorEnv(DIARIES), record_episode_statistics=False)
    try:
        names.clear()
        make(REINFORCE, env, n_steps=8).learn(16)
    finally:
        env.close()
    assert names == ["has_wrapper_attr"] + ["action_masks"] * 8


def test_a_mask_is_copied() -> None:
    """An environment that gives all masks in one array, always the same: rows do not change when it does."""
    vec_env = GymnasiumVecEnv(MaskedVector(lengths=[4]))
    vec_env.reset()
    first = np.stack(vec_env.env_method("action_masks"))
    vec_env.step(first.argmax(axis=1))
    assert not np.array_equal(first, np.stack(vec_env.env_method("action_masks")))
    assert vec_env.env_method("action_masks", indices=[1])[0].shape == (4,)


class OwnAdd(EpisodeRolloutBuffer):
    """A user's buffer, with an ``add`` of its own."""

    n_added = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.n_added += 1
        super().add(*args, **kwargs)


def test_a_buffer_with_its_own_add() -> None:
    model = make(VanillaPG, masked_diary(lengths=[5, 9]), n_steps=7, rollout_buffer_class=OwnAdd)
    assert_learns_masked(model, 4 * 7 * 3)
    assert isinstance(model.rollout_buffer, OwnAdd) and model.rollout_buffer.n_added == 28


# Which policy


NAMES = {
    ("MlpPolicy", False): MaskableActorPolicy,
    ("MlpPolicy", True): MaskableCriticPolicy,
    ("MultiInputPolicy", False): MaskableMultiInputActorPolicy,
    ("MultiInputPolicy", True): MaskableMultiInputCriticPolicy,
    ("CnnPolicy", False): MaskableActorCnnPolicy,
    ("CnnPolicy", True): MaskableCriticCnnPolicy,
}


def image_env() -> ActionMasker:
    """Images, and an action less."""
    env = FakeImageEnv(screen_height=36, screen_width=36)
    return ActionMasker(env, lambda _: np.arange(6) > 0)


@pytest.mark.parametrize(("name", "critic"), NAMES)
def test_names_stand_for_maskable_policies_where_there_are_masks(name: str, critic: bool, tmp_path: Path) -> None:
    """And a saved model has the same, without an environment, with one that has no masks, and if trained on."""
    env: Any = masked_diary(as_dict=name == "MultiInputPolicy") if name != "CnnPolicy" else image_env()
    kwargs: dict[str, Any] = {"baseline": "value"} if critic else {}
    kwargs |= {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}} if name == "CnnPolicy" else {}
    model = make(REINFORCE, env, policy=name, n_steps=12, **kwargs).learn(24)
    expected: Any = NAMES[name, critic]
    assert type(model.policy) is model.policy_class is expected
    model.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model")
    assert type(loaded.policy) is loaded.policy_class is expected
    for key, value in model.policy.state_dict().items():
        assert th.equal(loaded.policy.state_dict()[key], value)
    REINFORCE.load(tmp_path / "model", env=env).learn(24)
    assert any(p.numel() for n, p in loaded.policy.named_parameters() if n.startswith("value_net")) == critic


@every_algorithm
def test_names_stand_for_plain_policies_elsewhere(algorithm: Any) -> None:
    """Without masks nobody is asked for any, the fast actor acts, and batches have nothing beside observations."""
    env = diary(2)
    model = make(algorithm, env)
    assert type(model.policy) in (ActorPolicy, CriticPolicy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DummyVecEnv, "env_method", None)
        seen = Batches()
        model.learn(64, callback=seen)
    assert all(batch.extras == {} and batch.at(slice(None)).extras == {} for batch in seen.updates)
    actor: Any = RolloutActor(model.policy, model.rollout_buffer, 3, CallbackList([]), env, True)._actor
    assert type(actor) is CategoricalActor


class Closed(DummyVecEnv):
    """A VecEnv that does not look into its environments."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None]
        raise NotImplementedError


def test_an_environment_that_cannot_be_asked_has_no_masks() -> None:
    assert type(make(REINFORCE, Closed([DiaryEnv])).learn(32).policy) is ActorPolicy


class Replace(BaseCallback):
    """Puts a maskable policy in the place of the plain one, in the middle of a rollout, and back later."""

    model: PolicyGradientAlgorithm

    def _on_training_start(self) -> None:
        self.policies: list[Any] = [
            cls(self.model.observation_space, self.model.action_space, lambda _: 0.01, **TINY)
            for cls in (MaskableActorPolicy, ActorPolicy)
        ]

    def _on_step(self) -> bool:
        if self.n_calls in (10, 24):
            self.model.policy = self.policies.pop(0)
        return True


def test_a_policy_of_the_other_kind_in_the_middle_of_a_rollout() -> None:
    """From the next step on it is told what it takes; at the steps of the plain one everything is allowed."""
    env = masked_diary(lengths=[5, 9], strict=False)
    model, seen = make(OffPolicyISPG, env, policy=ActorPolicy, n_steps=7, n_reused_batches=1), Batches()
    model.learn(5 * 21, callback=CallbackList([seen, Replace()]))
    assert {one.n_asked for one in env.envs} == {14}  # type: ignore[attr-defined]
    has_masks = ["action_masks" in batch.extras for batch in seen.updates]
    assert has_masks == [False, True, True, False]
    for batch in seen.updates[1:3]:
        masks, own = batch.extras["action_masks"].numpy(), mask_at(where_of(batch.observations), SIZES)
        assert ((masks == own).all(axis=1) | masks.all(axis=1)).all()
    assert bool(seen.updates[1].extras["action_masks"][seen.updates[1].carried].all())


def test_a_plain_policy_given_as_a_class_ignores_masks() -> None:
    """As SB3's PPO does."""
    env = masked_diary(strict=False)
    model = make(REINFORCE, env, policy=ActorPolicy).learn(96)
    assert type(model.policy) is ActorPolicy
    assert {one.n_asked for one in env.envs} == {0}  # type: ignore[attr-defined]


def test_masks_of_an_environment_with_box_actions_are_not_asked_for() -> None:
    """A name is a plain policy there; a maskable class is refused."""
    env = Fixed([1], space=spaces.Box(-1, 1, (1,)))
    assert type(make(REINFORCE, env).policy) is ActorPolicy
    with pytest.raises(ValueError, match=r"MaskableActorPolicy masks Discrete.*got Box.*write policy='MlpPolicy'"):
        make(REINFORCE, env, policy=MaskableActorPolicy)


# Asking for none


@every_algorithm
def test_without_masking_everything_is_allowed(algorithm: Any) -> None:
    """``use_masking=False``: a maskable policy learns as if there were no masks, from environments that have none."""
    for env in (diary(2), masked_diary(2, strict=False)):
        seen = Batches()
        model = make(algorithm, env, policy=MaskableActorPolicy)
        model.learn(64, callback=seen, use_masking=False)
        assert all(bool(batch.extras["action_masks"].all()) for batch in seen.updates) and seen.updates
    assert {one.n_asked for one in env.envs} == {0}  # type: ignore[attr-defined]


@every_algorithm
def test_a_maskable_policy_needs_masks(algorithm: Any) -> None:
    model = make(algorithm, diary(2), policy=MaskableActorPolicy)
    with pytest.raises(
        ValueError, match=r"no action_masks\(\) for MaskableActorPolicy.*ActionMasker.*use_masking=False"
    ):
        model.learn(64)
    with pytest.raises(ValueError, match=r"use_masking must be True or False, got 'no'"):
        model.learn(64, use_masking="no")  # type: ignore[arg-type]


# Predicting and evaluating


def test_predictions_are_masked() -> None:
    """Of one observation and of several; drawn and most likely; masks as lists too."""
    model = make(VanillaPG, masked_diary())
    obs = np.array([[0, 0, 1], [1, 0, 2], [2, 5, 3]], dtype=np.float32)
    masks = mask_at(obs, SIZES)
    for deterministic in (False, True):
        for _ in range(20):
            actions, _ = model.predict(obs, deterministic=deterministic, action_masks=masks)
            assert masks[np.arange(3), actions].all()
            action, _ = model.predict(obs[0], deterministic=deterministic, action_masks=masks[0].tolist())
            assert action.shape == () and masks[0, action]
    only = np.eye(4)[[2, 0, 3]]
    assert model.predict(obs, action_masks=only)[0].tolist() == [2, 0, 3]
    assert {int(model.predict(obs[0])[0]) for _ in range(100)} == {0, 1, 2, 3}


def test_evaluation_with_and_without_masks(tmp_path: Path) -> None:
    """sb3-contrib's evaluation masks, as its callback does; SB3's own does not."""
    model: Any = make(OffPolicyISPG, masked_diary())
    callback = MaskableEvalCallback(
        masked_diary(2), eval_freq=16, n_eval_episodes=3, log_path=str(tmp_path), warn=False
    )
    model.learn(96, callback=callback)
    assert len(callback.evaluations_timesteps) == 2
    kwargs: dict[str, Any] = {"deterministic": False, "warn": False, "return_episode_rewards": True}
    _, lengths = evaluate_masked(model, masked_diary(2), 4, **kwargs)
    assert lengths == [5, 5, 5, 5]
    evaluate_policy(model, masked_diary(2, strict=False), 2, warn=False)
    with pytest.raises(AssertionError, match="is not allowed"):
        evaluate_policy(model, masked_diary(2), 50, deterministic=False, warn=False)


class Locals(BaseCallback):
    """Keeps the masks and the observations that a callback sees, and what the buffer has of them."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Any] = []
        self.obs: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.masks.append(self.locals["action_masks"])
        self.obs.append(np.array(self.model._last_obs))
        return True


def test_callbacks_see_the_masks() -> None:
    """Under the name that MaskablePPO's ``collect_rollouts`` gives them; None where there are none."""
    seen = Locals()
    make(REINFORCE, masked_diary()).learn(48, callback=seen)
    for masks, obs in zip(seen.masks, seen.obs, strict=True):
        np.testing.assert_array_equal(masks, mask_at(obs, SIZES))
    none = Locals()
    make(REINFORCE, diary(lengths=[5])).learn(16, callback=none)
    assert none.masks == [None] * 16


def test_tiny_networks_have_the_arguments_of_the_plain_ones() -> None:
    """``net_arch``, a features extractor that is not shared, and an optimizer of one's own."""
    kwargs = TINY | {"share_features_extractor": False, "optimizer_class": th.optim.SGD}
    model = make(REINFORCE, masked_diary(), policy_kwargs=kwargs).learn(48)
    assert isinstance(model.policy.optimizer, th.optim.SGD)
    assert sum(p.numel() for p in model.policy.parameters()) == 3 * 8 + 8 + 8 * 4 + 4
