"""A sample is a full consistent set: it builds and trains a model, whatever the configuration says."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import torch as th
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS

from sb3_pg.zoo import register
from sb3_pg.zoo.registration import OURS
from tests.helpers.environments import DiaryEnv

register()
optuna.logging.set_verbosity(optuna.logging.ERROR)

every_algo = pytest.mark.parametrize("algo", OURS)

#: What a user's configuration may say of the estimator, and a trial must not collide with.
CONFIGURED: dict[str, list[dict[str, Any]]] = {
    "reinforce": [
        {},
        {"baseline": "value", "value_learning_rate": 1e-3, "n_value_updates": 5, "bootstrap_truncated": True},
        {"baseline": "value", "value_learning_rate": 1e-3, "value_batch_size": 64},
        {"baseline": "value", "incomplete_episodes": "bootstrap"},
        {"returns": "total"},
    ],
    "vanillapg": [
        {},
        {"natural_gradient": True, "max_grad_norm": None},
        {"natural_gradient": True, "target_kl": 0.01, "value_batch_size": 128},
        {"returns": "reward_to_go", "baseline": "time_mean", "incomplete_episodes": "carry"},
        {"value_learning_rate": None, "n_value_updates": 1},
    ],
    "offpolicyispg": [
        {},
        {"importance": "trajectory", "incomplete_episodes": "carry", "returns": "total"},
        {"importance": "none"},
        {"max_weight": 5.0, "self_normalize": True},
        {"defensive_coef": 0.1, "n_reused_batches": 2},
        {"n_reused_batches": 2, "reused_advantages": "vtrace"},
        {"kl_constraint": "backtrack", "min_ess": 0.2},
        {"clip_range": 0.2, "clip_range_vf": 0.2},
    ],
}
CASES = [(algo, configured) for algo, all_of_it in CONFIGURED.items() for configured in all_of_it]


def test_register_is_idempotent() -> None:
    before = dict(ALGOS), dict(HYPERPARAMS_SAMPLER), dict(HYPERPARAMS_CONVERTER)
    register()
    assert before == (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER)
    assert {algo: ALGOS[algo] for algo in OURS} == OURS
    assert {"ppo", "a2c", "sac"} <= ALGOS.keys()


@pytest.mark.parametrize(("algo", "configured"), CASES, ids=[f"{algo}-{i}" for i, (algo, _) in enumerate(CASES)])
@pytest.mark.parametrize("n_actions", [0, 1])
def test_every_sample_builds_a_model(algo: str, configured: dict[str, Any], n_actions: int) -> None:
    """Thirty samples over the whole space, on top of a configuration, as the Zoo joins them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        sample = HYPERPARAMS_SAMPLER[algo](trial, n_actions, 1, {})
        model: Any = ALGOS[algo](env=DiaryEnv(), policy="MlpPolicy", device="cpu", **configured | sample)
        assert model.gamma == 1 - trial.params["one_minus_gamma"]
        assert ("log_std_init" in sample["policy_kwargs"]) == (n_actions > 0)


@every_algo
def test_a_sample_trains(algo: str) -> None:
    """Five samples learn on an environment that ends."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(5):
        sample = HYPERPARAMS_SAMPLER[algo](study.ask(), 0, 1, {})
        model: Any = ALGOS[algo](env=DiaryEnv(), policy="MlpPolicy", device="cpu", **sample)
        before = th.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
        model.learn(model.n_steps)
        assert not th.equal(before, th.nn.utils.parameters_to_vector(model.policy.parameters()))


@every_algo
def test_a_trial_gives_its_arguments_again(algo: str) -> None:
    """What the converter makes of a stored trial is what the trial was trained with; no None where a rate goes."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(50):
        trial = study.ask()
        sample = HYPERPARAMS_SAMPLER[algo](trial, 1, 8, {})
        again = HYPERPARAMS_CONVERTER[algo](dict(trial.params))
        assert sample == again
        for key in ("learning_rate", "clip_range", "clip_range_vf"):
            assert isinstance(again.get(key, 0.0), float) or (key, again[key]) == ("clip_range", None)
    assert set(study.get_trials()[0].user_attrs) >= {"gamma", "n_steps"}


@every_algo
def test_the_space(algo: str) -> None:
    """The ranges, on the scale they are drawn on."""
    study = optuna.create_study()
    study.enqueue_trial({"step": "natural"})
    HYPERPARAMS_SAMPLER[algo](study.ask(), 1, 1, {})
    space = study.get_trials()[0].distributions
    low, high = {"reinforce": (3e-4, 3e-2), "vanillapg": (1e-4, 1e-2), "offpolicyispg": (1e-4, 5e-3)}[algo]
    expected: dict[str, Any] = {
        "learning_rate": optuna.distributions.FloatDistribution(low, high, log=True),
        "one_minus_gamma": optuna.distributions.FloatDistribution(1e-4, 0.1, log=True),
        "ent_coef": optuna.distributions.FloatDistribution(1e-8, 0.02, log=True),
        "max_grad_norm": optuna.distributions.FloatDistribution(0.3, 5.0, log=True),
        "log_std_init": optuna.distributions.FloatDistribution(-2.0, 0.0),
    }
    assert {name: space[name] for name in expected} == expected
    shared = {"n_steps_pow", "normalize_advantage", "net_arch", "activation_fn", *expected}
    critic = {"one_minus_gae_lambda", "n_value_updates", "value_learning_rate"}
    own = {
        "reinforce": {"baseline"},
        "vanillapg": critic | {"step", "target_kl"},
        "offpolicyispg": critic | {"n_epochs", "batch_size_pow", "target_kl", "clip_range"},
    }
    assert space.keys() == shared | own[algo]
