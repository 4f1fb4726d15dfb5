"""Load models and past batches from damaged files, as plain data: ``python -m tests.robustness.damaged_files``.

Bytes are flipped, files cut short, pieces overwritten, moved or filled with zeros: each file must be refused by an
error that names it, or hold what it held. Then the same inside of archives whose check sums are right, as a stranger
would write them: these may hold something else, but no other error may come of them, no crash, no load without an end.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import OffPolicyISPG
from tests.helpers.environments import RandomEnv
from tests.helpers.models import OWN_CRITIC, make
from tests.robustness.children import do, limited

REFUSED, SAME, OTHER = "refused", "the same", "something else"
#: Bytes and seconds of one load.
MEMORY, SECONDS = 2 * 2**30, 60.0

Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Some bits are others."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 10, 100))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(content: bytes, chance: random.Random) -> bytes:
    """The end is missing, or the beginning."""
    where = chance.randrange(len(content))
    return content[:where] if chance.random() < 0.8 else content[where:]


def zeroed(content: bytes, chance: random.Random) -> bytes:
    """A piece is zeros, as after a crash of the machine."""
    first = chance.randrange(len(content))
    length = min(len(content) - first, chance.choice((1, 16, 512, 4096)))
    return content[:first] + bytes(length) + content[first + length :]


def moved(content: bytes, chance: random.Random) -> bytes:
    """A piece is where another one was."""
    first, second = (chance.randrange(len(content)) for _ in range(2))
    piece = content[first : first + chance.choice((1, 16, 512))]
    return content[:second] + piece + content[second + len(piece) :]


def longer(content: bytes, chance: random.Random) -> bytes:
    """There is something more in it."""
    where = chance.randrange(len(content))
    return content[:where] + chance.randbytes(chance.choice((1, 16, 512))) + content[where:]


DAMAGES: tuple[Damage, ...] = (flipped, flipped, cut, zeroed, moved, longer)


def sealed(content: bytes, chance: random.Random) -> bytes:
    """An archive of which an entry is damaged, and then sealed with the right check sum."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(memory, "w") as new:
        worth = [entry for entry in old.namelist() if old.getinfo(entry).file_size > 1]
        chosen = chance.choice([entry for entry in worth if entry.endswith(("data", ".pth", ".pkl"))])
        for entry in old.namelist():
            inside = old.read(entry)
            if entry == chosen:
                inside = sealed(inside, chance) if entry.endswith(".pth") else chance.choice(DAMAGES)(inside, chance)
            new.writestr(entry, inside)
    return memory.getvalue()


@dataclass(frozen=True)
class Loaded:
    """Something that is loaded.

    :param content: of a file that is whole
    :param load: says what is in a file
    """

    name: str
    content: bytes
    load: Callable[[Path], str]


def everything() -> list[Loaded]:
    """A model, and its past batches."""
    env = DummyVecEnv([lambda: RandomEnv(spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 2, (3,), np.float32), 10, 0.25)])
    settings: dict[str, Any] = OWN_CRITIC | {"n_reused_batches": 2, "incomplete_episodes": "truncate"}
    model = make(OffPolicyISPG, env, **settings)
    assert isinstance(model, OffPolicyISPG)
    model.learn(64)
    of_model, of_history = io.BytesIO(), io.BytesIO()
    model.save(of_model)
    model.save_replay_buffer(of_history)

    def load_model(path: Path) -> str:
        loaded = OffPolicyISPG.load(path, device="cpu", trust=False)
        said = {name: repr(value).partition(" at 0x")[0] for name, value in vars(loaded).items() if name != "policy"}
        return f"{said} {said_of(loaded.get_parameters())}"

    def load_history(path: Path) -> str:
        model.load_replay_buffer(path)
        batches = [said_of(vars(one.batch) | vars(one.credit) | one.log_probs) for one in model.replay_buffer]
        return f"{batches} {[said_of(one.policy.state_dict()) for one in model.replay_buffer]}"

    return [Loaded("model", of_model.getvalue(), load_model), Loaded("history", of_history.getvalue(), load_history)]


def said_of(nest: Any) -> str:
    """All numbers of a nest of tensors."""
    if isinstance(nest, th.Tensor):
        return f"{nest.dtype} {nest.tolist()}"
    if isinstance(nest, dict):
        return str({name: said_of(value) for name, value in nest.items()})
    return str([said_of(one) for one in nest]) if isinstance(nest, list) else str(nest)


def outcome(loaded: Loaded, path: Path, whole: str) -> str:
    """What comes of loading a file, in a process that may do what it wants."""
    try:
        return SAME if loaded.load(path) == whole else OTHER
    except ValueError as error:
        return REFUSED if str(error).startswith(str(path)) else f"an error without a name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def damage(loaded: Loaded, damages: tuple[Damage, ...], n_files: int, folder: Path, seed: int) -> Counter[str]:
    """What comes of a number of files; of each what its number and the seed make of it."""
    path, found = folder / f"{loaded.name}.bin", Counter[str]()
    path.write_bytes(loaded.content)
    whole = loaded.load(path)
    for number in range(n_files):
        chance = random.Random(f"{seed} {number}")
        path.write_bytes(chance.choice(damages)(loaded.content, chance))
        said = do(partial(limited, partial(outcome, loaded, path, whole), memory=MEMORY), SECONDS)
        found[str(said) if said is not None else f"a crash, or no end, of file {number}"] += 1
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print what came of them; 1 if anything did that may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    th.set_num_threads(1)  # other threads would not be in a child
    warnings.simplefilter("ignore")  # PyTorch has much to say of such files
    is_fine = True
    for loaded in everything():
        kinds: tuple[tuple[str, tuple[Damage, ...], set[str]], ...] = (
            ("damaged", DAMAGES, {REFUSED, SAME}),
            ("sealed", (sealed,), {REFUSED, SAME, OTHER}),
        )
        for kind, damages, allowed in kinds:
            with TemporaryDirectory() as folder:
                found = damage(loaded, damages, given.files, Path(folder), given.seed)
            counts = ", ".join(f"{found[what]} {what}" for what in (REFUSED, SAME, OTHER))
            print(f"{loaded.name:8} {kind:8} {given.files:4} files: {counts}", flush=True)
            for what in sorted(found.keys() - allowed):
                print(f"  {found[what]} x {what}")
            is_fine &= found.keys() <= allowed
    print("Nothing else came of any." if is_fine else "Something came of them that may not.")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
