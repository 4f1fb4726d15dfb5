"""Training episodes out of monitor files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.results_plotter import X_TIMESTEPS, ts2xy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_pg.compare.reading.monitor import read_monitors
from sb3_pg.compare.records import Episodes
from tests.compare_reading.runs import learn, write_monitor


def read(*paths: Path) -> Episodes:
    episodes, _ = read_monitors(paths)
    assert episodes is not None
    return episodes


def remarks(*paths: Path) -> tuple[str, ...]:
    return read_monitors(paths)[1]


def two_files(folder: Path, names: tuple[str, str]) -> list[Path]:
    """The second begins two seconds after the first."""
    first = write_monitor(folder / f"{names[0]}.monitor.csv", [(1.0, 10, 5.0), (2.0, 20, 15.0)], t_start=1000.5)
    second = write_monitor(folder / f"{names[1]}.monitor.csv", [(3.0, 15, 5.5), (4.0, 5, 8.0), (5.0, 5, 10.5)], 1002.5)
    return [first, second]


def test_merge_by_hand_where_each_environment_has_a_file(tmp_path: Path) -> None:
    """Vector steps 10, 30 and 15, 20, 25 of two environments: 20, 30, 40, 50, 60 of the run."""
    episodes = read(*two_files(tmp_path, ("0", "1")))
    assert episodes.steps.tolist() == [20, 30, 40, 50, 60]
    assert episodes.returns.tolist() == [1, 3, 4, 5, 2]
    assert episodes.seconds.tolist() == [5.0, 7.5, 10.0, 12.5, 15.0]


def test_merge_by_hand_where_names_say_nothing(tmp_path: Path) -> None:
    """As SB3 has it: by time, and the lengths summed up."""
    paths = two_files(tmp_path, ("left", "right"))
    episodes = read(*paths)
    assert episodes.steps.tolist() == [10, 25, 30, 35, 55]
    assert episodes.returns.tolist() == [1, 3, 4, 5, 2]
    assert [remark for remark in remarks(*paths) if "left.monitor.csv, right.monitor.csv" in remark]
    frame = load_results(str(tmp_path))
    assert episodes.steps.tolist() == ts2xy(frame, X_TIMESTEPS)[0].tolist()
    assert episodes.seconds.tolist() == pytest.approx(frame["t"].tolist(), abs=1e-6)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_steps_are_those_of_the_run(n_envs: int, tmp_path: Path) -> None:
    truth = learn(
        PPO, tmp_path, make_vec_env("CartPole-v1", n_envs, monitor_dir=str(tmp_path)), (), 0, seed=1, batch_size=16
    )
    episodes = read(*tmp_path.glob("*.monitor.csv"))
    assert len(truth) > 5
    assert list(zip(episodes.steps, episodes.returns, strict=True)) == truth
    assert (np.diff(episodes.seconds) >= 0).all()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_steps_of_vec_monitor_lack_what_goes_on(n_envs: int, tmp_path: Path) -> None:
    """Its one file does not say whose the episodes are: too few steps, by what the others are about to do at most."""
    env = VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")] * n_envs), str(tmp_path / "monitor.csv"))
    truth = learn(PPO, tmp_path, env, (), 0, seed=1, batch_size=16)
    episodes = read(tmp_path / "monitor.csv")
    assert episodes.returns.tolist() == [score for _, score in truth]
    lacking = np.array([steps for steps, _ in truth]) - episodes.steps
    assert (lacking >= 0).all()
    assert (lacking <= (n_envs - 1) * 500).all()
    assert lacking.any() == (n_envs > 1)


def test_a_process_that_appends_goes_on_with_the_clock_and_the_steps(tmp_path: Path) -> None:
    """Two sessions of two environments. The first ends with vector step 30, the second's clock begins at 0."""
    rows: dict[str, list[tuple[float, int, float]]] = {
        "0": [(1.0, 10, 5.0), (2.0, 20, 15.0), (6.0, 8, 3.0)],
        "1": [(3.0, 15, 7.5), (7.0, 4, 1.0), (8.0, 3, 2.5)],
    }
    paths = [write_monitor(tmp_path / f"{name}.monitor.csv", some) for name, some in rows.items()]
    episodes = read(*paths)
    assert episodes.returns.tolist() == [1, 3, 2, 7, 8, 6]
    assert episodes.steps.tolist() == [20, 30, 60, 68, 74, 76]
    assert episodes.seconds.tolist() == [5.0, 7.5, 15.0, 16.0, 17.5, 18.0]
    assert any("resumed 1 times" in remark for remark in remarks(*paths))


def test_a_second_header_begins_a_session(tmp_path: Path) -> None:
    """Also one whose times go on beyond those before; the pause of a day is no part of the seconds."""
    path = write_monitor(tmp_path / "monitor.csv", [(1.0, 10, 5.0)], t_start=1000.0)
    later = write_monitor(tmp_path / "later" / "monitor.csv", [(2.0, 10, 7.0)], t_start=87400.0)
    path.write_bytes(path.read_bytes() + later.read_bytes())
    assert read(path).steps.tolist() == [10, 20]
    assert read(path).seconds.tolist() == [5.0, 12.0]


def test_a_clock_that_was_corrected_resumes_nothing(tmp_path: Path) -> None:
    path = write_monitor(tmp_path / "monitor.csv", [(1.0, 10, 100.0), (2.0, 10, 99.98), (3.0, 10, 101.0)])
    assert sorted(read(path).seconds) == [99.98, 100.0, 101.0]
    assert not remarks(path)


def test_real_monitors_that_append(tmp_path: Path) -> None:
    """Without a header, if the file is new: then its first line is an episode."""

    def play(override_existing: bool) -> float:
        env = Monitor(gym.make("CartPole-v1"), str(tmp_path / "0"), override_existing=override_existing)
        env.reset(seed=0)
        while not any(env.step(0)[2:4]):
            pass
        env.close()
        return env.get_episode_rewards()[0]

    path = tmp_path / "0.monitor.csv"
    scores = [play(override_existing=False)]
    assert read(path).returns.tolist() == scores
    scores = [play(override_existing=True), play(override_existing=False)]
    assert read(path).returns.tolist() == scores
    assert read(path).steps.tolist() == np.cumsum(scores).tolist()


def test_info_keywords_and_numbers_that_are_none(tmp_path: Path) -> None:
    """Further columns, with commas and line breaks in them; a return that is nan stays."""
    path = tmp_path / "monitor.csv"
    rows = [
        "r,l,t,note\r\n",
        '1.0,10,1.0,"a, b\r\nc"\r\n',
        "nan,5,2.0,x\r\n",
        "-inf,5,3.0,x\r\n",
        "2.0,0,4.0,x\r\n",
        "what\r\n",
    ]
    path.write_text('#{"t_start": 0.0, "env_id": "X-v0"}\n' + "".join(rows), newline="")
    assert read(path).returns.tolist() == pytest.approx([1.0, np.nan, -np.inf], nan_ok=True)
    assert read(path).steps.tolist() == [10, 15, 20]
    assert any("2 of 3 returns are not finite" in remark for remark in remarks(path))
    assert any("2 damaged lines" in remark for remark in remarks(path))


@pytest.mark.parametrize(
    "write", [lambda path: path.touch(), lambda path: write_monitor(path, [])], ids=["empty", "none"]
)
def test_no_episodes(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "0.monitor.csv"
    write(path)
    assert read_monitors([path]) == (None, ("monitor.csv: no episode ended",))
    other = write_monitor(tmp_path / "1.monitor.csv", [(1.0, 10, 5.0)])
    assert read(path, other).steps.tolist() == [20]
