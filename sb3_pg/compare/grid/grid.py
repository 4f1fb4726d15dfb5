"""Every algorithm on every environment with every seed, side by side, and again until all of it is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool

from sb3_pg.compare.grid import facts
from sb3_pg.compare.grid.cell import train_cell
from sb3_pg.compare.grid.contenders import Contender, parse_contenders
from sb3_pg.compare.grid.display import display
from sb3_pg.compare.grid.folders import hidden, remove_abandoned
from sb3_pg.compare.grid.planning import check_at_least_1, missing, plan_cells
from sb3_pg.compare.grid.questions import CellResult, Job, known
from sb3_pg.compare.invocation import as_typed

BACKENDS = ("loky", "ray", "dask")


def run_grid(
    contenders: str | Sequence[Contender],
    env_ids: Sequence[str],
    seeds: int | Sequence[int],
    out: str | Path,
    budget: int | Mapping[str, int] | None = None,
    *,
    config: str = "zoo",
    n_envs: int | None = None,
    eval_every: int | None = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    device: str = "cpu",
    jobs: int = 1,
    backend: str = "loky",
    address: str | None = None,
    cell: tuple[int, int] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> list[CellResult]:
    """Train and evaluate each contender on each environment with each seed, but not what is there already.

    A cell's folder is ``out/contender/environment_(seed + 1)``, as the Zoo makes it, with a ``cell.json`` of what was
    asked, with what it ran, and the traceback if it failed. It is there whole or not at all, so that a grid that is
    killed goes on when it is called again, and several may fill one folder at the same time.

    :param contenders: see :func:`~sb3_pg.compare.grid.contenders.parse_contenders`
    :param env_ids: ids, ``CartPole-v1``, or ``my_module:MyEnv-v0`` for one that a module registers
    :param seeds: how many (0, 1, ...), or which
    :param out: the folder
    :param budget: environment steps for everybody, or for each environment's id; None: those of the configurations,
        which then have to agree
    :param config: ``"zoo"`` for the Zoo's configurations, ``"defaults"`` for those of the constructors
    :param n_envs: environments side by side for everybody; None: as the configurations say
    :param eval_every: steps between two evaluations; None: a 20th of the budget
    :param n_eval_episodes: episodes of an evaluation, the same ones in all of them
    :param deterministic: evaluate the policy's mode
    :param device: PyTorch's
    :param jobs: cells at the same time, each in a process with one thread; -1: as many as there are cores
    :param backend: joblib's: ``"loky"`` (processes here), ``"ray"`` or ``"dask"``
    :param address: of a Ray or Dask cluster that is there; None: the one in use, else one of ``jobs`` workers here
    :param cell: ``(k, n)``: only the cells k, k + n, k + 2n ..., counted from 1, for the k-th of n tasks of an array
    :param retry_failed: train the cells again that have failed
    :param progress: show a bar with the time left, or where there is no terminal, a line a cell
    :return: one result for each cell, failed ones included
    :raises ValueError: before anything is trained, for whatever could not be
    :raises RuntimeError: if a worker is killed; calling again goes on
    """
    _check_machinery(jobs, backend, cell)
    contenders = parse_contenders(contenders) if isinstance(contenders, str) else list(contenders)
    out = _folder(out)
    planned = plan_cells(
        contenders,
        env_ids,
        seeds,
        out,
        budget,
        config=config,
        n_envs=n_envs,
        eval_every=eval_every,
        n_eval_episodes=n_eval_episodes,
        deterministic=deterministic,
        device=device,
    )
    if cell is not None:
        planned = planned[cell[0] - 1 :: cell[1]]
    command, cwd = tuple(as_typed(sys.orig_argv)), os.getcwd()
    commit = facts.commit(Path(cwd))
    parent = os.getpid() if backend == "loky" else 0
    planned = [
        replace(job, command=command, commit=commit, cwd=cwd, parent=parent, retry_failed=retry_failed)
        for job in planned
    ]
    return _fill(out, planned, jobs, backend, address, progress)


def _fill(
    out: Path, planned: Sequence[Job], n_jobs: int, backend: str, address: str | None, progress: bool
) -> list[CellResult]:
    """Train what is missing; what another grid is training, in the end, or wait for it."""
    remove_abandoned(out)
    to_do = missing(planned)
    results: dict[Path, CellResult] = {}
    try:
        with display(out, to_do, progress), _cluster(backend, n_jobs, address):
            for wait in (False, True):
                remaining = [job for job in to_do if job.place not in results]
                results |= {
                    result.folder: result for result in _side_by_side(remaining, n_jobs, backend, wait) if result
                }
    finally:
        # Of workers that an interrupt has killed
        remove_abandoned(out)
    return [results.get(job.place) or _known(job) for job in planned]


def _known(job: Job) -> CellResult:
    found = known(job)
    if found is None:
        raise RuntimeError(f"{job.place} was there, and is gone")
    return found


def _side_by_side(jobs: Sequence[Job], n_jobs: int, backend: str, wait: bool) -> list[CellResult | None]:
    """What became of each; None for a cell that another grid is training."""
    if not jobs:
        return []
    n_jobs = n_jobs if n_jobs == -1 else min(n_jobs, len(jobs))
    try:
        with parallel_config(backend=backend, n_jobs=n_jobs):
            parallel = Parallel(batch_size=1, pre_dispatch="n_jobs")
            found: list[CellResult | None] = parallel(delayed(train_cell)(job, wait) for job in jobs)
    except BrokenProcessPool as error:
        begun = ", ".join(str(job.place) for job in jobs if list(job.place.parent.glob(hidden(job.place, "*").name)))
        raise RuntimeError(
            f"a worker was killed, often for want of memory; not finished are {begun}; the same call goes on with what "
            "is missing, with fewer jobs if need be"
        ) from error
    return found


@contextmanager
def _cluster(backend: str, n_jobs: int, address: str | None) -> Iterator[None]:
    """The cluster that is in use, or else one for as long as the context lasts."""
    n_workers = os.cpu_count() if n_jobs == -1 else n_jobs
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        is_mine = not ray.is_initialized()
        if is_mine and address is None:
            ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False)
        elif is_mine:
            ray.init(address=address)
        try:
            yield
        finally:
            if is_mine:
                ray.shutdown()
    elif backend == "dask":
        import distributed

        try:
            distributed.get_client(address)
        except ValueError:
            local = {} if address else {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": None}
            with distributed.Client(address, **local):
                yield
        else:
            yield
    else:
        yield


def _check_machinery(jobs: int, backend: str, cell: tuple[int, int] | None) -> None:
    if jobs != -1:
        check_at_least_1(jobs=jobs)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not there: write one of {', '.join(BACKENDS)}")
    if cell is not None and not 1 <= cell[0] <= cell[1]:
        raise ValueError(
            f"cell {cell[0]} of {cell[1]} is not there: write one from 1 of 1 up to {cell[1]} of {cell[1]}"
        )


def _folder(out: str | Path) -> Path:
    """The folder of the grid, made if it is not there; absolute, since workers may be anywhere."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: --out must be a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written to: give another --out")
    return out.absolute()
