"""Ctrl-C at random moments of runs whose environments are in processes: ``python -m tests.robustness.interrupts``.

Prints how many runs were interrupted, where, and how many of the batches after them were spliced; exits with 1 if any
was. ``--algorithm A2C`` shows what Stable-Baselines3's own does. By a timer one model is interrupted again and again;
``--by line`` interrupts new models, each where another line of Python runs first, drawn from all that a short run goes
through: lines which take no time, and run once, have their turn.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch as th
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.envs import GymnasiumVecEnv
from tests.helpers.environments import DiaryEnv
from tests.helpers.models import EXTRAS, JOINT_CRITIC, TINY

N_ENVS, N_STEPS, LENGTH = 3, 12, 5
ALGORITHMS: dict[str, Any] = {one.__name__: one for one in (REINFORCE, VanillaPG, OffPolicyISPG, A2C)}


def make_envs(kind: str) -> VecEnv:
    """Diaries ``(index, episode, step)`` in some kind of VecEnv; ``"normalize"``: SubprocVecEnv under VecNormalize."""
    env_fns: list[Any] = [partial(DiaryEnv, lengths=(LENGTH,), index=index) for index in range(N_ENVS)]
    if kind == "async":
        disabled = AsyncVectorEnv(env_fns, context="fork", autoreset_mode=AutoresetMode.DISABLED)
        return GymnasiumVecEnv(disabled)
    if kind == "dummy":
        return DummyVecEnv(env_fns)
    processes = SubprocVecEnv(env_fns, start_method="fork")
    return VecNormalize(processes, norm_reward=False, norm_obs=False) if kind == "normalize" else processes


class Diaries(BaseCallback):
    """Counts transitions, and those that no environment has made: each step is the one before and 1, or a first one.

    Asks the environments in every rollout, so that it may be interrupted there too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_transitions = self.n_wrong = self.n_batches = self.n_spliced = 0

    def _on_rollout_start(self) -> None:
        self.training_env.get_attr("index")
        self.training_env.env_method("has_wrapper_attr", "step")
        self.last, self.spliced = np.array(self.model._last_obs), False

    def _on_step(self) -> bool:
        new: np.ndarray = np.asarray(self.locals["new_obs"])
        done: np.ndarray = np.asarray(self.locals["dones"])
        index, episode, step = new.T
        right = (index == np.arange(N_ENVS)) & (episode == self.last[:, 1] + done)
        right &= (step == np.where(done, 0, self.last[:, 2] + 1)) & (done == (self.last[:, 2] == LENGTH - 1))
        self.n_transitions += N_ENVS
        self.n_wrong += int(N_ENVS - right.sum())
        self.spliced |= not right.all()
        self.last = new.copy()
        return True

    def _on_rollout_end(self) -> None:
        self.n_batches += 1
        self.n_spliced += int(self.spliced)


def make_model(algorithm: str, env: VecEnv) -> Any:
    """A small model with a critic."""
    cls = ALGORITHMS[algorithm]
    arguments: dict[str, Any] = {"n_steps": N_STEPS, "policy_kwargs": dict(TINY), "seed": 0, "device": "cpu"}
    arguments |= {} if cls is A2C else JOINT_CRITIC | EXTRAS.get(cls, {})
    return cls("MlpPolicy", env, **arguments)


def where(error: BaseException) -> str:
    """The innermost function of a VecEnv that the interrupt came in, or that there was none."""
    trace, found = error.__traceback__, "elsewhere"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "vec" in code.co_filename and "env" in code.co_filename:
            found = code.co_name
        trace = trace.tb_next
    return found


def interrupt_runs(algorithm: str, kind: str, n_runs: int, seed: int) -> dict[str, Any]:
    """Interrupt a model's runs again and again, each time at a random moment; after each, look at what it learns from.

    :return: the counts
    """
    draw, env = random.Random(seed), make_envs(kind)
    model, seen = make_model(algorithm, env), Diaries()
    places, errors = Counter[str](), Counter[str]()
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in range(n_runs):
        try:
            # The timer's signal is handled as Ctrl-C's, and reaches this process alone
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0005, 0.02))
            model.learn(10**6)
        except KeyboardInterrupt as error:
            places[where(error)] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            model.learn(2 * N_STEPS * N_ENVS, seen)
        except Exception as error:
            errors[f"{type(error).__name__}: {error}"[:100]] += 1
            env = make_envs(kind)
            model.set_env(env)
    signal.signal(signal.SIGINT, old)
    env.close()
    return {"runs": n_runs} | counted(seen) | {"errors": dict(errors), "interrupted in": dict(places)}


class Line:
    """Raises KeyboardInterrupt before the ``n``-th line that runs inside :meth:`watched`, never if it is 0."""

    def __init__(self, n: int = 0) -> None:
        self.n, self.n_run, self.place = n, 0, "nowhere"
        #: Each line that has run, and the number of its first run.
        self.first: dict[tuple[str, int], int] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Also in the functions that are called from here."""
        before = sys.gettrace()
        sys.settrace(lambda *_: self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.n_run += 1
            self.first.setdefault((frame.f_code.co_filename, frame.f_lineno), self.n_run)
            if self.n_run == self.n:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


def interrupt_lines(algorithm: str, kind: str, n_runs: int, seed: int) -> dict[str, Any]:
    """Interrupt a new model's run where a line drawn at random runs first, then learn on; once a line at most.

    :return: the counts, as :func:`interrupt_runs` gives them
    """
    draw, env, every = random.Random(seed), make_envs(kind), Line()
    make_model(algorithm, env).learn(2 * N_STEPS * N_ENVS)  # what is imported or compiled once is done with
    model = make_model(algorithm, env)
    with every.watched():
        model.learn(2 * N_STEPS * N_ENVS)
    seen, places, errors = Diaries(), Counter[str](), Counter[str]()
    moments = draw.sample([*every.first.values()], min(n_runs, len(every.first)))
    for n in moments:
        model, line = make_model(algorithm, env), Line(n)
        try:
            with line.watched():
                model.learn(2 * N_STEPS * N_ENVS)
        except KeyboardInterrupt as error:
            places[where(error)] += 1
        try:
            model.learn(2 * N_STEPS * N_ENVS, seen)
        except Exception as error:
            errors[f"{type(error).__name__}: {error}"[:100] + f" after {line.place}"] += 1
            env = make_envs(kind)
    env.close()
    return {"runs": len(moments)} | counted(seen) | {"errors": dict(errors), "interrupted in": dict(places)}


def counted(seen: Diaries) -> dict[str, int]:
    """What was seen after all interrupts."""
    counts = {"transitions": seen.n_transitions, "wrong": seen.n_wrong, "batches": seen.n_batches}
    return counts | {"spliced": seen.n_spliced}


def main() -> None:
    """Print the counts of every algorithm and kind of VecEnv, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), action="append")
    parser.add_argument("--kind", choices=["dummy", "subproc", "normalize", "async"], action="append")
    parser.add_argument("--by", choices=["timer", "line"], default="timer")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    th.set_num_threads(1)
    interrupt = interrupt_lines if given.by == "line" else interrupt_runs
    is_wrong = False
    for algorithm in given.algorithm or ["REINFORCE", "VanillaPG", "OffPolicyISPG"]:
        for kind in given.kind or ["dummy", "subproc", "normalize", "async"]:
            counts = interrupt(algorithm, kind, given.runs, given.seed)
            is_wrong |= counts["spliced"] > 0 or bool(counts["errors"])
            print(json.dumps({"algorithm": algorithm, "kind": kind} | counts), flush=True)
    sys.exit(int(is_wrong))


if __name__ == "__main__":
    main()
