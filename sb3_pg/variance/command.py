"""``sb3-pg variance``: bias and variance of policy-gradient estimators, on the policy of a model."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pg.command_line import CommandParser
from sb3_pg.envs import make_vec_env
from sb3_pg.report import write_page
from sb3_pg.variance.along_training import checkpoints_page
from sb3_pg.variance.instruments.credits import parse_estimator
from sb3_pg.variance.instruments.models import algorithm_named, checkpoints, load_model, n_envs_for, statistics_beside
from sb3_pg.variance.measure import measure_gradients
from sb3_pg.variance.page import measurement_page
from sb3_pg.variance.results import Estimate, Measurement
from sb3_pg.variance.settings import DIRECTIONS, TRANSFORMS, Settings

FILE = "measurement.json"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command; each default is that of :class:`~sb3_pg.variance.settings.Settings`."""
    usual = Settings()
    made = CommandParser("sb3-pg variance", description=__doc__)
    made.add_argument("--env", help="the environment's id")
    made.add_argument("--model", type=Path, help="a model's .zip; without one a new policy is measured")
    made.add_argument("--run", type=Path, help="a folder of checkpoints, each of which is measured")
    made.add_argument("--algo", help="what the model is: ppo, a2c, reinforce, ... or my_module.MyAlgorithm")
    made.add_argument("--vecnormalize", type=Path, help="its VecNormalize statistics; looked for beside the model")
    made.add_argument("--out", type=Path, default=Path("runs/variance"), help="where pieces and results are kept")
    for name in ("batches", "episodes", "reference_batches", "chunk_batches", "critic_batches", "landscape_batches"):
        made.add_argument(_option(name), type=int, default=getattr(usual, name))
    made.add_argument("--seed", type=int, default=usual.seed)
    made.add_argument("--max-steps", type=int, default=usual.max_steps, help="of an episode")
    made.add_argument("--gamma", type=float, help="the model's if left out")
    made.add_argument(
        "--estimator",
        action="append",
        dest="estimators",
        metavar="NAME=VALUE,...",
        help="returns=gae,baseline=value,gae_lambda=0.9 for one; again for more; the usual ones if left out",
    )
    made.add_argument("--transforms", nargs="*", default=list(usual.transforms), choices=TRANSFORMS)
    made.add_argument("--natural-rows", type=int, default=usual.natural_rows, help="states of the Fisher matrix")
    made.add_argument("--fresh-optimizer", action="store_true", help="forget the state of the model's optimizer")
    made.add_argument("--drifts", nargs="*", type=float, default=list(usual.drifts), metavar="KL")
    made.add_argument("--direction", default=usual.direction, choices=DIRECTIONS)
    made.add_argument("--landscape", nargs="*", type=float, default=list(usual.landscape), metavar="SIZE")
    made.add_argument("--landscape-kl", type=float, default=usual.landscape_kl, help="of a step of size 1")
    return made


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def settings_of(given: argparse.Namespace) -> Settings:
    """What the arguments ask for."""
    names = [name for name in vars(Settings()) if hasattr(given, name)]
    chosen: dict[str, Any] = {name: getattr(given, name) for name in names}
    chosen |= {name: tuple(chosen[name]) for name in ("transforms", "drifts", "landscape")}
    if given.estimators is not None:
        chosen["estimators"] = tuple(parse_estimator(one) for one in given.estimators)
    return Settings(**chosen)


def _environment(given: argparse.Namespace, settings: Settings, model: Path | None) -> VecEnv:
    """With the statistics of the model's moment, if it has some."""
    try:
        env = make_vec_env(given.env, n_envs_for(settings.episodes), seed=settings.seed)
    except Exception as error:  # whatever an unknown or broken environment raises
        text = " ".join(str(error).split())
        raise ValueError(f"cannot make the environment {given.env}: {type(error).__name__}: {text}") from error
    statistics = given.vecnormalize or (None if model is None else statistics_beside(model))
    if statistics is None:
        return env
    if not statistics.is_file():
        raise ValueError(f"there is no file {statistics}")
    print(f"Observations as {statistics} normalises them")
    normalized: VecNormalize = VecNormalize.load(str(statistics), env)
    return normalized


def _models(given: argparse.Namespace) -> list[Path | None]:
    if given.env is None:
        raise ValueError("which environment? add --env CartPole-v1, say")
    if given.run is not None and given.model is not None:
        raise ValueError("--run measures the models of a folder and --model one: leave one of them out")
    return list(checkpoints(given.run)) if given.run is not None else [given.model]


def _model(given: argparse.Namespace, settings: Settings, path: Path | None, env: VecEnv) -> OnPolicyAlgorithm:
    if path is not None:
        return load_model(path, given.algo)
    kind: Any = algorithm_named(given.algo or "vanillapg")
    print(f"No --model: measuring a new policy of {kind.__name__}")
    name = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    name = "CnnPolicy" if is_image_space(env.observation_space) else name
    new: OnPolicyAlgorithm = kind(name, env, seed=settings.seed, device="cpu")
    return new


def run(argv: Sequence[str]) -> list[Measurement]:
    """Measure what the arguments ask for.

    :raises ValueError: in one line, for what cannot be measured
    """
    given = parser().parse_args(argv)
    settings = settings_of(given)
    command = shlex.join(["sb3-pg", "variance", *argv])
    measurements = []
    for path in _models(given):
        env = _environment(given, settings, path)
        model = _model(given, settings, path, env)
        folder = given.out if path is None or given.run is None else given.out / path.stem
        measurement = measure_gradients(model, env, settings, folder, _progress)
        measurement.save(folder / FILE)
        env.close()
        page = write_page(measurement_page(measurement, command), folder)
        print(f"{text_of(measurement)}\n\nWritten to {folder / FILE}, report: {page}")
        measurements.append(measurement)
    if given.run is not None:
        print(f"\nAll {len(measurements)}: {write_page(checkpoints_page(measurements, command), given.out)}")
    return measurements


def _progress(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{stage} {done}/{total}", end="" if done < total else "\r\x1b[K", file=sys.stderr, flush=True)


def text_of(measurement: Measurement) -> str:
    """The estimators in a table of plain text."""
    facts = measurement.facts
    lines = [
        f"{facts['algorithm']} on {facts['environment'] or 'an environment'}, {measurement.steps} steps old: return "
        f"{_interval(measurement.mean_return)}, length {_interval(measurement.mean_length)}, gradients of "
        f"{measurement.settings['episodes']} episodes, {facts['n_parameters']} parameters"
    ]
    for reference in measurement.references.values():
        lines.append(
            f"Reference ({reference.aim}): {reference.episodes} episodes, norm {_interval(reference.norm)}, cosine of "
            f"its halves {reference.half_cosine:.3f}, noise {reference.half_distance:.3g}"
        )
    lines += [f"Note: {remark}" for remark in measurement.remarks]
    heads = ["estimator", "variance", "relative variance", "SNR", "pairwise cosine", "relative bias", "noise scale"]
    rows = [heads]
    for one in sorted(measurement.estimators, key=lambda one: -one.whole.snr.value):
        whole = one.whole
        columns = (whole.variance, one.paired_variance, whole.snr, whole.pairwise_cosine, whole.relative_bias)
        rows.append([one.name, *map(_interval, (*columns, one.noise_scale))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("")
    for name, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:{widths[0]}}", *padded]))
    return "\n".join(lines)


def _interval(estimate: Estimate) -> str:
    if estimate.value != estimate.value:
        return "-"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def main(argv: Sequence[str]) -> int:
    """Measure, write and print what the arguments ask for.

    :param argv: the arguments
    :return: 0
    :raises ValueError: in one line, for what cannot be measured
    """
    with warnings.catch_warnings():
        # Of SB3, when PPO or A2C with a plain network is on a GPU
        warnings.filterwarnings("ignore", message="You are trying to run")
        run(argv)
    return 0
