"""What was equal between the runs of a comparison, and what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.compare.records import Record
from sb3_pg.compare.traits import HAS_NONE, NOT_SAID, as_text, traits

#: Below this many seeds a comparison says little (Henderson et al. 2018, "Deep Reinforcement Learning that Matters",
#: where two groups of five runs of one and the same algorithm differ significantly).
FEW_SEEDS = 5


@dataclass(frozen=True)
class Row:
    """One thing, and what it was for each contender.

    :param kind: ``"setting"``, ``"hyperparameter"``, ``"version"``, ``"machine"`` or ``"origin"``
    :param values: contender -> text; several values, if its runs differ, with their seeds
    :param is_mixed: whether the runs of one contender are known to differ
    """

    name: str
    kind: str
    values: dict[str, str]
    is_mixed: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether all say the same, be it nothing."""
        return not self.is_mixed and len(set(self.values.values())) == 1

    @property
    def is_known_to_differ(self) -> bool:
        """Whether two say different things, and not one of them nothing."""
        return self.is_mixed or len(set(self.values.values()) - {NOT_SAID}) > 1


@dataclass(frozen=True)
class Excess:
    """Steps that runs trained beyond their budget, since they end with a whole rollout.

    :param least: of any run
    :param most: of any run
    :param share: the most, as a share of that run's budget
    """

    least: int
    most: int
    share: float


@dataclass(frozen=True)
class EnvironmentAudit:
    """One environment.

    :param seeds: contender -> seeds of its runs, ascending, then None for each that doesn't say its own
    :param common_seeds: those that every contender has
    :param missing: contender -> seeds that others have
    :param excess: contender -> steps beyond the budget, of the runs that came to their end
    :param differs: what was not equal
    :param equal: what was
    :param unclear: what may have been, since it is not known of all
    """

    env_id: str
    seeds: dict[str, tuple[int | None, ...]]
    common_seeds: tuple[int, ...]
    missing: dict[str, tuple[int, ...]]
    excess: dict[str, Excess]
    differs: tuple[Row, ...]
    equal: tuple[Row, ...]
    unclear: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them."""
        return (*self.differs, *self.equal, *self.unclear)


@dataclass(frozen=True)
class Trouble:
    """A run that needs a look.

    :param what: the last line of its traceback, or what is wrong with it
    """

    algorithm: str
    env_id: str
    seed: int | None
    folder: Path
    what: str


@dataclass(frozen=True)
class Audit:
    """What was equal and what was not.

    :param missing: pairs of a contender and an environment without any run
    :param failed: runs that ended with an exception
    :param not_finite: runs with returns that are no numbers
    :param cut_short: runs that ended before their budget of steps
    :param remarks: what could not be read
    :param warnings: what a reader should know before the results, a line each
    """

    environments: tuple[EnvironmentAudit, ...]
    missing: tuple[tuple[str, str], ...]
    failed: tuple[Trouble, ...]
    not_finite: tuple[Trouble, ...]
    cut_short: tuple[Trouble, ...]
    remarks: tuple[Trouble, ...]
    warnings: tuple[str, ...] = ()


def audit(records: Sequence[Record]) -> Audit:
    """Compare how runs were made; of their scores only whether there are any, and whether they are numbers.

    :param records: all runs of a comparison
    """
    contenders = list(dict.fromkeys(record.algorithm for record in records))
    environments = tuple(_environment(env_id, some) for env_id, some in _grouped(records, "env_id").items())
    missing = tuple((name, env.env_id) for env in environments for name in contenders if name not in env.seeds)
    found = Audit(
        environments,
        missing,
        failed=tuple(_trouble(run, last_line(run.error)) for run in records if run.error),
        not_finite=tuple(_trouble(run, _how_many(run)) for run in records if not run.is_finite),
        cut_short=tuple(_trouble(run, f"{run.reached} of {run.budget} steps") for run in records if _is_cut_short(run)),
        remarks=tuple(_trouble(run, remark) for run in records for remark in run.remarks),
    )
    return replace(found, warnings=tuple(_warnings(found, records)))


def last_line(traceback: str) -> str:
    """The line of a traceback that says what went wrong."""
    return next((line.strip() for line in reversed(traceback.splitlines()) if line.strip()), "")


def _grouped(records: Iterable[Record], by: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(getattr(record, by), []).append(record)
    return groups


# --- one environment -------------------------------------------------------------------------------------------------


def _environment(env_id: str, records: Sequence[Record]) -> EnvironmentAudit:
    groups = _grouped(records, "algorithm")
    seeds = {name: _seeds(runs) for name, runs in groups.items()}
    known = [{seed for seed in some if seed is not None} for some in seeds.values()]
    everybody = set().union(*known)
    missing = {name: tuple(sorted(everybody - set(some))) for name, some in seeds.items() if None not in some}
    rows = tuple(_row(name, kind, of, groups) for name, kind, of in traits(records))
    return EnvironmentAudit(
        env_id,
        seeds,
        tuple(sorted(set.intersection(*known))),
        {name: some for name, some in missing.items() if some},
        {name: excess for name, runs in groups.items() if (excess := _excess(runs)) is not None},
        differs=tuple(row for row in rows if row.is_known_to_differ),
        equal=tuple(row for row in rows if row.is_equal),
        unclear=tuple(row for row in rows if not (row.is_known_to_differ or row.is_equal)),
    )


def _seeds(runs: Sequence[Record]) -> tuple[int | None, ...]:
    known = sorted(run.seed for run in runs if run.seed is not None)
    return (*known, *[None] * (len(runs) - len(known)))


def _excess(runs: Sequence[Record]) -> Excess | None:
    """None if no run is known to have come to its end."""
    known = [(run.reached - run.budget, run.budget) for run in runs if run.reached and run.budget and not run.error]
    beyond = [(steps, steps / budget) for steps, budget in known if steps >= 0]
    return Excess(min(beyond)[0], *max(beyond)) if beyond else None


def _row(name: str, kind: str, of: Callable[[Record], Any], groups: Mapping[str, Sequence[Record]]) -> Row:
    values, is_mixed = {}, False
    for contender, runs in groups.items():
        by_text: dict[str, list[Record]] = {}
        for run in runs:
            by_text.setdefault(as_text(of(run)), []).append(run)
        is_mixed |= len(by_text.keys() - {NOT_SAID}) > 1
        told = [text if len(by_text) == 1 else f"{text} ({_which(some)})" for text, some in by_text.items()]
        values[contender] = "; ".join(told)
    return Row(name, kind, values, is_mixed)


def _which(records: Sequence[Record]) -> str:
    seeds = sorted(record.seed for record in records if record.seed is not None)
    if len(seeds) < len(records):
        return _runs(len(records))
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


# --- runs that need a look -------------------------------------------------------------------------------------------


def _trouble(record: Record, what: str) -> Trouble:
    return Trouble(record.algorithm, record.env_id, record.seed, record.folder, what)


def _how_many(record: Record) -> str:
    """Which of its numbers are none, in words."""
    parts = (("evaluation", record.evaluations), ("training", record.episodes))
    counts = [(what, part.returns.size, int((~np.isfinite(part.returns)).sum())) for what, part in parts if part]
    return ", ".join(f"{n_bad} of {n} {what} episodes have no finite return" for what, n, n_bad in counts if n_bad)


def _is_cut_short(record: Record) -> bool:
    """Whether its traces end before its budget: further than they usually lie apart."""
    if record.error or record.budget is None or record.reached is None:
        return False
    logged = record.progress.get("time/total_timesteps", np.empty(0))
    traces = [part.steps for part in (record.evaluations, record.episodes) if part is not None]
    traces.append(logged[np.isfinite(logged)])
    widest = max(float(np.diff(steps, prepend=0).max()) for steps in traces if len(steps))
    return record.reached + widest < record.budget


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"


def _who(troubles: Sequence[Trouble], with_what: bool = False) -> str:
    names = [f"{run.algorithm} on {run.env_id}" + ("" if run.seed is None else f" seed {run.seed}") for run in troubles]
    whats = [f" ({run.what})" if with_what else "" for run in troubles]
    return ", ".join(map("".join, zip(names, whats, strict=True)))


# --- in words --------------------------------------------------------------------------------------------------------

#: A run that goes on for longer than this share of its budget is worth a warning.
MUCH = 0.05
#: From so many pairs of an algorithm and an environment on, they are counted and not named.
MANY = 6
#: Row -> how a difference in it is told: of all, and of one.
SENTENCES = {
    "training steps": ("mixed budgets", "{} steps"),
    "environments": ("not as many environments", "{} at once"),
    "normalization": ("not the same normalization", "{}"),
    "network": ("not the same network", "{}"),
    "scores": ("not scored on the same", "{}"),
    "evaluated every": ("not evaluated equally often", "every {} steps"),
    "episodes of an evaluation": ("not evaluated on as many episodes", "{} episodes"),
    "evaluation by": ("not evaluated the same way", "{}"),
    "commit": ("not the same commit", "{}"),
    "cpu": ("not the same processor, so seconds do not compare", "{}"),
    "cores": ("not as many processor cores, so seconds do not compare", "{} cores"),
    "device": ("not the same device, so seconds do not compare", "{}"),
}


def _warnings(found: Audit, records: Sequence[Record]) -> Iterator[str]:
    if found.failed:
        yield f"{_runs(len(found.failed))} failed: {_who(found.failed)}"
    if found.not_finite:
        yield f"{_runs(len(found.not_finite))} with returns that are no numbers: {_who(found.not_finite)}"
    if found.cut_short:
        yield f"{_runs(len(found.cut_short))} ended before the budget: {_who(found.cut_short, with_what=True)}"
    if found.missing:
        yield f"without any run: {', '.join(f'{name} on {env_id}' for name, env_id in found.missing)}"
    silent = [_trouble(run, "") for run in records if not (_has_scores(run) or run.error)]
    if silent:
        yield f"{_runs(len(silent))} without scores: {_who(silent)}"
    counts = Counter((run.algorithm, run.env_id) for run in records if _has_scores(run) and not run.error)
    pairs = dict.fromkeys((run.algorithm, run.env_id) for run in records)
    few = [f"{name} on {env_id} ({counts[name, env_id]})" for name, env_id in pairs if counts[name, env_id] < FEW_SEEDS]
    if few:
        n_seeds = sorted({counts[pair] for pair in pairs if counts[pair] < FEW_SEEDS})
        each = " to ".join(map(str, dict.fromkeys([n_seeds[0], n_seeds[-1]])))
        many = f"{len(few)} of {len(pairs)} pairs of an algorithm and an environment have {each}"
        yield f"fewer than {FEW_SEEDS} seeds: {', '.join(few) if len(few) < MANY else many}"
    yield from _warnings_of_excess(found.environments)
    yield from _warnings_of_seeds(found.environments)
    yield from _warnings_of_rows(found.environments)


def _has_scores(run: Record) -> bool:
    return run.evaluations is not None or run.episodes is not None


def _warnings_of_seeds(environments: Sequence[EnvironmentAudit]) -> Iterator[str]:
    for env in environments:
        lack = [f"{name} lacks {', '.join(map(str, some))}" for name, some in env.missing.items()]
        if lack:
            yield f"not the same seeds on {env.env_id}: {'; '.join(lack)}"
        unknown = [name for name, seeds in env.seeds.items() if None in seeds]
        if unknown:
            yield f"seeds are not known on {env.env_id}: {', '.join(unknown)}"


def _warnings_of_excess(environments: Sequence[EnvironmentAudit]) -> Iterator[str]:
    much = [
        f"{name} on {env.env_id} by {excess.share:.0%}"
        for env in environments
        for name, excess in env.excess.items()
        if excess.share > MUCH
    ]
    if much:
        yield f"trained beyond the budget: {', '.join(much)}"


def _warnings_of_rows(environments: Sequence[EnvironmentAudit]) -> Iterator[str]:
    """Differences that nobody asks an algorithm for; one that is the same in all environments is told once.

    What is different in several ways is told of the first: the tables have all of it.
    """
    where: dict[str, dict[str, list[str]]] = {}
    for env in environments:
        told = [(what, _contrast(row, form)) for row in env.differs for what, form in [_warned_of(row)] if what]
        rows = [row for row in env.rows if row.kind == "hyperparameter" or row.name == "environments"]
        unsaid = [name for name in env.seeds if all(row.values[name] == NOT_SAID for row in rows)]
        if unsaid:
            told.append((f"nothing is known of the settings of {', '.join(unsaid)}", ""))
        for what, contrast in told:
            where.setdefault(what, {}).setdefault(contrast, []).append(env.env_id)
    for what, contrasts in where.items():
        (contrast, env_ids), *others = contrasts.items()
        text = f"{what}: {contrast}" if contrast else what
        text = text if len(env_ids) == len(environments) > 1 else f"{text} ({', '.join(env_ids)})"
        elsewhere = [env_id for _, some in others for env_id in some]
        yield f"{text}, and in other ways on {', '.join(elsewhere)}" if elsewhere else text


def _warned_of(row: Row) -> tuple[str, str]:
    """How a difference is told: of all, and of one; empty if it is none that a reader has to be warned of."""
    if row.kind == "hyperparameter":
        return (f"not the same {row.name} in all runs of one contender", "{}") if row.is_mixed else ("", "")
    return (f"not the same version of {row.name}", "{}") if row.kind == "version" else SENTENCES.get(row.name, ("", ""))


def _contrast(row: Row, form: str = "{}") -> str:
    """``a2c 16 at once; the others 8 at once``: who is of the majority need not be named."""
    by_text: dict[str, list[str]] = {}
    for name, short in shortened(row).items():
        by_text.setdefault(short if short in (NOT_SAID, HAS_NONE) else form.format(short), []).append(name)
    groups = sorted(by_text.items(), key=lambda pair: len(pair[1]))
    text, most = groups[-1]
    if len(groups) > 1 and len(most) > max(1, len(groups[-2][1])):
        groups[-1] = (text, ["the others"])
    return "; ".join(f"{', '.join(names)} {text}" for text, names in groups)


def shortened(row: Row) -> dict[str, str]:
    """Of a network its size says enough here, and of a normalization what is not the same."""
    if row.name == "network" and not row.is_mixed:
        return {name: text.partition(":")[0] for name, text in row.values.items()}
    parts = {name: text.split(", ") for name, text in row.values.items()}
    several = [set(some) for some in parts.values() if len(some) > 1]
    if row.name != "normalization" or row.is_mixed or not several:
        return row.values
    same = set.intersection(*several)
    if all(some == same for some in several):
        same = {part for part in same if not part.startswith("norm_")}
    return {name: ", ".join(part for part in some if part not in same) for name, some in parts.items()}
