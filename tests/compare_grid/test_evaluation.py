"""Evaluations: when, of what, and that the training does not notice them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from huggingface_sb3 import EnvironmentName
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import VanillaPG
from sb3_pg.compare.grid.cell import CellExperiment, train_cell
from sb3_pg.compare.grid.configs import configuration, find_task
from sb3_pg.compare.grid.contenders import Contender
from sb3_pg.compare.grid.evaluation import evaluate
from sb3_pg.compare.grid.questions import Cell, Job
from sb3_pg.zoo.runs import find_model, find_statistics

ROLLOUT = {"policy": "MlpPolicy", "n_envs": 2, "n_steps": 64}
LEARNING = {"policy": "MlpPolicy", "learning_starts": 100, "buffer_size": 1000, "batch_size": 16}
CELLS = {
    "reinforce": Cell("reinforce", "reinforce", "CartPole-v1", 3, ROLLOUT, 384, 100, 2),
    "vanillapg": Cell("vanillapg", "vanillapg", "Pendulum-v1", 3, ROLLOUT | {"normalize": True}, 384, 100, 2),
    "offpolicyispg": Cell("offpolicyispg", "offpolicyispg", "CartPole-v1", 3, ROLLOUT, 384, 100, 2),
    "ppo": Cell("ppo", "ppo", "Pendulum-v1", 3, ROLLOUT | {"use_sde": True, "n_epochs": 2}, 384, 100, 2),
    "dqn": Cell("dqn", "dqn", "CartPole-v1", 3, LEARNING, 384, 100, 2),
    "sac": Cell("sac", "sac", "Pendulum-v1", 3, LEARNING | {"train_freq": 8}, 384, 100, 2),
}


def trained(cell: Cell, place: Path, module: str = "") -> dict[str, NDArray[Any]]:
    """The evaluations of a cell that is trained now."""
    result = train_cell(Job(cell, place, module))
    assert result is not None
    assert result.error == ""
    with np.load(place / "evaluations.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("algorithm", "deterministic"), [*((name, False) for name in CELLS), ("reinforce", True)])
def test_training_does_not_notice(algorithm: str, deterministic: bool, tmp_path: Path) -> None:
    """The same parameters to the bit, evaluated in the course of it or not at all; others notice neither."""
    cell = replace(CELLS[algorithm], deterministic=deterministic)
    th.manual_seed(7)
    before = th.get_rng_state()
    trained(cell, tmp_path / "evaluated" / "CartPole-v1_4")
    assert (th.get_rng_state() == before).all()
    loaded = CellExperiment(cell, tmp_path / "plain")
    set_random_seed(cell.seed)
    model = loaded.make_model().learn(cell.budget)
    evaluated = type(model).load(tmp_path / "evaluated" / "CartPole-v1_4" / f"{cell.env_id}.zip")
    expected = model.policy.state_dict()
    for name, values in evaluated.policy.state_dict().items():
        assert (values == expected[name]).all(), name


def test_the_same_episodes(tmp_path: Path) -> None:
    """Whatever algorithm, seed and moment: episode k starts where episode k starts, and ends as late."""
    expected: NDArray[Any] | None = None
    for algorithm in ("reinforce", "ppo", "dqn"):
        for seed in (0, 1):
            cell = replace(
                CELLS[algorithm],
                env_id="Start-v0",
                seed=seed,
                n_eval_episodes=5,
                deterministic=False,
                settings=LEARNING if algorithm == "dqn" else ROLLOUT,
            )
            found = trained(cell, tmp_path / algorithm / f"Start-v0_{seed + 1}", "tests.compare_grid.actors")
            expected = found["results"][0] if expected is None else expected
            assert (found["results"] == expected).all()
            assert (found["ep_lengths"] == np.ceil(1 + 20 * expected)).all()
    assert expected is not None
    assert len(set(expected)) == 5, "five different episodes"


@pytest.mark.parametrize(
    ("n_envs", "budget", "every", "steps"),
    [
        (2, 384, 100, [0, 100, 200, 300, 384]),
        # The first step at or beyond each point
        (3, 384, 100, [0, 102, 201, 300, 384]),
        # A point that is the end's; a point between two steps of all environments
        (2, 384, 128, [0, 128, 256, 384]),
        (64, 384, 10, [0, 64, 128, 192, 256, 320, 384]),
        # What goes beyond the budget, as rollouts do, is the end's
        (2, 300, 100, [0, 100, 200, 384]),
        (2, 384, 1000, [0, 384]),
    ],
)
def test_moments(n_envs: int, budget: int, every: int, steps: list[int], tmp_path: Path) -> None:
    settings = {"policy": "MlpPolicy", "n_envs": n_envs, "n_steps": 128 // n_envs if n_envs != 3 else 128}
    cell = Cell("a2c", "a2c", "CartPole-v1", 0, settings, budget, every, 1)
    assert trained(cell, tmp_path / "CartPole-v1_1")["timesteps"].tolist() == steps


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_last_evaluation_is_of_what_is_saved(deterministic: bool, tmp_path: Path) -> None:
    """After the last update, with the statistics of that moment, which the Zoo finds beside the model."""
    cell = replace(CELLS["vanillapg"], deterministic=deterministic)
    found = trained(cell, tmp_path / "vanillapg" / "Pendulum-v1_4")
    _, path, _ = find_model(4, str(tmp_path), "vanillapg", EnvironmentName("Pendulum-v1"))
    statistics = find_statistics(Path(path), "Pendulum-v1")
    assert statistics is not None
    experiment = CellExperiment(cell, tmp_path / "again")
    fresh = experiment.make_model()
    env = fresh.get_vec_normalize_env()
    assert env is not None
    model = VanillaPG.load(path, VecNormalize.load(str(statistics), env.venv))
    returns, lengths = evaluate(model, experiment.create_envs(2, eval_env=True), deterministic)
    assert returns == found["results"][-1].tolist()
    assert lengths == found["ep_lengths"][-1].tolist()
    assert (found["results"][-1] != found["results"][-2]).all()


def test_the_mode_is_evaluated(tmp_path: Path) -> None:
    """Before anything is learned both actors have the same parameters, and different actions."""
    both = [
        trained(replace(CELLS["ppo"], deterministic=flag), tmp_path / str(flag) / "Pendulum-v1_4")["results"][0]
        for flag in (True, False)
    ]
    assert (both[0] != both[1]).all()


@pytest.mark.parametrize("algorithm", ["a2c", "ars", "crossq", "ddpg", "ppo_lstm", "qrdqn", "td3", "tqc", "trpo"])
def test_every_algorithm(algorithm: str, tmp_path: Path) -> None:
    """Those of Stable-Baselines3 and sb3-contrib that the other tests leave out, with the defaults of their classes."""
    is_discrete = algorithm in ("a2c", "ars", "ppo_lstm", "qrdqn", "trpo")
    task = find_task("CartPole-v1" if is_discrete else "Pendulum-v1")
    # A little learning is enough: CrossQ's networks are large
    short = {"ppo_lstm": {"n_steps": 32}, "crossq": {"learning_starts": 124}}.get(algorithm, {})
    found = configuration(Contender(algorithm, algorithm, short), task, "defaults")
    cell = Cell(algorithm, algorithm, task.env_id, 0, found.settings, 128, 64, 1)
    evaluations = trained(cell, tmp_path / "x_1")
    assert evaluations["timesteps"][0] == 0
    assert evaluations["timesteps"][-1] >= 128
    assert (tmp_path / "x_1" / f"{task.env_id}.zip").is_file()


#: Algorithm -> gradient steps in 384 steps: 3 rollouts of 128, PPO's of two passes of two minibatches.
GRADIENT_STEPS = {"reinforce": 3, "ppo": 12, "dqn": 71, "sac": 36}


@pytest.mark.parametrize("algorithm", GRADIENT_STEPS)
def test_gradient_steps(algorithm: str, tmp_path: Path) -> None:
    settings = CELLS[algorithm].settings | ({"batch_size": 64} if algorithm == "ppo" else {})
    settings |= {"n_episodes": None} if algorithm == "reinforce" else {}
    trained(replace(CELLS[algorithm], settings=settings), tmp_path / "x_4")
    cell = json.loads((tmp_path / "x_4" / "cell.json").read_text())
    assert cell["gradient_steps"] == GRADIENT_STEPS[algorithm]
    assert cell["evaluations"]["gradient_steps"][0] == 0
    assert cell["evaluations"]["gradient_steps"][-1] == GRADIENT_STEPS[algorithm]
    assert cell["evaluations"]["train_seconds"] == sorted(cell["evaluations"]["train_seconds"])
    assert cell["updates"] == (6 if algorithm == "ppo" else GRADIENT_STEPS[algorithm])
