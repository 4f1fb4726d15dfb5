"""Whether torch.compile pays."""

from __future__ import annotations

import time

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from benchmarks.speed.timing import Workload, table
from benchmarks.speed.workloads import make_plain, updating
from sb3_pg import REINFORCE

NAME = "torch.compile on one update of 131,072 rows, in pieces"


def compile_passes(policy: ActorCriticPolicy) -> None:
    """As a user may; a method on the object is not taken for a stock policy's."""
    policy.evaluate_actions = th.compile(policy.evaluate_actions)  # type: ignore[method-assign]


def compiled_section() -> str:
    """The rate with a compiled policy, and the time that compiling takes; a line where it does not compile."""
    started = time.perf_counter()
    try:
        compiled = updating(REINFORCE, compile_passes)
        compiled()
    except Exception as error:  # whatever a compiler may say
        return f"## {NAME}\n\nNot timed: it does not compile here ({type(error).__name__}).\n"
    contenders = {
        "plain": updating(REINFORCE, make_plain),
        "plain, compiled": compiled,
        "own passes (the default)": updating(REINFORCE),
    }
    seconds = time.perf_counter() - started
    note = "Compiled: `policy.evaluate_actions = torch.compile(policy.evaluate_actions)`, "
    note += f"{seconds:.0f} s before the first rate."
    return table(Workload(NAME, contenders, note=note))
