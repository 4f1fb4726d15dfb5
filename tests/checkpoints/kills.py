"""SIGKILL at random moments of runs of all kinds: ``python -m tests.checkpoints.kills --kills 100``.

A run that was killed is resumed by the lines that began it, and killed again, until it comes to its end. Then all that
it leaves must be, to the bit, what the run leaves that nobody killed: parameters, optimizers, logs, evaluations. Beside
it SB3's A2C, with a CheckpointCallback and ``load``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from tests.checkpoints.runs import EVERY, KINDS, STEPS, Interrupt, Kind, learn, outcome

FOUND = "outcome.json"


def in_child(work: Callable[[], object], kill_after: float | None = None) -> float | None:
    """Do something in a child of this process, in a process group of its own.

    :param kill_after: seconds after which all of its processes are killed
    :return: the seconds that it took; None if it was killed
    :raises RuntimeError: if it failed
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            th.set_num_threads(1)
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    with suppress(OSError):  # whoever of the two is first
        os.setpgid(child, child)
    end = None if kill_after is None else begin + kill_after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status != 0:
                raise RuntimeError(f"a run failed with status {status}")
            return time.monotonic() - begin
        if end is not None and time.monotonic() >= end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def write_outcome(kind: Kind, folder: Path, resumable: bool) -> None:
    """Do the run, or go on with it, and write what it leaves."""
    (folder / FOUND).write_text(json.dumps(outcome(learn(kind, folder, resumable), folder)))


def differences(one: Path, other: Path) -> list[str]:
    """The parts that differ of what two runs leave."""
    first, second = (json.loads((folder / FOUND).read_text()) for folder in (one, other))
    return [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]


def kill_through(kind: Kind, root: Path, rng: random.Random, kills: int) -> tuple[int, list[str]]:
    """Kill a run as often as asked for, or until it has come to its end.

    :return: the number of kills, and what differs
    """
    whole, killed, n_kills = root / "whole", root / "killed", 0
    whole.mkdir(parents=True)
    took = in_child(lambda: write_outcome(kind, whole, False))
    assert took is not None
    killed.mkdir()
    while (
        in_child(lambda: write_outcome(kind, killed, True), rng.uniform(0, took) if n_kills < kills else None) is None
    ):
        n_kills += 1
    return n_kills, differences(whole, killed)


def a2c(folder: Path, saved: bool, kill_at: int | None = None) -> None:
    """SB3's A2C, from its newest checkpoint on if there is one."""
    env = make_vec_env("CartPole-v1", 8, seed=3)
    found = sorted(folder.glob("*_steps.zip"), key=os.path.getmtime)
    model = A2C.load(found[-1], env) if found else A2C("MlpPolicy", env, seed=1, device="cpu")
    callbacks: list[BaseCallback] = [CheckpointCallback(EVERY // 8, str(folder))] if saved else []
    if kill_at is not None:
        callbacks.append(Interrupt(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    model.learn(STEPS - model.num_timesteps, callback=callbacks, reset_num_timesteps=not found)
    total = sum(one.double().sum().item() for one in model.policy.parameters())
    (folder / FOUND).write_text(json.dumps({"policy": repr(total)}))


def a2c_killed_once(root: Path, rng: random.Random) -> bool:
    """Whether A2C ends as if it had not been killed, after a kill between its first checkpoint and its end."""
    whole, killed = root / "whole", root / "killed"
    whole.mkdir(parents=True)
    killed.mkdir()
    in_child(lambda: a2c(whole, False))
    try:
        in_child(lambda: a2c(killed, True, rng.randint(EVERY // 8 + 1, STEPS // 8)))
    except RuntimeError:  # killed
        in_child(lambda: a2c(killed, True))
    return not differences(whole, killed)


def main(argv: Sequence[str] | None = None) -> int:
    """Kill until the number is reached, one kind of run after the other; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--a2c", type=int, default=10, help="how often SB3's A2C is killed")
    arguments = parser.parse_args(argv)
    rng, n_kills, n_runs, wrong = random.Random(arguments.seed), 0, 0, 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        while n_kills < arguments.kills:
            name = list(KINDS)[n_runs % len(KINDS)]
            kills, different = kill_through(
                KINDS[name], Path(temporary, str(n_runs)), rng, min(5, arguments.kills - n_kills)
            )
            shutil.rmtree(Path(temporary, str(n_runs)), ignore_errors=True)  # who was killed may still be dying
            n_kills, n_runs, wrong = n_kills + kills, n_runs + 1, wrong + bool(different)
            said = f"differs in {', '.join(different)}" if different else "equals the run that nobody killed"
            print(f"{name}: {kills} kills, {said}", flush=True)
        print(f"{n_kills} kills of {n_runs} runs: {n_runs - wrong} of {n_runs} runs end as if nobody had killed them")
        theirs = [a2c_killed_once(Path(temporary, f"a2c {idx}"), rng) for idx in range(arguments.a2c)]
        if theirs:
            print(f"SB3's A2C with CheckpointCallback and load: {sum(theirs)} of {len(theirs)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
