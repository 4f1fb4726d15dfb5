"""Vector environments by name, from SB3, Gymnasium or EnvPool."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_pg.envs.envpool import EnvPoolVectorEnv
from sb3_pg.envs.vector import GymnasiumVecEnv

Backend = Literal["auto", "dummy", "subproc", "gymnasium", "envpool"]
BACKENDS = ("auto", "dummy", "subproc", "gymnasium", "envpool")
#: Environments that are computed all at once, where they are known to be the same task as the single one
SAME_TASK = {
    "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv": "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
}
#: Arguments of the adapter, in ``vec_env_kwargs``
ADAPTER_KWARGS = ("record_episode_statistics", "step_infos")


def make_vec_env(
    env_id: str | Callable[..., gym.Env[Any, Any]],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[..., gym.Env[Any, Any]] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    *,
    backend: Backend = "auto",
) -> VecEnv:
    """SB3's ``make_vec_env``, with a choice of what steps the environments. Each records its episodes' statistics.

    - ``"dummy"``, ``"subproc"``: SB3's, in this process or in one process for each environment.
    - ``"gymnasium"``: Gymnasium's. One that computes all environments at once, with random numbers of its own, if
      ``env_id`` is registered with one, which may be another task than the single one (ale-py's stacks grey frames
      and clips rewards); else a ``SyncVectorEnv``. In ``vec_env_kwargs``: ``vectorization_mode`` (``"sync"``,
      ``"async"``), arguments of that class, and of :class:`~sb3_pg.envs.vector.GymnasiumVecEnv`.
    - ``"envpool"``: EnvPool's, in threads of C++. In ``vec_env_kwargs``: arguments of ``envpool.make``
      (``num_threads``, ...) and of the adapter; ``step_infos`` is False if not given.
    - ``"auto"``: the task that SB3's ``make_vec_env`` gives. ``"gymnasium"`` for CartPole, which is known to be the
      same where all are computed at once, if no other argument asks for more; else ``"dummy"``.

    :param start_index, monitor_dir, vec_env_cls, monitor_kwargs: for SB3's backends only
    :param wrapper_class: around each environment; not for EnvPool
    :raises ValueError: for a combination that has no meaning, or if EnvPool is not installed
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    sb3_only = {
        "start_index": start_index != 0,
        "monitor_dir": monitor_dir is not None,
        "vec_env_cls": vec_env_cls is not None,
        "monitor_kwargs": bool(monitor_kwargs),
    }
    given = [name for name, is_given in sb3_only.items() if is_given]
    if backend == "auto":
        asked = given or wrapper_class is not None or wrapper_kwargs or vec_env_kwargs or env_kwargs
        backend = "dummy" if asked or not is_same_task(find_spec(env_id)) else "gymnasium"
    if backend in ("dummy", "subproc"):
        if backend == "subproc":
            if vec_env_cls is not None:
                raise ValueError(f"backend='subproc' and vec_env_cls={vec_env_cls.__name__}: leave one of them out")
            vec_env_cls = SubprocVecEnv
        sb3_kwargs = (env_kwargs, vec_env_cls, vec_env_kwargs, monitor_kwargs, wrapper_kwargs)
        return env_util.make_vec_env(env_id, n_envs, seed, start_index, monitor_dir, wrapper_class, *sb3_kwargs)

    env_id = check_for_sb3(env_id, backend, given)
    wrapper = None if wrapper_class is None else partial(wrapper_class, **(wrapper_kwargs or {}))
    maker = make_gymnasium if backend == "gymnasium" else make_envpool
    vec_env = maker(env_id, n_envs, seed, wrapper, dict(env_kwargs or {}), dict(vec_env_kwargs or {}))
    vec_env.seed(seed)
    if seed is not None:
        vec_env.action_space.seed(int(seed))  # NumPy's integers are refused
    return vec_env


def check_for_sb3(env_id: object, backend: str, sb3_only: list[str]) -> str:
    """Refuse what only SB3's environments can do; returns the id."""
    if sb3_only:
        raise ValueError(
            f"{' and '.join(sb3_only)} needs SB3's environments: write backend='dummy' or 'subproc' (VecMonitor(env, "
            f"filename) writes a monitor's file for any backend), got backend={backend!r}"
        )
    if not isinstance(env_id, str):
        raise ValueError(
            f"backend={backend!r} takes the id of an environment, got {env_id!r}: write backend='dummy', or "
            "GymnasiumVecEnv(gymnasium.vector.SyncVectorEnv([env_fn] * n_envs))"
        )
    return env_id


def find_spec(env_id: object) -> EnvSpec | None:
    """What Gymnasium knows of that id."""
    if not isinstance(env_id, str):
        return None
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_module(module)  # it registers the environment
        return gym.spec(name)
    except (ImportError, gym.error.Error):
        return None  # who makes it says what is wrong


def is_same_task(spec: EnvSpec | None) -> bool:
    """Whether its vector environment is known to do, without further arguments, what the single one does.

    Nothing tells from outside: spaces may be equal and rewards clipped.
    """
    if spec is None or not isinstance(spec.vector_entry_point, str) or spec.kwargs or spec.additional_wrappers:
        return False
    # Without a limit of its own, the vector environment would take its default.
    return SAME_TASK.get(spec.vector_entry_point) == spec.entry_point and spec.max_episode_steps is not None


def usable_autoreset(spec: EnvSpec) -> dict[str, Any]:
    """The argument for a vector environment that has a choice of autoreset modes: not Gymnasium's default, NEXT_STEP.

    Not DISABLED, which ale-py 0.12 does not know.
    """
    creator: Any = spec.vector_entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    has_choice = "autoreset_mode" in inspect.signature(creator).parameters and "autoreset_mode" not in spec.kwargs
    return {"autoreset_mode": AutoresetMode.SAME_STEP} if has_choice else {}


def make_gymnasium(
    env_id: str,
    n_envs: int,
    seed: int | None,
    wrapper: Callable[..., Any] | None,
    env_kwargs: dict[str, Any],
    vec_env_kwargs: dict[str, Any],
) -> GymnasiumVecEnv:
    """Gymnasium's vector environment of that id, adapted."""
    adapter_kwargs = {key: vec_env_kwargs.pop(key) for key in ADAPTER_KWARGS if key in vec_env_kwargs}
    mode = vec_env_kwargs.pop("vectorization_mode", None)
    spec = find_spec(env_id)
    has_entry_point = spec is not None and spec.vector_entry_point is not None and not spec.additional_wrappers
    if mode is None:
        batched = has_entry_point and wrapper is None and not vec_env_kwargs
        mode = "vector_entry_point" if batched else "sync"
    modes = ("sync", "async", "vector_entry_point")
    if mode not in modes:
        raise ValueError(f"vectorization_mode must be one of {', '.join(map(repr, modes))}, got {mode!r}")
    if mode == "vector_entry_point":
        if wrapper is not None or vec_env_kwargs:
            what = ", ".join([*vec_env_kwargs, *(["wrapper_class"] if wrapper is not None else [])])
            raise ValueError(
                f"vectorization_mode='vector_entry_point' has no single environments for {what}: write "
                "vectorization_mode='sync' or 'async' in vec_env_kwargs, and arguments of the environment in env_kwargs"
            )
        if spec is not None and has_entry_point:
            env_kwargs = usable_autoreset(spec) | env_kwargs
    else:
        # Not SAME_STEP, which is less exact: see GymnasiumVecEnv
        vec_env_kwargs.setdefault("autoreset_mode", AutoresetMode.DISABLED)
    make = partial(
        gym.make_vec,
        env_id,
        n_envs,
        vectorization_mode=mode,
        vector_kwargs=vec_env_kwargs,
        wrappers=None if wrapper is None else [wrapper],
    )
    try:
        # as SB3 does, so that videos can be recorded
        vector_env = make(**{"render_mode": "rgb_array", **env_kwargs})
    except TypeError:
        vector_env = make(**env_kwargs)
    return GymnasiumVecEnv(vector_env, **adapter_kwargs)


def make_envpool(
    env_id: str,
    n_envs: int,
    seed: int | None,
    wrapper: Callable[..., Any] | None,
    env_kwargs: dict[str, Any],
    vec_env_kwargs: dict[str, Any],
) -> GymnasiumVecEnv:
    """EnvPool's environment of that id, adapted."""
    if wrapper is not None:
        raise ValueError("wrapper_class has no single environments to wrap in EnvPool: write backend='dummy'")
    if vec_env_kwargs.get("batch_size", n_envs) != n_envs:
        raise ValueError(
            f"SB3 steps all environments at once, got batch_size={vec_env_kwargs['batch_size']} for n_envs={n_envs}: "
            "leave batch_size out"
        )
    adapter_kwargs = {"step_infos": False}
    adapter_kwargs |= {key: vec_env_kwargs.pop(key) for key in ADAPTER_KWARGS if key in vec_env_kwargs}
    return GymnasiumVecEnv(EnvPoolVectorEnv(env_id, n_envs, seed, **env_kwargs, **vec_env_kwargs), **adapter_kwargs)
