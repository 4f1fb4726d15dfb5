"""Runs, wherever they come from: our cells, the RL Zoo's training output, folders of scripts with SB3."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sb3_pg.compare.reading.description import ALGORITHMS, Description, from_names, merged
from sb3_pg.compare.reading.evaluations import evaluations_from_log, read_evaluations
from sb3_pg.compare.reading.events import read_events, second_of
from sb3_pg.compare.reading.files import Remarks
from sb3_pg.compare.reading.monitor import first_header, read_monitors
from sb3_pg.compare.reading.places import EVALUATIONS, LOGS, Place, Walk, event_files
from sb3_pg.compare.reading.progress import Columns, read_progress_csv, read_progress_json
from sb3_pg.compare.reading.saved_model import SLACK, read_saved_model
from sb3_pg.compare.reading.zoo import CELL, parameter_folder, read_cell, read_zoo
from sb3_pg.compare.records import Record

UNKNOWN = "unknown environment"
LOOKED_FOR = (
    "cell.json (this package's), <environment>/config.yml (the RL Zoo's), evaluations.npz, *monitor.csv, progress.csv, "
    "progress.json, TensorBoard event files"
)


@dataclass(frozen=True)
class Found:
    """Runs.

    :param records: by algorithm, environment and seed
    :param remarks: on what was left out, a line each
    """

    records: list[Record]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A place, and what it says of itself."""

    place: Place
    said: Description
    events: tuple[Path, ...] = ()


def read_runs(paths: Iterable[str | Path], env_id: str | None = None) -> Found:
    """Read all runs in some folders and below them.

    :param paths: folders; as text also ``"name=folder"`` and ``"name=folder,folder"``, with ``*`` for any characters:
        then what is there is one contender of that name
    :param env_id: the environment of runs that don't say theirs
    :raises ValueError: for a folder that isn't there, if there are no runs, if two claim to be the same
    """
    walk = Walk()
    given = [(label, folder) for path in paths for label, folder in _folders(path)]
    # The innermost first: a folder that was named within another that was given too has its name
    given.sort(key=lambda pair: -len(pair[1].parts))
    places = [place for label, folder in given for place in walk.places(folder, folder, label)]
    runs = [Run(place, _describe(place)) for place in places]
    _refuse_mixed_labels(runs)
    runs, remarks = _hand_out_events(runs)
    remarks += tuple(f"{folder} may not be read" for folder in walk.closed)
    if walk.hidden:
        remarks += (f"{len(walk.hidden)} unfinished runs are left out, such as {walk.hidden[0]}",)
    records = sorted(
        (_read(run, env_id) for run in runs),
        key=lambda record: (record.algorithm, record.env_id, -1 if record.seed is None else record.seed, record.folder),
    )
    if not records:
        where = ", ".join(str(folder) for _, folder in given) or "no folder"
        raise ValueError(f"no runs found in {where} ({'; '.join((*remarks, f'looked for {LOOKED_FOR}'))})")
    _refuse_twins(records)
    return Found(records, remarks)


def _folders(path: str | Path) -> list[tuple[str, Path]]:
    """The folders that an argument means, each with the name that it gives them."""
    text = str(path)
    label, separator, rest = text.partition("=")
    if isinstance(path, Path) or not separator or Path(text).exists():
        return [("", _folder(text))]
    found = []
    for pattern in rest.split(","):
        is_pattern = glob.has_magic(pattern) and not Path(pattern).exists()
        names = sorted(name for name in glob.glob(pattern) if Path(name).is_dir()) if is_pattern else [pattern]
        if not label or not names or not pattern:
            raise ValueError(f"{text!r} names no folder: write name=folder, or name=folder,folder")
        found += [(label, _folder(name)) for name in names]
    return found


def _folder(text: str) -> Path:
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        what = f"{text} is a file: give the folder that it is in" if folder.exists() else f"there is no folder {text}"
        raise ValueError(what)
    return folder.resolve() if ".." in folder.parts else folder


def _describe(place: Place) -> Description:
    """All that is said of a run, those who know best first."""
    said = [read_cell(place.folder / CELL)] if (place.folder / CELL).is_file() else []
    parameters = parameter_folder(place.folder)
    if parameters is not None:
        said.append(read_zoo(place.folder, parameters))
    if not (said and said[0].facts.get("versions")):
        said.append(read_saved_model(place.models))
    headers = [first_header(path) for path in place.monitors]
    env_id = next((name for header in headers if (name := header.get("env_id")) not in (None, "None")), None)
    known = merged([*said, Description(env_id=env_id)])
    if known.algorithm is None or known.env_id is None or known.seed is None:
        names = from_names(place.folder, place.given, known.env_id)
        # The folder of a run of the Zoo has a number that is no seed
        known = merged([known, replace(names, seed=None) if parameters is not None else names])
    return replace(known, algorithm=place.label or known.algorithm, facts={"algorithm": known.algorithm, **known.facts})


def _read(run: Run, env_id: str | None) -> Record:
    """The record of a run."""
    place, said = run.place, run.said
    remarks = said.remarks
    episodes = evaluations = None
    if place.monitors:
        episodes, more = read_monitors(place.monitors)
        remarks += more
        n_envs = said.facts.get("n_envs") or 1
        if len(place.monitors) == 1 and n_envs > 1:
            name = place.monitors[0].name
            remarks += (f"{name}: of {n_envs} environments at once; steps lack those of episodes that were going on",)
    progress, more = _progress(place, run.events)
    remarks += more
    if files := place.files(EVALUATIONS):
        evaluations, more = read_evaluations(files[0], said.deterministic)
        remarks += more
    if evaluations is None:
        evaluations, more = evaluations_from_log(progress, said.deterministic)
        remarks += more
    if said.env_id is None and env_id is None:
        remarks += ("which environment it is about is not known: name it",)
    return Record(
        algorithm=said.algorithm or place.folder.name,
        env_id=said.env_id or env_id or UNKNOWN,
        seed=said.seed,
        folder=place.folder,
        budget=said.budget,
        evaluations=evaluations,
        episodes=episodes,
        progress=progress,
        settings=dict(said.settings),
        facts=dict(said.facts),
        error=said.error,
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _progress(place: Place, events: Sequence[Path]) -> tuple[Columns, Remarks]:
    """What the logger wrote, from the first of its files that says anything."""
    remarks: Remarks = ()
    for name in LOGS:
        for path in place.files(name)[:1]:
            columns, more = read_progress_csv(path) if path.suffix == ".csv" else read_progress_json(path)
            remarks += more
            if columns:
                return columns, remarks
    columns, more = read_events([*event_files(place.folder), *events])
    return columns, remarks + more


# --- TensorBoard logs that lie elsewhere than the run that they are of -----------------------------------------------


def _hand_out_events(runs: Sequence[Run]) -> tuple[list[Run], Remarks]:
    """Give TensorBoard logs to the runs that they are of; those that are of none are runs themselves.

    SB3 puts them into folders of their own (``PPO_1``), which would count a run twice. A log is of the run whose
    training began in the second in which it was made; if that is not known, of the run in whose folder it lies.
    """
    logs = [run for run in runs if run.place.has_only_events]
    mains = [run for run in runs if not run.place.has_only_events]
    began = [_began(run) for run in mains] if logs else []
    # Indices of the runs that each may be of
    owners = [_owners(log, mains, began) for log in logs]
    given: dict[int, tuple[Path, ...]] = {}
    alone: list[Run] = []
    remarks: Remarks = ()
    for log, its in zip(logs, owners, strict=True):
        folder = log.place.folder
        if len(its) == 1 and sum(its[0] in others for others in owners) == 1:
            given[its[0]] = tuple(event_files(folder))
        elif its or any(run.place.folder in folder.parents for run in mains):
            remarks += (f"{folder}: which of the runs here it is the log of is not clear, so it is left out",)
        else:
            alone.append(log)
    return [replace(run, events=given.get(index, ())) for index, run in enumerate(mains)] + alone, remarks


def _owners(log: Run, runs: Sequence[Run], began: Sequence[tuple[float, float] | None]) -> list[int]:
    seconds = [second for path in event_files(log.place.folder) if (second := second_of(path)) is not None]
    fitting = [index for index, run in enumerate(runs) if _fits(run, log)]
    same_time = [index for index in fitting if _is_within(min(seconds, default=None), began[index])]
    return same_time or [
        index for index in fitting if began[index] is None and runs[index].place.folder in log.place.folder.parents
    ]


def _is_within(second: int | None, span: tuple[float, float] | None) -> bool:
    # The second is a time without what comes behind the point
    return second is not None and span is not None and span[0] - 1 <= second <= span[1]


def _began(run: Run) -> tuple[float, float] | None:
    """The seconds between which a run's training began, by its model or by its monitors' files."""
    if run.said.started is not None or not run.place.monitors:
        return run.said.started
    starts = [first_header(path).get("t_start") for path in run.place.monitors]
    known = [float(start) for start in starts if isinstance(start, (int, float))]
    episodes, _ = read_monitors(run.place.monitors)
    if not known or episodes is None:
        return None
    # A file is begun when its environment is made, and the training before the first episode's end
    return min(known) - SLACK, min(known) + float(episodes.seconds[0]) + SLACK


def _fits(run: Run, log: Run) -> bool:
    """Whether names allow a log to be of a run."""
    same_env = run.said.env_id == log.said.env_id or run.said.env_id is None or log.said.env_id is None
    name, other = (str(each.said.facts["algorithm"]).lower().replace("_", "") for each in (run, log))
    return same_env and (name == other or name not in ALGORITHMS or other not in ALGORITHMS)


# --- what cannot be compared -----------------------------------------------------------------------------------------


def _refuse_mixed_labels(runs: Sequence[Run]) -> None:
    for label in {run.place.label for run in runs} - {""}:
        algorithms = sorted({str(run.said.facts["algorithm"]) for run in runs if run.place.label == label})
        known = [name for name in algorithms if name.replace("_", "") in ALGORITHMS]
        if len(known) > 1:
            raise ValueError(f"{label} would be {' and '.join(known)}: name folders of one algorithm")


def _refuse_twins(records: Sequence[Record]) -> None:
    seen: dict[tuple[str, str, int], Path] = {}
    for record in records:
        if record.seed is None:
            continue
        key = (record.algorithm, record.env_id, record.seed)
        if key in seen:
            what = f"{record.algorithm} on {record.env_id} with seed {record.seed}"
            instead = "leave one out, or name them apart, as in first=folder second=folder"
            raise ValueError(f"{seen[key]} and {record.folder} are both {what}: {instead}")
        seen[key] = record.folder
