"""Short runs of all kinds, begun, interrupted and resumed by the same lines; and all that a run leaves, to compare."""

from __future__ import annotations

import csv
import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

import sb3_pg
from sb3_pg import REINFORCE, GymnasiumVecEnv, OffPolicyISPG, ResumeCallback, VanillaPG, has_checkpoint
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.models import TINY

STEPS, EVERY = 768, 150
#: Policies that remember: what they know of running episodes goes on too.
SMALL_LSTM: dict[str, Any] = {"lstm_hidden_size": 8, "net_arch": [8]}
SMALL_ATTENTION: dict[str, Any] = {"context_length": 8, "d_model": 8, "n_heads": 2, "n_layers": 1, "net_arch": [8]}
#: Columns of a log that tell the time of day.
TIMES = frozenset({"time/fps", "time/time_elapsed", "t"})


def gymnasium_envs(env_id: str, n_envs: int, mode: str) -> VecEnv:
    """A vector environment of Gymnasium's."""
    vec_env = GymnasiumVecEnv(gym.make_vec(env_id, n_envs, vectorization_mode=mode))
    vec_env.seed(3)
    return vec_env


@dataclass(frozen=True)
class Kind:
    """A run: the algorithm, its arguments, and the environments.

    :param backend: of the environments: ``"dummy"``, ``"subproc"``, ``"ours"``, ``"sync"`` or ``"async"``
    """

    algorithm: type[PolicyGradientAlgorithm]
    env_id: str = "CartPole-v1"
    n_envs: int = 8
    normalize: bool = False
    backend: str = "dummy"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    policy: str = "MlpPolicy"

    def env(self, folder: Path | None = None) -> VecEnv:
        """The environments, made anew.

        :param folder: where their monitors write, None for nowhere
        """
        if self.backend in ("sync", "async"):
            env = gymnasium_envs(self.env_id, self.n_envs, self.backend)
        elif self.backend == "ours":
            env = sb3_pg.make_vec_env(self.env_id, self.n_envs, seed=3)
        else:
            vec_env: type[DummyVecEnv | SubprocVecEnv] = SubprocVecEnv if self.backend == "subproc" else DummyVecEnv
            where = None if folder is None else str(folder / "monitors")
            env = make_vec_env(self.env_id, self.n_envs, seed=3, vec_env_cls=vec_env, monitor_dir=where)
        return VecNormalize(env, gamma=0.98) if self.normalize else env

    def model(self, env: VecEnv) -> PolicyGradientAlgorithm:
        """The model of a run that begins."""
        arguments: dict[str, Any] = {"learning_rate": _falling, "policy_kwargs": TINY, "seed": 1} | dict(self.arguments)
        return self.algorithm(self.policy, env, **arguments)


def _falling(progress: float) -> float:
    return 1e-2 * progress


KINDS: dict[str, Kind] = {
    "one environment": Kind(REINFORCE, n_envs=1, arguments={"n_steps": 64}),
    "carried episodes": Kind(REINFORCE, normalize=True, arguments={"n_steps": 16}),
    "quota": Kind(REINFORCE, arguments={"n_steps": 32, "n_episodes": 16}),
    "critic": Kind(VanillaPG, "Pendulum-v1", 4, normalize=True, arguments={"n_steps": 48}),
    "joint critic": Kind(VanillaPG, n_envs=2, arguments={"n_steps": 64, "value_learning_rate": None}),
    "gSDE": Kind(VanillaPG, "Pendulum-v1", 1, arguments={"n_steps": 96, "use_sde": True, "sde_sample_freq": 4}),
    "reuse": Kind(OffPolicyISPG, normalize=True, arguments={"n_steps": 32, "n_reused_batches": 2, "batch_size": 64}),
    "penalty": Kind(OffPolicyISPG, n_envs=1, arguments={"n_steps": 128, "kl_constraint": "penalty", "batch_size": 32}),
    "LSTM": Kind(REINFORCE, policy="MlpLstmPolicy", arguments={"n_steps": 16, "policy_kwargs": SMALL_LSTM}),
    "LSTM, cut episodes": Kind(
        OffPolicyISPG, policy="MlpLstmPolicy", arguments={"n_steps": 24, "policy_kwargs": SMALL_LSTM}
    ),
    "attention": Kind(
        VanillaPG, policy="MlpAttentionPolicy", arguments={"n_steps": 24, "policy_kwargs": SMALL_ATTENTION}
    ),
    "processes": Kind(VanillaPG, n_envs=2, normalize=True, backend="subproc", arguments={"n_steps": 64}),
    "Gymnasium": Kind(OffPolicyISPG, normalize=True, backend="ours", arguments={"n_steps": 32}),
    "SyncVectorEnv": Kind(VanillaPG, "Acrobot-v1", 3, backend="sync", arguments={"n_steps": 64}),
    "AsyncVectorEnv": Kind(VanillaPG, "Acrobot-v1", 2, backend="async", arguments={"n_steps": 64}),
}


def learn(
    kind: Kind, folder: Path, resumable: bool = True, more: Sequence[BaseCallback] = ()
) -> PolicyGradientAlgorithm:
    """Begin a run or go on with it, to its end.

    :param folder: where all that it writes is, its checkpoints too
    :param resumable: write these
    :param more: callbacks beside
    """
    env, checkpoints = kind.env(folder), folder / "checkpoints"
    try:
        model = kind.algorithm.resume(checkpoints, env) if has_checkpoint(checkpoints) else kind.model(env)
        model.set_logger(configure(str(folder), ["csv", "json"]))
        evaluation = EvalCallback(
            replace(kind, n_envs=1, backend="dummy").env(),
            n_eval_episodes=1,
            eval_freq=70,
            log_path=str(folder),
            verbose=0,
            warn=False,
        )
        resume = [ResumeCallback(checkpoints, every=EVERY)] if resumable else []
        model.learn(kind.steps, callback=[evaluation, *resume, *more], log_interval=2)
        evaluation.eval_env.close()
    finally:
        env.close()
    return model


def outcome(model: PolicyGradientAlgorithm, folder: Path) -> dict[str, str]:
    """All that a run leaves, a check sum for each part: what differs has a name."""
    parts: dict[str, Any] = {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "critic's optimizer": None if model.value_optimizer is None else model.value_optimizer.state_dict(),
        "counters": (model.num_timesteps, model._n_updates, model._mean_length, getattr(model, "kl_coef", None)),
        "random": (np.random.get_state(legacy=False), th.get_rng_state()),
        "last observation": model._last_obs,
        "episodes": [(one["r"], one["l"]) for one in model.ep_info_buffer or ()],
        "log": _table(folder / "progress.csv"),
        "evaluations": dict(np.load(folder / "evaluations.npz")),
        "monitors": {one.name: _table(one) for one in sorted((folder / "monitors").glob("*.csv"))},
    }
    if isinstance(model, OffPolicyISPG):
        parts["past batches"] = [(one.log_probs, one.batch.rewards) for one in model.replay_buffer]
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        parts["VecNormalize"] = [vars(normalizer.obs_rms), vars(normalizer.ret_rms), normalizer.returns]
    return {name: hashlib.sha256(pickle.dumps(_plain(value))).hexdigest() for name, value in parts.items()}


def _plain(value: Any) -> Any:
    """The same in lists and bytes, which look the same if they are."""
    if isinstance(value, Mapping):
        return [(str(key), _plain(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (th.Tensor, np.ndarray)):
        array = np.asarray(value)
        return [str(array.dtype), array.shape, array.tobytes()]
    return repr(value)


def _table(path: Path) -> list[list[str]]:
    """A file of comma-separated values, without the times of day."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    return [[f"{key}={value}" for key, value in row.items() if key not in TIMES] for row in rows]


class Interrupted(Exception):
    """What :class:`Interrupt` raises."""


#: Of this process, and so not in an attribute, which would be kept.
_STEPS: list[int] = []


class Interrupt(BaseCallback):
    """Calls something at a step, counted in this process.

    :param then: default: raise :class:`Interrupted`
    """

    def __init__(self, at: int, then: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.at, self.then = at, then

    def _on_training_start(self) -> None:
        _STEPS.clear()

    def _on_step(self) -> bool:
        _STEPS.append(self.n_calls)
        if len(_STEPS) == self.at:
            if self.then is None:
                raise Interrupted
            self.then()
        return True
