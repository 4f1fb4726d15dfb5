"""Every command as a new user would run it, for each of our algorithms and for PPO."""

from __future__ import annotations

import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.zoo_commands.conftest import COMMAND, ENVIRONMENT, Run

ALGOS = ("reinforce", "vanillapg", "offpolicyispg", "ppo")
every_algo = pytest.mark.parametrize("algo", ALGOS)

TRAIN = "train --env CartPole-v1 -n 2048 --eval-freq 1024 --eval-episodes 2 --save-freq 1024 --seed 3"


@every_algo
def test_train_enjoy_record_plot(algo: str, run: Run, tmp_path: Path) -> None:
    """A run leaves what the Zoo's leave, and every command that looks at one finds it."""
    run(f"{TRAIN} --algo {algo}")
    folder = tmp_path / "logs" / algo / "CartPole-v1_1"
    config = yaml.unsafe_load((folder / "CartPole-v1" / "config.yml").read_text())
    assert dict(config)["n_envs"] == 8
    assert {"CartPole-v1.zip", "best_model.zip", "evaluations.npz"} <= {path.name for path in folder.iterdir()}
    assert len(list(folder.glob("rl_model_*_steps.zip"))) >= 2
    assert not list(folder.glob(".*")), "half-written files"

    look = f"--algo {algo} --env CartPole-v1 -f logs -n 600"
    for option in ("", "--load-best", "--load-last-checkpoint", "--load-checkpoint 1024"):
        assert "Mean reward" in run(f"enjoy {look} --no-render {option}").stdout
    run(f"record-video --algo {algo} --env CartPole-v1 -f logs -n 30 -o videos")
    assert all(video.stat().st_size > 0 for video in (tmp_path / "videos").glob("*.mp4"))
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 1

    run(f"plot-train -a {algo} -e CartPole-v1 -f logs")
    run(f"all-plots -a {algo} -e CartPole-v1 -f logs -o results --no-display")
    run("plot-from-file -i results -o figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 0


@every_algo
def test_optimize(algo: str, run: Run, tmp_path: Path) -> None:
    """A search ends with a report, and leaves no run that enjoy would take for a trained one."""
    run(f"optimize --algo {algo} --env CartPole-v1 -n 512 --n-trials 2 --n-evaluations 1 --eval-episodes 1 --seed 0")
    assert len(list((tmp_path / "logs" / algo).glob("report_*.csv"))) == 1
    assert [path.name for path in (tmp_path / "logs" / algo).iterdir() if path.is_dir()] == []


def test_command_is_true(run: Run, tmp_path: Path) -> None:
    """``command.txt``, given to a shell, does the same again, quotes and all; so does ``python -m sb3_pg.zoo``."""
    run(f"{TRAIN} --algo reinforce -params", "policy_kwargs:dict(net_arch=[16, 16])")
    first = tmp_path / "logs/reinforce/CartPole-v1_1"
    command = (first / "CartPole-v1/command.txt").read_text()
    subprocess.run(command, shell=True, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    as_module = [str(COMMAND.with_name("python")), "-m", "sb3_pg.zoo", *shlex.split(command)[2:]]
    subprocess.run(as_module, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    for number in (2, 3):
        again = first.with_name(f"CartPole-v1_{number}")
        for name in ("results", "timesteps"):
            one, other = (np.load(folder / "evaluations.npz")[name] for folder in (first, again))
            np.testing.assert_array_equal(one, other)
    command = (again / "CartPole-v1/command.txt").read_text()
    assert "-m sb3_pg.zoo train" in command


@pytest.mark.parametrize("algo", ["offpolicyispg", "ppo"])
def test_processes(algo: str, run: Run, tmp_path: Path) -> None:
    """Environments in processes of their own, which import the command's module anew."""
    run(f"{TRAIN} --algo {algo} --vec-env subproc -params n_envs:2")
    assert (tmp_path / f"logs/{algo}/CartPole-v1_1/CartPole-v1.zip").is_file()
    run(f"enjoy --algo {algo} --env CartPole-v1 -f logs -n 100 --n-envs 2 --no-render")


@pytest.mark.parametrize("algo", ["reinforce", "ppo"])
def test_one_run_one_episode(algo: str, run: Run, tmp_path: Path) -> None:
    """Plots of a single run with a single episode an evaluation, and of a single evaluation."""
    run(f"train --algo {algo} --env CartPole-v1 -n 2048 --eval-freq 1024 --eval-episodes 1 -f two")
    run(f"train --algo {algo} --env CartPole-v1 -n 2048 --eval-freq 2048 --eval-episodes 1 -f one")
    score = np.load(next(tmp_path.glob("one/*/*/evaluations.npz")))["results"]
    assert score.shape == (1, 1)
    table = run(f"all-plots -a {algo} -e CartPole-v1 -f one two -o results --no-display").stdout
    assert f"{score.item():.0f} +/- 0" in table
    run("plot-from-file -i results -o figure.svg --rliable -vs -iqm -b")


def test_rewritten_schedules(run: Run, tmp_path: Path) -> None:
    """Every schedule as text, and ``clip_range: null``."""
    run(
        f"{TRAIN} --algo offpolicyispg -params clip_range:None",
        *(f"{name}:'lin_0.001'" for name in ("learning_rate", "ent_coef", "value_learning_rate", "clip_range_vf")),
        "rollout_buffer_kwargs:'dict(cut_length=500)'",
        "rollout_buffer_class:'sb3_pg.EpisodeRolloutBuffer'",
    )
    run(f"{TRAIN} --algo ppo -params clip_range_vf:None")
    assert zipfile.is_zipfile(tmp_path / "logs/ppo/CartPole-v1_1/CartPole-v1.zip")


@pytest.mark.parametrize("module", ["sb3_pg.cli", "sb3_pg.zoo.__main__"])
def test_without_the_extra(module: str) -> None:
    """One line says what to install."""
    code = f"import sys; sys.modules['rl_zoo3'] = None; from {module} import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, "train"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["sb3-pg: this needs rl_zoo3: pip install 'sb3-pg[zoo]'"]


def test_import_leaves_gymnasium_alone() -> None:
    """``import sb3_pg`` imports nothing of the Zoo, whose import changes Gymnasium's TimeLimit."""
    code = "import sys, sb3_pg; sys.exit(any(name.startswith('rl_zoo3') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
