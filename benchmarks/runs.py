"""Training runs as data: what to train, a few worker processes that do it, and what came out of each run."""

from __future__ import annotations

import json
import multiprocessing as mp
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from benchmarks.provenance import code_hash
from sb3_pg.zoo.configs import config_path, read_configs


@dataclass(frozen=True)
class Contender:
    """An algorithm and its settings: one row of a comparison.

    :param name: what tables and figures call it.
    :param algorithm: the class to train.
    :param settings: arguments of its constructor, beyond policy, environment, seed and device.
    :param n_envs: copies of the environment.
    :param policy: alias of the policy.
    :param normalize: arguments of a VecNormalize around them, None for none.
    """

    name: str
    algorithm: type[OnPolicyAlgorithm]
    settings: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 8
    policy: str = "MlpPolicy"
    normalize: dict[str, Any] | None = None

    def make_env(self, env_id: str, n_envs: int, seed: int, training: bool = True) -> VecEnv:
        """Copies of an environment, normalised if that is asked for."""
        # SB3 makes environments that could be drawn. LunarLander then keeps every spark of its engines for a frame that
        # never comes, and a step takes many times as long
        env = make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs={"render_mode": None})
        return env if self.normalize is None else VecNormalize(env, training=training, **self.normalize)


def shipped(name: str, algorithm: type[OnPolicyAlgorithm], env_id: str) -> Contender:
    """An algorithm with its configuration in ``zoo_configs/``; the budget is the benchmark's."""
    settings = read_configs(config_path(algorithm.__name__.lower()))[env_id]
    for key, value in settings.items():
        if isinstance(value, str) and value.startswith("lin_"):
            settings[key] = LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    settings.pop("n_timesteps")
    return Contender(name, algorithm, n_envs=settings.pop("n_envs"), policy=settings.pop("policy"), settings=settings)


@dataclass(frozen=True)
class Run:
    """One contender, one seed, one budget of environment steps.

    :param folder: where the run keeps its results and its model.
    :param eval_every: environment steps between two evaluations.
    :param n_eval_episodes: episodes of an evaluation during training.
    :param n_final_episodes: episodes of the evaluation at the end.
    :param train_target: mean return of 100 training episodes whose first time is noted.
    :param code: a hash that the result is kept with, and by which it is known again.
    """

    contender: Contender
    env_id: str
    seed: int
    n_steps: int
    folder: Path
    eval_every: int = 2_000
    n_eval_episodes: int = 10
    n_final_episodes: int = 20
    train_target: float = float("inf")
    code: str = ""

    def with_code(self) -> Run:
        """The same run, with the hash of the code that would train it now and of what is asked of it."""
        algorithm = self.contender.algorithm
        asked = asdict(replace(self, folder=Path(), code=""))
        asked["contender"]["algorithm"] = algorithm.__name__  # wherever it is
        return replace(self, code=code_hash([algorithm.__module__, __name__], [repr(asked)]))


@dataclass
class Result:
    """What is known of a run so far; ``final_score`` is None until it has finished.

    :param code: the run's.
    :param eval_steps: environment steps at which the policy was evaluated.
    :param eval_scores: mean return of each of those evaluations, of the deterministic policy.
    :param final_score: mean return of the deterministic policy at the end.
    :param train_score: mean return of the last 100 training episodes.
    :param train_mean: mean over the environment steps of the running mean of 100 training episodes.
    :param train_target_steps: environment steps when the last 100 training episodes first met the run's target.
    :param train_seconds: wall time of the training alone, without the evaluations.
    """

    name: str
    seed: int
    code: str = ""
    eval_steps: list[int] = field(default_factory=list)
    eval_scores: list[float] = field(default_factory=list)
    final_score: float | None = None
    train_score: float | None = None
    train_mean: float | None = None
    train_target_steps: int | None = None
    train_seconds: float | None = None

    def steps_to(self, score: float) -> int | None:
        """Environment steps at the first evaluation of at least ``score``; None if there was none."""
        reached = (steps for steps, value in zip(self.eval_steps, self.eval_scores, strict=True) if value >= score)
        return next(reached, None)

    @classmethod
    def load(cls, folder: Path) -> Result | None:
        """What a run has written to its folder; None if it has not."""
        path = folder / "result.json"
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, folder: Path) -> None:
        """Write ``result.json`` in one piece, so that a reader never sees half of it."""
        unfinished = folder / "result.json.part"
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.replace(folder / "result.json")


class Recorder(BaseCallback):
    """Evaluates the policy every so often, keeps the result on disk up to date, and reports progress.

    :param result: filled as the training goes on.
    :param report: called with the environment steps done since the last call; the training ends if it returns False.
    """

    REPORT_EVERY = 1_000
    NOTE_EVERY = 500

    def __init__(self, run: Run, result: Result, eval_env: VecEnv, report: Callable[[int], bool]):
        super().__init__()
        self.run = run
        self.result = result
        self.eval_env = eval_env
        self.eval_seconds = 0.0
        self.running_means: list[float] = []
        self._report = report
        self._reported = 0

    def evaluate(self, n_episodes: int) -> float:
        """Mean return of the deterministic policy."""
        started = time.perf_counter()
        if self.run.contender.normalize is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        scores, _ = evaluate_policy(self.model, self.eval_env, n_eval_episodes=n_episodes)
        self.eval_seconds += time.perf_counter() - started
        return float(np.mean(scores))

    def report(self) -> bool:
        """Report the steps since the last report, but none beyond the budget: a rollout may overshoot it."""
        steps = min(self.num_timesteps, self.run.n_steps) - self._reported
        self._reported += steps
        return self._report(steps)

    def note_training(self) -> None:
        """Note how the last 100 training episodes do, and the first time that they meet the run's target."""
        scores = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if not scores:
            return
        if self.num_timesteps >= len(self.running_means) * self.NOTE_EVERY:
            self.running_means.append(float(np.mean(scores)))
        target_is_open = self.result.train_target_steps is None and len(scores) == 100
        if target_is_open and np.mean(scores) >= self.run.train_target:
            self.result.train_target_steps = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps >= (len(self.result.eval_steps) + 1) * self.run.eval_every:
            self.result.eval_scores.append(self.evaluate(self.run.n_eval_episodes))
            self.result.eval_steps.append(self.num_timesteps)
            self.result.save(self.run.folder)
        if self.locals["dones"].any():
            self.note_training()
        return self.num_timesteps - self._reported < self.REPORT_EVERY or self.report()


def train(run: Run, report: Callable[[int], bool]) -> Result:
    """Train one contender; its folder then has ``result.json`` and, unless ``report`` ended it, ``model.zip``."""
    run.folder.mkdir(parents=True)
    contender = run.contender
    result = Result(contender.name, run.seed, run.code)
    env = contender.make_env(run.env_id, contender.n_envs, run.seed)
    eval_env = contender.make_env(run.env_id, run.n_eval_episodes, 10_000 + run.seed, training=False)
    model = contender.algorithm(contender.policy, env, seed=run.seed, device="cpu", **contender.settings)
    recorder = Recorder(run, result, eval_env, report)

    started = time.perf_counter()
    model.learn(run.n_steps, callback=recorder)
    seconds = time.perf_counter() - started - recorder.eval_seconds
    if recorder.report():
        result.final_score = recorder.evaluate(run.n_final_episodes)
        result.train_score = float(np.mean([episode["r"] for episode in model.ep_info_buffer or ()]))
        result.train_mean = float(np.mean(recorder.running_means))
        result.train_seconds = seconds
        model.save(run.folder / "model.zip")
        result.save(run.folder)
    env.close()
    eval_env.close()
    return result


def train_all(runs: Sequence[Run], n_workers: int, advance: Callable[[int], object]) -> list[Result]:
    """Train every run, ``n_workers`` at a time, each in a process of its own with one thread.

    :param advance: called with environment steps as they are done, whichever run did them.
    :raises KeyboardInterrupt: after the workers have stopped; what had finished stays on disk. So with a failed run.
    """
    context = mp.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(n_workers, context, _start_worker) as pool:
        steps, stop = manager.Queue(), manager.Event()
        # In a thread of its own, so that an interrupt does not strike in the middle of a conversation with the manager.
        listener = Thread(target=_listen, args=(steps, advance))
        listener.start()
        try:
            futures = [pool.submit(_train_in_worker, run, steps, stop) for run in runs]
            for future in as_completed(futures):
                future.result()  # a failed run ends the others
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            steps.put(None)
            listener.join()


def _listen(steps: Queue[int | None], advance: Callable[[int], object]) -> None:
    for n_steps in iter(steps.get, None):
        advance(n_steps)


def resume_all(runs: Sequence[Run], n_workers: int = 2) -> list[Result]:
    """Train the runs that have not finished before, with a progress bar.

    Where one has broken off, or was made by other code or with other settings, what is left of it is removed.
    """
    runs = [run.with_code() for run in runs]
    results = {}
    for run in runs:
        result = Result.load(run.folder)
        if result is not None and result.final_score is not None and result.code == run.code:
            results[run.folder] = result
        else:
            shutil.rmtree(run.folder, ignore_errors=True)
    missing = [run for run in runs if run.folder not in results]
    with tqdm(total=sum(run.n_steps for run in missing), unit=" steps", unit_scale=True, desc="training") as bar:
        results |= dict(zip((run.folder for run in missing), train_all(missing, n_workers, bar.update), strict=True))
    return [results[run.folder] for run in runs]


def _start_worker() -> None:
    """One thread a worker; an interrupt reaches them through the main process, which lets them end cleanly."""
    th.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train_in_worker(run: Run, steps: Queue[int | None], stop: Event) -> Result:
    def report(n_steps: int) -> bool:
        steps.put(n_steps)
        return not stop.is_set()

    return train(run, report)
