"""The RL Zoo's commands for our algorithms and the built-in ones: ``sb3-pg train --algo reinforce ...``."""

from __future__ import annotations

import argparse
import difflib
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import rl_zoo3.enjoy
import rl_zoo3.train
from rl_zoo3 import utils
from rl_zoo3.load_from_hub import download_from_hub
from rl_zoo3.utils import create_test_env
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_pg.zoo.errors import one_line, passes_through
from sb3_pg.zoo.experiment import ExperimentManager
from sb3_pg.zoo.registration import OURS, register
from sb3_pg.zoo.runs import find_model, find_statistics

#: What runs once everything is set up: an error from there is shown with its traceback.
RUNNING = (
    ExperimentManager.learn,
    ExperimentManager.objective,
    BaseAlgorithm.predict,
    DummyVecEnv.step_wait,
    SubprocVecEnv.step_wait,
)


def train() -> None:
    """Train, or search hyperparameters with ``-optimize``."""
    with patch.object(rl_zoo3.train, "ExperimentManager", ExperimentManager):
        rl_zoo3.train.train()


def optimize() -> None:
    """Search hyperparameters."""
    sys.argv.append("-optimize")
    train()


def enjoy() -> None:
    """Run a trained agent."""
    models = Models()
    with (
        patch.object(rl_zoo3.enjoy, "get_model_path", models.find),
        patch.object(rl_zoo3.enjoy, "create_test_env", models.create_test_env),
        patch.object(rl_zoo3.enjoy, "download_from_hub", _announced_download),
    ):
        rl_zoo3.enjoy.enjoy()


def record_video() -> None:
    """Film a trained agent."""
    models = Models()
    with (
        patch.object(utils, "get_model_path", models.find),
        patch.object(utils, "create_test_env", models.create_test_env),
    ):
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def _plot(name: str) -> Callable[[], None]:
    def command() -> None:
        # seaborn and pandas, which the other commands have no need to wait for
        from sb3_pg.zoo import plots

        getattr(plots, name)()

    return command


COMMANDS: dict[str, Callable[[], None]] = {
    "train": train,
    "optimize": optimize,
    "enjoy": enjoy,
    "record-video": record_video,
    "plot-train": _plot("plot_train"),
    "all-plots": _plot("all_plots"),
    "plot-from-file": _plot("plot_from_file"),
}
#: The Zoo's commands that know ``--verbose`` themselves.
VERBOSE = ("train", "optimize", "enjoy")


class Models:
    """The model that a command looks at, and the environment with the statistics of that model's moment."""

    def __init__(self) -> None:
        self._model = Path()

    def find(self, *args: Any, **kwargs: Any) -> tuple[str, str, str]:
        """See :func:`~sb3_pg.zoo.runs.find_model`."""
        found = find_model(*args, **kwargs)
        self._model = Path(found[1])
        return found

    def create_test_env(self, env_id: str, **kwargs: Any) -> VecEnv:
        """As the Zoo's, which looks for statistics in a folder, under one name."""
        stats_path = kwargs["stats_path"]
        if stats_path is None or not kwargs["hyperparams"].get("normalize"):
            return create_test_env(env_id, **kwargs)
        statistics = find_statistics(self._model, Path(stats_path).name)
        if statistics is None:
            raise ValueError(f"{self._model} learned behind VecNormalize, and its statistics are not beside it")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(statistics, os.path.join(folder, "vecnormalize.pkl"))
            return create_test_env(env_id, **kwargs | {"stats_path": folder})


def _announced_download(algo: str, env_name: str, folder: str, **kwargs: Any) -> None:
    """Say what the Zoo is about to do, where it would only be a surprise."""
    own = "your own runs are in logs/ unless you said otherwise: add -f logs"
    if algo in OURS:
        raise ValueError(f"there is no agent of {algo} in {folder}, and none to download; {own}")
    print(f"No -f, and no agent in {folder}: asking the Hugging Face hub for one of {algo} on {env_name}; {own}")
    download_from_hub(algo=algo, env_name=env_name, folder=folder, **kwargs)


def main(argv: Sequence[str], also: Sequence[str] = ()) -> int:
    """Run one of :data:`COMMANDS`.

    :param argv: the command and its arguments
    :param also: commands that others run, which the help names too
    :return: 0, or 1 after an error
    """
    names = [*also, *COMMANDS]
    if not argv or argv[0] in ("-h", "--help"):
        own = f"{', '.join(also)}, and the" if also else "The"
        print(
            f"usage: sb3-pg {{{','.join(names)}}} ...\n\n{own} RL Zoo's commands; --help after one lists its arguments."
        )
        return 0 if argv else 1
    name, arguments = argv[0].replace("_", "-"), list(argv[1:])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, names, n=1)
        instead = f"did you mean {near[0]}?" if near else f"write one of {', '.join(names)}"
        print(f"sb3-pg: there is no command {argv[0]}: {instead}", file=sys.stderr)
        return 1
    verbose, others = _verbosity(arguments)
    register()
    program = [f"sb3-pg {name}", *(arguments if name in VERBOSE else others)]
    with patch.object(sys, "argv", program), patch.object(argparse.ArgumentParser, "error", _refuse):
        try:
            COMMANDS[name]()
        except KeyboardInterrupt:
            print(f"sb3-pg {name}: interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if verbose >= 2 or passes_through(error, RUNNING):
                traceback.print_exc()
            else:
                print(f"sb3-pg {name}: {_explained(error)}", file=sys.stderr)
            return 1
    return 0


def _verbosity(arguments: list[str]) -> tuple[int, list[str]]:
    """The number after ``--verbose``, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--verbose", default="1")
    known, others = parser.parse_known_args(arguments)
    return int(known.verbose) if known.verbose.isdigit() else 1, others


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of argparse's page of usage."""
    raise ValueError(f"{message} (--help lists the arguments)")


def _explained(error: Exception) -> str:
    """The error in one line."""
    if passes_through(error, [utils.StoreDict.__call__]):
        return (
            f"{one_line(error)} (values on the command line are Python: text is quoted twice, like key:\"'lin_0.01'\")"
        )
    return one_line(error)
