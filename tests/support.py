"""What the tests of all algorithms share: the list of them, and helpers to look into what they do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from tests.probes import DiaryEnv

#: Every test of this list's users holds for every algorithm in it.
ALGORITHMS: list[type[PolicyGradientAlgorithm]] = [REINFORCE, VanillaPG, OffPolicyISPG]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

#: Whole episodes and no critic, whatever an algorithm's own defaults are.
MONTE_CARLO: dict[str, Any] = {
    "returns": "reward_to_go",
    "baseline": "time_leave_one_out",
    "incomplete_episodes": "carry",
    "bootstrap_truncated": False,
    "n_value_updates": 1,
    "value_learning_rate": None,
}
#: The same with a critic in a joint loss, and with one of its own optimizer.
JOINT_CRITIC = MONTE_CARLO | {"baseline": "value"}
OWN_CRITIC = JOINT_CRITIC | {"value_learning_rate": 1e-3, "n_value_updates": 3}
ESTIMATORS = {"no critic": MONTE_CARLO, "joint critic": JOINT_CRITIC, "own critic": OWN_CRITIC}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())

#: A network that costs little.
TINY: dict[str, Any] = {"net_arch": [8]}


def diary(n_envs: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several :class:`DiaryEnv`, numbered."""
    return DummyVecEnv([partial(DiaryEnv, index=index, **kwargs) for index in range(n_envs)])


#: What an algorithm has beyond the others' arguments, where its own defaults would have a say in a test.
EXTRAS: dict[type[PolicyGradientAlgorithm], dict[str, Any]] = {
    OffPolicyISPG: {"n_epochs": 2, "target_kl": None, "normalize_advantage": False}
}


def make(algorithm: type[PolicyGradientAlgorithm], env: Any, **kwargs: Any) -> PolicyGradientAlgorithm:
    """A small model on the CPU; what is not given is :data:`MONTE_CARLO`, or of :data:`EXTRAS`."""
    policy = kwargs.pop("policy", "MlpPolicy")
    defaults: dict[str, Any] = {"n_steps": 16, "policy_kwargs": TINY, "seed": 0, "device": "cpu"}
    return algorithm(policy, env, **defaults | MONTE_CARLO | EXTRAS.get(algorithm, {}) | kwargs)


def n_updates(model: PolicyGradientAlgorithm) -> int:
    """Iterations that changed the policy; ``train/n_updates`` counts epochs, as SB3's PPO does."""
    updates, rest = divmod(model._n_updates, getattr(model, "n_epochs", 1))
    assert rest == 0
    return updates


def snapshot(model: PolicyGradientAlgorithm) -> dict[str, Any]:
    """A copy of all parameters and of all optimizers' states."""
    parameters: dict[str, Any] = copy.deepcopy(model.get_parameters())
    return parameters


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nests of dictionaries, lists, modules, tensors and numbers are not equal bit for bit."""
    if isinstance(one, th.nn.Module) and isinstance(other, th.nn.Module):
        return differences(one.state_dict(), other.state_dict(), path)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [f"{path}: keys {sorted(map(str, one))} and {sorted(map(str, other))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for key, (a, b) in pairs for found in differences(a, b, f"{path}/{key}")]
    if isinstance(one, th.Tensor) and isinstance(other, th.Tensor):
        return [] if th.equal(one, other) else [path]
    return [] if type(one) is type(other) and one == other else [path]


@contextmanager
def no_episode_ended() -> Iterator[None]:
    """Expect the warning that an iteration had nothing to learn from: exactly once, and no other."""
    with pytest.warns(UserWarning, match="No episode ended") as caught:
        yield
    assert len(caught) == 1, [str(warning.message) for warning in caught]


class Batches(BaseCallback):
    """Keeps the batch of every rollout (or None), the rewards, and which environments began it with a new episode."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[EpisodeBatch | None] = []
        self.rewards: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.rewards.append(self.locals["rewards"].copy())
        return True

    def _on_rollout_end(self) -> None:
        self.batches.append(self.model.rollout_buffer.batch)
        self.starts.append(self.model.rollout_buffer.episode_starts[0].astype(bool))

    @property
    def updates(self) -> list[EpisodeBatch]:
        """The batches there were."""
        return [batch for batch in self.batches if batch is not None]


class StopAfter(BaseCallback):
    """Ends the training in its ``n``-th step."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def _on_step(self) -> bool:
        return self.n_calls < self.n


class Memory(KVWriter):
    """A logger's output that keeps what it is given, one dictionary a dump."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        """Nothing to close."""


def log_to_memory(model: PolicyGradientAlgorithm) -> list[dict[str, Any]]:
    """Let the model log into a list, which fills while it learns."""
    memory = Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    return memory.dumps


def episodes_of(batch: EpisodeBatch) -> list[np.ndarray]:
    """The rows ``(index, episode, step)`` of each episode of a batch from :class:`DiaryEnv`."""
    where = batch.observations["where"] if isinstance(batch.observations, dict) else batch.observations
    return [where[rows].numpy() for rows in batch.each_episode()]


def assert_whole(batch: EpisodeBatch, lengths: Sequence[int]) -> None:
    """Every episode of the batch is one episode of one environment, from its first step to its last.

    :param lengths: as given to every :class:`DiaryEnv`
    """
    for rows in episodes_of(batch):
        index, episode, _ = rows[0].astype(int)
        length = lengths[min(episode, len(lengths) - 1)]
        expected = [[index, episode, t] for t in range(length)]
        assert rows.tolist() == expected, f"spliced or cut: {rows.tolist()}, expected {expected}"
