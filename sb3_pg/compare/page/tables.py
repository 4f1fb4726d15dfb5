"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import isfinite, isinf

from sb3_pg.compare.analysis import Analysis, Reach, TaskSummary
from sb3_pg.compare.anchors import published
from sb3_pg.compare.audit import Audit, EnvironmentAudit, Excess, Row, Trouble, shortened
from sb3_pg.compare.invocation import as_seen_from_here
from sb3_pg.compare.scores import METRICS
from sb3_pg.report import Block, Bullets, Details, Paragraph, Table
from sb3_pg.report.series import number, with_interval
from sb3_pg.statistics import Interval, Passage


def final_scores(analysis: Analysis, how: str) -> list[Table]:
    """A table an environment: what each algorithm reached, with the spread of its runs.

    :param how: the policy acted in the evaluations
    """
    headers = ["algorithm", "runs", "final: mean [95%]", "IQM", "lowest", "highest", *METRICS.keys() - {"final"}]
    headers[6:] = sorted(headers[6:], key=list(METRICS).index)
    return [
        Table(
            f"{env_id}: final scores of {how}. Lowest and highest are single runs.{_of_failures(tasks)}",
            headers,
            [_scores(one, headers[6:], fmt) for one in tasks],
            align="l" + "r" * (len(headers) - 1),
            formats=("",) * 6 + (fmt,) * (len(headers) - 6),
            name=f"scores_{_stem(env_id)}",
        )
        for env_id, group in groupby(analysis.tasks, lambda one: one.env_id)
        for tasks in [list(group)]
        for fmt in [_format(tasks)]
    ]


def _format(tasks: Sequence[TaskSummary]) -> str:
    """As many decimals for all of a table that its largest number has about four digits: columns align."""
    scores = [score for one in tasks for score in (one.lowest, one.highest, *one.others.values()) if isfinite(score)]
    largest = max((abs(score) for score in scores), default=0)
    return ",.0f" if largest >= 1000 else ",.1f" if largest >= 100 else ",.2f" if largest >= 10 else ",.3f"


def _of_failures(tasks: Sequence[TaskSummary]) -> str:
    if not any(one.n_failed for one in tasks):
        return ""
    lowest, others = min(one.lowest for one in tasks), ", ".join(name for name in METRICS if name != "final")
    return f" A run that failed counts with the lowest of all, {number(lowest)}; {others} leave it out."


def _scores(task: TaskSummary, others: Sequence[str], fmt: str) -> list[str | float | None]:
    failed = f" ({task.n_failed} failed)" if task.n_failed else ""
    return [
        task.algorithm,
        f"{task.n_runs}{failed}",
        with_interval(task.final.estimate, task.final.low, task.final.high, fmt),
        format(task.iqm, fmt),
        format(task.lowest, fmt),
        format(task.highest, fmt),
        *(task.others[name] for name in others),
    ]


def metrics() -> Bullets:
    """What the columns are."""
    return Bullets([f"**{name}**: {what}." for name, what in METRICS.items()])


def reaches(analysis: Analysis) -> Table:
    """Steps and seconds to each environment's threshold."""
    return Table(
        "Time to the threshold, of an evaluation: the median over the runs by Kaplan and Meier, with its 95% interval; "
        "a dash where less than half of the runs reached it. Seconds are of training alone.",
        ["environment", "threshold", "algorithm", "reached", "steps", "seconds"],
        [
            [
                one.env_id,
                f"{one.threshold:g}",
                one.algorithm,
                f"{one.n_reached} of {len(one.steps)}",
                _median(one, one.steps),
                _median(one, one.seconds),
            ]
            for one in sorted(analysis.reaches, key=lambda one: analysis.scores.env_ids.index(one.env_id))
        ],
        align="lrlrrr",
        name="reached",
    )


def _median(reach: Reach, passages: Sequence[Passage]) -> str | None:
    if not passages:
        return None
    median = reach.median(passages)
    if not isinstance(median, Interval):
        return None if median is None else _time(median)
    return f"{_time(median.estimate)} [{_time(median.low)}, {_time(median.high)}]"


def _time(time: float) -> str:
    """Steps, or seconds to hundredths."""
    return "∞" if isinf(time) else number(round(time, 2))


def anchors(env_ids: Sequence[str]) -> Table | None:
    """Published scores of the same tasks, by other protocols; None where none are known."""
    found = [one for env_id in env_ids for one in published(env_id)]
    if not found:
        return None
    return Table(
        "Published elsewhere, by other protocols: to see the order of magnitude, not to be compared digit by digit.",
        ["environment", "algorithm", "score", "steps", "source and protocol"],
        [[one.env_id, one.algorithm, one.score, f"{one.steps:,}", one.source] for one in found],
    )


def equality(audit: Audit) -> list[Block]:
    """What was equal and what was not, environment by environment."""
    blocks: list[Block] = []
    for environment in audit.environments:
        blocks.append(_seeds(environment))
        # Nobody asks algorithms for the same hyperparameters, but all runs of one
        own = [row for row in environment.differs if row.kind == "hyperparameter" and not row.is_mixed]
        others = [row for row in environment.differs if row not in own]
        if others:
            short = [replace(row, values=shortened(row)) for row in others]
            blocks.append(_rows(environment, short, f"{environment.env_id}: what was not equal"))
        network = [row for row in others if row.name == "network"]
        if network or own:
            what = f"{environment.env_id}: networks and hyperparameters"
            blocks.append(Details(what, [_rows(environment, [*network, *own], "What was not equal in them")]))
        if environment.unclear:
            unclear = _rows(environment, environment.unclear, "What some runs do not say")
            blocks.append(Details(f"{environment.env_id}: what is not known of all", [unclear]))
        equal = ", ".join(f"{row.name} {next(iter(row.values.values()))}" for row in environment.equal)
        if equal:
            blocks.append(Details(f"{environment.env_id}: what was equal", [Paragraph(equal.replace("`", "'"))]))
    return blocks


def _seeds(environment: EnvironmentAudit) -> Table:
    return Table(
        f"{environment.env_id}: runs",
        ["algorithm", "runs", "seeds", "missing", "steps beyond the budget"],
        [
            [
                name,
                str(len(seeds)),
                ", ".join("?" if seed is None else str(seed) for seed in seeds),
                ", ".join(map(str, environment.missing.get(name, ()))) or None,
                _excess(environment.excess.get(name)),
            ]
            for name, seeds in environment.seeds.items()
        ],
        align="lrllr",
    )


def _excess(excess: Excess | None) -> str | None:
    if excess is None or not excess.most:
        return None if excess is None else "0"
    range_ = " to ".join(f"{steps:,}" for steps in dict.fromkeys([excess.least, excess.most]))
    return f"{range_} ({100 * excess.share:.2g}%)"


def _rows(environment: EnvironmentAudit, rows: Sequence[Row], caption: str) -> Table:
    names = list(environment.seeds)
    return Table(
        caption,
        ["", *names],
        [[row.name, *(row.values.get(name) for name in names)] for row in rows],
    )


def troubles(found: Sequence[Trouble], caption: str) -> Table:
    """Runs that need a look."""
    return Table(
        caption,
        ["algorithm", "environment", "seed", "what", "folder"],
        [
            [
                one.algorithm,
                one.env_id,
                "?" if one.seed is None else str(one.seed),
                one.what,
                as_seen_from_here(one.folder),
            ]
            for one in found
        ],
    )


def _stem(env_id: str) -> str:
    return "".join(character if character.isalnum() or character in "-." else "_" for character in env_id).lstrip("-._")
