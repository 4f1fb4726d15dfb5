"""What a search varies, and how a trial's parameters become arguments of the constructor.

A sample is a full consistent set: whatever a configuration says of the estimator, the trial's arguments go together,
since the Zoo builds the model where an exception ends the whole search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params

Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]
Converter = Callable[[dict[str, Any]], dict[str, Any]]

#: The rest of REINFORCE's estimator, whatever baseline is drawn: Monte Carlo, without a critic.
MONTE_CARLO: dict[str, Any] = {
    "returns": "reward_to_go",
    "incomplete_episodes": "carry",
    "bootstrap_truncated": False,
    "n_value_updates": 1,
    "value_learning_rate": None,
    "value_batch_size": None,
    "normalize_value": False,
}
#: The rest of an estimator with a critic of its own optimizer.
CRITIC: dict[str, Any] = {
    "returns": "gae",
    "baseline": "value",
    "incomplete_episodes": "bootstrap",
    "value_batch_size": 256,
    "normalize_value": True,
}
#: What the learning rates of VanillaPG are drawn for, and what makes its step as long as ``target_kl`` says.
PLAIN_STEP: dict[str, Any] = {"natural_gradient": False, "target_kl": None}
BOUNDED_STEP: dict[str, Any] = {"natural_gradient": True, "learning_rate": 1.0}
#: What every clip range that is drawn goes together with.
PLAIN_WEIGHTS: dict[str, Any] = {
    "importance": "timestep",
    "max_weight": None,
    "self_normalize": False,
    "defensive_coef": 0.0,
}


def _suggest_shared(
    trial: optuna.Trial, n_actions: int, learning_rate: tuple[float, float], n_steps_pow: tuple[int, int]
) -> None:
    """What all three have.

    :param n_actions: dimensions of a Box action space, 0 for any other
    """
    trial.suggest_float("learning_rate", *learning_rate, log=True)
    trial.suggest_int("n_steps_pow", *n_steps_pow)
    trial.suggest_float("one_minus_gamma", 1e-4, 0.1, log=True)
    trial.suggest_float("ent_coef", 1e-8, 0.02, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True)
    trial.suggest_categorical("normalize_advantage", [False, True])
    trial.suggest_categorical("net_arch", ["tiny", "small", "medium"])
    trial.suggest_categorical("activation_fn", ["tanh", "relu"])
    if n_actions > 0:
        trial.suggest_float("log_std_init", -2.0, 0.0)


def _suggest_critic(trial: optuna.Trial) -> None:
    trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.3, log=True)
    trial.suggest_int("n_value_updates", 1, 40, log=True)
    trial.suggest_float("value_learning_rate", 1e-4, 1e-2, log=True)


def sample_reinforce(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of REINFORCE for a trial."""
    _suggest_shared(trial, n_actions, (3e-4, 3e-2), (7, 12))
    baselines = ["none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out"]
    trial.suggest_categorical("baseline", baselines)
    return _sampled(trial, convert_reinforce)


def sample_vanillapg(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of VanillaPG for a trial."""
    _suggest_shared(trial, n_actions, (1e-4, 1e-2), (3, 10))
    _suggest_critic(trial)
    if trial.suggest_categorical("step", ["natural", "plain"]) == "natural":
        trial.suggest_float("target_kl", 3e-3, 0.1, log=True)
    return _sampled(trial, convert_vanillapg)


def sample_offpolicyispg(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of OffPolicyISPG for a trial."""
    _suggest_shared(trial, n_actions, (1e-4, 5e-3), (5, 11))
    _suggest_critic(trial)
    trial.suggest_int("n_epochs", 2, 20, log=True)
    trial.suggest_int("batch_size_pow", 5, 11)
    trial.suggest_float("target_kl", 3e-3, 0.1, log=True)
    trial.suggest_categorical("clip_range", ["none", 0.1, 0.2, 0.3])
    return _sampled(trial, convert_offpolicyispg)


def _sampled(trial: optuna.Trial, convert: Converter) -> dict[str, Any]:
    """The arguments, which a trial that is loaded later gives again; the ones under another name are shown."""
    arguments = convert(trial.params)
    for name in ("gamma", "gae_lambda", "n_steps", "batch_size"):
        if name in arguments:
            trial.set_user_attr(name, arguments[name])
    return arguments


def convert_reinforce(params: dict[str, Any]) -> dict[str, Any]:
    """A trial's parameters as arguments of REINFORCE."""
    return _convert(params) | MONTE_CARLO


def convert_vanillapg(params: dict[str, Any]) -> dict[str, Any]:
    """A trial's parameters as arguments of VanillaPG."""
    step = PLAIN_STEP if params.get("step", "plain") == "plain" else BOUNDED_STEP
    return _convert({name: value for name, value in params.items() if name != "step"}) | CRITIC | step


def convert_offpolicyispg(params: dict[str, Any]) -> dict[str, Any]:
    """A trial's parameters as arguments of OffPolicyISPG."""
    return _convert(params) | CRITIC | PLAIN_WEIGHTS


def _convert(params: dict[str, Any]) -> dict[str, Any]:
    """As for the Zoo's own on-policy algorithms, less what was not drawn."""
    drawn = dict(params)
    log_std_init = drawn.pop("log_std_init", None)
    # The Zoo's own conversion takes no None for a clip range
    has_no_clip = drawn.get("clip_range") == "none"
    if has_no_clip:
        del drawn["clip_range"]
    arguments: dict[str, Any] = convert_onpolicy_params({"one_minus_gae_lambda": 0.0} | drawn)
    if "one_minus_gae_lambda" not in drawn:
        del arguments["gae_lambda"]
    if has_no_clip:
        arguments["clip_range"] = None
    if log_std_init is not None:
        arguments["policy_kwargs"]["log_std_init"] = log_std_init
    return arguments
