"""What callbacks remember of a run, beside what their constructors were given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback

from sb3_pg.checkpoints.pickling import look_of
from sb3_pg.checkpoints.resume_callback import ResumeCallback

#: What belongs to the call of ``learn()``.
OF_THE_CALL = frozenset({"model", "parent", "locals", "globals"})

#: What every callback counts.
COUNTERS = frozenset({"n_calls", "num_timesteps"})
#: Those that have nothing to remember of a run.
WITHOUT_MEMORY = (ProgressBarCallback, ResumeCallback)

Looks = Mapping[str, Mapping[str, bytes | None]]


def callbacks(root: BaseCallback) -> dict[str, BaseCallback]:
    """The callbacks that one holds, and itself: the name of its class and which of them it is -> callback."""
    found: list[BaseCallback] = []

    def visit(one: BaseCallback) -> None:
        if any(one is other for other in found):
            return
        found.append(one)
        for attribute, value in vars(one).items():
            if attribute != "parent":
                for part in _callbacks_in(value):
                    visit(part)

    visit(root)
    numbers: Counter[str] = Counter()
    names = {}
    for one in found:
        kind = type(one).__name__
        numbers[kind] += 1
        names[f"{kind} {numbers[kind]}"] = one
    return names


def looks(found: Mapping[str, BaseCallback], present: Mapping[str, object]) -> Looks:
    """What the attributes look like, to tell later which have changed."""
    return {
        name: {attribute: look_of(value, present) for attribute, value in _attributes(one).items()}
        for name, one in found.items()
    }


def changed(
    found: Mapping[str, BaseCallback], before: Looks, present: Mapping[str, object]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What has changed since: name -> attributes; and the names of those that cannot be kept."""
    states: dict[str, dict[str, Any]] = {}
    lost = []
    for name, one in found.items():
        states[name] = {}
        for attribute, value in _attributes(one).items():
            look = look_of(value, present)
            if look is None:
                lost.append(f"{type(one).__name__}.{attribute}")
            elif look != before.get(name, {}).get(attribute):
                states[name][attribute] = value
    return states, lost


def put_back(found: Mapping[str, BaseCallback], states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Have callbacks remember what those of the other process did.

    :return: those of which there is none now, and that had more to remember than SB3's counters
    """
    for name in states.keys() & found.keys():
        vars(found[name]).update(states[name])
    return [name for name, attributes in states.items() if attributes.keys() - COUNTERS and name not in found]


def _attributes(one: BaseCallback) -> dict[str, Any]:
    """What may be part of its memory."""
    if isinstance(one, WITHOUT_MEMORY):
        return {}
    return {
        name: value for name, value in vars(one).items() if name not in OF_THE_CALL and not list(_callbacks_in(value))
    }


def _callbacks_in(value: object) -> Iterator[BaseCallback]:
    parts = value if isinstance(value, (list, tuple)) else [value]
    yield from (one for one in parts if isinstance(one, BaseCallback))
