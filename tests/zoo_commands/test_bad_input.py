"""What a hurried user gets wrong: one line, a status that is not 0, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo_commands.conftest import Run

TRAIN = "train --algo reinforce --env CartPole-v1 -n 100"

#: What is written -> what the line must say.
WRONG: dict[str, str] = {
    "": "usage",
    "trian": "did you mean train?",
    "train --algo reinforc": "'reinforce'",
    "train --algo=ppo --env CartPol-v1": "CartPole-v1",
    f"{TRAIN} -params n_step:8": "n_steps",
    "train --algo ppo -params clip_rnage:0.1": "clip_range",
    f"{TRAIN} -params learning_rate:lin_0.1": "quoted twice",
    f"{TRAIN} -params gamma:'lin_0.9'": "takes none there",
    "train --algo a2c -params ent_coef:'lin_0.1'": "takes none there",
    f"{TRAIN} -params learning_rate:'1e-3'": "1.0e-3",
    f"{TRAIN} -params n_steps:0": "n_steps must be an integer",
    f"{TRAIN} -params n_envs:3 n_episodes:10": "n_episodes=9 or 12",
    f"{TRAIN} -c missing.yml": "missing.yml",
    f"{TRAIN} --conf broken.yml": "broken.yml",
    f"{TRAIN} --conf-file=empty.yml": "empty.yml",
    f"{TRAIN} -c flat.yml": "flat.yml",
    f"{TRAIN} -c other.yml": "CartPole-v1",
    f"{TRAIN} -c nopolicy.yml": "no policy",
    f"{TRAIN} -i missing.zip": ".zip",
    f"{TRAIN} --trial-id 0": "--study-name",
    f"{TRAIN} --trial-id 7 --storage missing.log --study-name none": "missing.log",
    f"{TRAIN} --trial-id 7 --storage sqlite:///missing.db --study-name none": "missing.db",
    f"{TRAIN} --trial-id 7 --storage flat.log --study-name none": "no trial 7",
    f"{TRAIN} --vec-env threads": "threads",
    "optimize --algo vanillapg -n 100 --storage nonsense --study-name x": "nonsense",
    "optimize --algo vanillapg -n 100 --storage broken.log --study-name x": "broken.log cannot be opened",
    "optimize --algo vanillapg -n 100 --storage sqlite:///no/such/folder/x.db --study-name x": "cannot be opened",
    "enjoy --algo reinforce": "-f logs",
    "enjoy --algo ppo": "download",
    "enjoy --algo reinforce -f logs": "logs/reinforce",
    "record-video --algo reinforce -f logs": "logs/reinforce",
    "plot-train -a ppo -e CartPole-v1 -f nowhere": "nowhere",
    "all-plots -a ppo": "-f/--exp-folders",
    "plot-from-file -i nothing": "nothing.pkl",
    "plot-from-file": "-i/--input",
}
FILES = {
    "broken.yml": "CartPole-v1: [\n  n_envs",
    "empty.yml": "",
    "flat.log": "",
    "broken.log": "no journal\n",
    "flat.yml": "n_timesteps: 1000\npolicy: MlpPolicy\n",
    "other.yml": "Pendulum-v1:\n  n_timesteps: 1000\n  policy: MlpPolicy\n",
    "nopolicy.yml": "CartPole-v1:\n  n_timesteps: 1000\n",
}


@pytest.mark.parametrize("line", WRONG)
def test_one_line(line: str, run: Run, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    result = run(line, fails=True)
    printed = result.stderr.splitlines()
    if line:
        assert len(printed) == 1, result.stderr
        assert printed[0].startswith("sb3-pg")
        assert "Traceback" not in result.stdout
    assert WRONG[line] in result.stderr + (result.stdout if not line else "")
    assert {path.name for path in tmp_path.iterdir()} <= FILES.keys()


JOINT = "value_learning_rate:None n_value_updates:1 value_batch_size:None normalize_value:False"
#: Saved with, gone on with, what the line must say.
OTHER_MODELS = {
    "reinforce": [
        ("n_envs:4 n_episodes:8", "n_envs:3 n_episodes:8", "load(..., n_episodes=6)"),
        ("n_envs:4", "n_envs:4 baseline:'value'", "saved without a critic"),
    ],
    "vanillapg": [
        ("n_envs:2", f"n_envs:2 {JOINT}", "leave value_learning_rate"),
        ("n_envs:2", "n_envs:2 natural_gradient:False", "natural_gradient"),
    ],
}


@pytest.mark.parametrize("algo", OTHER_MODELS)
def test_a_model_cannot_go_on_otherwise(algo: str, run: Run, tmp_path: Path) -> None:
    """``-i`` with arguments that the saved model does not fit."""
    for number, (saved, given, message) in enumerate(OTHER_MODELS[algo]):
        train = f"train --algo {algo} --env CartPole-v1 -n 100 --eval-freq -1 -f {number} -params"
        run(f"{train} n_steps:32 {saved}")
        runs = tmp_path / f"{number}" / algo
        result = run(f"{train} n_steps:32 {given} -i {runs / 'CartPole-v1_1' / 'CartPole-v1.zip'}", fails=True)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert message in result.stderr
        assert [path.name for path in runs.iterdir()] == ["CartPole-v1_1"]


def test_verbose_shows_all(run: Run) -> None:
    """``--verbose 2`` has the traceback, where the Zoo's command knows the option and where not."""
    for line in (f"{TRAIN} -params n_steps:0 --verbose 2", "plot-from-file -i nothing --verbose=2"):
        assert "Traceback" in run(line, fails=True).stderr


def test_what_breaks_while_it_runs_keeps_its_traceback(run: Run, tmp_path: Path) -> None:
    """An environment's own error is no wrong argument; its run stays, and enjoy passes it by."""
    (tmp_path / "breaking.py").write_text(
        "import gymnasium as gym\n"
        "class Breaking(gym.envs.classic_control.CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise RuntimeError('the motor is hot')\n"
        "gym.register('Breaking-v0', Breaking, max_episode_steps=100)\n"
    )
    module = "--env Breaking-v0 --gym-packages breaking"
    result = run(f"train --algo reinforce -n 100 {module}", fails=True)
    assert "Traceback" in result.stderr
    assert "the motor is hot" in result.stderr
    assert (tmp_path / "logs/reinforce/Breaking-v0_1").is_dir()
    result = run(f"enjoy --algo reinforce -f logs --no-render {module}", fails=True)
    assert "--load-last-checkpoint" in result.stderr


def test_downloads_are_announced(run: Run) -> None:
    """Before the Zoo asks a hub, the user knows."""
    assert "Hugging Face" in run("enjoy --algo ppo", fails=True).stdout
