"""What a run says of itself, in one place or another: which algorithm, environment, seed, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_pg.compare.reading.files import Remarks

#: Names of algorithms in small letters and without signs -> Zoo id.
ALGORITHMS = {
    name.replace("_", ""): name
    for name in "a2c ars crossq ddpg dqn maskableppo ppo ppo_lstm qrdqn sac td3 tqc trpo".split()
} | {"offpolicyispg": "offpolicyispg", "reinforce": "reinforce", "vanillapg": "vanillapg", "recurrentppo": "ppo_lstm"}
ENV_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*?-v\d+)(?![A-Za-z0-9])")
SEED = re.compile(r"(?:^|(?<=[_\W]))(?:seed|s)[_=-]?(?P<seed>\d+)(?![A-Za-z0-9])", re.IGNORECASE)
#: Words of a folder's name that tell nobody which contender a run belongs to.
EMPTY_WORDS = re.compile(
    r"(?:^|(?<=[_\W]))(runs?|trials?|exps?|experiments?|reps?|logs?|train|eval|results?|tb|tensorboard)\d*(?![A-Za-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Description:
    """What one place says of a run; None where it does not.

    :param started: seconds since 1970 between which its training began
    :param settings: and all that follows, as in :class:`~sb3_pg.compare.records.Record`
    """

    algorithm: str | None = None
    env_id: str | None = None
    seed: int | None = None
    budget: int | None = None
    deterministic: bool | None = None
    started: tuple[float, float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    remarks: Remarks = ()


def merged(descriptions: Sequence[Description]) -> Description:
    """Of each thing what the first says that says it."""

    def first(name: str) -> Any:
        return next((value for each in descriptions if (value := getattr(each, name)) not in (None, "", {})), None)

    facts = {key: value for each in reversed(descriptions) for key, value in each.facts.items() if value is not None}
    return Description(
        **{name: first(name) for name in ("algorithm", "env_id", "seed", "budget", "deterministic", "started")},
        settings=first("settings") or {},
        facts=facts,
        error=first("error") or "",
        remarks=tuple(remark for each in descriptions for remark in each.remarks),
    )


def from_names(folder: Path, given: Path, env_id: str | None = None) -> Description:
    """What the names of a run's folder and of those above it say, the nearest first: ``ppo/CartPole-v1/seed_3``.

    The contender is called by all that is no environment, seed or number below the folder that the user asked for, so
    that ``ppo/small/seed_1`` and ``ppo/large/seed_1`` are two; above it, only as far as an algorithm's name.

    :param folder: of the run
    :param given: the one that the user asked for
    :param env_id: if it is known from elsewhere
    """
    n_below = len(folder.parts) - len(given.parts)
    names = folder.parts[: max(len(given.parts) - 4, 0) : -1]
    if env_id is None:
        env_id = next(filter(None, map(_env_id, names)), None)
    seed = next((int(found["seed"]) for name in names if (found := SEED.search(name))), None)
    rests = [_contender(name, env_id) for name in names]
    known = next((index for index, rest in enumerate(rests) if _algorithm(rest)), None)
    pieces = [rest for rest in rests[: n_below if known is None else max(known + 1, n_below)] if rest]
    pieces = pieces or [next((rest for rest in rests if rest), folder.name)]
    return Description("/".join(_algorithm(piece, whole=True) or piece for piece in reversed(pieces)), env_id, seed)


def _env_id(name: str) -> str | None:
    """The environment's id in a name like ``ppo-CartPole-v1_3``; Gymnasium's own ids have no underscore."""
    found = ENV_ID.search(name)
    if found is None:
        return None
    words = found["id"].rpartition("_")[2].split("-")
    while len(words) > 2 and _algorithm(words[0]):
        words = words[1:]
    return "-".join(words)


def _contender(name: str, env_id: str | None) -> str:
    """A name without what is the same for every contender, or another for every run of one."""
    if env_id is not None:
        stem = re.escape(env_id.replace("/", "-").rpartition("-v")[0])
        name = (
            re.sub(rf"(?:^|(?<=[_\W])){stem}(-v\d+)?(?![A-Za-z0-9])", "", name, flags=re.IGNORECASE) if stem else name
        )
    for pattern in (SEED, EMPTY_WORDS):
        name = pattern.sub("", name)
    name = re.sub(r"([_\W])[_\W]+", r"\1", name).strip("_-. =")
    # PPO_1, 3: but with n_steps_64 it would be a variant that loses its number
    before = re.sub(r"[_.-]?\d+$", "", name)
    return before if not before or _algorithm(before, whole=True) else name


def _algorithm(name: str, whole: bool = False) -> str | None:
    """The Zoo id of the one algorithm that a name has in it, or is."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    lengths = [len(words)] if whole else range(3, 0, -1)
    joined = (["".join(words[i : i + n]) for i in range(len(words) - n + 1)] for n in lengths)
    found = next(
        (names for some in joined if (names := {ALGORITHMS[word] for word in some if word in ALGORITHMS})), set()
    )
    return found.pop() if len(found) == 1 else None
