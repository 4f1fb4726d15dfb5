"""The runs of a page of results: trained by the grid of ``sb3-pg compare``, kept as long as they would come out so."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.provenance import code_hash
from sb3_pg.compare.grid import CellResult, Contender, run_grid
from sb3_pg.compare.grid.cell import train_cell
from sb3_pg.compare.grid.contenders import algorithm_class
from sb3_pg.compare.reading import read_runs
from sb3_pg.compare.records import Record
from sb3_pg.files import whole_file
from sb3_pg.zoo.configs import config_path, read_configs

Part = TypeVar("Part")
#: The grid asks of these whether an algorithm is ours, and what is refused. How ours learn is code of our algorithms,
#: and in no run of SB3's.
ENGINE = ("sb3_pg.common",)


def contender(label: str, algorithm: type[BaseAlgorithm], **settings: Any) -> Contender:
    """One of our algorithms: with its defaults, but for what is given here.

    :param algorithm: the class, and not its name alone, so that the page imports the code that its figures come from
    :param settings: in the Zoo's format
    """
    return Contender(label, algorithm.__name__.lower(), settings)


def shipped(label: str, algorithm: type[BaseAlgorithm], env_id: str, **more: Any) -> Contender:
    """One of our algorithms with its configuration in ``zoo_configs/``; the budget is the page's.

    :param more: settings beside those of the configuration, or in their place
    """
    section = read_configs(config_path(algorithm.__name__.lower()))[env_id]
    del section["n_timesteps"]
    return contender(label, algorithm, **section | more)


def budget_of(algorithm: type[BaseAlgorithm], env_id: str) -> int:
    """Environment steps that one of our algorithms' configuration asks for."""
    return int(read_configs(config_path(algorithm.__name__.lower()))[env_id]["n_timesteps"])


def trained(
    folder: Path,
    contenders: Sequence[Contender],
    env_ids: str | Sequence[str],
    seeds: Sequence[int],
    steps: int,
    *,
    n_envs: int = 8,
    eval_every: int | None = None,
    n_eval_episodes: int = 10,
    jobs: int = 2,
) -> list[Record]:
    """Train what is missing, and read all of it.

    The runs lie in a folder that is named after the code that trains them and after what is asked of them. So finished
    ones are kept until either changes; then all are trained anew, elsewhere.

    :param folder: of the page
    :param env_ids: one, or several
    :param seeds: which
    :param steps: the budget of every run
    :param n_envs: environments side by side, where a contender's settings do not say
    :param eval_every: see :func:`~sb3_pg.compare.grid.run_grid`, as of the next two
    :raises RuntimeError: if one of the runs failed; calling again trains those once more
    """
    asked: dict[str, Any] = {"n_envs": n_envs, "eval_every": eval_every, "n_eval_episodes": n_eval_episodes}
    env_ids = [env_ids] if isinstance(env_ids, str) else env_ids
    grid = code_hash([train_cell.__module__], without=ENGINE)
    modules = [algorithm_class(one.algorithm).__module__ for one in contenders]
    out = folder / code_hash(modules, [grid, repr((list(contenders), steps, asked))])
    results = run_grid(contenders, env_ids, seeds, out, steps, config="defaults", jobs=jobs, retry_failed=True, **asked)
    _refuse_failed(results)
    return read_runs([result.folder for result in results]).records


@contextmanager
def kept(folder: Path, archive: Path) -> Iterator[None]:
    """Have the finished runs of a page in the repository: a campaign of days goes on in another checkout.

    What the archive has is there when the context begins, and what the folder has is in the archive when it ends, also
    by Ctrl-C: of each run its evaluations, and what it was asked.

    :param folder: of the page
    """
    if archive.exists():
        with tarfile.open(archive) as packed:
            missing = [one for one in packed if not (folder / one.name).parent.exists()]
            packed.extractall(folder, missing, filter="data")
    try:
        yield
    finally:
        _pack(folder, archive)


def _pack(folder: Path, archive: Path) -> None:
    """The same runs make the same file, to the byte."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(archive) as unfinished, tarfile.open(unfinished, "w:xz") as packed:
        for cell in sorted(folder.glob("*/*/*/cell.json")):
            evaluations = cell.with_name("evaluations.npz")
            if not evaluations.exists():  # a run that failed
                continue
            # How the command was typed, and on which host, is nobody's business
            facts = json.loads(cell.read_text()) | {"command": []}
            facts.get("machine", {}).pop("host", None)
            for path, content in ((cell, json.dumps(facts).encode()), (evaluations, evaluations.read_bytes())):
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))


def there(part: Part | None) -> Part:
    """A part of a record that every run of a page has: its evaluations, its training episodes.

    :raises ValueError: if it has not
    """
    if part is None:
        raise ValueError("a run has no evaluations, or none of its training episodes ended: give it more steps")
    return part


def _refuse_failed(results: Sequence[CellResult]) -> None:
    failed = [
        f"{one.label} on {one.env_id}, seed {one.seed}: {one.error.strip().splitlines()[-1]} ({one.folder})"
        for one in results
        if one.error
    ]
    if failed:
        raise RuntimeError("\n".join([f"{len(failed)} of {len(results)} runs failed, so there is no page:", *failed]))
