"""The experiment manager's rules, without a command around it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg.zoo import config_path, register
from sb3_pg.zoo.experiment import ExperimentManager, _schedule_arguments
from sb3_pg.zoo.registration import OURS
from sb3_pg.zoo.runs import find_model, next_folder, replay_buffer_path, run_numbers, save_whole, statistics_path

register()


def manager(folder: Path, algo: str = "reinforce", env_id: str = "CartPole-v1", **kwargs: Any) -> ExperimentManager:
    """A manager as the train command makes one."""
    args = argparse.Namespace(algo=algo, env=env_id, env_kwargs=None)
    return ExperimentManager(
        args, algo, env_id, str(folder), **{"eval_freq": -1, "verbose": 0, "device": "cpu", "log_interval": -1} | kwargs
    )


@pytest.mark.parametrize("algo", OURS)
def test_our_configuration_unless_one_is_given(algo: str, tmp_path: Path) -> None:
    assert manager(tmp_path, algo).config == str(config_path(algo))
    assert manager(tmp_path, algo, config="own.yml").config == "own.yml"
    assert manager(tmp_path, "ppo").config.endswith("hyperparams/ppo.yml")


#: Algorithm -> arguments that take a schedule.
SCHEDULES = {
    "reinforce": {"learning_rate", "ent_coef", "value_learning_rate", "reference_coef"},
    "offpolicyispg": {
        *("learning_rate", "ent_coef", "value_learning_rate", "clip_range", "clip_range_vf", "reference_coef"),
    },
    "ppo": {"learning_rate", "clip_range", "clip_range_vf"},
    "sac": {"learning_rate"},
    "tqc": {"learning_rate"},
    "ars": {"learning_rate", "delta_std"},
}


@pytest.mark.parametrize("algo", SCHEDULES)
def test_schedules(algo: str, tmp_path: Path) -> None:
    """``lin_`` of every argument that takes one, down to 0 and no further; numbers, None and SAC's text stay."""
    assert _schedule_arguments(ALGOS[algo]) == SCHEDULES[algo]
    experiment = manager(tmp_path, algo)
    converted = experiment._preprocess_schedules(dict.fromkeys(SCHEDULES[algo], "lin_0.1"))
    for schedule in converted.values():
        assert isinstance(schedule, LinearSchedule)
        assert [schedule(remaining) for remaining in (1.0, 0.0, -0.64)] == pytest.approx([0.1, 0.0, 0.0])
    same = {"clip_range": None, "learning_rate": 3e-4, "policy": "MlpPolicy", "batch_size": 64}
    same |= {"ent_coef": "auto_0.1"} if algo in ("sac", "tqc") else {}
    assert experiment._preprocess_schedules(dict(same)) == same


@pytest.mark.parametrize("value", ["1e-3", "linear_0.1", "lin_", "lin_x", "lin"])
def test_no_schedule(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"learning_rate: '{value}' is text"):
        manager(tmp_path)._preprocess_schedules({"learning_rate": value})


def test_a_failed_set_up_leaves_nothing(tmp_path: Path) -> None:
    """Wherever it fails; another's run in the same folder stays."""
    logs = tmp_path / "logs"
    for hyperparams in ({"n_steps": 0}, {"gama": 1.0}, {"policy": "MlpGruPolicy"}):
        with pytest.raises(ValueError):
            manager(logs, hyperparams=hyperparams).setup_experiment()
        assert not logs.exists()
    (logs / "reinforce" / "CartPole-v1_1").mkdir(parents=True)
    with pytest.raises(ValueError):
        manager(logs, hyperparams={"n_steps": 0}).setup_experiment()
    assert [path.name for path in (logs / "reinforce").iterdir()] == ["CartPole-v1_1"]


def test_folders_are_nobody_elses(tmp_path: Path) -> None:
    """Two runs that begin at the same time have two folders."""
    both = [manager(tmp_path), manager(tmp_path)]
    for one in both:
        one.create_log_folder()
    assert [Path(one.save_path).name for one in both] == ["CartPole-v1_1", "CartPole-v1_2"]
    assert next_folder(str(tmp_path / "reinforce"), "CartPole-v1", "_some-id").endswith("CartPole-v1_3_some-id")
    (tmp_path / "reinforce" / "CartPole-v1_old").mkdir()
    assert run_numbers(str(tmp_path / "reinforce"), "CartPole-v1") == [1, 2, 3]
    assert run_numbers(str(tmp_path / "nowhere"), "CartPole-v1") == []


def test_names_beside_a_model() -> None:
    """SB3's names, for checkpoints of any path; the Zoo's for the final model."""
    run = Path("logs/ppo/rl_model_x_1")
    assert statistics_path(run / "rl_model_500_steps.zip", "X-v0") == run / "rl_model_vecnormalize_500_steps.pkl"
    assert replay_buffer_path(run / "rl_model_500_steps.zip") == run / "rl_model_replay_buffer_500_steps.pkl"
    assert statistics_path(run / "best_model.zip", "X-v0") == run / "best_model_vecnormalize.pkl"
    assert statistics_path(run / "X-v0.zip", "X-v0") == run / "X-v0" / "vecnormalize.pkl"
    assert replay_buffer_path(run / "X-v0.zip") == run / "replay_buffer.pkl"


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """A save that fails half-way leaves the old file, and no other."""
    path = tmp_path / "model.zip"
    save_whole(lambda to: Path(to).write_text("old"), path)

    def breaks(to: str) -> None:
        Path(to).write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_whole(breaks, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_variants_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only one on a task is taken, and said; of several one has to be named; the algorithm itself comes first."""

    def make(name: str, env_id: str = "CartPole-v1") -> Path:
        run = tmp_path / name / f"{env_id}_1"
        run.mkdir(parents=True)
        (run / f"{env_id}.zip").touch()
        return run

    def find(folder: Path = tmp_path) -> Path:
        return Path(find_model(0, str(folder), "reinforce", EnvironmentName("CartPole-v1"))[2])

    with pytest.raises(ValueError, match=f"no folder {tmp_path}/reinforce: .*-f names another"):
        find()
    for other in ("reinforce2", "ppo:gamma=1"):
        make(other)
    make("reinforce:gamma=1", "Acrobot-v1")
    none = make("reinforce:baseline=none")
    assert find() == none
    assert "taking its variant reinforce:baseline=none" in capsys.readouterr().out
    value = make("reinforce:baseline=value")
    names = "2 variants of reinforce, reinforce:baseline=none, reinforce:baseline=value: write which, like -f "
    with pytest.raises(ValueError, match=f"{names}{none.parent}$"):
        find()
    assert (find(none.parent), find(value.parent)) == (none, value)
    itself = make("reinforce")
    assert find() == itself


@pytest.mark.parametrize("algo", ["vanillapg", "a2c"])
def test_best_model_has_its_statistics(algo: str, tmp_path: Path) -> None:
    """The statistics beside the best model are of its evaluation, not of the end of the run."""
    hyperparams = {"normalize": True, "n_envs": 1, "n_steps": 256}
    experiment = manager(tmp_path, algo, eval_freq=512, n_eval_episodes=1, n_timesteps=1792, hyperparams=hyperparams)
    result = experiment.setup_experiment()
    assert result is not None
    experiment.learn(result[0])
    experiment.save_trained_model(result[0])
    folder = Path(experiment.save_path)
    env = result[0].get_vec_normalize_env()
    assert env is not None
    best = VecNormalize.load(str(folder / "best_model_vecnormalize.pkl"), env.venv)
    final = VecNormalize.load(str(folder / "CartPole-v1" / "vecnormalize.pkl"), env.venv)
    counts = [cast(RunningMeanStd, one.obs_rms).count for one in (best, final)]  # typed as for a dictionary
    # One more, of the first reset; and whatever SB3 starts counting from
    assert round(counts[0]) - 1 in (512, 1024, 1536), "not when it was evaluated"
    assert round(counts[1]) - 1 == 1792
