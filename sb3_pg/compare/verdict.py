"""The result in words, with what it does not support; and conditions that a script can test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_pg.compare.analysis import Analysis
from sb3_pg.statistics import FEW_SEEDS, Comparison, Interval, Verdict


def verdict(analysis: Analysis) -> list[str]:
    """A sentence for each thing that the runs show, the most important first."""
    labels = analysis.scores.labels
    on = f"{len(analysis.env_ids)} environments" if len(analysis.env_ids) > 1 else analysis.env_ids[0]
    if len(labels) == 1:
        return [f"{labels[0]} alone, on {on}: there is nothing to compare it with."]
    iqm = {label: analysis.aggregates[label]["IQM"] for label in labels}
    order = sorted(labels, key=lambda label: -iqm[label].estimate)
    lines = [
        f"Over {on}, highest interquartile mean of the final scores: **{order[0]}** ({_text(iqm[order[0]])}); lowest: "
        f"{order[-1]} ({_text(iqm[order[-1]])}). The scale is {analysis.normalisation.name}."
    ]
    if not analysis.pairs:
        return [*lines, "One of them has a single run: who is better is not shown by it, and no interval is given."]
    return [*lines, *(_standing(label, analysis.pairs) for label in order)]


def _standing(label: str, pairs: Sequence[Comparison]) -> str:
    """How one algorithm stands to all others."""
    better, worse, open_ = list[str](), list[str](), list[str]()
    for pair in pairs:
        if label not in (pair.x, pair.y):
            continue
        is_x = label == pair.x
        other, improvement = (pair.y if is_x else pair.x), pair.improvement if is_x else _turned(pair.improvement)
        if pair.verdict is Verdict.NOT_SHOWN:
            open_.append(f"{other} ({_text(improvement)}{_seeds_needed(pair.seeds_needed)})")
        else:
            (better if is_x == (pair.verdict is Verdict.BETTER) else worse).append(f"{other} ({_text(improvement)})")
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (
            ("better than", better),
            ("worse than", worse),
            ("no difference shown to", open_),
        )
        if names
    ]
    return f"**{label}**: {'; '.join(parts)}."


def unsupported(analysis: Analysis, warnings: Sequence[str]) -> list[str]:
    """What must not be read into the result.

    :param warnings: the audit's
    """
    lines = []
    if analysis.fewest < FEW_SEEDS:
        lines.append(f"With fewer than {FEW_SEEDS} seeds ({analysis.fewest}) whatever is seen here may be chance.")
    failed = analysis.scores.failed()
    if failed:
        named = ", ".join(f"{label} on {env_id}, seed {seed}" for label, env_id, seed in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        lines.append(
            f"Runs without a final score: {named}{more}. They count with the lowest score of any run on their task."
        )
    if analysis.normalisation.name.startswith("min-max"):
        lines.append(
            "The common scale is one of these runs: 0 is the lowest final score of any of them on a task and 1 the "
            "highest. Another algorithm beside them would change it."
        )
    lines += [
        "Intervals say what other seeds on these environments would have given. Nothing is said of other environments, "
        "of other budgets, or of what tuning would make of either side.",
        "That no difference is shown does not show that there is none.",
    ]
    return [line[:1].upper() + line[1:] for line in (*warnings, *lines)]


def _seeds_needed(count: int | None) -> str:
    """To two digits: more are not known of an estimate of an estimate."""
    return "" if count is None else f"; about {float(f'{count:.2g}'):,.0f} seeds would show it"


def _turned(improvement: Interval) -> Interval:
    """The probability that the other one is better."""
    return Interval(1 - improvement.estimate, 1 - improvement.high, 1 - improvement.low, improvement.level)


def _text(one: Interval) -> str:
    limits = "" if one.low != one.low else f", {one.low:.2f} to {one.high:.2f}"
    return f"{one.estimate:.2f}{limits}"


@dataclass(frozen=True)
class Condition:
    """``vanillapg < ppo``, or ``vanillapg < 475``.

    :param right: an algorithm, or a final score
    """

    left: str
    sign: str
    right: str | float

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"


def parse_condition(text: str, labels: Sequence[str]) -> Condition:
    """Read what ``--fail-if`` was given.

    :raises ValueError: for what is no condition, and for algorithms that are not there
    """
    found = re.fullmatch(r"\s*(\S+)\s*([<>])\s*(\S+)\s*", text)
    if found is None:
        raise ValueError(f"--fail-if {text!r} is no condition: write one like 'vanillapg < ppo' or 'vanillapg < 475'")
    left, sign, right = found.groups()
    try:
        score: float | None = float(right)
    except ValueError:
        score = None
    for name in (left,) if score is not None else (left, right):
        if name not in labels:
            raise ValueError(f"--fail-if {text!r}: there is no {name} here, only {', '.join(labels)}")
    if left == right:
        raise ValueError(f"--fail-if {text!r} compares {left} with itself: write another one")
    return Condition(left, sign, right if score is None else score)


def holds(condition: Condition, analysis: Analysis) -> bool:
    """Whether the runs show it.

    Against an algorithm by the verdict over all environments, which chance alone reaches in one of twenty comparisons;
    against a number if the interval of the mean final score is beyond it on one environment.

    :raises ValueError: where a single run shows nothing
    """
    if isinstance(condition.right, float):
        own = [task.final for task in analysis.tasks if task.algorithm == condition.left]
        if any(one.low != one.low for one in own):
            raise ValueError(f"--fail-if {condition}: one run of {condition.left} shows nothing, train two or more")
        below = condition.sign == "<"
        return any(one.high < condition.right if below else one.low > condition.right for one in own)
    if not analysis.pairs:
        raise ValueError(f"--fail-if {condition}: a single run shows nothing, train two or more of each")
    wanted = Verdict.WORSE if condition.sign == "<" else Verdict.BETTER
    turned = {Verdict.WORSE: Verdict.BETTER, Verdict.BETTER: Verdict.WORSE}
    for pair in analysis.pairs:
        if (pair.x, pair.y) == (condition.left, condition.right):
            return pair.verdict is wanted
        if (pair.y, pair.x) == (condition.left, condition.right):
            return pair.verdict is turned[wanted]
    return False
