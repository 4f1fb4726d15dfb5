"""The report of a comparison: the result in words first, what it rests on after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sb3_pg.compare.analysis import Analysis
from sb3_pg.compare.audit import Audit
from sb3_pg.compare.curves import AXES, learning_curves
from sb3_pg.compare.page import figures, tables
from sb3_pg.compare.records import Record
from sb3_pg.compare.verdict import unsupported, verdict
from sb3_pg.report import Block, Bullets, Code, Details, Notice, Page, Palette, Paragraph, Section

#: How to read the numbers of the verdict.
_LEGEND = (
    "In brackets: the probability that a run scores higher than one of the other algorithm on the same environment, "
    "with an interval that is corrected for the number of pairs. Better and worse are said where the interval leaves "
    "out one half and a permutation test, corrected too, agrees at 5%. How many seeds would show a difference is said "
    "of one that is as large as it looks here."
)


def comparison_page(
    records: Sequence[Record],
    analysis: Analysis,
    audit: Audit,
    thresholds: Mapping[str, float],
    title: str,
    command: str,
) -> Page:
    """Everything that is known of the runs, as a page.

    :param thresholds: of the environments that have one
    :param command: with which the page can be made again
    """
    palette = Palette(analysis.scores.labels)
    sections = [
        _verdict(analysis, audit),
        Section("Over all environments", _overall(analysis, palette)),
        Section("Learning", _learning(records, analysis, thresholds, palette)),
        Section("Scores", _scores(records, analysis)),
    ]
    diagnostics = figures.diagnostics(records, palette)
    if diagnostics:
        sections.append(Section("What the algorithms logged", diagnostics))
    sections.append(Section("What was equal and what was not", _audit(records, audit)))
    sections.append(Section("Commands", _commands(records, command)))
    labels, env_ids = analysis.scores.labels, analysis.scores.env_ids
    counts = f"{_count(records, 'run')}: {_count(labels, 'algorithm')}, {_count(env_ids, 'environment')}"
    return Page(title, f"{counts}, {_budgets(records)}", sections)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _budgets(records: Sequence[Record]) -> str:
    budgets = sorted({record.budget for record in records if record.budget is not None})
    if not budgets:
        return "budget not known"
    return (
        f"{budgets[0]:,} to {budgets[-1]:,} environment steps"
        if len(budgets) > 1
        else f"{budgets[0]:,} environment steps"
    )


def _verdict(analysis: Analysis, audit: Audit) -> Section:
    said = verdict(analysis)
    blocks: list[Block] = [Paragraph(said[0])]
    if len(said) > 1:
        blocks.append(Bullets(said[1:]))
    if analysis.pairs:
        blocks.append(Paragraph(_LEGEND))
    blocks.append(Section("What this does not support", [Bullets(unsupported(analysis, audit.warnings))]))
    return Section("Verdict", blocks)


def _overall(analysis: Analysis, palette: Palette) -> list[Block]:
    blocks: list[Block] = [figures.aggregates(analysis, palette)]
    if analysis.pairs:
        blocks.append(figures.improvements(analysis, palette))
    return [*blocks, figures.profiles(analysis, palette)]


def _learning(
    records: Sequence[Record], analysis: Analysis, thresholds: Mapping[str, float], palette: Palette
) -> list[Block]:
    blocks: list[Block] = []
    for axis in AXES:
        curves = learning_curves(records, axis)
        if curves:
            blocks.append(figures.learning(curves, palette, thresholds, how(records)))
    reached = figures.reaches(analysis, palette)
    if reached is not None:
        blocks.append(reached)
    if analysis.reaches:
        blocks.append(tables.reaches(analysis))
    return blocks or [Notice("None of the runs was evaluated while it trained.", "warning")]


def how(records: Sequence[Record]) -> str:
    """How the policy acted in the evaluations, in words."""
    known = {record.evaluations.deterministic for record in records if record.evaluations is not None}
    words = {
        True: "the deterministic policy",
        False: "the stochastic policy",
        None: "the policy (how it acted is not known)",
    }
    return words[known.pop()] if len(known) == 1 else "the policy (deterministic in some runs only)"


def _scores(records: Sequence[Record], analysis: Analysis) -> list[Block]:
    blocks: list[Block] = [*tables.final_scores(analysis, how(records)), tables.metrics()]
    anchors = tables.anchors(analysis.scores.env_ids)
    return blocks if anchors is None else [*blocks, Details("Published scores", [anchors])]


def _audit(records: Sequence[Record], audit: Audit) -> list[Block]:
    blocks: list[Block] = []
    if audit.missing:
        pairs = ", ".join(f"{name} on {env_id}" for name, env_id in audit.missing)
        blocks.append(Notice(f"There are no runs of {pairs}.", "warning"))
    for found, caption in (
        (audit.failed, "Runs that failed"),
        (audit.not_finite, "Runs with scores that are no numbers"),
        (audit.cut_short, "Runs that ended before their budget"),
    ):
        if found:
            blocks.append(tables.troubles(found, caption))
    blocks += [
        Details(f"{record.algorithm} on {record.env_id}, seed {record.seed}: traceback", [Code(record.error)])
        for record in records
        if record.error
    ]
    blocks += tables.equality(audit)
    if audit.remarks:
        blocks.append(Details("What could not be read", [tables.troubles(audit.remarks, "Remarks")]))
    return blocks


def _commands(records: Sequence[Record], command: str) -> list[Block]:
    commands = {str(record.facts["command"]) for record in records if record.facts.get("command")}
    blocks: list[Block] = [Paragraph("This page:"), Code(command)]
    if commands:
        blocks += [Paragraph("The runs:"), Code("\n".join(sorted(commands)))]
    return blocks
