"""The configurations that we ship: every one trains, and every budget is a whole number of batches."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg.common.arguments import steps_for
from sb3_pg.zoo import config_path, register
from sb3_pg.zoo.configs import read_configs
from sb3_pg.zoo.experiment import ExperimentManager
from sb3_pg.zoo.registration import OURS

register()

MUJOCO = ("HalfCheetah Hopper Walker2d Swimmer Ant Humanoid Reacher InvertedPendulum InvertedDoublePendulum").split()
ENV_IDS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "BipedalWalker-v3",
    *(f"{name}-v{version}" for name in MUJOCO for version in (4, 5)),
]
CONFIGS = {algo: read_configs(config_path(algo)) for algo in OURS}
#: An environment for each section; Acrobot-v1 for the default, as if the section of its own were not there.
SECTIONS = {
    section: {"default": "Acrobot-v1", "atari": "ALE/Pong-v5"}.get(section, section) for section in CONFIGS["reinforce"]
}

every_algo = pytest.mark.parametrize("algo", OURS)


class UntilFirstUpdate(BaseCallback):
    """Ends the training once the policy has been updated."""

    def _on_step(self) -> bool:
        return self.model._n_updates == 0


@every_algo
def test_all_tasks_are_there(algo: str) -> None:
    assert set(CONFIGS[algo]) == {"default", "atari", *ENV_IDS}


@every_algo
def test_budgets_are_whole_batches(algo: str) -> None:
    """So that a schedule ends with the last update, and no step is beyond the budget."""
    for section, hyperparams in CONFIGS[algo].items():
        batch = hyperparams["n_envs"] * hyperparams.get("n_steps", steps_for(hyperparams["n_envs"]))
        assert hyperparams["n_timesteps"] % batch == 0, (section, batch)


@every_algo
@pytest.mark.parametrize("section", SECTIONS)
def test_every_configuration_updates(algo: str, section: str, tmp_path: Path) -> None:
    """Through the Zoo's own door: environment, wrappers, schedules, model; then until the first update."""
    hyperparams: dict[str, Any] = dict(CONFIGS[algo][section])
    env_id = SECTIONS[section]
    # A few steps are enough for an update
    hyperparams |= {"n_steps": min(hyperparams.get("n_steps", 32), 32)}
    if section == "atari":
        # 8 environments of images fill the memory of a small machine
        hyperparams |= {"n_envs": 2}
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"atari" if section == "atari" else env_id: hyperparams}))
    args = argparse.Namespace(algo=algo, env=env_id)
    manager = ExperimentManager(
        args, algo, env_id, str(tmp_path / "logs"), eval_freq=-1, verbose=0, device="cpu", config=str(config)
    )
    result = manager.setup_experiment()
    assert result is not None
    model = result[0]
    assert model.n_envs == hyperparams["n_envs"]
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with warnings.catch_warnings():
        # REINFORCE waits for whole episodes, and says so where the default's rollouts are shorter
        warnings.filterwarnings("ignore", "No episode ended")
        model.learn(200_000, callback=UntilFirstUpdate())
    assert model._n_updates > 0
    assert any((one != other).any() for one, other in zip(before, model.policy.parameters(), strict=True))
    env = model.get_env()
    assert env is not None
    env.close()
