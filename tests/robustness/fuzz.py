"""Every argument with values of every kind, one at a time: ``python -m tests.robustness.fuzz``.

A value that is sensible for its argument must work: a model is made with it and learns, and its parameters are finite.
Any other must be refused by a ValueError or TypeError that names the argument, at construction or at its first use.
Prints the counts, and each fault; exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import os
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.models import ALGORITHMS, EXTRAS, JOINT_CRITIC, MONTE_CARLO, OWN_CRITIC, TINY, Algorithm
from tests.robustness.oracle import HUGE, LEARNS, is_sensible
from tests.robustness.values import VALUES

#: How much a model may learn in a case: some updates.
N_STEPS, N_UPDATES = 8, 3
GAUSSIAN: dict[str, Any] = {"env": "Pendulum-v1"}
#: In which other arguments one has a meaning: the first in which a sensible value is taken is enough.
CONTEXTS: list[dict[str, Any]] = [
    {},
    JOINT_CRITIC,
    OWN_CRITIC,
    MONTE_CARLO,
    GAUSSIAN | {"use_sde": True},
    {"returns": "reward_to_go", "baseline": "value", "incomplete_episodes": "carry"},
    {"natural_gradient": True},
    {"natural_gradient": False},
    {"target_kl": 0.02, "kl_constraint": "penalty"},
    OWN_CRITIC | {"n_reused_batches": 2},
    {"importance": "none", "target_kl": None},
    {"baseline": "none"},
]


@dataclass
class Counts:
    """What came of the cases tried."""

    found: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, where: str, what: str) -> None:
        """Note one."""
        self.faults.append(f"{where}: {what}"[:400])
        print(self.faults[-1], file=sys.__stdout__, flush=True)


def arguments_of(algorithm: Algorithm) -> list[str]:
    """All of the constructor's but SB3's private one."""
    return [name for name in inspect.signature(algorithm).parameters if not name.startswith("_")]


def cases(algorithm: Algorithm) -> Iterator[tuple[str, str, str]]:
    """Arguments of the constructor, entries of policy_kwargs, and arguments of ``learn()``, each with every value."""
    entries = list(inspect.signature(ActorCriticPolicy).parameters)[3:]
    learns = [name for name in inspect.signature(algorithm.learn).parameters if name != "self"]
    for kind, names in (("argument", arguments_of(algorithm)), ("entry", entries), ("learn", learns)):
        for name in names:
            for label in VALUES:
                if (name, label) != ("callback", "a module"):  # it does not tell how many things it takes
                    yield kind, name, label


def try_once(algorithm: Algorithm, kind: str, name: str, value: Any, context: dict[str, Any]) -> Exception | None:
    """Make a model with the value and learn with it; return what was raised."""
    given: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": "CartPole-v1",
        "n_steps": N_STEPS,
        "device": "cpu",
        "seed": 0,
    }
    given |= {"policy_kwargs": TINY} | EXTRAS.get(algorithm, {}) | context
    given = {key: one for key, one in given.items() if key in arguments_of(algorithm)}
    learn: dict[str, Any] = {"total_timesteps": N_STEPS * N_UPDATES}
    if kind == "argument":
        given[name] = value
    elif kind == "entry":
        given["policy_kwargs"] = TINY | {name: value}
    else:
        learn[name] = value
    try:
        model: PolicyGradientAlgorithm = algorithm(**given)
        if not (name in HUGE and HUGE[name](value)):
            model.learn(**learn)
    except Exception as error:
        return error
    finite = all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
    return None if finite else FloatingPointError("a parameter is not finite")


def contexts_for(algorithm: Algorithm) -> list[dict[str, Any]]:
    """Those whose arguments it has."""
    names = arguments_of(algorithm)
    return [context for context in CONTEXTS if all(key in names for key in context if key != "returns")]


def names_it(error: Exception, kind: str, name: str) -> bool:
    """Whether the error is one of ours that names the argument."""
    if name == "env":  # Gymnasium's own, for an id that it does not know
        return isinstance(error, (ValueError, gym.error.Error)) and "nvironment" in str(error)
    words = {"use_sde": (name, "State-Dependent")}.get(name, (name,)) if kind != "entry" else ("policy_kwargs",)
    return isinstance(error, (ValueError, TypeError)) and any(word in str(error) for word in words)


def says_not_finite(message: str) -> bool:
    """Whether a value was refused for what came of it."""
    return "is not finite" in message or "would not be finite" in message


def run_case(counts: Counts, algorithm: Algorithm, kind: str, name: str, label: str) -> None:
    """Try one value in the contexts, and judge."""
    value, where = VALUES[label], f"{algorithm.__name__} {kind} {name}={label}"
    sensible, refusals = is_sensible(algorithm, kind, name, value), list[str]()
    for context in contexts_for(algorithm) if sensible else contexts_for(algorithm)[:2]:
        error = try_once(algorithm, kind, name, value, context)
        if error is None and sensible:
            counts.found["accepted"] += 1
            return
        if error is None:
            counts.fault(where, "nonsense was accepted")
            return
        if not names_it(error, kind, name) and not (sensible and says_not_finite(str(error))):
            counts.fault(where, f"{type(error).__name__}: {error}")
            return
        refusals.append(str(error))
    is_huge = name in HUGE and HUGE[name](value)  # for which there may be no room
    if sensible and not is_huge and name not in LEARNS and not any(map(says_not_finite, refusals)):
        counts.fault(where, f"a sensible value was refused: {refusals[-1]}")
        return
    counts.found["refused"] += 1


def fuzz(n_cases: int | None = None, seed: int = 0, part: int = 0, n_parts: int = 1) -> Counts:
    """Try all cases, or so many of them, drawn at random, or of those one part."""
    counts = Counts()
    everything = [(algorithm, *case) for algorithm in ALGORITHMS for case in cases(algorithm)]
    chosen = everything if n_cases is None else random.Random(seed).sample(everything, n_cases)
    chosen = chosen[part::n_parts]
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)  # a name may be that of a folder for logs
        try:
            for case in chosen:
                counts.found["tried"] += 1
                said = io.StringIO()
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    run_case(counts, *case)
        finally:
            os.chdir(here)
    return counts


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=None, help="so many, drawn at random; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="the n-th of so many parts, to share the work")
    given = parser.parse_args()
    th.set_num_threads(1)
    counts = fuzz(given.cases, given.seed, *map(int, given.part.split("/")))
    print(f"{len(VALUES)} values an argument;", dict(counts.found), f"faults: {len(counts.faults)}")
    sys.exit(bool(counts.faults))


if __name__ == "__main__":
    main()
