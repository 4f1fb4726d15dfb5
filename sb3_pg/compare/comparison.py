"""Train, read, analyse, report: the whole of a comparison, from Python."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium

from sb3_pg.compare.analysis import Analysis, analyse
from sb3_pg.compare.audit import Audit, audit
from sb3_pg.compare.grid import Contender, run_grid
from sb3_pg.compare.invocation import as_seen_from_here
from sb3_pg.compare.page import comparison_page
from sb3_pg.compare.reading import read_runs
from sb3_pg.compare.records import Record
from sb3_pg.compare.scores import METRICS, score
from sb3_pg.report import write_page
from sb3_pg.report.files import write_whole

#: The folder of the report, within that of the runs.
REPORT = "report"


@dataclass(frozen=True)
class Comparison:
    """Runs, and what they say.

    :param records: the runs
    :param analysis: their statistics
    :param audit: what was equal between them and what was not
    :param thresholds: score of each environment whose first time is of interest
    """

    records: Sequence[Record]
    analysis: Analysis
    audit: Audit
    thresholds: Mapping[str, float]

    def write(self, folder: str | Path, title: str = "Comparison", command: str = "") -> Path:
        """Write ``report.html``, and beside it ``report.md``, figures, tables, ``scores.json`` and ``scores.csv``.

        :param command: with which it can be made again
        :return: the path of ``report.html``
        :raises ValueError: if the folder cannot be written
        """
        page = comparison_page(self.records, self.analysis, self.audit, self.thresholds, title, command)
        folder = Path(folder)
        path = write_page(page, folder)
        write_whole(folder / "scores.csv", scores_csv(self.records).encode())
        write_whole(folder / "scores.json", json.dumps(self._numbers(), indent=1).encode())
        return path

    def _numbers(self) -> dict[str, Any]:
        analysis = self.analysis
        numbers: dict[str, Any] = _plain(
            {
                "scores": [_scores(record) for record in self.records],
                "normalisation": {
                    "name": analysis.normalisation.name,
                    **{
                        env_id: {"zero": zero, "one": one}
                        for env_id, zero, one in zip(
                            analysis.env_ids,
                            analysis.normalisation.zero.tolist(),
                            analysis.normalisation.one.tolist(),
                            strict=True,
                        )
                    },
                },
                "aggregates": {
                    label: {name: asdict(one) for name, one in of.items()} for label, of in analysis.aggregates.items()
                },
                "pairs": [asdict(pair) | {"verdict": pair.verdict.value} for pair in analysis.pairs],
                "thresholds": dict(self.thresholds),
                "warnings": list(self.audit.warnings),
            }
        )
        return numbers


def compare(
    algos: str | Sequence[Contender],
    envs: Sequence[str],
    seeds: int | Sequence[int] = 5,
    out: str | Path = "runs/compare",
    steps: int | Mapping[str, int] | None = None,
    thresholds: Mapping[str, float] | None = None,
    scale: Mapping[str, tuple[float, float]] | None = None,
    also: Sequence[str | Path] = (),
    **options: Any,
) -> Comparison:
    """Train what is missing of a grid, and compare.

    :param algos: see :func:`~sb3_pg.compare.grid.parse_contenders`
    :param envs: ids of environments
    :param seeds: how many, or which
    :param out: the folder of the runs; the same call goes on where it was interrupted
    :param steps: the budget of everybody, see :func:`~sb3_pg.compare.grid.run_grid`
    :param thresholds: scores of environments whose first time is of interest, beside those that Gymnasium knows
    :param scale: see :func:`~sb3_pg.compare.analysis.analyse`
    :param also: folders of other runs to compare with
    :param options: further arguments of :func:`~sb3_pg.compare.grid.run_grid`
    :raises ValueError: for whatever is wrong with what was given, before anything is trained
    """
    results = run_grid(algos, envs, seeds, out, steps, **options)
    own = {result.folder.resolve() for result in results}
    records = [record for record in read_runs([out]).records if record.folder.resolve() in own]
    return compare_records([*records, *(read_runs(also).records if also else ())], thresholds, scale)


def compare_runs(
    paths: Sequence[str | Path],
    thresholds: Mapping[str, float] | None = None,
    scale: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """Compare runs that are there, whoever trained them.

    :param paths: see :func:`~sb3_pg.compare.reading.read_runs`
    :raises ValueError: if there are none
    """
    return compare_records(read_runs(paths).records, thresholds, scale)


def compare_records(
    records: Sequence[Record],
    thresholds: Mapping[str, float] | None = None,
    scale: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """The statistics and the audit of some runs."""
    env_ids = dict.fromkeys(record.env_id for record in records)
    known = {env_id: limit for env_id in env_ids if (limit := _known_threshold(env_id)) is not None}
    asked = dict(thresholds or {})
    for env_id in asked.keys() - env_ids:
        raise ValueError(f"there is a threshold for {env_id} and no run: write one of {', '.join(env_ids)}")
    together = known | asked
    return Comparison(records, analyse(records, together, scale), audit(records), together)


def _known_threshold(env_id: str) -> float | None:
    """The mean return from which Gymnasium calls a task solved."""
    spec = gymnasium.registry.get(env_id)
    return None if spec is None else spec.reward_threshold


def scores_csv(records: Sequence[Record]) -> str:
    """A line a run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["algorithm", "env_id", "seed", "budget", *METRICS, "error", "folder"])
    writer.writeheader()
    writer.writerows(_scores(record) for record in records)
    return text.getvalue()


def _scores(record: Record) -> dict[str, Any]:
    error = record.error.strip().rpartition("\n")[2]
    return {
        "algorithm": record.algorithm,
        "env_id": record.env_id,
        "seed": record.seed,
        "budget": record.budget,
        **{metric: score(record, metric) for metric in METRICS},
        "error": error,
        "folder": as_seen_from_here(record.folder),
    }


def _plain(value: Any) -> Any:
    """What is not finite as None: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
