"""What of a run can be set beside that of another: settings, hyperparameters, versions, machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sb3_pg.compare.records import Record

NOT_SAID = "not said"
#: Of an algorithm that has no such hyperparameter.
HAS_NONE = "-"
#: Settings that are told under names of their own, or change no training.
NO_HYPERPARAMETERS = {"n_envs", "n_timesteps", "normalize", "policy", "stats_window_size"}


class _Unsaid:
    """What nobody knows; None is a value like any other."""


def traits(records: Sequence[Record]) -> Iterator[tuple[str, str, Callable[[Record], Any]]]:
    """Whatever can be compared: its name, its kind, and how to get it of a run."""
    yield "training steps", "setting", lambda run: _Unsaid if run.budget is None else run.budget
    yield "environments", "setting", partial(_fact, name="n_envs")
    yield "normalization", "setting", partial(_fact, name="normalization")
    yield "network", "setting", _network
    yield "scores", "setting", _scores
    yield "evaluated every", "setting", _eval_every
    yield "episodes of an evaluation", "setting", _eval_episodes
    yield "evaluation by", "setting", _policy_of_evaluation
    for name in _names(map(_hyperparameters, records)):
        yield name, "hyperparameter", partial(_hyperparameter, name=name)
    for kind, fact in (("version", "versions"), ("machine", "machine")):
        for name in _names(_parts(record, fact) for record in records):
            yield name, kind, partial(_part, fact=fact, name=name)
    for name in ("device", "commit", "command"):
        yield name, "origin", partial(_fact, name=name)


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for mapping in mappings for name in mapping})


def _fact(run: Record, name: str) -> Any:
    return run.facts.get(name, _Unsaid)


def _parts(run: Record, fact: str) -> Mapping[str, Any]:
    parts = run.facts.get(fact)
    return parts if isinstance(parts, Mapping) else {}


def _part(run: Record, fact: str, name: str) -> Any:
    return _parts(run, fact).get(name, _Unsaid)


def _hyperparameters(run: Record) -> dict[str, Any]:
    """Its settings, and the defaults of those that it leaves out, where they are known."""
    every = {**_parts(run, "defaults"), **run.settings}
    return {name: value for name, value in every.items() if name not in NO_HYPERPARAMETERS}


def _hyperparameter(run: Record, name: str) -> Any:
    # With the defaults all are known that there are
    return _hyperparameters(run).get(name, HAS_NONE if _parts(run, "defaults") else _Unsaid)


def _network(run: Record) -> Any:
    """The layers of the policy: modules, outputs and inputs."""
    network = _parts(run, "network")
    if not isinstance(network.get("layers"), Mapping):
        return _Unsaid
    layers = (f"{name} {'x'.join(map(str, shape))}" for name, shape in network["layers"].items())
    return f"{network.get('parameters', '?')} parameters: {', '.join(layers)}"


def _scores(run: Record) -> Any:
    """What there are scores of."""
    if run.evaluations is not None:
        return "means of evaluations" if run.evaluations.are_means else "evaluations"
    return _Unsaid if run.episodes is None else "training episodes"


def _eval_every(run: Record) -> Any:
    """Steps between two evaluations, as asked for or else as they were made."""
    if "eval_every" in run.facts:
        return run.facts["eval_every"]
    if run.evaluations is None or len(run.evaluations.steps) < 2:
        return _Unsaid
    return float(np.median(np.diff(run.evaluations.steps)))


def _eval_episodes(run: Record) -> Any:
    if run.evaluations is None or run.evaluations.are_means:
        return run.facts.get("n_eval_episodes", _Unsaid)
    return run.evaluations.returns.shape[1]


def _policy_of_evaluation(run: Record) -> Any:
    if run.evaluations is None or run.evaluations.deterministic is None:
        return _Unsaid
    return "its mode" if run.evaluations.deterministic else "sampled actions"


def as_text(value: Any) -> str:
    """A value so that equal ones have the same text, wherever they were read: 100000.0 is 100000, {} is None."""
    if value is _Unsaid or value == "":
        return NOT_SAID
    if value is None or (isinstance(value, (Mapping, list, tuple)) and not value):
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        return f"{float(value):.12g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_text(item)}" for key, item in sorted(value.items(), key=lambda pair: str(pair[0])))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_text, value))}]"
    return " ".join(str(value).split())
