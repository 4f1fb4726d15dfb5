"""The cells of a grid, and whether they can be trained at all, before any of them is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sb3_pg.compare.grid.cell import check_cell
from sb3_pg.compare.grid.configs import CONFIGS, Configuration, Task, configuration, find_task
from sb3_pg.compare.grid.contenders import Contender, check_labels
from sb3_pg.compare.grid.questions import Cell, Job, finished, place_of

#: Evaluations of a run, besides the one before it has learned anything.
N_EVALUATIONS = 20


def plan_cells(
    contenders: Sequence[Contender],
    env_ids: Sequence[str],
    seeds: int | Sequence[int],
    out: Path,
    budget: int | Mapping[str, int] | None = None,
    *,
    config: str = "zoo",
    n_envs: int | None = None,
    eval_every: int | None = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    device: str = "cpu",
) -> list[Job]:
    """Every contender on every environment with every seed; see :func:`~sb3_pg.compare.grid.grid.run_grid`.

    Seeds change last: a grid that is cut short has some of everything.

    :raises ValueError: for what is not there, or asks for nothing
    """
    check_labels(contenders)
    check_at_least_1(n_envs=n_envs, eval_every=eval_every, n_eval_episodes=n_eval_episodes)
    if config not in CONFIGS:
        raise ValueError(f"config={config!r} is not there: write one of {', '.join(CONFIGS)}")
    if not env_ids:
        raise ValueError("there is no environment to train on: write some, like CartPole-v1")
    tasks = list(dict.fromkeys(map(find_task, env_ids)))
    found = {(task, one.label): configuration(one, task, config, n_envs) for task in tasks for one in contenders}
    budgets = _budgets(budget, tasks, contenders, found)
    jobs = []
    for seed in _seeds(seeds):
        for task in tasks:
            for contender in contenders:
                cell = Cell(
                    label=contender.label,
                    algorithm=contender.algorithm,
                    env_id=task.env_id,
                    seed=seed,
                    settings=found[task, contender.label].settings,
                    budget=budgets[task],
                    eval_every=eval_every or max(1, budgets[task] // N_EVALUATIONS),
                    n_eval_episodes=n_eval_episodes,
                    deterministic=deterministic,
                    device=device,
                )
                place = place_of(out, contender.folder, task.env_id, seed)
                jobs.append(Job(cell, place, task.module, found[task, contender.label].remarks))
    return jobs


def missing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose cells have not been trained, each kind of them set up once to see that it can be.

    :raises ValueError: for a cell that could not be trained, and for a place in which something else lies
    """
    open_jobs = [job for job in jobs if finished(job) is None]
    for job in {(job.cell.label, job.cell.env_id): job for job in open_jobs}.values():
        check_cell(job.cell)
    return open_jobs


def check_at_least_1(**numbers: int | None) -> None:
    """Refuse counts of nothing; None is no count.

    :raises ValueError: naming the one
    """
    for name, number in numbers.items():
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(f"{name} is {number}: it must be a whole number of at least 1")


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int):
        check_at_least_1(seeds=seeds)
        return list(range(seeds))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {list(seeds)}: write how many, or different ones from 0 on, like [0, 1, 2]")
    return list(seeds)


def _budgets(
    budget: int | Mapping[str, int] | None,
    tasks: Sequence[Task],
    contenders: Sequence[Contender],
    found: Mapping[tuple[Task, str], Configuration],
) -> dict[Task, int]:
    if isinstance(budget, Mapping):
        env_ids = [task.env_id for task in tasks]
        for env_id in budget.keys() - set(env_ids):
            near = difflib.get_close_matches(env_id, env_ids, n=1) or env_ids
            raise ValueError(f"there is a budget for {env_id}, which is not in the grid: did you mean {near[0]}?")
    return {
        task: _budget(task, budget, {one.label: found[task, one.label].n_timesteps for one in contenders})
        for task in tasks
    }


def _budget(task: Task, budget: int | Mapping[str, int] | None, configured: Mapping[str, int | None]) -> int:
    """Environment steps on one task: as given, or what all configurations say."""
    if isinstance(budget, Mapping):
        if task.env_id not in budget:
            raise ValueError(f"there is no budget for {task.env_id}: give one for every environment")
        budget = budget[task.env_id]
    if budget is not None:
        check_at_least_1(budget=budget)
        return budget
    numbers = set(configured.values())
    common = numbers.pop()
    if numbers or common is None:
        each = ", ".join(f"{label} {'none' if steps is None else steps}" for label, steps in configured.items())
        raise ValueError(
            f"mixed budgets: the configurations for {task.env_id} train for different numbers of steps ({each}): give "
            "one number for everybody, like --steps 100000 (in Python steps=100_000)"
        )
    return common
