"""Runs of scripts, in the layouts that scripts have; ours; and what is no run."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from sb3_pg import REINFORCE
from sb3_pg.compare.reading import read_runs
from sb3_pg.compare.reading.events import MARK
from sb3_pg.compare.reading.saved_model import read_saved_model
from sb3_pg.compare.records import Record
from tests.compare_reading.runs import learn, write_evaluations, write_monitor


def runs(*paths: Any, **options: Any) -> list[tuple[str, str, int | None]]:
    return [(run.algorithm, run.env_id, run.seed) for run in read_runs(paths, **options).records]


def only(path: Path) -> Record:
    (record,) = read_runs([path]).records
    return record


# --- real ones -------------------------------------------------------------------------------------------------------


def test_a_script_with_monitor_and_eval_callback(tmp_path: Path) -> None:
    """Environment from the monitor's file, seed and settings from the model, the algorithm from the folder's name."""
    truth = learn(PPO, tmp_path / "my_ppo_1", seed=5, batch_size=16, gamma=0.9)
    record = only(tmp_path)
    assert (record.algorithm, record.env_id, record.seed) == ("my_ppo_1", "CartPole-v1", 5)
    assert record.folder == tmp_path / "my_ppo_1"
    assert record.episodes is not None
    assert list(zip(record.episodes.steps, record.episodes.returns, strict=True)) == truth
    assert record.evaluations is not None
    assert record.evaluations.returns.shape == (2, 3)
    assert record.evaluations.deterministic is None
    assert record.budget == 256
    assert record.progress["time/total_timesteps"][-1] == 256
    assert record.settings["gamma"] == 0.9
    assert record.settings["clip_range"] == 0.2
    assert record.settings["policy_kwargs"] == {"net_arch": [8]}
    assert "seed" not in record.settings
    assert record.facts["n_envs"] == 2
    assert not record.remarks
    assert not record.error


def test_our_algorithm_behind_vec_monitor(tmp_path: Path) -> None:
    """VecMonitor's file does not know the environment: the folder does; event files only, and no evaluations file."""
    folder = tmp_path / "CartPole-v1" / "REINFORCE_seed_4"
    env = VecMonitor(make_vec_env("CartPole-v1", n_envs=3), str(folder / "monitor.csv"))
    truth = learn(REINFORCE, folder, env, formats=("tensorboard",), baseline="batch_mean", seed=4)
    (folder / "evaluations.npz").unlink()
    record = only(tmp_path)
    assert (record.algorithm, record.env_id, record.seed) == ("reinforce", "CartPole-v1", 4)
    assert record.settings["baseline"] == "batch_mean"
    assert record.episodes is not None
    assert record.episodes.returns.tolist() == [score for _, score in truth]
    assert record.evaluations is not None
    assert record.evaluations.are_means
    assert record.evaluations.steps.tolist() == [150]
    assert any(remark.startswith("monitor.csv: of 3 environments at once") for remark in record.remarks)
    assert record.progress["train/ess"].shape == record.progress["time/total_timesteps"].shape


def test_tensorboard_logs_beside_the_runs(tmp_path: Path) -> None:
    """``tensorboard_log`` of two algorithms; a run of which there is nothing but the log is one too."""
    for algorithm, name in ((PPO, "ppo"), (A2C, "a2c")):
        learn(algorithm, tmp_path / "runs" / name, formats=(), seed=0, tensorboard_log=str(tmp_path / "tb"))
    found = read_runs([tmp_path])
    assert [(run.algorithm, run.seed, run.folder.name) for run in found.records] == [
        ("a2c", 0, "a2c"),
        ("ppo", 0, "ppo"),
    ]
    assert all(run.progress["eval/mean_reward"].size for run in found.records)
    assert not found.remarks
    found = read_runs([tmp_path / "tb"], env_id="CartPole-v1")
    assert [(run.algorithm, run.env_id, run.seed) for run in found.records] == [
        ("a2c", "CartPole-v1", None),
        ("ppo", "CartPole-v1", None),
    ]
    assert all(run.evaluations is not None and run.evaluations.are_means for run in found.records)
    (unknown, _) = read_runs([tmp_path / "tb"]).records
    assert unknown.env_id == "unknown environment"
    assert "which environment it is about is not known: name it" in unknown.remarks


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_parts_of_one_run_in_folders_of_their_own(tmp_path: Path) -> None:
    """And what is in a folder of evaluations, or called so, are no training episodes."""
    run = tmp_path / "ppo" / "seed_1"
    write_evaluations(run / "eval")
    write_monitor(run / "eval" / "monitor.csv", [(9.0, 9, 9.0)], env_id="Other-v0")
    write_monitor(run / "train" / "0.monitor.csv", [(1.0, 10, 1.0)], env_id="Acrobot-v1")
    write_monitor(run / "train" / "eval.monitor.csv", [(9.0, 9, 9.0)])
    (run / "logs").mkdir()
    (run / "logs" / "progress.csv").write_text("time/total_timesteps\n10\n")
    record = only(tmp_path)
    assert (record.algorithm, record.env_id, record.seed, record.folder) == ("ppo", "Acrobot-v1", 1, run)
    assert record.evaluations is not None
    assert record.episodes is not None
    assert record.episodes.returns.tolist() == [1]
    assert record.progress["time/total_timesteps"].tolist() == [10]


def test_runs_within_a_run_and_links_are_read_once(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "ppo")
    write_evaluations(tmp_path / "ppo" / "seed_1")
    write_evaluations(tmp_path / "ppo" / "eval" / "seed_2")
    (tmp_path / "ppo" / "around").symlink_to(tmp_path)
    assert runs(tmp_path, env_id="X-v0") == [("ppo", "X-v0", None), ("ppo", "X-v0", 1), ("ppo", "X-v0", 2)]


def test_a_log_of_another_time_is_not_the_runs(tmp_path: Path) -> None:
    """In the run's folder it is left out, with a line; elsewhere it is a run."""
    write_monitor(tmp_path / "ppo" / "monitor.csv", [(1.0, 10, 1.0)], t_start=5000.0, env_id="CartPole-v1")
    for name, second in (("PPO_1", 100), ("PPO_2", 5000)):
        (tmp_path / "ppo" / name).mkdir()
        (tmp_path / "ppo" / name / f"{MARK}{second}.x").touch()
    found = read_runs([tmp_path])
    assert len(found.records) == 1
    assert len(found.remarks) == 1
    assert "PPO_1: which of the runs here it is the log of is not clear" in found.remarks[0]
    (tmp_path / "ppo" / "PPO_1").rename(tmp_path / "PPO_1")
    assert len(read_runs([tmp_path]).records) == 2


def test_a_log_in_the_folder_of_a_run_whose_time_is_not_known(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "ppo" / "CartPole-v1")
    (tmp_path / "ppo" / "CartPole-v1" / "PPO_1").mkdir()
    (tmp_path / "ppo" / "CartPole-v1" / "PPO_1" / f"{MARK}100.x").touch()
    assert runs(tmp_path) == [("ppo", "CartPole-v1", None)]
    (tmp_path / "ppo" / "CartPole-v1" / "PPO_2").mkdir()
    (tmp_path / "ppo" / "CartPole-v1" / "PPO_2" / f"{MARK}200.x").touch()
    assert runs(tmp_path) == [("ppo", "CartPole-v1", None)]
    assert len(read_runs([tmp_path]).remarks) == 2


def test_what_may_not_be_read_and_links_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, so that a folder is closed by hand here."""
    write_evaluations(tmp_path / "ppo" / "X-v0")
    (tmp_path / "ppo" / "X-v0" / "model.zip").symlink_to(tmp_path / "nowhere")
    write_evaluations(tmp_path / "closed" / "a2c")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    assert runs(tmp_path) == [("ppo", "X-v0", None)]
    assert read_runs([tmp_path]).remarks == (f"{tmp_path / 'closed'} may not be read",)
    with pytest.raises(ValueError, match=r"no runs found in .*closed \(.*closed may not be read; looked for"):
        read_runs([tmp_path / "closed"])


# --- cells -----------------------------------------------------------------------------------------------------------

CELL = {
    "label": "reinforce:baseline=none",
    "algorithm": "reinforce",
    "env_id": "Acrobot-v1",
    "seed": 2,
    "settings": {"baseline": "none"},
    "defaults": {"gamma": 0.99},
    "budget": 1000,
    "eval_every": 100,
    "deterministic": True,
    "normalization": None,
    "command": ["sb3-pg", "compare", "--algos", "reinforce:baseline=none, ppo"],
    "versions": {"python": "3.11"},
    "error": "Traceback ...\nValueError: no",
    "remarks": ["a line"],
}


def test_a_cell(tmp_path: Path) -> None:
    folder = tmp_path / "reinforce" / "Acrobot-v1_3"
    write_evaluations(folder)
    (folder / "cell.json").write_text(json.dumps(CELL))
    record = only(tmp_path)
    assert (record.algorithm, record.env_id, record.seed) == ("reinforce:baseline=none", "Acrobot-v1", 2)
    assert (record.budget, record.error, record.remarks) == (1000, CELL["error"], ("a line",))
    assert record.settings == {"baseline": "none"}
    assert record.evaluations is not None
    assert record.evaluations.deterministic is True
    assert record.facts["algorithm"] == "reinforce"
    assert record.facts["normalization"] is False
    assert record.facts["command"] == "sb3-pg compare --algos 'reinforce:baseline=none, ppo'"
    assert record.facts["eval_every"] == 100
    assert record.facts["defaults"] == {"gamma": 0.99}


def test_unfinished_cells_are_counted(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "ppo" / "X-v0_1")
    write_evaluations(tmp_path / "ppo" / ".X-v0_2.abc")
    (tmp_path / ".git").mkdir()
    found = read_runs([tmp_path])
    assert [record.folder.name for record in found.records] == ["X-v0_1"]
    assert found.remarks == (f"1 unfinished runs are left out, such as {tmp_path / 'ppo' / '.X-v0_2.abc'}",)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_the_user_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/CartPole-v1/seed_0", "b/CartPole-v1/seed_1", "b2/CartPole-v1/seed_2"):
        write_evaluations(tmp_path / name)
    assert runs("mine=a,b") == [("mine", "CartPole-v1", 0), ("mine", "CartPole-v1", 1)]
    assert runs("mine=b*", "a") == [("a", "CartPole-v1", 0), ("mine", "CartPole-v1", 1), ("mine", "CartPole-v1", 2)]
    assert runs(tmp_path, "mine=b") == [("a", "CartPole-v1", 0), ("b2", "CartPole-v1", 2), ("mine", "CartPole-v1", 1)]
    (tmp_path / "x=y").mkdir()
    write_evaluations(tmp_path / "x=y" / "seed_3")
    assert runs("x=y", env_id="X-v0") == [("x=y", "X-v0", 3)]


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        (["nowhere"], r"there is no folder nowhere"),
        (["mine=nowhere"], r"there is no folder nowhere"),
        (["mine="], r"'mine=' names no folder: write name=folder, or name=folder,folder"),
        (["=a"], r"'=a' names no folder"),
        (["mine=nothing*"], r"'mine=nothing\*' names no folder"),
        (["file"], r"file is a file: give the folder that it is in"),
        (["empty"], r"no runs found in .*empty \(looked for cell.json .*evaluations.npz, \*monitor.csv, progress.csv"),
        ([], r"no runs found in no folder \(looked for"),
        (["hidden"], r"no runs found in .*hidden \(1 unfinished runs are left out, such as .*; looked for cell.json"),
        (["both=two"], r"both would be a2c and ppo: name folders of one algorithm"),
        (
            ["twins"],
            r".*/twins/1/ppo_seed0 and .*/twins/2/ppo_seed0 are both ppo on unknown environment with seed 0: leave",
        ),
    ],
)
def test_bad_input_is_one_line(paths: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("a", "hidden/.b", "two/ppo", "two/a2c", "twins/1/ppo_seed0", "twins/2/ppo_seed0"):
        write_evaluations(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^{error}") as caught:
        read_runs(paths)
    assert "\n" not in str(caught.value)


# --- what is not to be run -------------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_models_are_not_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "works")))
    assert (tmp_path / "works").exists()
    path = tmp_path / "model.zip"
    PPO("MlpPolicy", "CartPole-v1", seed=3, clip_range=lambda _: 0.1, policy_kwargs={"net_arch": [4]}).save(path)
    contents = {}
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    said = read_saved_model([path])
    assert said.seed == 3
    assert "function" in said.settings["clip_range"]
    assert "0x" not in said.settings["clip_range"]
    buffer = io.BytesIO()
    pickle.dump(Bomb(tmp_path / "made"), buffer)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | {"policy.pth": buffer.getvalue()}).items():
            archive.writestr(name, content)
    said = read_saved_model([path])
    assert not (tmp_path / "made").exists()
    assert re.match(r"model.zip: cannot be read", said.remarks[0])


def test_the_latest_model_speaks(tmp_path: Path) -> None:
    for number, seed in enumerate((1, 2)):
        A2C("MlpPolicy", "CartPole-v1", seed=seed, policy_kwargs={"net_arch": [2]}).save(tmp_path / f"{number}.zip")
        time.sleep(0.02)
    said = read_saved_model(tmp_path.glob("*.zip"))
    assert said.seed == 2
    assert said.facts["n_envs"] == 1


def test_finite_and_reached(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "a", steps=(10, 70), score=np.nan)
    write_monitor(tmp_path / "a" / "monitor.csv", [(1.0, 80, 1.0)])
    record = only(tmp_path)
    assert not record.is_finite
    assert record.reached == 80
    assert record.evaluations is not None
    assert np.isnan(record.evaluations.scores).all()
