"""What SB3's users do to a monitored VecEnv works on ours, and make_vec_env never refuses what SB3's does."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import TransformReward
from stable_baselines3 import PPO
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, VecVideoRecorder

from sb3_pg.envs import GymnasiumVecEnv, make_vec_env
from sb3_pg.envs.autoreset import autoreset_mode_of
from tests.helpers.models import TINY
from tests.helpers.vec_envs import Batched, Tally, assert_equal, assert_same_transitions, every_mode, monitored, pair


class Samples(gym.Env[Any, Any]):
    """Observes samples of its space, keeps the actions that it gets, and tells what does not fit into arrays."""

    render_mode = None

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = copy.deepcopy((observation_space, action_space))
        self.seen: list[str] = []
        self.t, self.trail = 0, [0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(99)))
        self.t, self.trail = 0, [0]
        return self.observation_space.sample(), {"part": 1}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen.append(repr(action))
        self.t += 1
        self.trail.append(self.t)
        info = {
            "part": 1 if self.t % 2 else 0.25,
            "none": None if self.np_random.random() < 0.5 else 3,
            "trail": self.trail,
            "grows": np.arange(self.t),
            "nest": {1: 2.5, "single": np.float32(0.1)},
            "_part": "hidden",
        }
        return self.observation_space.sample(), float(np.sum(action)), self.np_random.random() < 0.2, False, info


# Infos


@every_mode
def test_infos_that_fit_into_no_array(mode: AutoresetMode) -> None:
    """Gymnasium casts 0.25 to 0 where the first environment says 1, and raises for None after a number."""
    sb3, ours = pair(partial(Samples, spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), 3, mode)
    assert assert_same_transitions(sb3, ours, 60) > 20
    before = ours.step(np.zeros(3, dtype=np.int64))[3]
    said = repr(before)
    ours.step(np.zeros(3, dtype=np.int64))
    assert repr(before) == said
    assert all(type(info["nest"]["single"]) is np.float32 for info in before)


def test_infos_that_fit_into_no_array_from_other_processes() -> None:
    env_fn = partial(Samples, spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    ours = GymnasiumVecEnv(AsyncVectorEnv([env_fn] * 2, autoreset_mode="SameStep"))
    assert assert_same_transitions(DummyVecEnv([partial(monitored, env_fn)] * 2), ours, 40) > 5
    ours.close()


# Statistics


@pytest.mark.parametrize(
    "vector_env",
    [CartPoleVectorEnv, lambda n: gym.make_vec("CartPole-v1", n, "sync"), "async"],
    ids=["native", "sync", "async"],
)
def test_methods_of_a_monitor(vector_env: Any) -> None:
    raw = gym.make_vec("CartPole-v1", 2, "async") if vector_env == "async" else vector_env(2)
    ours: VecEnv = GymnasiumVecEnv(raw)
    ours.seed(0), ours.reset()
    told: list[list[dict[str, Any]]] = [[], []]
    for t in range(50):
        for idx, info in enumerate(ours.step(np.ones(2, dtype=np.int64))[3]):
            told[idx] += [info["episode"]] if "episode" in info else []
        if t == 20:
            ours.reset()
    wrapped = VecNormalize(ours)
    assert wrapped.env_method("get_total_steps") == [50, 50] == ours.get_attr("total_steps")
    for name, key in (("get_episode_rewards", "r"), ("get_episode_lengths", "l"), ("get_episode_times", "t")):
        expected = [[episode[key] for episode in episodes] for episodes in told]
        values = wrapped.env_method(name)
        assert [np.round(row, 6).tolist() for row in values] == expected and len(expected[0]) >= 4
        assert ours.has_attr(name) and ours.env_method(name, indices=[-1]) == values[1:]
        assert ours.get_attr(name.replace("get_", "").replace("rewards", "returns")) == values
    with pytest.raises(ValueError, match="leave it out"):
        ours.set_attr("total_steps", 0)
    ours.close()


def test_the_monitors_methods_are_those_of_sb3() -> None:
    sb3, ours = pair(Tally, 2, AutoresetMode.DISABLED)
    assert_same_transitions(sb3, ours, 40)
    for name in ("get_total_steps", "get_episode_lengths"):
        assert sb3.env_method(name) == ours.env_method(name)
    # Since Python 3.12, sum(), by which SB3 adds an episode's rewards up, makes good what rounding loses
    rounding = 0.0 if sys.version_info < (3, 12) else 1e-13
    for own, theirs in zip(*(env.env_method("get_episode_rewards") for env in (ours, sb3)), strict=True):
        assert own == pytest.approx(theirs, rel=rounding, abs=0.0)
    inside = GymnasiumVecEnv(SyncVectorEnv([partial(monitored, Tally)] * 2))
    assert_same_transitions(DummyVecEnv([partial(monitored, Tally)] * 2), inside, 40)
    assert inside.env_method("get_episode_rewards") == sb3.env_method("get_episode_rewards")  # SB3's monitor both
    silent = GymnasiumVecEnv(SyncVectorEnv([Tally] * 2), record_episode_statistics=False)
    assert not silent.has_attr("get_total_steps")


# Spaces, attributes, copies, videos


@pytest.mark.parametrize(
    "observation_space, action_space",
    [
        (spaces.Box(-1, 1, (2,), np.float64), spaces.Box(-3, 3, (2,), np.int32)),
        (spaces.MultiBinary(3), spaces.MultiBinary(4)),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 3], start=[1, 1])),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float64), b=spaces.Discrete(3)), spaces.Box(-1, 1, (2, 2))),
    ],
    ids=str,
)
def test_actions_reach_the_environments_as_in_sb3(observation_space: Any, action_space: Any) -> None:
    seen, parameters = [], []
    for env in pair(partial(Samples, observation_space, action_space), 2, AutoresetMode.DISABLED):
        policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
        kwargs: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "policy_kwargs": TINY, "device": "cpu", "seed": 0}
        model = PPO(policy, env, **kwargs).learn(32)
        seen.append(env.get_attr("seen"))
        parameters.append([p.detach().numpy() for p in model.policy.parameters()])
        assert env.reset() is not None
    assert seen[0] == seen[1]
    assert_equal(dict(enumerate(parameters[0])), dict(enumerate(parameters[1])), "parameters")


def test_a_native_environment_has_the_spaces_of_one() -> None:
    ours = make_vec_env("CartPole-v1", 3)
    assert isinstance(ours, GymnasiumVecEnv)
    assert ours.get_attr("action_space") == [ours.action_space] * 3
    assert ours.get_attr("observation_space", 1) == [ours.observation_space]
    ours.reset()
    np.testing.assert_array_equal(ours.env_method("render", indices=2)[0], ours.get_images()[2])
    with pytest.raises(AttributeError, match="backend='dummy'"):
        ours.envs  # noqa: B018
    sync: Any = GymnasiumVecEnv(SyncVectorEnv([Tally] * 2))
    assert sync.envs[1].unwrapped.knob == 1


def test_indices_are_those_of_a_list() -> None:
    native = GymnasiumVecEnv(CartPoleVectorEnv(2))
    with pytest.raises(IndexError):
        native.get_attr("gravity", 2)
    several = GymnasiumVecEnv(AsyncVectorEnv([Tally] * 2))
    several.set_attr("knob", 5, indices=-1)
    assert several.get_attr("knob") == [1, 5]
    several.close()


@pytest.mark.parametrize(
    "vector_env", [partial(SyncVectorEnv, [partial(gym.make, "CartPole-v1")] * 2), partial(CartPoleVectorEnv, 2)]
)
def test_copies(vector_env: Callable[[], VectorEnv[Any, Any, Any]]) -> None:
    ours = GymnasiumVecEnv(vector_env())
    ours.reset()
    others = [copy.deepcopy(ours), cloudpickle.loads(cloudpickle.dumps(ours))]
    for _ in range(30):
        steps = [env.step(np.ones(2, dtype=np.int64)) for env in (ours, *others)]
        for step in steps[1:]:
            np.testing.assert_array_equal(step[0], steps[0][0])
    assert others[0].env_method("get_total_steps") == [30, 30]


def test_videos_are_as_fast_as_sb3s(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    envs = [make_vec_env("CartPole-v1", 1, backend=backend) for backend in ("dummy", "gymnasium")]
    dummy, ours = (VecVideoRecorder(env, str(tmp_path), lambda step: False) for env in envs)
    assert ours.frames_per_sec == dummy.frames_per_sec == 50 and "autoreset_mode" not in envs[1].metadata


# Seeds


def refuse_long_seeds(self: Batched, *, seed: int | None = None, options: Any = None) -> Any:
    if seed is not None and not 0 <= seed + self.num_envs < 2**31:
        raise TypeError("incompatible function arguments")
    return Batched.reset(self, seed=seed, options=options)


def test_drawn_seeds_have_31_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signed(Batched):
        reset = refuse_long_seeds

    ours = GymnasiumVecEnv(Signed(AutoresetMode.DISABLED))
    for drawn in (0, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 2):
        monkeypatch.setattr(np.random, "randint", lambda *args, drawn=drawn, **kwargs: drawn)
        ours.seed()
        ours.reset()
    vector_env: Any = ours.vector_env
    assert vector_env.seed == (2**32 - 2) % (2**31 - 2)
    ours.seed(2**31)
    with pytest.raises(ValueError, match=r"does not take the seed 2147483648: write one from 0 to 2\*\*31 - 3"):
        ours.reset()


@pytest.mark.usefixtures("fake_envpool")
def test_envpool_counts_on_from_its_seed() -> None:
    for seed in (2**31 - 1, 2**32):
        ours = make_vec_env("Tally-v0", 3, seed=seed, backend="envpool")
        ours.reset()
        pool = ours.get_attr("_pool")[0]
        assert 0 <= pool.seed < 2**31 - 3
        ours.seed(seed)
        ours.close()


# make_vec_env


class Other(VectorEnv[Any, Any, Any]):
    """A vector environment that is another task than the single one, or cannot be made."""

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        raise RuntimeError("not here")


@pytest.fixture
def registered() -> Any:
    native, single = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv", CartPoleEnv
    name = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    ids: dict[str, dict[str, Any]] = {
        "Broken-v0": {"entry_point": name, "vector_entry_point": Other, "max_episode_steps": 9},
        "Endless-v0": {"entry_point": name, "vector_entry_point": native},
        "Scored-v0": {"entry_point": name, "vector_entry_point": native, "kwargs": {"sutton_barto_reward": True}},
        "Mine-v0": {"entry_point": single, "vector_entry_point": native, "max_episode_steps": 9},
    }
    for env_id, kwargs in ids.items():
        gym.register(env_id, **kwargs)
    yield list(ids)
    for env_id in ids:
        del gym.registry[env_id]


def test_auto_is_the_task_of_sb3(registered: list[str]) -> None:
    """A vector environment may be another task, and nothing tells from outside: auto takes those that are known."""
    for env_id in registered:
        assert isinstance(make_vec_env(env_id, 2), DummyVecEnv)
    for kwargs in ({"max_episode_steps": -1}, {"disable_env_checker": True}, {"render_mode": "human"}):
        assert isinstance(make_vec_env("CartPole-v1", 1, env_kwargs=kwargs), DummyVecEnv), kwargs


def test_auto_makes_whatever_gymnasium_has_registered() -> None:
    """All ids with a vector environment, ale-py's among them."""
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)
    for env_id in ("ALE/Pong-v5", "ALE/Breakout-v5"):
        ours, sb3 = make_vec_env(env_id, 2, seed=1), env_util.make_vec_env(env_id, 2, seed=1)
        assert type(ours) is type(sb3) and ours.observation_space == sb3.observation_space
        np.testing.assert_array_equal(ours.reset(), sb3.reset())
    for env_id, spec in gym.registry.items():
        if spec.vector_entry_point is not None and not env_id.startswith(("ALE/", "phys2d/")):
            assert isinstance(make_vec_env(env_id, 1), GymnasiumVecEnv), env_id


def test_ale_pys_environments() -> None:
    """By default in NEXT_STEP mode; they write their mode to the metadata of every vector environment."""
    gym.register_envs(pytest.importorskip("ale_py"))
    kwargs = {"max_num_frames_per_episode": 40}
    ours = make_vec_env("ALE/Pong-v5", 2, backend="gymnasium", env_kwargs=kwargs)
    assert ours.reset().shape == (2, 4, 84, 84)
    last, n_episodes = ours.reset(), 0
    for t in range(25):
        obs, _, dones, infos = ours.step(np.full(2, t % 6))
        for idx in np.flatnonzero(dones):
            terminal = infos[idx]["terminal_observation"]
            np.testing.assert_array_equal(terminal[:3], last[idx, 1:])
            assert infos[idx]["TimeLimit.truncated"] and not np.array_equal(terminal, obs[idx])
            assert infos[idx]["episode"]["l"] == ours.env_method("get_episode_lengths")[idx][-1] == 10
            n_episodes += 1
        last = obs
    assert n_episodes == 4
    for seed in (None, 2**31 - 3):
        make_vec_env("ALE/Pong-v5", 2, seed, backend="gymnasium").reset()
    with pytest.raises(ValueError, match="does not take the seed"):
        make_vec_env("ALE/Pong-v5", 2, 2**31, backend="gymnasium").reset()
    with pytest.raises(ValueError, match="NEXT_STEP"):
        make_vec_env("ALE/Pong-v5", 2, backend="gymnasium", env_kwargs={"autoreset_mode": "NextStep"})
    stacked: dict[str, Any] = {"vec_env_kwargs": {"vectorization_mode": "sync"}}
    assert make_vec_env("ALE/Pong-v5", 2, backend="gymnasium", **stacked).reset().shape == (2, 210, 160, 3)


def test_metadata_that_another_environment_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Batched):
        def __init__(self) -> None:
            super().__init__(None)
            del self.metadata

    monkeypatch.setattr(VectorEnv, "metadata", {"autoreset_mode": AutoresetMode.SAME_STEP})
    assert autoreset_mode_of(Silent()) is AutoresetMode.NEXT_STEP
    for mode in AutoresetMode:
        env = SyncVectorEnv([Tally], autoreset_mode=mode)
        env.metadata = VectorEnv.metadata
        assert autoreset_mode_of(env) is autoreset_mode_of(TransformReward(env, abs)) is mode


def test_imports_where_vector_wrappers_are_not_generic() -> None:
    """As before Gymnasium 1.4, where they take no type parameters."""
    script = (
        "import gymnasium as gym, gymnasium.wrappers.vector\n"
        "def refuse(cls, item): raise TypeError(f'{cls} is not a generic class')\n"
        "gym.vector.VectorWrapper.__class_getitem__ = classmethod(refuse)\n"
        "import sb3_pg\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_pool_that_was_never_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Callable[..., Any]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.object))
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ValueError, match="not installed"):
        make_vec_env("CartPole-v1", backend="envpool")
    gc.collect()
    assert not raised
