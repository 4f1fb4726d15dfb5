"""Lists of contenders, and what each trains with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import DQN, SAC

from sb3_pg import VanillaPG
from sb3_pg.compare.grid import Contender, parse_contenders
from sb3_pg.compare.grid.configs import Task, configuration, find_task
from sb3_pg.compare.grid.contenders import algorithm_class
from sb3_pg.zoo import config_path
from sb3_pg.zoo.configs import read_configs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppo", [("ppo", "ppo", {})]),
        (
            "reinforce:baseline=none, reinforce",
            [("reinforce:baseline=none", "reinforce", {"baseline": "none"}), ("reinforce", "reinforce", {})],
        ),
        (
            "vanillapg:natural_gradient=True:target_kl=0.01",
            [
                (
                    "vanillapg:natural_gradient=True:target_kl=0.01",
                    "vanillapg",
                    {"natural_gradient": True, "target_kl": 0.01},
                )
            ],
        ),
        ("a2c:learning_rate=lin_0.001", [("a2c:learning_rate=lin_0.001", "a2c", {"learning_rate": "lin_0.001"})]),
        ("ppo:clip_range_vf=None", [("ppo:clip_range_vf=None", "ppo", {"clip_range_vf": None})]),
        (
            "ppo:policy_kwargs={'net_arch': [8, 8]},dqn",
            [
                ("ppo:policy_kwargs={'net_arch': [8, 8]}", "ppo", {"policy_kwargs": {"net_arch": [8, 8]}}),
                ("dqn", "dqn", {}),
            ],
        ),
        (
            "ppo:policy_kwargs=dict(net_arch=[8, 8])",
            [("ppo:policy_kwargs=dict(net_arch=[8, 8])", "ppo", {"policy_kwargs": "dict(net_arch=[8, 8])"})],
        ),
        ("ppo:policy='Mlp,Policy'", [("ppo:policy='Mlp,Policy'", "ppo", {"policy": "Mlp,Policy"})]),
        ("tests.compare_grid.actors.Own", [("tests.compare_grid.actors.Own", "tests.compare_grid.actors.Own", {})]),
    ],
)
def test_parse(text: str, expected: list[tuple[str, str, dict[str, Any]]]) -> None:
    assert [(one.label, one.algorithm, one.overrides) for one in parse_contenders(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an algorithm's name is empty"),
        ("ppo,", "an algorithm's name is empty"),
        ("reinforc", "no algorithm reinforc: did you mean reinforce?"),
        ("PPO", "no algorithm PPO: did you mean ppo?"),
        ("zzz", "no algorithm zzz: write one of a2c, .*, or my_module.MyAlgorithm"),
        ("no_module_here.Own", "no module no_module_here for no_module_here.Own, neither installed nor in /"),
        ("tests.compare_grid.actors.Owm", "no Owm in tests.compare_grid.actors: did you mean Own?"),
        ("tests.compare_grid.actors.StartEnv", "not a class with Stable-Baselines3's BaseAlgorithm"),
        ("ppo,a2c,ppo", r"2 contenders have one label \(ppo, ppo\)"),
        ("ppo:gamma", "'gamma' is no variation: write argument=value, like ppo:gamma=1.0"),
        ("ppo:gamma=", "'gamma=' is no variation"),
        ("ppo:gamma=1:gamma=2", "gamma has two values"),
        ("ppo:n_timesteps=100", "n_timesteps is the budget"),
        ("ppo:policy_kwargs={'net_arch': [8]", "} is missing"),
        ("ppo:policy='Mlp", "' is missing"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_contenders(text)
    assert "\n" not in str(error.value)


def test_class_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in_this_folder.py").write_text("from stable_baselines3 import A2C\n\nclass Mine(A2C): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/")  # restores sys.path afterwards
    assert algorithm_class("in_this_folder.Mine").__name__ == "Mine"
    with pytest.raises(ValueError, match=r"no Mime in in_this_folder: did you mean Mine\?"):
        algorithm_class("in_this_folder.Mime")


def test_a_module_that_misses_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not said to be missing itself."""
    (tmp_path / "misses.py").write_text("import something_else\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_else"):
        algorithm_class("misses.Mine")


def test_folder_names() -> None:
    """In small letters, as the Zoo's plots look for them, and one component of a path."""
    assert Contender("vanillapg:natural_gradient=True", "vanillapg").folder == "vanillapg:natural_gradient=true"
    assert Contender("ppo:policy_kwargs={'a': 'b/c'}", "ppo").folder == "ppo:policy_kwargs=__a_:__b_c__"


def of(text: str, env_id: str, **kwargs: Any) -> Any:
    return configuration(parse_contenders(text)[0], find_task(env_id), **kwargs)


def test_own_section() -> None:
    """Ours and the Zoo's, without a remark; the budget apart from what the model is made with."""
    ours = read_configs(config_path("vanillapg"))["CartPole-v1"]
    found = of("vanillapg", "CartPole-v1")
    assert found.n_timesteps == ours.pop("n_timesteps")
    assert (found.settings, found.remarks) == (ours, ())
    found = of("ppo:n_epochs=3", "CartPole-v1")
    assert (found.settings["n_epochs"], found.settings["n_envs"], found.n_timesteps) == (3, 8, 100_000)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "section"),
    [
        ("ppo", "HalfCheetah-v5", "HalfCheetah-v4"),
        ("ppo", "Reacher-v5", "Reacher-v2"),
        ("ppo", "FrozenLake-v1", "default"),
        ("reinforce", "FrozenLake-v1", "default"),
        ("a2c", "ALE/Pong-v5", "atari"),
    ],
)
def test_another_section(algorithm: str, env_id: str, section: str) -> None:
    found = of(algorithm, env_id)
    assert found.remarks == (
        f"{algorithm}.yml has no section {env_id}: {algorithm} is configured by its section {section}",
    )
    assert found.settings["policy"] == ("CnnPolicy" if section == "atari" else "MlpPolicy")


def test_defaults() -> None:
    """Of a constructor, where there is no configuration or none is wanted; the policy by what it sees."""
    found = of("tests.compare_grid.actors.Own:gamma=0.5", "CartPole-v1")
    assert found.settings == {"policy": "MlpPolicy", "gamma": 0.5}
    assert found.n_timesteps is None
    assert "no configurations: it has the defaults of its constructor" in found.remarks[0]
    found = of("ppo", "CartPole-v1", config="defaults", n_envs=4)
    assert (found.settings, found.remarks) == ({"policy": "MlpPolicy", "n_envs": 4}, ())
    assert of("ppo:n_envs=2", "CartPole-v1", n_envs=4).settings["n_envs"] == 2
    assert of("a2c", "CarRacing-v3", config="defaults").settings["policy"] == "CnnPolicy"
    assert of("ppo_lstm", "CartPole-v1", config="defaults").settings["policy"] == "MlpLstmPolicy"


def test_tasks() -> None:
    assert find_task("CartPole-v1") == Task("CartPole-v1")
    assert find_task("tests.compare_grid.actors:Start-v0") == Task("Start-v0", "tests.compare_grid.actors")
    for env_id, message in [
        ("CartPol-v1", "CartPol.* did you mean.*CartPole"),
        ("CartPole-v77", "no environment CartPole-v77"),
        ("no_module_here:X-v0", "no environment no_module_here:X-v0: No module named 'no_module_here'"),
    ]:
        with pytest.raises(ValueError, match=f"(?i){message}") as error:
            find_task(env_id)
        assert "\n" not in str(error.value)


def test_classes() -> None:
    assert [algorithm_class(name) for name in ("vanillapg", "dqn", "sac")] == [VanillaPG, DQN, SAC]
