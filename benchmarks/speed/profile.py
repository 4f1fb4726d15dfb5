"""Where the time of ``learn`` goes: a few methods timed as they run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.speed.timing import markdown
from benchmarks.speed.workloads import N_STEPS, batched, dummy, new_model
from sb3_pg import REINFORCE
from sb3_pg.policies.fast.fast_actor import FastActor

#: What is timed: a label, and where the methods are that it stands for
Parts = dict[str, list[tuple[object, str]]]
REST = "everything else: the loop, callbacks, logging"


class Clock:
    """Seconds by label, each without those of what was called inside it under another label, or its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""
        seconds, inside, now = self.seconds, self._inside, time.perf_counter

        def run(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            started = now()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = now() - started
                seconds[label] += elapsed - inside.pop()
                inside[-1] += elapsed

        return run


def parts_of(model: OnPolicyAlgorithm) -> Parts:
    """What SB3's algorithms and ours have in common."""
    return {
        "`env.step`": [(model.env, "step")],
        "returns and advantages": [(model.rollout_buffer, "compute_returns_and_advantage")],
        "update: the optimizer's step": [(model.policy.optimizer, "step")],
    }


def parts_of_reinforce(model: OnPolicyAlgorithm) -> Parts:
    """With what REINFORCE does while it collects, and its gradient."""
    buffer = model.rollout_buffer
    return parts_of(model) | {
        "the actor's draw": [(kind, "act") for kind in FastActor.__subclasses__()],
        "the buffer's add": [(buffer, "begin_step"), (buffer, "end_step"), (buffer, "add_episode_ends")],
        "checks of what is finite": [(model, "_check_step")],
        "log-probs and values of the rollout": [(FastActor, "evaluation"), (buffer, "add_evaluation")],
        "update: the gradient": [(model, "_gradient")],
        "update: the rest": [(model, "train")],
    }


def parts_of_a2c(model: OnPolicyAlgorithm) -> Parts:
    """With what SB3 does while it collects."""
    return parts_of(model) | {
        "the policy's forward pass": [(model.policy, "forward")],
        "the buffer's add": [(model.rollout_buffer, "add")],
        "update: the gradient and the rest": [(model, "train")],
    }


def profile(
    algorithm: type[OnPolicyAlgorithm],
    find_parts: Callable[[OnPolicyAlgorithm], Parts],
    env: VecEnv,
    n_rollouts: int,
) -> dict[str, float]:
    """Microseconds per vector step by label.

    :raises AttributeError: if a method is not there
    :raises ValueError: if a label's methods were not called
    """
    model, clock = new_model(algorithm, env), Clock()
    parts = find_parts(model)
    n_steps = n_rollouts * N_STEPS
    with ExitStack() as stack:
        for label, methods in parts.items():
            for owner, name in methods:
                stack.enter_context(patch.object(owner, name, clock.timed(label, getattr(owner, name))))
        clock.timed(REST, model.learn)(n_steps * env.num_envs)
    if idle := parts.keys() - clock.seconds.keys():
        raise ValueError(f"{algorithm.__name__} did not call what is timed as {', '.join(sorted(idle))}")
    return {label: 1e6 * seconds / n_steps for label, seconds in clock.seconds.items()}


def profile_section(algorithm: type[OnPolicyAlgorithm], find_parts: Callable[[OnPolicyAlgorithm], Parts]) -> str:
    """A line a label, the dearest of few environments first."""
    few = profile(algorithm, find_parts, dummy(8), 40)
    many = profile(algorithm, find_parts, batched(1024), 3)
    few["total"], many["total"] = sum(few.values()), sum(many.values())
    order = sorted(few, key=few.__getitem__, reverse=True)
    rows = [(label, *(f"{of[label]:,.1f} ({of[label] / of['total']:.1%})" for of in (few, many))) for label in order]
    header = ("microseconds per vector step (share)", "8 environments, SB3's make_vec_env", "1,024, backend gymnasium")
    return f"## Where the time of {algorithm.__name__} goes\n\n{markdown(header, rows)}"


def profile_sections() -> str:
    """REINFORCE, and A2C for comparison."""
    return "\n".join([profile_section(REINFORCE, parts_of_reinforce), profile_section(A2C, parts_of_a2c)])
