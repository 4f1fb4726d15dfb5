"""Runs and searches that are killed, and go on."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sb3_pg import VanillaPG
from tests.helpers.models import differences, snapshot
from tests.zoo_commands.conftest import Run

Start = Callable[[str], "subprocess.Popen[str]"]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until it holds; not longer than the process lives, nor than that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("algo", ["reinforce", "vanillapg", "offpolicyispg", "ppo"])
def test_train_kill_continue(algo: str, run: Run, start: Start, tmp_path: Path) -> None:
    """SIGKILL, on from the last checkpoint with its statistics (and past batches), enjoy, film."""
    reuse = "n_reused_batches:2" if algo == "offpolicyispg" else ""
    train = f"train --algo {algo} --env Pendulum-v1 --eval-freq -1 --seed 1 -params normalize:True n_envs:2 n_steps:64"
    train = f"{train} {reuse} --save-freq 512"
    folder = tmp_path / "logs" / algo / "Pendulum-v1_1"
    process = start(f"{train} -n 10000000")
    wait_for(lambda: len(list(folder.glob("rl_model_*_steps.zip"))) >= 3, process)
    kill(process)
    steps = max(int(path.stem.split("_")[2]) for path in folder.glob("rl_model_*_steps.zip"))
    last = folder / f"rl_model_{steps}_steps.zip"
    assert last.with_name(f"rl_model_vecnormalize_{steps}_steps.pkl").is_file()
    history = last.with_name(f"rl_model_replay_buffer_{steps}_steps.pkl")
    assert history.is_file() == bool(reuse)

    look = f"--algo {algo} --env Pendulum-v1 -f logs"
    result = run(f"enjoy {look} --no-render -n 300", fails=True)
    assert len(result.stderr.splitlines()) == 1
    assert "--load-last-checkpoint" in result.stderr
    result = run(f"enjoy {look} --no-render -n 300 --load-last-checkpoint")
    assert "Mean reward" in result.stdout
    assert "missing" not in result.stdout

    result = run(f"{train} -n 1024 -i {last}")
    assert last.with_name(f"rl_model_vecnormalize_{steps}_steps.pkl").name in result.stdout
    assert (str(history) in result.stdout) == bool(reuse)
    second = folder.with_name("Pendulum-v1_2")
    assert (second / "Pendulum-v1" / "vecnormalize.pkl").is_file()
    assert (second / "replay_buffer.pkl").is_file() == bool(reuse)
    assert "Mean reward" in run(f"enjoy {look} --no-render -n 300").stdout
    run(f"record-video {look} -n 20 -o videos")

    for path in (*folder.glob("*vecnormalize*"), *folder.glob("*/vecnormalize.pkl")):
        path.unlink()
    result = run(f"{train} -n 1024 -i {last}", fails=True)
    assert "statistics" in result.stderr
    assert not folder.with_name("Pendulum-v1_3").exists()


def study_of(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal))))


@pytest.mark.parametrize("algo", ["offpolicyispg"])
def test_search_of_two_processes(algo: str, run: Run, start: Start, tmp_path: Path) -> None:
    """Two processes, one journal, pruning; killed, resumed to the very budget; then a trial is trained again."""
    journal = tmp_path / "study.log"
    search = (
        f"optimize --algo {algo} --env CartPole-v1 -n 1024 --n-evaluations 2 --eval-episodes 1 --n-startup-trials 1 "
        f"--pruner median --storage {journal} --study-name s --max-total-trials 6 --no-optim-plots"
    )
    both = [start(search), start(search)]
    wait_for(lambda: _n_signed(journal) >= 3, both[0])
    for process in both:
        kill(process)
    workers = [start(search), start(search)]
    for process in workers:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, output + errors
    trials = study_of(journal).trials
    states = [trial.state for trial in trials]
    assert TrialState.FAIL in states, "what was killed"
    # A kill in the moment between a trial's creation and its signature leaves one that nobody can tell is abandoned
    assert [trial for trial in trials if trial.state == TrialState.RUNNING and trial.user_attrs] == []
    assert sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states) >= 5

    run(f"train --algo {algo} --env CartPole-v1 -n 1024 --storage {journal} --study-name s --trial-id 0")
    trial = study_of(journal).trials[0]
    config = dict(yaml.unsafe_load((tmp_path / f"logs/{algo}/CartPole-v1_1/CartPole-v1/config.yml").read_text()))
    assert config["learning_rate"] == trial.params["learning_rate"]
    assert config["n_steps"] == 2 ** trial.params["n_steps_pow"]
    assert config["gamma"] == 1 - trial.params["one_minus_gamma"]


def _n_signed(journal: Path) -> int:
    """Trials that say which process runs them."""
    return journal.read_text().count('"worker"') if journal.is_file() else 0


def test_two_processes_create_one_database(start: Start, tmp_path: Path) -> None:
    """Both come through, though they create the same tables at the same moment."""
    search = "optimize --algo vanillapg --env CartPole-v1 -n 128 --n-trials 1 --n-evaluations 1 --eval-episodes 1"
    both = [start(f"{search} --storage sqlite:///study.db --study-name s") for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, output + errors


def test_interrupt_before_a_trial_has_finished(start: Start, tmp_path: Path) -> None:
    """Ctrl-C: one line."""
    process = start(
        "optimize --algo reinforce --env CartPole-v1 -n 10000000 --n-trials 2 --storage s.log --study-name s"
    )
    wait_for(lambda: (tmp_path / "s.log").is_file() and "worker" in (tmp_path / "s.log").read_text(), process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert re.search(r"^sb3-pg optimize: no trial has finished", errors, re.MULTILINE)


def test_a_run_that_is_killed_goes_on_in_its_folder_as_if_it_had_not_been(
    run: Run, start: Start, tmp_path: Path
) -> None:
    """SIGKILL, SIGTERM, and the model, the evaluations and the monitor's file of a run that nobody stopped."""
    train = "train --algo vanillapg --env CartPole-v1 --seed 1 --eval-freq 2000 --eval-episodes 2 --save-freq 800"
    train += " -n 20000 -params normalize:True n_envs:2 n_steps:64"
    run(f"{train} -f whole")
    folder = tmp_path / "logs" / "vanillapg" / "CartPole-v1_1"
    process = start(train)
    wait_for(lambda: len(list(folder.glob("resume/*.zip"))) >= 2, process)
    kill(process)
    newest = sorted(folder.glob("resume/*.zip"))[-1]
    process = start(f"{train} -i {newest}")
    wait_for(lambda: (now := sorted(folder.glob("resume/*.zip"))) and now[-1].name > newest.name, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not (folder / "CartPole-v1.zip").exists()
    named = re.search(r"-i (\S+)", said)
    assert named is not None
    run(f"{train} -i {named[1]}")
    whole = tmp_path / "whole" / "vanillapg" / "CartPole-v1_1"
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]
    first, second = (VanillaPG.load(one / "CartPole-v1.zip", device="cpu") for one in (whole, folder))
    assert not differences(snapshot(first), snapshot(second))
    evaluations = [np.load(one / "evaluations.npz") for one in (whole, folder)]
    assert all(np.array_equal(evaluations[0][key], evaluations[1][key]) for key in evaluations[0].files)
    lines = [(one / "0.monitor.csv").read_text().splitlines()[2:] for one in (whole, folder)]
    assert [line.rsplit(",", 1)[0] for line in lines[0]] == [line.rsplit(",", 1)[0] for line in lines[1]]


def test_a_checkpoint_of_ours_is_not_another_algorithms(run: Run, tmp_path: Path) -> None:
    run("train --algo reinforce --env CartPole-v1 --eval-freq -1 --save-freq 100 -n 200 -params n_steps:64")
    newest = sorted(tmp_path.glob("logs/reinforce/CartPole-v1_1/resume/*.zip"))[-1]
    result = run(f"train --algo ppo --env CartPole-v1 --eval-freq -1 -n 200 -i {newest}", fails=True)
    assert "--algo names another" in result.stderr
    result = run(f"train --algo vanillapg --env CartPole-v1 --eval-freq -1 -n 200 -i {newest}", fails=True)
    assert "a run of REINFORCE, not of VanillaPG" in result.stderr
    assert not (tmp_path / "logs" / "vanillapg").exists()
