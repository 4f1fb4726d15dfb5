"""What the names of folders say, where nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_pg.compare.reading.description import from_names

#: Folder given, run below it -> contender, environment, seed.
NAMES = {
    ("logs", "ppo/CartPole-v1_1"): ("ppo", "CartPole-v1", None),
    ("logs", "PPO_3"): ("ppo", None, None),
    ("tb", "CartPole-v1/PPO_1"): ("ppo", "CartPole-v1", None),
    ("runs", "RecurrentPPO/seed_0"): ("ppo_lstm", None, 0),
    ("runs", "ppo_lstm/seed-12"): ("ppo_lstm", None, 12),
    ("runs", "VanillaPG/Acrobot-v1/seed=3"): ("vanillapg", "Acrobot-v1", 3),
    ("runs", "off_policy_ispg_s4"): ("offpolicyispg", None, 4),
    ("runs", "a2c-LunarLander-v3-seed7"): ("a2c", "LunarLander-v3", 7),
    ("runs", "PPO_CartPole-v1_seed2"): ("ppo", "CartPole-v1", 2),
    ("runs", "MiniGrid-Empty-5x5-v0/dqn/run_1"): ("dqn", "MiniGrid-Empty-5x5-v0", None),
    # two contenders of one algorithm
    ("runs", "ppo/small/seed_1"): ("ppo/small", None, 1),
    ("runs", "ppo/large/seed_1"): ("ppo/large", None, 1),
    ("runs", "ppo_lr1e-3/CartPole-v1/seed_1"): ("ppo_lr1e-3", "CartPole-v1", 1),
    # no known algorithm
    ("runs", "mine/seed_1"): ("mine", None, 1),
    ("runs", "mine/exp_2/CartPole-v1"): ("mine", "CartPole-v1", None),
    ("mine", "run3"): ("mine", None, None),
    ("mine/logs", ""): ("mine", None, None),
    # two known algorithms are none
    ("runs", "ppo_against_a2c/1"): ("ppo_against_a2c", None, None),
    # above the folder that was given
    ("ppo/seed_1", ""): ("ppo", None, 1),
    ("ppo/CartPole-v1/seed_1", ""): ("ppo", "CartPole-v1", 1),
    ("ppo/big/seed_1", ""): ("ppo/big", None, 1),
    ("ppo/far/above/it", "mine"): ("mine", None, None),
}


@pytest.mark.parametrize("where", NAMES, ids="/".join)
def test_names(where: tuple[str, str]) -> None:
    given = Path("/home/somebody/a2c/work/of/mine", where[0])
    said = from_names(given / where[1], given)
    assert (said.algorithm, said.env_id, said.seed) == NAMES[where]


def test_the_environments_name_is_nobodys_contender() -> None:
    """In whatever letters, once it is known from a monitor's file."""
    given = Path("/runs")
    for name in ("ppo/cartpole/seed_0", "ppo_cartpole_0", "PPO-CartPole/seed_0"):
        assert from_names(given / name, given, "CartPole-v1").algorithm == "ppo"
    assert from_names(given / "exact/box", given, "X-v0").algorithm == "exact/box"
    assert from_names(given / "cartpole/mine", given, "ALE/Pong-v5").algorithm == "cartpole/mine"
