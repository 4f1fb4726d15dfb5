"""Two workers of a data-parallel run, and the one process that has the episodes of both.

A worker is a process of its own, which collects and trains as ``learn`` does. The one process collects what either of
them would, and trains on the two batches joined.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import distributed

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data import minibatches as ours
from sb3_pg.data.batch import EpisodeBatch, concatenate
from sb3_pg.data.minibatches import Minibatch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.rollout.buffers import EpisodeRolloutBuffer
from tests.helpers.environments import RandomEnv
from tests.helpers.models import ACTION_SPACES, TINY, make
from tests.helpers.recording import log_to_memory
from tests.helpers.spies import replace_everywhere
from tests.helpers.updates import OBSERVED

N_WORKERS = 2
#: Seconds after which a worker gives up on the other, and the test on both.
PATIENCE = 10
#: Never: longer than any test plays.
NEVER = 10**6


@dataclass(frozen=True)
class Case:
    """A short training.

    :param arguments: of the algorithm
    :param horizons: of each worker, after how many steps its episodes end at the latest
    :param end_probability: that a step ends an episode before
    :param tolerance: of the parameters, and of what is logged, absolute and relative
    :param edited: a column of worker 1's buffer that a callback makes infinite
    :param frozen: the actor's last layer does not learn
    """

    algorithm: type[PolicyGradientAlgorithm]
    arguments: dict[str, Any] = field(default_factory=dict)
    action_space: str = "Discrete"
    horizons: tuple[int, int] = (5, 12)
    end_probability: float = 0.15
    n_iterations: int = 2
    tolerance: float = 1e-8
    edited: str | None = None
    frozen: bool = False

    @property
    def takes_minibatches(self) -> bool:
        """Whether it depends on the order of rows."""
        return "batch_size" in self.arguments or "value_batch_size" in self.arguments


@dataclass
class Outcome:
    """What came of it.

    :param logged: under ``train/`` in each iteration
    """

    parameters: dict[str, th.Tensor] = field(default_factory=dict)
    logged: list[dict[str, float]] = field(default_factory=list)
    n_updates: int = 0
    error: str = ""
    warnings: list[str] = field(default_factory=list)


class DoubleBuffer(EpisodeRolloutBuffer):
    """Its batches are in double precision, so that sums in another order are equal to many digits."""

    given: EpisodeBatch | None = None

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        tensor = super()._tensor(array)
        return tensor.double() if tensor.is_floating_point() else tensor

    @property
    def batch(self) -> EpisodeBatch | None:
        return super().batch if self.given is None else self.given


class Doubled(FlattenExtractor):
    """The observations in double precision, which SB3 turns into single."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors are in float64."""
    before = th.get_default_dtype()
    th.set_default_dtype(th.float64)
    try:
        yield
    finally:
        th.set_default_dtype(before)


def build(case: Case, rank: int) -> PolicyGradientAlgorithm:
    """The model of a worker: the same for all but for its environments."""
    action_space = ACTION_SPACES[case.action_space]
    env = DummyVecEnv([partial(RandomEnv, action_space, OBSERVED, case.horizons[rank], case.end_probability)] * 2)
    settings = {"rollout_buffer_class": DoubleBuffer, "policy_kwargs": TINY | {"features_extractor_class": Doubled}}
    model = make(case.algorithm, env, **settings | case.arguments)
    for parameter in model.policy.action_net.parameters():
        parameter.requires_grad_(not case.frozen)
    env.seed(100 + rank)
    log_to_memory(model)
    model._setup_learn(NEVER)
    return model


def collect(model: PolicyGradientAlgorithm, iteration: int, rank: int) -> None:
    """A rollout of a worker."""
    th.manual_seed(10 * iteration + rank)
    assert model.env is not None
    callback = model._init_callback(None)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def train(model: PolicyGradientAlgorithm, outcome: Outcome) -> None:
    """An update, its rows not shuffled; add what was logged."""
    with mock.patch("numpy.random.permutation", np.arange), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.train()
        except ValueError as error:
            outcome.error = str(error)
    logged = model.logger.name_to_value
    outcome.logged.append({key: float(value) for key, value in logged.items() if key.startswith("train/")})
    outcome.parameters = {name: value.clone() for name, value in model.policy.state_dict().items()}
    outcome.n_updates = model._n_updates
    outcome.warnings += [str(one.message) for one in caught if one.category is UserWarning]


def learn_with_a_peer(case: Case, rank: int) -> Outcome:
    """What a worker does."""
    outcome, model = Outcome(), build(case, rank)
    for iteration in range(case.n_iterations):
        collect(model, iteration, rank)
        if case.edited is not None and rank == 1:
            getattr(model.rollout_buffer, case.edited)[:] = np.inf
        train(model, outcome)
    return outcome


def learn_alone(case: Case) -> Outcome:
    """What one process makes of the episodes of both workers."""
    with double_precision():
        workers, model, outcome = [build(case, rank) for rank in range(N_WORKERS)], build(case, 0), Outcome()
        assert isinstance(model.rollout_buffer, DoubleBuffer)
        for iteration in range(case.n_iterations):
            batches = []
            for rank, worker in enumerate(workers):
                worker.policy.load_state_dict(model.policy.state_dict())
                collect(worker, iteration, rank)
                batches += [worker.rollout_buffer.batch]
            parts = [batch for batch in batches if batch is not None]
            model.rollout_buffer.given = concatenate(parts)
            with joined_minibatches(parts, case):
                train(model, outcome)
    return outcome


@contextmanager
def joined_minibatches(parts: list[EpisodeBatch], case: Case) -> Iterator[None]:
    """Each minibatch is made of one of either part's."""
    if not case.takes_minibatches:
        yield
        return

    of_one = ours.minibatches

    def joined(batch: EpisodeBatch, batch_size: int | None, whole_episodes: bool) -> Iterator[Minibatch]:
        each = [list(of_one(part, batch_size, whole_episodes)) for part in parts]
        first_rows = np.cumsum([0, *(part.n_rows for part in parts)])
        for steps in zip_longest(*each):
            some = [(first, one) for first, one in zip(first_rows, steps, strict=False) if one is not None]
            rows = th.cat([first + th.arange(batch.n_rows)[one.rows] for first, one in some])
            if whole_episodes:
                index = EpisodeIndex.from_lengths(th.cat([one.episodes.lengths for _, one in some if one.episodes]))
                yield Minibatch(rows, len(rows), index, index.n_episodes / batch.episodes.n_episodes)
            else:
                yield Minibatch(rows, len(rows), None, len(rows) / batch.n_rows)

    with pytest.MonkeyPatch.context() as patch:
        replace_everywhere(patch, ours.minibatches, joined)
        yield


@dataclass
class Failure:
    """An error on a worker."""

    traceback: str


class Workers:
    """Two processes that run the same function, one call after the other.

    :param folder: where they find each other
    """

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(N_WORKERS)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, str(folder / "rendezvous"), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(*arguments, rank)`` gives on each worker."""
        self.start(function, *arguments)
        return self.results()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have both begin with ``function(*arguments, rank)``."""
        for connection in self._connections:
            connection.send((function, arguments))

    def results(self) -> list[Any]:
        """What it gave on each; both must return in good time."""
        results = []
        for connection in self._connections:
            assert connection.poll(2 * PATIENCE), "a worker waits for ever"
            results.append(connection.recv())
        errors = [result.traceback for result in results if isinstance(result, Failure)]
        assert not errors, "\n".join(errors)
        return results

    def close(self) -> None:
        """End both."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, rendezvous: str, connection: Connection) -> None:
    th.set_num_threads(1)
    th.set_default_dtype(th.float64)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=N_WORKERS,
        timeout=timedelta(seconds=PATIENCE),
    )
    while True:
        function, arguments = connection.recv()
        try:
            connection.send(function(*arguments, rank))
        except Exception:
            connection.send(Failure(traceback.format_exc()))
