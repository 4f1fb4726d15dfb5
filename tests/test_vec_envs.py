"""What comes out of a vector environment is what comes out of SB3's DummyVecEnv: no step lost, doubled or made up."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.async_vector_env import _async_worker
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_pg import REINFORCE, VanillaPG
from sb3_pg.envs import GymnasiumVecEnv, make_vec_env
from sb3_pg.envs.infos import info_of
from tests.helpers.environments import DiaryEnv, diary
from tests.helpers.models import TINY
from tests.helpers.vec_envs import (
    MODES,
    Batched,
    BatchedSameStep,
    Tally,
    assert_equal,
    assert_same_transitions,
    comparable,
    every_mode,
    monitored,
    pair,
)

# The transitions


@settings(max_examples=25)
@given(
    st.integers(1, 5),
    st.sampled_from(MODES),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
    st.integers(0, 2**32 - 9),
)
def test_ten_thousand_steps(
    n_envs: int, mode: AutoresetMode, as_dict: bool, copy: bool, longest: int, seed: int
) -> None:
    """25 examples of 200 steps of one to five environments: unequal lengths, all endings, infos, Dict observations."""
    sb3, ours = pair(partial(Tally, as_dict, longest), n_envs, mode, copy=copy)
    assert assert_same_transitions(sb3, ours, 200, seed) >= 200 * n_envs // longest - n_envs


@every_mode
@pytest.mark.parametrize("env_id, n_steps", [("CartPole-v1", 150), ("Pendulum-v1", 410)])
def test_gymnasiums_own_in_sync(env_id: str, n_steps: int, mode: AutoresetMode) -> None:
    sb3, ours = pair(partial(gym.make, env_id), 2, mode)
    assert assert_same_transitions(sb3, ours, n_steps) >= 4


@every_mode
def test_discrete_observations(mode: AutoresetMode) -> None:
    """FrozenLake's reset reports the int 1 where its steps report 1/3."""
    sb3, ours = pair(partial(gym.make, "FrozenLake-v1"), 2, mode)
    assert assert_same_transitions(sb3, ours, 80) >= 4
    assert ours.reset().dtype == sb3.reset().dtype == np.int64


@every_mode
@pytest.mark.parametrize("shared_memory", [True, False])
def test_async(mode: AutoresetMode, shared_memory: bool) -> None:
    env_fns = [partial(Tally, True)] * 2
    vector_env = AsyncVectorEnv(env_fns, shared_memory, autoreset_mode=mode)
    if mode is AutoresetMode.NEXT_STEP and not shared_memory:
        # gymnasium 1.4: such a worker resets a second time
        with pytest.raises(ValueError, match="vectorization_mode='sync'"):
            GymnasiumVecEnv(vector_env)
        vector_env.close()
        return
    ours = GymnasiumVecEnv(vector_env)
    assert assert_same_transitions(DummyVecEnv([partial(monitored, env_fns[0])] * 2), ours, 60) > 20
    ours.close()


@pytest.mark.parametrize("n_envs", [1, 4])
def test_native_cart_pole(n_envs: int) -> None:
    """Its random numbers are its own, so SB3's environments begin each episode where it does."""
    kwargs: dict[str, Any] = {"max_episode_steps": 22}
    sb3 = DummyVecEnv([partial(monitored, partial(gym.make, "CartPole-v1", **kwargs))] * n_envs)
    ours = GymnasiumVecEnv(gym.make_vec("CartPole-v1", n_envs, **kwargs))
    assert isinstance(ours.vector_env.unwrapped, CartPoleVectorEnv)
    sb3.reset(), ours.seed(1), ours.reset()
    starts, how = np.ones(n_envs, dtype=bool), set()
    rng = np.random.default_rng(0)
    for _ in range(400):
        for idx in np.flatnonzero(starts):
            sb3.envs[idx].unwrapped.state = ours.get_attr("state")[0][:, idx].copy()  # type: ignore[attr-defined]
        actions = rng.integers(0, 2, n_envs)
        (obs, rewards, dones, infos), (our_obs, our_rewards, our_dones, our_infos) = (
            sb3.step(actions),
            ours.step(actions),
        )
        np.testing.assert_array_equal(dones, our_dones)
        np.testing.assert_array_equal(rewards, our_rewards)
        np.testing.assert_allclose(obs[~dones], our_obs[~dones], rtol=1e-5, atol=1e-6)
        assert np.abs(our_obs[dones]).max(initial=0) <= 0.05
        for idx in np.flatnonzero(dones):
            last, our_last = infos[idx].pop("terminal_observation"), our_infos[idx].pop("terminal_observation")
            np.testing.assert_allclose(last, our_last, rtol=1e-5, atol=1e-6)
            assert comparable(infos[idx]) == comparable(our_infos[idx])
            how.add(our_infos[idx]["TimeLimit.truncated"])
        starts = dones
    assert how == {True, False}


def test_native_cart_pole_draws_what_it_would_have_drawn() -> None:
    """One environment: its first observations are those of the environment left to reset itself."""
    ours, raw = GymnasiumVecEnv(CartPoleVectorEnv(1)), CartPoleVectorEnv(1)
    ours.seed(3), ours.reset(), raw.reset(seed=3)
    push = np.ones(1, dtype=np.int64)
    for _ in range(60):
        obs, _, dones, infos = ours.step(push)
        raw_obs, _, terminated, _, _ = raw.step(push)
        assert dones == terminated
        if dones[0]:
            np.testing.assert_array_equal(infos[0]["terminal_observation"], raw_obs[0])
            raw_obs = raw.step(push)[0]
        np.testing.assert_array_equal(obs, raw_obs)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_terminal_observation_is_copied_before_the_environment_writes_over_it(mode: AutoresetMode) -> None:
    ours = GymnasiumVecEnv(SyncVectorEnv([partial(Tally, new_obs=False)] * 2, autoreset_mode=mode))
    ours.reset()
    for _ in range(30):
        _, _, dones, infos = ours.step(np.zeros(2, dtype=np.int64))
        for idx in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[idx]["terminal_observation"], infos[idx]["path"])


@pytest.mark.parametrize("vector_env", [SyncVectorEnv, AsyncVectorEnv, None])
def test_observations_are_not_written_to_later(vector_env: type[Any] | None) -> None:
    strange: Any = Batched(AutoresetMode.DISABLED)
    env_fns = [partial(Tally, True)] * 2
    ours = GymnasiumVecEnv(
        strange if vector_env is None else vector_env(env_fns, copy=False, autoreset_mode="Disabled")
    )
    kept = [(ours.reset(), "")]
    kept[0] = (kept[0][0], str(kept[0][0]))
    for _ in range(12):
        obs, _, _, infos = ours.step(np.zeros(2, dtype=np.int64))
        for value in (obs, *(info["terminal_observation"] for info in infos if "terminal_observation" in info)):
            kept.append((value, str(value)))
    assert all(str(value) == said for value, said in kept)
    ours.close()


def test_a_strangers_masked_reset() -> None:
    ours = GymnasiumVecEnv(Batched(AutoresetMode.DISABLED))
    ours.reset()
    seen = [ours.step(np.zeros(2, dtype=np.int64)) for _ in range(5)]
    assert [obs[:, 0].tolist() for obs, *_ in seen] == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert seen[2][3][0]["terminal_observation"] == [3] and seen[3][3][1]["terminal_observation"] == [4]


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_strangers_same_step(as_dict: bool) -> None:
    ours = GymnasiumVecEnv(BatchedSameStep(as_dict))
    ours.reset()
    seen = [ours.step(np.zeros(2, dtype=np.int64)) for _ in range(5)]
    obs = [step[0]["t"] if as_dict else step[0] for step in seen]
    assert [row[:, 0].tolist() for row in obs] == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert_equal(seen[2][3][0]["terminal_observation"], {"t": [3]} if as_dict else [3], "first")
    assert_equal(seen[3][3][1]["terminal_observation"], {"t": [4]} if as_dict else [4], "second")
    assert seen[3][3][0] == {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_under_a_vector_wrapper(mode: AutoresetMode) -> None:
    """One that counts episodes on its own, and (gymnasium 1.4) wrongly in DISABLED mode: our counts hold."""
    sb3, ours = pair(partial(gym.make, "CartPole-v1"), 3, mode)
    ours = GymnasiumVecEnv(RecordEpisodeStatistics(ours.vector_env))
    assert assert_same_transitions(sb3, ours, 100, reset_infos=False) > 5


# Infos and statistics


def test_infos() -> None:
    mask = np.array([True, False])
    infos = {
        "a": np.array([1, 0]), "_a": mask, "shared": np.array([0.5, 1.5]), "_odd": np.array([3, 4]), "const": "x",
        "nest": {"b": np.eye(2), "_b": ~mask}, "_nest": np.array([True, True]),
    }  # fmt: skip
    assert info_of(infos, 0) == {"a": 1, "shared": 0.5, "_odd": 3, "const": "x", "nest": {}}
    second = info_of(infos, 1)
    assert second.pop("nest")["b"].tolist() == [0, 1]
    assert second == {"shared": 1.5, "_odd": 4, "const": "x"}
    assert type(info_of(infos, 0)["a"]) is int


def test_step_infos_are_left_out() -> None:
    """Only ended episodes tell anything, and then everything."""
    vector_env = SyncVectorEnv([Tally] * 3, autoreset_mode="Disabled")
    ours, told = GymnasiumVecEnv(vector_env, step_infos=False), 0
    ours.reset()
    for _ in range(30):
        _, _, dones, infos = ours.step(np.zeros(3, dtype=np.int64))
        for done, info in zip(dones, infos, strict=True):
            assert bool(info) == done
            told += bool(info) and info["left"] == 0 and info["name"] == "an end" and info["nest"]["twice"] > 0
    assert told > 15


def test_what_is_written_to_infos_does_not_last() -> None:
    ours = GymnasiumVecEnv(gym.make_vec("CartPole-v1", 2))
    ours.reset()
    infos = ours.step(np.zeros(2, dtype=np.int64))[3]
    infos[0]["mine"] = 1
    assert infos[1] == {}
    assert ours.step(np.zeros(2, dtype=np.int64))[3] == [{}, {}]
    assert infos[0] == {"mine": 1}


def test_statistics_of_a_monitor_inside_are_left_alone() -> None:
    vector_env = SyncVectorEnv([partial(monitored, Tally)] * 2, autoreset_mode="SameStep")
    ours = GymnasiumVecEnv(gym.wrappers.vector.TransformReward(vector_env, lambda rewards: 100 * rewards))
    assert ours.env_is_wrapped(Monitor) == [True, True]
    ours.reset()
    infos = [info for _ in range(20) for info in ours.step(np.zeros(2, dtype=np.int64))[3] if "episode" in info]
    assert infos and max(info["episode"]["r"] for info in infos) < 2


def test_without_statistics() -> None:
    ours = GymnasiumVecEnv(SyncVectorEnv([partial(Tally, longest=1)] * 2), record_episode_statistics=False)
    ours.reset()
    _, _, dones, infos = ours.step(np.zeros(2, dtype=np.int64))
    assert dones.all() and "episode" not in infos[0] and ours.env_is_wrapped(Monitor) == [False, False]


def test_evaluation_uses_the_true_returns() -> None:
    """VecNormalize changes the rewards; the statistics are from before."""
    ours = GymnasiumVecEnv(gym.make_vec("CartPole-v1", 3, max_episode_steps=5))
    model = A2C("MlpPolicy", ours, device="cpu", policy_kwargs=dict(TINY))
    normalized = VecNormalize(ours, training=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate_policy(model, normalized, n_eval_episodes=6) == (5.0, 0.0)


def test_vec_monitor_finds_its_keywords(tmp_path: Path) -> None:
    for step_infos in (True, False):
        vector_env = SyncVectorEnv([Tally] * 2, autoreset_mode="SameStep")
        adapted = GymnasiumVecEnv(vector_env, record_episode_statistics=False, step_infos=step_infos)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = VecMonitor(adapted, str(tmp_path / "monitor.csv"), info_keywords=("is_success", "left"))
        ours.reset()
        for _ in range(10):
            ours.step(np.zeros(2, dtype=np.int64))
        ours.close()
        assert len((tmp_path / "monitor.csv").read_text().splitlines()) > 4


# Seeds, options, attributes, rendering


def test_seeds_and_options_are_for_the_next_reset_only() -> None:
    ours = GymnasiumVecEnv(SyncVectorEnv([Tally] * 2))
    ours.seed(5)
    ours.set_options({"wind": 3})
    first = ours.reset()
    assert ours.get_attr("np_random_seed") == [5, 6]
    assert [options[-1] for options in ours.get_attr("options")] == [{"wind": 3}, {"wind": 3}]
    assert ours.reset_infos[0]["length"] == ours.get_attr("length")[0]
    second = ours.reset()
    assert not np.array_equal(first[:, 2], second[:, 2])
    assert ours.get_attr("options")[0][-1] == {}
    ours.seed(5)
    np.testing.assert_array_equal(ours.reset()[:, 2], first[:, 2])
    ours.set_options([{"wind": 1}, {"wind": 2}])
    with pytest.raises(ValueError, match="the same options to all"):
        ours.reset()


def test_a_native_environment_is_seeded_and_told_options() -> None:
    ours = GymnasiumVecEnv(CartPoleVectorEnv(2))
    ours.seed(np.int64(7))
    ours.set_options({"low": 0.2, "high": 0.3})
    first = ours.reset()
    assert first.min() >= 0.2
    ours.seed(7)
    ours.set_options({"low": 0.2, "high": 0.3})
    np.testing.assert_array_equal(first, ours.reset())
    np.testing.assert_array_equal(ours.step(np.zeros(2, dtype=np.int64))[1], [1, 1])


def test_attributes_of_sync() -> None:
    ours = GymnasiumVecEnv(SyncVectorEnv([partial(gym.wrappers.TimeLimit, Tally(), 9) for _ in range(1)] + [Tally]))
    assert ours.get_attr("knob") == [1, 1] and ours.has_attr("turn") and not ours.has_attr("nothing")
    ours.set_attr("knob", [4, 5], indices=1)
    assert ours.get_attr("knob") == [1, [4, 5]]
    ours.set_attr("knob", 3, indices=[0])
    assert ours.env_method("turn", 2, indices=0) == [5] and ours.get_attr("knob", 0) == [5]
    assert callable(ours.get_attr("turn", [1])[0])
    assert ours.env_is_wrapped(gym.wrappers.TimeLimit) == [True, False]
    for call in (ours.get_attr, ours.env_method):
        with pytest.raises(AttributeError, match="no attribute or method 'nothing'"):
            call("nothing")


def test_attributes_of_async() -> None:
    """A name that is not there would end the process that is asked for it."""
    ours = GymnasiumVecEnv(AsyncVectorEnv([Tally, partial(monitored, Tally)]), record_episode_statistics=False)
    assert ours.get_attr("knob") == [1, 1] and not ours.has_attr("nothing")
    for call in (ours.get_attr, ours.env_method):
        with pytest.raises(AttributeError, match="no attribute or method 'nothing'"):
            call("nothing")
    ours.set_attr("knob", [4, 5], indices=1)
    ours.set_attr("knob", 7, indices=0)
    assert ours.get_attr("knob") == [7, [4, 5]]
    ours.set_attr("knob", 1)
    assert ours.env_method("turn", by=2) == [3, 3]
    with pytest.raises(ValueError, match="leave indices out"):
        ours.env_method("turn", 1, indices=0)
    with pytest.raises(ValueError, match="leave indices out"):
        ours.set_attr("nothing", 1, indices=0)
    with pytest.raises(ValueError, match=r"vec_env\.reset\(\)"):
        ours.env_method("reset")
    assert ours.env_is_wrapped(Monitor) == [False, True]
    with pytest.raises(NotImplementedError, match="TimeLimit"):
        ours.env_is_wrapped(gym.wrappers.TimeLimit)
    ours.reset()
    ours.close()
    ours.close()


def test_attributes_of_a_native_environment() -> None:
    ours = GymnasiumVecEnv(gym.make_vec("CartPole-v1", 3))
    assert ours.get_attr("gravity") == [9.8] * 3 and ours.get_attr("render_mode", 0) == [None]
    assert ours.get_attr("spec")[0].id == "CartPole-v1" and not ours.has_attr("nothing")
    ours.set_attr("gravity", 1.6)
    assert ours.get_attr("gravity", [1, 2]) == [1.6, 1.6]
    with pytest.raises(ValueError, match="leave indices out"):
        ours.set_attr("gravity", 9.8, indices=0)
    with pytest.raises(AttributeError, match="no attribute or method 'nothing'"):
        ours.get_attr("nothing")
    with pytest.raises(AttributeError, match=r"vec_env\.vector_env"):
        ours.env_method("reset")
    assert ours.env_is_wrapped(Monitor, 0) == [True] and not any(ours.env_is_wrapped(gym.wrappers.TimeLimit))
    ours.close()
    ours.close()


def test_images() -> None:
    ours = GymnasiumVecEnv(SyncVectorEnv([partial(Tally, render_mode="rgb_array")] * 4))
    ours.reset()
    assert [image.shape for image in ours.get_images()] == [(2, 2, 3)] * 4
    assert ours.render().shape == (4, 4, 3)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert GymnasiumVecEnv(SyncVectorEnv([Tally])).get_images() == [None]


# Algorithms and wrappers


@pytest.mark.parametrize("wrap", [VecNormalize, partial(VecFrameStack, n_stack=2), VecCheckNan], ids=str)
def test_under_sb3s_wrappers(wrap: Callable[[VecEnv], VecEnv]) -> None:
    sb3, ours = pair(partial(gym.make, "CartPole-v1"), 3, AutoresetMode.NEXT_STEP)
    assert assert_same_transitions(wrap(sb3), wrap(ours), 60) > 3


@pytest.mark.parametrize("algorithm", [A2C, PPO, REINFORCE, VanillaPG])
def test_learns_and_is_saved(algorithm: Any, tmp_path: Path) -> None:
    ours = make_vec_env("CartPole-v1", 4, seed=0, backend="gymnasium")
    model = algorithm("MlpPolicy", ours, n_steps=32, policy_kwargs=dict(TINY), device="cpu", seed=0)
    model.learn(256, callback=EvalCallback(make_vec_env("CartPole-v1", 2), n_eval_episodes=2, eval_freq=40, verbose=0))
    assert len(model.ep_info_buffer) > 4 and all(info["r"] == info["l"] for info in model.ep_info_buffer)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 4), device="cpu")
    loaded.learn(128, reset_num_timesteps=False)
    loaded.set_env(make_vec_env("CartPole-v1", 4, backend="dummy"))
    loaded.learn(128)


def test_the_same_learning_as_on_sb3s_environments() -> None:
    """Bit for bit, as the transitions are."""
    parameters = []
    for env in pair(partial(gym.make, "CartPole-v1"), 2, AutoresetMode.NEXT_STEP):
        model = REINFORCE("MlpPolicy", env, n_steps=64, policy_kwargs=TINY, device="cpu", seed=0).learn(512)
        parameters.append([p.detach().numpy() for p in model.policy.parameters()])
    for one, other in zip(*parameters, strict=True):
        np.testing.assert_array_equal(one, other)


# make_vec_env


class OnlyLeft(gym.Wrapper[Any, Any, Any, Any]):
    """Tally with the infos that :class:`FakePool` gives."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}

    def step(self, action: Any) -> Any:
        *step, info = self.env.step(action)
        return *step, {"left": info["left"]}


@pytest.mark.usefixtures("fake_envpool")
@pytest.mark.parametrize("as_dict", [True, False])
def test_envpool(as_dict: bool) -> None:
    sb3 = DummyVecEnv([lambda: Monitor(OnlyLeft(Tally(as_dict)))] * 3)
    kwargs: dict[str, Any] = {"env_kwargs": {"as_dict": as_dict}, "vec_env_kwargs": {"step_infos": True}}
    ours = make_vec_env("Tally-v0", 3, seed=5, backend="envpool", **kwargs)
    assert assert_same_transitions(sb3, ours, 60, seed=5) > 20
    first = ours.get_attr("_pool")[0]
    ours.seed(6), ours.reset()
    assert ours.get_attr("_pool")[0] is not first and first.closed
    lean = make_vec_env("Tally-v0", 2, backend="envpool")
    lean.reset(), lean.reset()
    assert any({} in lean.step(np.zeros(2, dtype=np.int64))[3] for _ in range(9))
    ours.close()
    ours.close()


@pytest.mark.usefixtures("fake_envpool")
@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"wrapper_class": Monitor}, "no single environments to wrap in EnvPool: write backend='dummy'"),
        ({"vec_env_kwargs": {"batch_size": 1}}, "leave batch_size out"),
        ({"monitor_dir": "x"}, "monitor_dir needs SB3's environments: write backend='dummy'"),
    ],
)
def test_what_envpool_cannot_do(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_vec_env("Tally-v0", 2, backend="envpool", **kwargs)


def test_envpool_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ValueError, match=r"pip install 'sb3_pg\[envpool\]'"):
        make_vec_env("CartPole-v1", backend="envpool")


def test_a_real_envpool() -> None:
    pytest.importorskip("envpool")
    ours = make_vec_env("CartPole-v1", 3, seed=1, backend="envpool")
    ours.reset()
    lengths = np.zeros(3, dtype=int)
    for _ in range(200):
        obs, rewards, dones, infos = ours.step(np.ones(3, dtype=np.int64))
        lengths += 1
        assert rewards.tolist() == [1, 1, 1]
        for idx in np.flatnonzero(dones):
            assert infos[idx]["episode"]["l"] == infos[idx]["elapsed_step"] == lengths[idx]
            assert np.abs(obs[idx]).max() <= 0.05 < np.abs(infos[idx]["terminal_observation"]).max()
            lengths[idx] = 0
    ours.close()


def test_auto_takes_what_is_fast_where_it_does_the_same() -> None:
    assert isinstance(make_vec_env("CartPole-v1", 2), GymnasiumVecEnv)
    assert isinstance(make_vec_env("gymnasium:CartPole-v1", 2), GymnasiumVecEnv)
    for plain in (
        make_vec_env("Pendulum-v1", 2),
        make_vec_env("gymnasium:Pendulum-v1", 2),
        make_vec_env(Tally, 2),
        make_vec_env("CartPole-v1", 2, wrapper_class=Monitor),
        make_vec_env("CartPole-v1", 2, vec_env_cls=DummyVecEnv),
        make_vec_env("CartPole-v1", 2, start_index=1),
        make_vec_env("CartPole-v1", 2, backend="dummy"),
    ):
        assert isinstance(plain, DummyVecEnv)
    several = make_vec_env(DiaryEnv, 2, backend="subproc", vec_env_kwargs={"start_method": "fork"})
    assert isinstance(several, SubprocVecEnv)
    several.close()


def test_make_gymnasium() -> None:
    env_kwargs = {"max_episode_steps": 7}
    native = make_vec_env("CartPole-v1", 2, seed=3, backend="gymnasium", env_kwargs=env_kwargs)
    again = make_vec_env("CartPole-v1", 2, seed=3, backend="gymnasium", env_kwargs=env_kwargs)
    np.testing.assert_array_equal(native.reset(), again.reset())
    assert native.get_attr("max_episode_steps") == [7, 7] and native.render_mode == "rgb_array"
    assert native.action_space.sample() == again.action_space.sample()
    sync = make_vec_env("CartPole-v1", 2, seed=3, backend="gymnasium", wrapper_class=monitored_wrapper)
    dummy = make_vec_env("CartPole-v1", 2, seed=3, backend="dummy")
    assert sync.env_is_wrapped(Monitor) == [True, True]
    assert_same_transitions(dummy, sync, 40)
    chosen = {"vectorization_mode": "sync", "autoreset_mode": "SameStep", "record_episode_statistics": False}
    made: Any = make_vec_env("CartPole-v1", 2, backend="gymnasium", vec_env_kwargs=chosen)
    assert isinstance(made.vector_env, SyncVectorEnv) and not made.env_is_wrapped(Monitor)[0]
    assert made.vector_env.autoreset_mode is AutoresetMode.SAME_STEP
    assert chosen == {"vectorization_mode": "sync", "autoreset_mode": "SameStep", "record_episode_statistics": False}


def monitored_wrapper(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return Monitor(env)


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"backend": "fast"}, "backend must be one of 'auto', .* got 'fast'"),
        ({"backend": "gymnasium", "monitor_dir": "x", "start_index": 2}, "start_index and monitor_dir needs SB3's"),
        ({"backend": "gymnasium", "vec_env_cls": DummyVecEnv}, "vec_env_cls needs SB3's .* backend='dummy'"),
        ({"backend": "gymnasium", "env_id": Tally}, "takes the id of an environment"),
        ({"backend": "subproc", "vec_env_cls": DummyVecEnv}, "leave one of them out"),
        ({"backend": "gymnasium", "vec_env_kwargs": {"vectorization_mode": "threads"}}, "'sync', .* got 'threads'"),
        (
            {"backend": "gymnasium", "vec_env_kwargs": {"vectorization_mode": "vector_entry_point", "copy": False}},
            "no single environments for copy: write vectorization_mode='sync'",
        ),
    ],
)
def test_combinations_without_meaning(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_vec_env(**{"env_id": "CartPole-v1", **kwargs})


# What cannot be adapted


class Tuples(gym.Env[Any, Any]):
    observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
    action_space = spaces.Discrete(2)


@pytest.mark.parametrize(
    "vector_env, said",
    [
        (partial(gym.make, "CartPole-v1"), r"DummyVecEnv\(\[lambda: env\]\)"),
        (diary, r"takes a gymnasium\.vector\.VectorEnv"),
        (lambda: SyncVectorEnv([Tuples]), "got Tuple"),
        (lambda: Batched(AutoresetMode.NEXT_STEP), "it has no other reset: write .*'Disabled'.* backend='dummy'"),
        (lambda: Batched(None), "autoreset_mode=NEXT_STEP, Gymnasium's default"),
        (lambda: Batched("Sometimes"), "must be a gymnasium.vector.AutoresetMode, got 'Sometimes'"),
        (lambda: VectorWrapper(SyncVectorEnv([Tally])), "a wrapper around it counts on that: write .*'SameStep'"),
        (lambda: VectorWrapper(CartPoleVectorEnv(2)), "a wrapper around it counts on that: write"),
    ],
)
def test_refusals(vector_env: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GymnasiumVecEnv(vector_env())


def test_nothing_is_known_of_a_strangers_worker() -> None:
    vector_env = AsyncVectorEnv([Tally], worker=_async_worker)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it has no other reset"):
        GymnasiumVecEnv(vector_env)
    vector_env.close()


@pytest.mark.parametrize(
    "vector_env, said",
    [
        (Batched(AutoresetMode.DISABLED, obeys=False), "changed environments that are not in the mask"),
        (Batched(AutoresetMode.SAME_STEP), "have no 'final_obs'"),
        (BatchedSameStep(forgets=True), "have no 'final_obs' where an episode ended"),
    ],
)
def test_false_promises_are_noticed(vector_env: VectorEnv[Any, Any, Any], said: str) -> None:
    ours = GymnasiumVecEnv(vector_env)
    ours.reset()
    with pytest.raises(ValueError, match=said):
        for _ in range(3):
            ours.step(np.zeros(2, dtype=np.int64))
