"""Folders of checkpoints, environments that cannot be saved, and what is refused."""

from __future__ import annotations

import json
import random
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_pg import REINFORCE, ResumeCallback, VanillaPG, has_checkpoint
from sb3_pg.checkpoints.environments import environments, put_back, state_of, writers
from sb3_pg.checkpoints.pickling import dumps, loads
from sb3_pg.checkpoints.store import DamagedCheckpointError, checkpoints_in, newest, read
from tests.checkpoints.runs import Interrupt, Interrupted, Kind
from tests.helpers.environments import DiaryEnv
from tests.helpers.models import differences, snapshot

SMALL = Kind(REINFORCE, n_envs=2, arguments={"n_steps": 32}, steps=640)


def cartpole() -> Any:
    """One environment of a user's own."""
    return gym.make("CartPole-v1")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The checkpoints of a run that was interrupted at its step 400 or so."""
    with pytest.raises(Interrupted):
        SMALL.model(SMALL.env()).learn(640, callback=[ResumeCallback(tmp_path, every=100, keep=3), Interrupt(200)])
    return tmp_path


# --- folders ---------------------------------------------------------------------------------------------------------


def test_the_last_few_are_kept_and_tell_their_facts(interrupted: Path) -> None:
    found = checkpoints_in(interrupted)
    assert len(found) == 3
    with zipfile.ZipFile(found[-1]) as packed:
        facts = json.loads(packed.read("checkpoint.json"))
    assert (facts["algorithm"], facts["steps"], facts["format"]) == ("REINFORCE", 384, 1)
    assert [one.name for one in interrupted.iterdir() if one not in found] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 255]) + data[len(data) // 3 + 1 :],
        lambda data: data.replace(b'"format": 1', b'"format": x'),
        lambda data: data.replace(b'"sha256"', b'"sha257"'),
    ],
)
def test_a_damaged_one_is_passed_over_and_a_warning_says_so(
    damage: Callable[[bytes], bytes], interrupted: Path
) -> None:
    last = checkpoints_in(interrupted)[-1]
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(UserWarning, match=last.name):
        model = REINFORCE.resume(interrupted, SMALL.env())
    assert model.num_timesteps == 256


def test_bits_that_flip_are_found_wherever_they_are(interrupted: Path) -> None:
    last = checkpoints_in(interrupted)[-1]
    content, written = last.read_bytes(), read(last)
    rng, refused = random.Random(0), 0
    # Everywhere, and twice as often where the archive says what is in it
    places = [rng.randrange(len(content)) for _ in range(60)] + [rng.randrange(400) for _ in range(60)]
    places += [len(content) - 1 - rng.randrange(300) for _ in range(60)]
    for place in places:
        last.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            assert read(last).parts == written.parts
        except (DamagedCheckpointError, ValueError):
            refused += 1
    assert refused > len(places) // 2


def test_one_of_another_version_is_refused(interrupted: Path) -> None:
    last = checkpoints_in(interrupted)[-1]
    with zipfile.ZipFile(last) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(last, "w") as packed:
        for name, data in parts.items():
            packed.writestr(name, data.replace(b'"format": 1', b'"format": 99'))
    with pytest.raises(ValueError, match=r"has format 99, and this version of sb3_pg reads 1"):
        REINFORCE.resume(interrupted, SMALL.env())


def test_the_folder_of_another_run_is_refused_before_anything_is_written(interrupted: Path) -> None:
    before = checkpoints_in(interrupted)
    with pytest.raises(
        ValueError, match=r"checkpoints of another run, of REINFORCE at step 384. Go on with it: .*resu"
    ):
        SMALL.model(SMALL.env()).learn(64, callback=ResumeCallback(interrupted, every=10))
    assert checkpoints_in(interrupted) == before


def test_one_checkpoint_can_be_named(interrupted: Path) -> None:
    model = REINFORCE.resume(checkpoints_in(interrupted)[0], SMALL.env())
    assert model.num_timesteps == 128


def test_a_saved_model_is_a_run_of_its_own(interrupted: Path) -> None:
    model = REINFORCE.resume(interrupted, SMALL.env())
    model.save(interrupted / "model")
    loaded = REINFORCE.load(interrupted / "model", env=SMALL.env())
    assert not differences(snapshot(model), snapshot(loaded))
    with pytest.raises(ValueError, match="another run"):
        loaded.learn(64, callback=ResumeCallback(interrupted, every=10))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (lambda path: REINFORCE.resume(path / "no", SMALL.env()), "has no checkpoint"),
        (lambda path: VanillaPG.resume(path, SMALL.env()), r"a run of REINFORCE, not of VanillaPG: write REINFORCE"),
        (lambda path: REINFORCE.resume(path, Kind(REINFORCE, n_envs=3).env()), "not made as the run's was"),
        (lambda path: REINFORCE.resume(path, VecNormalize(SMALL.env())), "not made as the run's was"),
        (lambda path: REINFORCE.resume(path, Kind(REINFORCE, "Acrobot-v1", 2).env()), "not made as the run's was"),
        (lambda path: REINFORCE.resume(path, DummyVecEnv([cartpole, cartpole])), "not made as the run's was"),
        (lambda path: ResumeCallback(path, every=0), "every must be an integer >= 1, got 0"),
        (lambda path: ResumeCallback(path, every=1e5), "every must be an integer >= 1, got 100000.0"),  # type: ignore[arg-type]
        (lambda path: ResumeCallback(path, every=10, keep=0), "keep must be an integer >= 1, got 0"),
        (
            lambda path: A2C("MlpPolicy", SMALL.env()).learn(10, callback=ResumeCallback(path / "no", every=10)),
            "for the algorithms of sb3_pg, got A2C",
        ),
        (
            lambda path: SMALL.model(SMALL.env()).learn(64, callback=ResumeCallback(checkpoints_in(path)[0], every=10)),
            "writes into a folder, and .* is a file",
        ),
    ],
)
def test_each_has_its_words(resume: Callable[[Path], Any], message: str, interrupted: Path) -> None:
    with pytest.raises(ValueError, match=message):
        resume(interrupted)


def test_another_environment_after_resume_is_refused(interrupted: Path) -> None:
    model = REINFORCE.resume(interrupted, SMALL.env())
    model.set_env(SMALL.env())
    with pytest.raises(ValueError, match=r"has another environment now: give it to resume\(path, env\)"):
        model.learn(640)


def test_a_model_that_cannot_be_pickled_is_refused_by_the_name_of_the_part(tmp_path: Path) -> None:
    model = SMALL.model(SMALL.env())
    vars(model.policy)["lock"] = threading.Lock()
    with pytest.raises(ValueError, match=r"model.policy: cannot pickle .*lock"):
        model.learn(64, callback=ResumeCallback(tmp_path, every=10))
    assert not has_checkpoint(tmp_path)


class HoldsALock(BaseCallback):
    """Remembers something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def _on_step(self) -> bool:
        return True


def test_what_a_callback_cannot_have_kept_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="HoldsALock.lock"):
        SMALL.model(SMALL.env()).learn(64, callback=[ResumeCallback(tmp_path, every=10), HoldsALock()])


def test_an_evaluation_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    evaluation = EvalCallback(DummyVecEnv([lambda: Monitor(WithALock())]), eval_freq=10, verbose=0)
    model = REINFORCE("MlpPolicy", DummyVecEnv([DiaryEnv]), n_steps=16)
    with pytest.warns(UserWarning, match=r"EvalCallback 1\.eval_env"):
        model.learn(32, callback=[ResumeCallback(tmp_path, every=10), evaluation])


def test_a_callback_that_was_ours_is_still_refused_elsewhere(tmp_path: Path) -> None:
    callback = ResumeCallback(tmp_path, every=10)
    SMALL.model(SMALL.env()).learn(64, callback=callback)
    with pytest.raises(ValueError, match="for the algorithms of sb3_pg, got A2C"):
        A2C("MlpPolicy", SMALL.env()).learn(10, callback=callback)


# --- environments ----------------------------------------------------------------------------------------------------


class WithALock(DiaryEnv):
    """An environment that cannot be pickled, as those of Box2D and of simulators in C++."""

    def __init__(self) -> None:
        super().__init__([7])
        self.lock = threading.Lock()


def test_episodes_are_begun_anew_where_the_environment_cannot_be_saved(tmp_path: Path) -> None:
    def env() -> VecNormalize:
        return VecNormalize(DummyVecEnv([WithALock, WithALock]), norm_reward=False)

    model = VanillaPG("MlpPolicy", env(), n_steps=16)
    with (
        pytest.raises(Interrupted),
        pytest.warns(
            UserWarning, match=r"exact in distribution only. What cannot be pickled is WithALock.lock: cannot"
        ),
    ):
        model.learn(320, callback=[ResumeCallback(tmp_path, every=32), Interrupt(50)])
    found = newest(tmp_path)
    assert found is not None
    assert "WithALock.lock" in found.facts.restarts
    fresh = env()
    with pytest.warns(UserWarning, match="exact in distribution only"):
        resumed = VanillaPG.resume(tmp_path, fresh).learn(320)
    assert resumed.num_timesteps == 320
    # Those of the run before, and of the two environments' steps since, and their two resets
    assert vars(fresh.obs_rms)["count"] == pytest.approx(320 + 2 * 2, abs=1)


class Inner(gym.Env[Any, Any], EzPickle):
    """Builds itself anew when it is pickled, as MuJoCo's environments do."""

    def __init__(self, size: int) -> None:
        EzPickle.__init__(self, size)
        self.count = np.zeros(size)
        self.first = self.count[:1]


class Outer(DiaryEnv):
    """Has an environment where nobody looks for one, and memory that two arrays share."""

    def __init__(self) -> None:
        super().__init__([7])
        self.parts = {"simulator": [Inner(3)]}
        self.hidden = (lambda: None, [Inner(2)])


def test_an_environment_within_is_put_back_and_not_built_anew() -> None:
    env = VecFrameStack(DummyVecEnv([Outer]), 2)
    env.reset()
    inner = env.envs[0].parts["simulator"][0]
    inner.count[:] = [5, 6, 7]
    env.envs[0].hidden[1][0].count[:] = 9
    found = environments({"env": env})
    data = dumps(state_of(found), found)
    before = env.step(np.array([1]))
    inner.count[:] = 0
    env.envs[0].hidden[1][0].count[:] = 0
    put_back(found, loads(data, {**found, **writers(found)}))
    after = env.step(np.array([1]))
    np.testing.assert_array_equal(before[0], after[0])
    now = env.envs[0].parts["simulator"][0]
    assert now.count.tolist() == [5, 6, 7]
    assert env.envs[0].hidden[1][0].count.tolist() == [9, 9]
    now.count[0] = 1  # and the memory is still shared
    assert now.first.tolist() == [1]


def test_a_seedless_run_is_exact_too(tmp_path: Path) -> None:
    kind = Kind(REINFORCE, n_envs=1, arguments={"n_steps": 32, "seed": None})
    whole = kind.model(kind.env()).learn(320, callback=ResumeCallback(tmp_path, every=32, keep=100))
    first = checkpoints_in(tmp_path)[0]
    again = REINFORCE.resume(first, kind.env()).learn(320)
    assert not differences(snapshot(whole), snapshot(again))
