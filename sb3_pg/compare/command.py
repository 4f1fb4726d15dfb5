"""``sb3-pg compare``: train and compare, or compare runs that are there."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sb3_pg.command_line import CommandParser
from sb3_pg.compare.comparison import REPORT, Comparison, compare, compare_runs
from sb3_pg.compare.grid import run_grid
from sb3_pg.compare.verdict import holds, parse_condition, unsupported, verdict

#: Exit status where a condition of ``--fail-if`` holds; 1 is that of an error.
CONDITION_HOLDS = 2

EPILOG = """examples:
  sb3-pg compare --algos reinforce,vanillapg,a2c,ppo --envs CartPole-v1,Acrobot-v1 --steps 100000 --seeds 10 --jobs 2
  sb3-pg compare --algos "reinforce:baseline=none,reinforce" --envs CartPole-v1 --steps 50000
  sb3-pg compare --runs logs --out runs/report
  sb3-pg compare --runs "PPO=logs/run1,logs/run2" "A2C=other/runs*" --out runs/report

Interrupted, the same command goes on where it stopped. The report is in OUT/report/report.html. Exit status: 0, 1 after
an error, 2 if a condition of --fail-if holds."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    says = "Train algorithms and compare them, or compare runs that are there."
    made = CommandParser(
        "sb3-pg compare", description=says, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    _add_runs(made.add_argument_group("what to compare").add_argument)
    _add_evaluations(made.add_argument_group("how to evaluate").add_argument)
    _add_machinery(made.add_argument_group("how to run").add_argument)
    _add_words(made.add_argument_group("what to say").add_argument)
    return made


def _add_runs(add: Callable[..., Any]) -> None:
    add("--algos", help="names with what they shall have otherwise: reinforce:baseline=none,ppo,my_module.MyAlgorithm")
    add("--envs", help="ids of environments, separated by commas")
    add("--seeds", default="5", help="how many (5), or which: 3,4,10-19")
    steps = "environment steps of every run, or CartPole-v1=100000,Acrobot-v1=300000;\n"
    add("--steps", help=f"{steps}default: those of the configurations, if they agree")
    configs = ["zoo", "defaults"]
    add("--config", default="zoo", choices=configs, help="hyperparameters: the RL Zoo's, or the constructors'")
    add("--n-envs", type=int, help="environments side by side of every run; default: the configurations'")
    runs = "runs to compare (with), whoever trained them; NAME=FOLDER"
    add("--runs", nargs="+", default=[], metavar="FOLDER", help=runs)


def _add_evaluations(add: Callable[..., Any]) -> None:
    add("--eval-every", type=int, help="environment steps between evaluations; default: a 20th of the budget")
    add("--eval-episodes", type=int, default=10, help="episodes of an evaluation, the same ones in all of them (10)")
    add("--stochastic", action="store_true", help="evaluate the policy as it samples")


def _add_machinery(add: Callable[..., Any]) -> None:
    add("--out", type=Path, default=Path("runs/compare"), help="folder of the runs and the report (runs/compare)")
    add("--jobs", type=int, default=1, help="runs at the same time, a process with one thread each (1); -1: all cores")
    add("--backend", default="loky", help="loky (processes here), ray or dask")
    add("--address", help="of a Ray or Dask cluster that is there")
    cells = "train the cells K, K+N, ... alone: for the K-th task of an array of N"
    add("--cell", nargs="+", metavar="K/N", help=cells)
    add("--retry-failed", action="store_true", help="train the runs again that have failed")


def _add_words(add: Callable[..., Any]) -> None:
    add("--title", default="Comparison", help="of the report")
    add("--threshold", nargs="+", default=[], metavar="ENV=SCORE", help="scores whose first time is of interest")
    scale = "scores that become 0 and 1 over all environments"
    add("--scale", nargs="+", default=[], metavar="ENV=ZERO,ONE", help=scale)
    condition = "exit with status 2 if the runs show it:\n'vanillapg < ppo', 'vanillapg < 475'"
    add("--fail-if", nargs="+", default=[], metavar="CONDITION", help=condition)


def main(argv: Sequence[str]) -> int:
    """Run the command.

    :raises ValueError: for what is wrong with the arguments or with what they name
    """
    arguments = parser().parse_args(argv)
    if arguments.algos is None and not arguments.runs:
        raise ValueError("there is nothing to compare: give --algos and --envs, or --runs (--help has examples)")
    if (arguments.algos is None) != (arguments.envs is None):
        given, other = ("--algos", "--envs") if arguments.envs is None else ("--envs", "--algos")
        raise ValueError(f"{given} goes with {other}: which algorithms, on which environments")
    if arguments.cell is not None:
        return _train_cells(arguments)
    thresholds = {name: _number(value) for name, value in map(_named, arguments.threshold)}
    scale = {name: _range(value) for name, value in map(_named, arguments.scale)} or None
    if arguments.algos is None:
        found = compare_runs(arguments.runs, thresholds, scale)
    else:
        found = compare(thresholds=thresholds, scale=scale, also=arguments.runs, **_grid(arguments))
    conditions = [parse_condition(text, found.analysis.scores.labels) for text in arguments.fail_if]
    path = found.write(arguments.out / REPORT, arguments.title, shlex.join(["sb3-pg", "compare", *argv]))
    _print(found, path)
    failed = [condition for condition in conditions if holds(condition, found.analysis)]
    for condition in failed:
        print(f"--fail-if: the runs show that {condition}")
    return CONDITION_HOLDS if failed else 0


def _print(found: Comparison, path: Path) -> None:
    print()
    for line in verdict(found.analysis):
        print(line.replace("**", ""))
    print("\nWhat this does not support:")
    for line in unsupported(found.analysis, found.audit.warnings):
        print(f"- {line}")
    print(f"\nreport: {path}")


def _train_cells(arguments: argparse.Namespace) -> int:
    """The share of one task of an array; the report waits for all of them."""
    grid = _grid(arguments)
    contenders, env_ids, budget = grid.pop("algos"), grid.pop("envs"), grid.pop("steps")
    results = run_grid(contenders, env_ids, budget=budget, **grid)
    failed = sum(bool(result.error) for result in results)
    print(f"{len(results)} cells are there, {failed} of them failed; without --cell the same command makes the report")
    return 0


def _grid(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "algos": arguments.algos,
        "envs": [name for name in arguments.envs.split(",") if name],
        "seeds": _seeds(arguments.seeds),
        "out": arguments.out,
        "steps": _steps(arguments.steps),
        "config": arguments.config,
        "n_envs": arguments.n_envs,
        "eval_every": arguments.eval_every,
        "n_eval_episodes": arguments.eval_episodes,
        "deterministic": not arguments.stochastic,
        "jobs": arguments.jobs,
        "backend": arguments.backend,
        "address": arguments.address,
        "retry_failed": arguments.retry_failed,
        "cell": None if arguments.cell is None else _cell(arguments.cell),
    }


def _seeds(text: str) -> int | list[int]:
    """``10`` is ten seeds from 0 on; with a comma or a hyphen it says which."""
    try:
        if "," not in text and "-" not in text:
            return int(text)
        seeds: list[int] = []
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        raise ValueError(f"--seeds {text}: write how many, like 10, or which, like 0,1,5-9") from None
    return seeds


def _steps(text: str | None) -> int | dict[str, int] | None:
    if text is None:
        return None
    try:
        if "=" not in text:
            return int(float(text))
        return {name: int(float(value)) for name, value in map(_named, text.split(","))}
    except (ValueError, OverflowError):
        raise ValueError(
            f"--steps {text}: write a number, or one for each environment, CartPole-v1=100000,..."
        ) from None


def _cell(words: Sequence[str]) -> tuple[int, int]:
    """``3/20``, or ``3 of 20``."""
    text = " ".join(words)
    k, _, n = text.replace(" of ", "/").partition("/")
    if not (k.isdigit() and n.isdigit()):
        raise ValueError(f"--cell {text}: write K/N, like 3/20 for the third of 20 tasks")
    return int(k), int(n)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r}: write the environment's id, =, and its value, like CartPole-v1=475")
    return name.strip(), value.strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _range(text: str) -> tuple[float, float]:
    zero, _, one = text.partition(",")
    return _number(zero), _number(one)
