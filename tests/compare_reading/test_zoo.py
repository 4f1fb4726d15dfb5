"""The RL Zoo's own training output, and what its files may hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.results_plotter import X_TIMESTEPS, ts2xy

from sb3_pg.compare.reading import Found, read_runs
from sb3_pg.compare.reading.zoo import _keywords, read_cell, read_zoo
from sb3_pg.compare.records import Record
from tests.compare_reading.runs import run_zoo

COMMON = "-n 512 --eval-freq 128 --eval-episodes 3 --seed {} --tensorboard-log tb -f logs".split()
PARAMETERS = [
    "-params",
    "n_steps:64",
    "n_envs:2",
    "normalize:True",
    "policy_kwargs:dict(net_arch=[8],activation_fn=nn.ReLU)",
]


def line(algorithm: str, seed: int) -> list[str]:
    return ["--algo", algorithm, "--env", "CartPole-v1", *(word.format(seed) for word in COMMON), *PARAMETERS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of PPO and one of A2C, in one process, so within a few seconds; TensorBoard's logs beside them."""
    made = tmp_path_factory.mktemp("zoo")
    run_zoo(made, line("ppo", 3), line("ppo", 4), line("a2c", 3))
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return read_runs([folder])


def one(found: Found, algorithm: str, seed: int) -> Record:
    (record,) = (record for record in found.records if (record.algorithm, record.seed) == (algorithm, seed))
    return record


def test_each_run_once(found: Found, folder: Path) -> None:
    assert [(run.algorithm, run.env_id, run.seed) for run in found.records] == [
        ("a2c", "CartPole-v1", 3),
        ("ppo", "CartPole-v1", 3),
        ("ppo", "CartPole-v1", 4),
    ]
    assert [run.folder.relative_to(folder).as_posix() for run in found.records] == [
        "logs/a2c/CartPole-v1_1",
        "logs/ppo/CartPole-v1_1",
        "logs/ppo/CartPole-v1_2",
    ]
    assert not any(run.remarks for run in found.records)


def test_scores(found: Found) -> None:
    for run in found.records:
        with np.load(run.folder / "evaluations.npz") as log:
            assert run.evaluations is not None
            assert run.evaluations.steps.tolist() == log["timesteps"].tolist() == [128, 256, 384, 512]
            assert np.array_equal(run.evaluations.returns, log["results"])
        assert run.evaluations.deterministic is True
        assert run.episodes is not None
        steps, returns = ts2xy(load_results(str(run.folder)), X_TIMESTEPS)
        assert sorted(run.episodes.returns) == sorted(returns)
        # SB3's sum lacks what the other environment has done of its episode
        assert (run.episodes.steps >= steps).all()
        assert run.budget == 512
        assert run.reached == 512


def test_settings(found: Found) -> None:
    run = one(found, "ppo", 4)
    assert run.settings["n_steps"] == 64
    assert run.settings["clip_range"] == "lin_0.2"
    assert run.settings["policy_kwargs"] == {"net_arch": [8], "activation_fn": "torch.nn.modules.activation.ReLU"}
    assert run.facts["defaults"]["vf_coef"] == 0.5
    assert run.facts["n_envs"] == 2
    assert run.facts["normalization"] == {
        "norm_obs": True,
        "norm_reward": True,
        "clip_obs": 10.0,
        "clip_reward": 10.0,
        "gamma": 0.98,
        "epsilon": 1e-8,
    }
    assert run.facts["network"]["layers"]["mlp_extractor.policy_net.0"] == [8, 4]
    assert run.facts["network"]["parameters"] == 2 * (4 * 8 + 8) + 8 * 2 + 2 + 8 + 1
    assert run.facts["eval_every"] == 128
    assert run.facts["n_eval_episodes"] == 3
    assert run.facts["versions"]["stable-baselines3"].startswith("2.")
    assert "python" in run.facts["versions"]


def test_tensorboard_logs_go_to_their_runs(found: Found) -> None:
    """They lie in ``tb/CartPole-v1/PPO_1``, ``PPO_2`` and ``A2C_1``, and are found by the second of their making.

    If both of PPO began within it, theirs are left out with a line.
    """
    logs = [run for run in found.records if run.progress]
    assert len(logs) + len(found.remarks) == 3
    for run in logs:
        assert run.evaluations is not None
        means = run.progress["eval/mean_reward"]
        assert means[~np.isnan(means)] == pytest.approx(run.evaluations.scores, rel=1e-6)
    assert one(found, "a2c", 3).progress["time/total_timesteps"].max() == 512


def test_folders_given_twice_and_one_in_another(folder: Path) -> None:
    again = read_runs([folder / "logs" / "ppo", folder, folder / "logs", folder / "logs" / "ppo" / "CartPole-v1_2"])
    assert len(again.records) == 3


def test_a_run_that_was_killed(folder: Path, tmp_path: Path) -> None:
    """Before its settings were written its names speak; without its models its versions are not known."""
    copy = tmp_path / "ppo" / "CartPole-v1_1"
    shutil.copytree(folder / "logs" / "ppo" / "CartPole-v1_1", copy)
    for model in copy.glob("*.zip"):
        model.unlink()
    record = read_runs([tmp_path]).records[0]
    assert (record.algorithm, record.env_id, record.seed, record.budget) == ("ppo", "CartPole-v1", 3, 512)
    assert "versions" not in record.facts
    (copy / "CartPole-v1" / "args.yml").unlink()
    record = read_runs([tmp_path]).records[0]
    assert (record.algorithm, record.env_id, record.seed) == ("ppo", "CartPole-v1", None)
    assert record.remarks == ("args.yml: is missing",)
    (copy / "CartPole-v1" / "config.yml").unlink()
    (copy / "evaluations.npz").unlink()
    record = read_runs([tmp_path]).records[0]
    assert (record.algorithm, record.env_id, record.seed, record.budget) == ("ppo", "CartPole-v1", None, None)
    assert record.episodes is not None


def test_the_same_run_in_two_folders(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "logs" / "a2c", tmp_path / "a2c")
    with pytest.raises(
        ValueError, match="are both a2c on CartPole-v1 with seed 3: leave one out, or name them apart"
    ) as error:
        read_runs([folder, tmp_path])
    assert str(folder / "logs/a2c/CartPole-v1_1") in str(error.value)
    assert str(tmp_path / "a2c/CartPole-v1_1") in str(error.value)
    named = read_runs([f"old={folder / 'logs/a2c'}", f"new={tmp_path / 'a2c'}"])
    assert [(run.algorithm, run.seed, run.facts["algorithm"]) for run in named.records] == [
        ("new", 3, "a2c"),
        ("old", 3, "a2c"),
    ]


def test_settings_run_nothing(tmp_path: Path) -> None:
    """What Python's YAML would make of these tags is written down as text, and nothing is called."""
    parameters = tmp_path / "CartPole-v1"
    parameters.mkdir()
    made = tmp_path / "made"
    (parameters / "args.yml").write_text("seed: 1\nalgo: ppo\nn_timesteps: -1\ntrained_agent: old.zip\n")
    (parameters / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - n_timesteps\n    - 1e5\n"
        f"  - - touched\n    - !!python/object/apply:os.mkdir ['{made}']\n"
        "  - - schedule\n    - !!python/object:rl_zoo3.utils.SimpleLinearSchedule {initial_value: 0.5}\n"
        "  - - pair\n    - !!python/tuple [1, 2]\n  - - own\n    - !mine 3\n  - - n_envs\n    - 4\n"
        "  - - normalize\n    - 'dict(norm_obs=False, gamma=0.9)'\n"
    )
    said = read_zoo(tmp_path, parameters)
    assert not made.exists()
    assert said.settings["touched"] == f"os.mkdir({made})"
    assert said.settings["schedule"] == "rl_zoo3.utils.SimpleLinearSchedule(initial_value=0.5)"
    assert said.settings["pair"] == (1, 2)
    assert said.settings["own"] == "mine(3)"
    assert said.facts["n_envs"] == 4
    assert said.facts["normalization"]["norm_obs"] is False
    assert said.facts["normalization"]["norm_reward"] is True
    assert said.facts["normalization"]["gamma"] == 0.9
    assert any("it went on from old.zip" in remark for remark in said.remarks)


def test_keywords_are_read_not_called() -> None:
    assert _keywords("dict(norm_obs=True, clip_obs=5.0)") == {"norm_obs": True, "clip_obs": 5.0}
    assert _keywords("{'norm_obs': True}") == {"norm_obs": True}
    for text in ("dict(norm_obs=print('x'))", "dict(norm_obs", "True", "[1]"):
        assert _keywords(text) is None


def test_a_command_is_shown_as_it_was_typed(tmp_path: Path) -> None:
    """Of cells that were recorded with the interpreter, too."""
    words = ["/venv/bin/python", "/venv/bin/sb3-pg", "compare", "--algos", "reinforce:baseline=none, ppo"]
    (tmp_path / "cell.json").write_text(json.dumps({"label": "ppo", "command": words}))
    assert read_cell(tmp_path / "cell.json").facts["command"] == "sb3-pg compare --algos 'reinforce:baseline=none, ppo'"
