"""Kill processes while they save a large model, and look at the file: ``python -m tests.robustness.killed_saves``.

After each kill the file must be whole, the one before or the one that was being written; what the killed process left
beside it must be gone after the next save. Then the same with a disk that is full. SB3's A2C beside it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch as th
from stable_baselines3 import A2C

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from tests.robustness.children import do, duration_of, end, has_spoken, limited, start

#: What may be found, and the two of these that may be.
OLD, NEW, TORN, GONE = "old", "new", "torn", "gone"


@dataclass(frozen=True)
class Saved:
    """Something large that is saved.

    :param fill: has every number in it be one
    :param save: writes it to a file
    :param read: the numbers that are in a file
    """

    name: str
    fill: Callable[[float], None]
    save: Callable[[Path], None]
    read: Callable[[Path], Mapping[str, th.Tensor]]


def fill(module: th.nn.Module, number: float) -> None:
    with th.no_grad():
        for parameter in module.parameters():
            parameter.fill_(number)


def everything(width: int) -> list[Saved]:
    """A model, a policy, past batches, and SB3's model."""
    kwargs: dict[str, Any] = {"policy_kwargs": {"net_arch": [width, width], "ortho_init": False}, "device": "cpu"}
    ours, theirs = (cls("MlpPolicy", "CartPole-v1", n_steps=16, **kwargs) for cls in (REINFORCE, A2C))
    policy = VanillaPG("MlpPolicy", "CartPole-v1", **kwargs).policy
    settings: dict[str, Any] = {"n_steps": 32, "incomplete_episodes": "truncate", "n_epochs": 1}
    reuse = OffPolicyISPG("MlpPolicy", "CartPole-v1", baseline="none", n_reused_batches=1, **settings, **kwargs)
    reuse.learn(32)
    (past,) = reuse.replay_buffer

    def read_model(path: Path) -> Mapping[str, th.Tensor]:
        ours.set_parameters(str(path))
        return ours.policy.state_dict()

    def read_policy(path: Path) -> Mapping[str, th.Tensor]:
        state: Mapping[str, th.Tensor] = th.load(path, weights_only=False)["state_dict"]
        return state

    def read_history(path: Path) -> Mapping[str, th.Tensor]:
        reuse.load_replay_buffer(path)
        (read,) = reuse.replay_buffer
        return read.policy.state_dict()

    def read_theirs(path: Path) -> Mapping[str, th.Tensor]:
        theirs.set_parameters(str(path))
        return theirs.policy.state_dict()

    def save_history(path: Path) -> None:
        reuse.replay_buffer = reuse.replay_buffer.of(1, [past], past.number + 1)
        reuse.save_replay_buffer(path)

    return [
        Saved("model.save", partial(fill, ours.policy), ours.save, read_model),
        Saved("policy.save", partial(fill, policy), lambda path: policy.save(str(path)), read_policy),
        Saved("save_replay_buffer", partial(fill, past.policy), save_history, read_history),
        Saved("A2C.save, SB3's", partial(fill, theirs.policy), theirs.save, read_theirs),
    ]


def found_in(path: Path, saved: Saved, numbers: Mapping[float, str]) -> str:
    """Whose file it is, or what is wrong with it."""
    if not path.exists():
        return GONE
    try:
        state = saved.read(path)
    except Exception:
        return TORN
    seen = {float(one) for tensor in state.values() for one in (tensor.min(), tensor.max())}
    return numbers.get(seen.pop(), TORN) if len(seen) == 1 else TORN


def kill(saved: Saved, path: Path, n_kills: int, chance: random.Random) -> Counter[str]:
    """What is found after each kill in the middle of a save, and how much is left in the end."""
    found: Counter[str] = Counter()
    before = 1.0
    saved.fill(before)
    duration = duration_of(partial(saved.save, path))
    while found.total() < n_kills:
        saved.fill(before + 1)
        child, reading = start(partial(saved.save, path))
        time.sleep(chance.uniform(0, duration))
        in_the_middle = not has_spoken(reading)
        end(child, reading)
        seen = found_in(path, saved, {before: OLD, before + 1: NEW})
        if in_the_middle:
            found[seen] += 1
        before += 1
        saved.fill(before)
        saved.save(path)  # whatever became of it
        leftovers = len(list(path.parent.iterdir())) - 1
        if leftovers:
            raise RuntimeError(f"{saved.name} left {leftovers} files after the next save")
    return found


def fill_disk(saved: Saved, path: Path, n_times: int, chance: random.Random) -> Counter[str]:
    """What is found after a save for which there was no room."""
    found: Counter[str] = Counter()
    saved.fill(1.0)
    saved.save(path)
    size = path.stat().st_size
    for _ in range(n_times):
        saved.fill(2.0)
        said = do(partial(limited, partial(saved.save, path), file_size=chance.randrange(size)))
        if not (isinstance(said, str) and "Error" in said):
            raise RuntimeError(f"{saved.name} said nothing of a full disk: {said}")
        found[found_in(path, saved, {1.0: OLD, 2.0: NEW})] += 1
        if [path] != list(path.parent.iterdir()):
            found["left over"] += 1
        saved.fill(1.0)
        saved.save(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; 1 if anything of ours was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    parser.add_argument("--full", type=int, default=20, help="full disks of each kind")
    parser.add_argument("--width", type=int, default=2500, help="of two layers: 2500 are 25 MB of parameters")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    th.set_num_threads(1)  # other threads would not be in a child
    chance, is_whole = random.Random(given.seed), True
    for saved in everything(given.width):
        for what, happen, times in (("killed", kill, given.kills), ("full disk", fill_disk, given.full)):
            with TemporaryDirectory() as folder:
                found = happen(saved, Path(folder, "saved.zip"), times, chance)
            counts = ", ".join(f"{name} {found[name]}" for name in (OLD, NEW, TORN, GONE, "left over"))
            print(f"{saved.name:20} {what:10} {times:4} times: {counts}", flush=True)
            if "SB3" not in saved.name:
                is_whole &= found[OLD] + found[NEW] == times and not found["left over"]
    print("Every file of ours was whole." if is_whole else "Files were lost.")
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
