"""What is measured: a model of any on-policy algorithm, its environment, the checkpoints of a run."""

from __future__ import annotations

import pickle
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_pg.envs import make_vec_env
from sb3_pg.variance.instruments.sampling import normalizer_of

#: By the names that the RL Zoo's folders have.
ALGORITHMS = {
    "a2c": "stable_baselines3.A2C",
    "ppo": "stable_baselines3.PPO",
    "trpo": "sb3_contrib.TRPO",
    "ppo_mask": "sb3_contrib.MaskablePPO",
    "reinforce": "sb3_pg.REINFORCE",
    "vanillapg": "sb3_pg.VanillaPG",
    "offpolicyispg": "sb3_pg.OffPolicyISPG",
}
#: What can be asked for values and for log-probs of actions.
POLICIES = (ActorCriticPolicy, MaskableActorCriticPolicy)
#: Environments side by side, at most.
MAX_ENVS = 16


def check_model(model: Any) -> None:
    """Refuse what has no policy gradient that could be measured."""
    policy = getattr(model, "policy", None)
    if not isinstance(model, OnPolicyAlgorithm) or not isinstance(policy, POLICIES):
        raise ValueError(
            f"the laboratory measures on-policy models with a stochastic policy (PPO, A2C, TRPO, REINFORCE ...), got "
            f"{type(model).__name__}"
        )
    if hasattr(policy, "lstm_actor"):
        raise ValueError(f"{type(policy).__name__} keeps a state between steps, which the laboratory does not follow")


def n_envs_for(episodes: int) -> int:
    """The largest number of environments that shares a batch of episodes out equally."""
    return max(n for n in range(1, min(episodes, MAX_ENVS) + 1) if episodes % n == 0)


def environment_for(model: OnPolicyAlgorithm, env: VecEnv | str | None, episodes: int) -> VecEnv:
    """The environment to play in, wrapped as the model needs it.

    :param env: as it is (an id: as many copies as suit the number of episodes); None for the model's own
    :raises ValueError: if there is none, or it is of another kind than the model's
    """
    check_model(model)
    if env is None:
        own = model.get_env()
        if own is None:
            raise ValueError("the model has no environment: give one, env='CartPole-v1'")
        model._last_obs = None  # it is reset here, so the next learn() has to begin anew
        return own
    made = make_vec_env(env, n_envs_for(episodes)) if isinstance(env, str) else env
    if normalizer_of(made) is None and (normalizer := model.get_vec_normalize_env()) is not None:
        copied: VecNormalize = pickle.loads(pickle.dumps(normalizer))
        copied.set_venv(made)
        made = copied
    made = model._wrap_env(made, verbose=0, monitor_wrapper=False)
    check_for_correct_spaces(made, model.observation_space, model.action_space)
    return made


def identity(env: VecEnv) -> list[str]:
    """What can be said of an environment from outside: its wrappers, its spaces, the task's name and arguments."""
    wrappers = []
    inner = env
    while isinstance(inner, VecEnvWrapper):
        wrappers.append(type(inner).__name__)
        inner = inner.venv
    spec = _spec(env)
    told = [] if spec is None else [str(spec.id), str(spec.kwargs)]
    return [*wrappers, type(inner).__name__, *map(str, (env.num_envs, env.observation_space, env.action_space)), *told]


def task(env: VecEnv) -> str:
    """The id of the environment; empty if it does not say."""
    spec = _spec(env)
    return "" if spec is None else str(spec.id)


def _spec(env: VecEnv) -> Any:
    """What Gymnasium knows of the environment, None for nothing."""
    try:
        spec = env.get_attr("spec", [0])[0]
    except (AttributeError, NotImplementedError, IndexError):
        spec = None
    return getattr(getattr(env.unwrapped, "vector_env", None), "spec", None) if spec is None else spec


def algorithm_named(name: str) -> type[OnPolicyAlgorithm]:
    """The class of an algorithm, by the Zoo's name for it or by its dotted path, ``my_module.MyAlgorithm``."""
    path = ALGORITHMS.get(name.lower(), name)
    module, dot, attribute = path.rpartition(".")
    if not dot:
        raise ValueError(
            f"there is no algorithm {name}: write one of {', '.join(ALGORITHMS)}, or my_module.MyAlgorithm"
        )
    try:
        found: type[OnPolicyAlgorithm] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no algorithm {path}: {error}") from error
    return found


def load_model(path: Path, algorithm: str | None = None) -> OnPolicyAlgorithm:
    """A model from its file, without an environment.

    :param algorithm: its name; None to go by the folders that the file is in, as the RL Zoo names them
    :raises ValueError: if there is no such file, or nothing says what it is a model of
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    # A comparison's folders have variations behind a colon: reinforce:baseline=none
    parts = [part.name.lower().partition(":")[0] for part in path.absolute().parents]
    names = [name for name in parts if name in ALGORITHMS]
    if algorithm is None and not names:
        raise ValueError(f"nothing says which algorithm {path} is a model of: add --algo ppo, say")
    kind = algorithm_named(algorithm or names[0])
    try:
        model = kind.load(path, device="cpu")
    except Exception as error:  # whatever a file that is no model of this kind makes SB3 do
        text = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be loaded as {kind.__name__}: {type(error).__name__}: {text}") from error
    return model


def statistics_beside(model: Path) -> Path | None:
    """The VecNormalize statistics of a model's moment, under SB3's and the Zoo's names for them; None without."""
    names = [
        re.sub(r"^rl_model_(\d+_steps)$", r"rl_model_vecnormalize_\1", model.stem),
        f"{model.stem}_vecnormalize",
        "vecnormalize",
    ]
    beside = [model.with_name(f"{name}.pkl") for name in names if name != model.stem]
    there = [path for path in [*beside, *sorted(model.parent.glob("*/vecnormalize.pkl"))] if path.is_file()]
    return there[0] if there else None


def checkpoints(folder: Path) -> list[Path]:
    """The models of a run, in the order of their steps; the final one where there are no checkpoints.

    :raises ValueError: if there is none
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found = {int(m[1]): path for path in folder.glob("*.zip") if (m := re.fullmatch(r".*?_(\d+)_steps", path.stem))}
    if found:
        return [found[steps] for steps in sorted(found)]
    models = sorted(folder.glob("*.zip"))
    if not models:
        raise ValueError(f"there is no model in {folder}: it has no .zip")
    final = [path for path in models if path.stem != "best_model"]
    return (final or models)[-1:]
