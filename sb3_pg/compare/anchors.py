"""Published scores of common tasks, each with its protocol; none was measured here."""

from __future__ import annotations

from dataclasses import dataclass

#: What the Zoo says of its own table: one run of each, no quantitative benchmark.
ZOO = "RL Zoo (github.com/DLR-RM/rl-baselines3-zoo, benchmark.md): one run, its tuned settings, after the last step"


@dataclass(frozen=True)
class Published:
    """A number from elsewhere.

    :param env_id: the version that it was measured on
    :param steps: of training
    :param source: where it stands, and what it is
    """

    env_id: str
    algorithm: str
    score: float
    steps: int
    source: str


_ZOO_SCORES = {
    "CartPole-v1": (("A2C", 500.0, 500_000), ("PPO", 500.0, 100_000), ("TRPO", 500.0, 100_000)),
    "LunarLander-v2": (("A2C", 155.8, 200_000), ("PPO", 242.1, 1_000_000), ("TRPO", 133.2, 200_000)),
    "Acrobot-v1": (("A2C", -83.4, 500_000), ("PPO", -73.5, 1_000_000), ("TRPO", -83.1, 100_000)),
    "Pendulum-v1": (("A2C", -163.0, 1_000_000), ("PPO", -172.0, 100_000), ("TRPO", -175.0, 100_000)),
    "MountainCarContinuous-v0": (("A2C", 91.2, 100_000), ("PPO", 88.3, 20_000), ("TRPO", 92.5, 50_000)),
    "BipedalWalker-v3": (("A2C", 299.8, 5_000_000), ("PPO", 287.9, 5_000_000), ("TRPO", 182.3, 1_000_000)),
    "MountainCar-v0": (("A2C", -111.3, 1_000_000), ("PPO", -110.4, 1_000_000)),
    "LunarLanderContinuous-v2": (("A2C", 84.2, 5_000_000), ("PPO", 270.9, 1_000_000)),
    "HalfCheetah-v3": (("A2C", 3041.2, 1_000_000), ("PPO", 5819.1, 1_000_000)),
    "Hopper-v3": (("A2C", 733.5, 1_000_000), ("PPO", 2410.4, 1_000_000)),
    "Walker2d-v3": (("PPO", 3478.8, 1_000_000),),
    "Swimmer-v3": (("A2C", 200.6, 1_000_000), ("PPO", 281.6, 1_000_000)),
    "Ant-v3": (("PPO", 1327.2, 1_000_000),),
}


def published(env_id: str) -> list[Published]:
    """What is known of a task, in any version of it; the version is said."""
    task = env_id.rpartition("-v")[0]
    return [
        Published(version, algorithm, score, steps, ZOO)
        for version, scores in _ZOO_SCORES.items()
        if version.rpartition("-v")[0] == task
        for algorithm, score, steps in scores
    ]
