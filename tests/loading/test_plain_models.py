"""What ``save`` writes is plain data, unless the user gave it code: loaded so, it is the model that it is otherwise."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.common.known import known_with
from sb3_pg.common.unpickling import load_plain
from tests.helpers.environments import RandomEnv
from tests.helpers.masks import masked_diary
from tests.helpers.models import (
    ACTION_SPACES,
    AS_PPO,
    ESTIMATORS,
    OWN_CRITIC,
    TINY,
    Algorithm,
    differences,
    every_action_space,
    every_algorithm,
    every_estimator,
    make,
    snapshot,
)

BOX = spaces.Box(-2.0, 2.0, (3,), np.float32)
OBSERVED: dict[str, spaces.Space[Any]] = {
    "Box": BOX,
    "unbounded integers": spaces.Box(-np.inf, np.inf, (3,), np.int64),
    "Discrete": spaces.Discrete(4),
    "MultiBinary": spaces.MultiBinary([2, 3]),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "Dict": spaces.Dict({"b": BOX, "a": spaces.Discrete(3)}),
}
POLICIES = {"image": "CnnPolicy", "Dict": "MultiInputPolicy"}


def random_env(action_space: spaces.Space[Any], observation_space: spaces.Space[Any] = BOX) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(RandomEnv(action_space, observation_space, 10, 0.25))] * 2)


def assert_plain(model: PolicyGradientAlgorithm, path: Path, **kwargs: Any) -> PolicyGradientAlgorithm:
    """A model's file holds plain data, and this is the model."""
    model.save(path / "model")
    plain, trusted = (type(model).load(path / "model", device="cpu", trust=trust, **kwargs) for trust in (False, True))
    assert differences(snapshot(model), snapshot(plain)) == []
    ours, theirs = ({name: described(value) for name, value in vars(one).items()} for one in (plain, trusted))
    assert ours == theirs
    return plain


def described(value: object) -> str:
    """What two values have in common that are the same at different places of the memory."""
    if isinstance(value, spaces.Space) and value._np_random is not None:
        return f"{value!r} {value._np_random.bit_generator.state}"
    return re.sub(r" at 0x\w+", "", repr(vars(value)) if isinstance(value, LinearSchedule) else repr(value))


@every_algorithm
@every_estimator
@every_action_space
def test_actions(
    algorithm: Algorithm, estimator: dict[str, Any], action_space: spaces.Space[Any], tmp_path: Path
) -> None:
    env = random_env(action_space)
    env.action_space.seed(3)
    assert_plain(make(algorithm, env, **estimator).learn(64), tmp_path)


@every_algorithm
@pytest.mark.parametrize("kind", OBSERVED)
def test_observations(algorithm: Algorithm, kind: str, tmp_path: Path) -> None:
    env = random_env(ACTION_SPACES["Discrete"], OBSERVED[kind])
    plain = assert_plain(make(algorithm, env, policy=POLICIES.get(kind, "MlpPolicy")).learn(32), tmp_path)
    assert isinstance(plain.observation_space, spaces.Space)
    plain.set_env(env)
    plain.learn(32)


def test_dictionaries_keep_their_order() -> None:
    """Features are laid out in it."""
    space = spaces.Dict({"b": BOX, "a": BOX})
    space.spaces = dict(reversed(space.spaces.items()))
    read = load_plain(cloudpickle.dumps(space), known_with(()))
    assert isinstance(read, spaces.Dict) and list(read.spaces) == list(space.spaces)


ARGUMENTS: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "gSDE": (VanillaPG, OWN_CRITIC | {"use_sde": True, "sde_sample_freq": 4}),
    "the defaults": (VanillaPG, {"natural_gradient": None}),
    "as PPO": (OffPolicyISPG, AS_PPO | {"baseline": "value", "clip_range_vf": LinearSchedule(0.2, 0.1, 1.0)}),
    "reuse": (OffPolicyISPG, {"n_reused_batches": 2}),
    "schedules": (
        OffPolicyISPG,
        OWN_CRITIC
        | {
            "learning_rate": LinearSchedule(1e-3, 0.0, 0.9),
            "ent_coef": LinearSchedule(np.float64(1e-3), 0, 1.0),
            "value_learning_rate": LinearSchedule(1e-3, 0.0, 0.9),
        },
    ),
    "NumPy's numbers": (REINFORCE, {"learning_rate": np.float64(1e-3), "gamma": np.float32(0.5)}),
    "classes": (
        VanillaPG,
        OWN_CRITIC
        | {
            "policy_kwargs": {
                "net_arch": {"pi": [8], "vf": [4, 4]},
                "activation_fn": th.nn.ELU,
                "optimizer_class": th.optim.RMSprop,
                "optimizer_kwargs": {"eps": 1e-5},
                "features_extractor_class": FlattenExtractor,
                "features_extractor_kwargs": {},
                "share_features_extractor": False,
            }
        },
    ),
    "SB3's optimizer": (REINFORCE, {"policy_kwargs": TINY | {"optimizer_class": RMSpropTFLike}}),
    "a policy class": (VanillaPG, OWN_CRITIC | {"policy": ActorCriticPolicy}),
    "a path": (REINFORCE, {"tensorboard_log": Path("nowhere")}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    algorithm, kwargs = ARGUMENTS[name]
    env = random_env(ACTION_SPACES["Box" if "use_sde" in kwargs else "Discrete"])
    assert_plain(make(algorithm, env, **kwargs).learn(64), tmp_path)


@every_algorithm
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_masks(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    assert_plain(make(algorithm, masked_diary(), **estimator).learn(32), tmp_path)


@every_algorithm
def test_behind_vec_normalize(algorithm: Algorithm, tmp_path: Path) -> None:
    assert_plain(make(algorithm, VecNormalize(random_env(ACTION_SPACES["Box"]))).learn(64), tmp_path)


def test_a_schedule_of_the_zoo(tmp_path: Path) -> None:
    """It is made of a class whose package a file may ask for, and no other."""
    zoo = pytest.importorskip("rl_zoo3.utils")
    model = make(REINFORCE, random_env(ACTION_SPACES["Discrete"]), learning_rate=zoo.linear_schedule(1e-3)).learn(32)
    assert assert_plain(model, tmp_path).lr_schedule(0.5) == 5e-4


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.arange(24).reshape(2, 3, 4)[:, ::2],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.array([b"a", b"bc"]),
        np.array(True),
        np.array([1 + 2j], dtype=np.complex64),
        np.float32(0.5),
        np.bool_(True),
        np.str_("abc"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays(array: Any, protocol: int) -> None:
    read: Any = load_plain(cloudpickle.dumps(array, protocol=protocol), known_with(()))
    assert type(read) is type(array) and read.dtype == array.dtype and np.array_equal(read, array)


def test_a_generator_goes_on() -> None:
    generator = np.random.default_rng(3)
    generator.random(5)
    read = load_plain(cloudpickle.dumps(generator), known_with(()))
    assert isinstance(read, np.random.Generator) and read.random() == generator.random()


# --- what the user trusts -------------------------------------------------------------------------------------------

SOURCE = """
from stable_baselines3.common.policies import ActorCriticPolicy

class Falling:
    def __init__(self, start):
        self.start = start
    def __call__(self, progress):
        return self.start * progress

class OwnPolicy(ActorCriticPolicy):
    pass

def falling(progress):
    return 1e-3 * progress
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's module: what is in it is saved by its name."""
    (tmp_path / "own_module_of_a_user.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_module_of_a_user", raising=False)
    return __import__("own_module_of_a_user")


def test_trusted_classes_and_functions(own: ModuleType, tmp_path: Path) -> None:
    model = make(
        VanillaPG,
        random_env(ACTION_SPACES["Discrete"]),
        **OWN_CRITIC | {"policy": own.OwnPolicy, "learning_rate": own.Falling(1e-3), "ent_coef": own.falling},
    ).learn(32)
    model.save(tmp_path / "model")
    trusted = [own.OwnPolicy, own.Falling, own.falling]
    loaded = VanillaPG.load(tmp_path / "model", device="cpu", trust=trusted)
    assert differences(snapshot(model), snapshot(loaded)) == []
    assert type(loaded.policy) is own.OwnPolicy and loaded.lr_schedule(0.5) == 5e-4
    assert loaded.ent_coef is own.falling
    for one, entry in zip(trusted, ("policy_class", "learning_rate", "ent_coef"), strict=True):
        others = [other for other in trusted if other is not one]
        with pytest.raises(
            ValueError, match=rf"model is more .* '{entry}' in it holds own_module.*{one.__name__}\. If"
        ):
            VanillaPG.load(tmp_path / "model", device="cpu", trust=others)


def test_a_lambda_is_code(tmp_path: Path) -> None:
    """It is refused, with what to write instead, each of which works."""
    model = make(OffPolicyISPG, random_env(ACTION_SPACES["Discrete"]), learning_rate=lambda progress: 1e-3 * progress)
    model.learn(32).save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"'learning_rate' in it holds cloudpickle.*trust=True.*custom_objects=\{'lear"
    ):
        OffPolicyISPG.load(tmp_path / "model", trust=False)
    assert OffPolicyISPG.load(tmp_path / "model", device="cpu").lr_schedule(0.5) == 5e-4
    assert OffPolicyISPG.load(tmp_path / "model", device="cpu", trust=True).lr_schedule(0.5) == 5e-4
    given = {"learning_rate": 0.25}
    loaded = OffPolicyISPG.load(tmp_path / "model", device="cpu", trust=False, custom_objects=given)
    assert loaded.lr_schedule(0.5) == 0.25 and given == {"learning_rate": 0.25}


def test_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    """It holds what is made of the learning rate too."""
    model = make(REINFORCE, random_env(ACTION_SPACES["Discrete"]), learning_rate=lambda progress: 1e-3 * progress)
    model.save(tmp_path / "model", include=["lr_schedule"])
    loaded = REINFORCE.load(tmp_path / "model", trust=False, custom_objects={"learning_rate": 0.25})
    assert loaded.lr_schedule(0.5) == 0.25


@pytest.mark.parametrize("trust", [None, "all", 1, os, [3], ["os.system"], [print, th.zeros(1)]])
def test_trust_is_checked(trust: Any, tmp_path: Path) -> None:
    make(REINFORCE, random_env(ACTION_SPACES["Discrete"])).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^trust must be True, False or a list of classes and functions, got "):
        REINFORCE.load(tmp_path / "model", trust=trust)


def test_loading_takes_what_it_took(tmp_path: Path) -> None:
    """An environment, arguments and open files, as SB3's."""
    env = random_env(ACTION_SPACES["Discrete"])
    make(REINFORCE, env).learn(32).save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model.zip", env, "cpu", None, False, True, trust=False, gamma=0.5)
    assert loaded.gamma == 0.5 and loaded.get_env() is env
    loaded.learn(32)
    with (tmp_path / "model.zip").open("rb") as file:
        assert REINFORCE.load(file, device="cpu", trust=False).num_timesteps == 32
    memory = io.BytesIO()
    loaded.save(memory)
    for trust in (True, False):  # from where it was written to
        assert REINFORCE.load(memory, device="cpu", trust=trust).num_timesteps == loaded.num_timesteps
    with pytest.raises(ValueError, match=r"model cannot be loaded: Observation spaces do not match"):
        REINFORCE.load(tmp_path / "model", random_env(spaces.Discrete(3), spaces.Discrete(3)), trust=False)
    with pytest.raises(FileNotFoundError):
        REINFORCE.load(tmp_path / "nothing", trust=False)
