"""A saved model is the model: bit for bit, optimizers and schedules included; a seed is a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import ReturnsBatch
from tests.helpers.environments import diary
from tests.helpers.models import (
    ESTIMATORS,
    JOINT_CRITIC,
    MONTE_CARLO,
    OWN_CRITIC,
    TINY,
    Algorithm,
    differences,
    every_algorithm,
    make,
    n_updates,
    no_episode_ended,
    snapshot,
)
from tests.helpers.recording import Batches, assert_whole, log_to_memory

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def half_the_mean(batch: ReturnsBatch) -> th.Tensor:
    """A baseline of a user's."""
    return (batch.returns.mean() / 2).expand_as(batch.returns)


def falling(start: float) -> Any:
    """A schedule: from ``start`` down to 0."""
    return lambda progress_remaining: start * progress_remaining


BASELINES: dict[str, dict[str, Any]] = {
    name: MONTE_CARLO | {"baseline": name}
    for name in ("none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal")
} | {"callable": MONTE_CARLO | {"baseline": half_the_mean}, "joint critic": JOINT_CRITIC, "own critic": OWN_CRITIC}
every_baseline = pytest.mark.parametrize("estimator", BASELINES.values(), ids=BASELINES.keys())

CONFIGS: dict[str, dict[str, Any]] = {
    "one environment": {},
    "four environments": {"n_envs": 4},
    "whole episodes": {"n_envs": 4, "n_episodes": 8},
    "joint critic": {"n_envs": 2, **JOINT_CRITIC},
    "own critic": {"n_envs": 2, **OWN_CRITIC},
    "gSDE": {"n_envs": 2, "action_space": BOX, "use_sde": True, "sde_sample_freq": 4},
    "micro-batches": {"n_envs": 2, "micro_batch_size": 7},
    "RMSprop": {"policy_kwargs": TINY | {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-5}}},
}


def configured(algorithm: Algorithm, config: dict[str, Any], seed: int = 3) -> PolicyGradientAlgorithm:
    """A model of one of the :data:`CONFIGS`."""
    kwargs = dict(config)
    env = diary(kwargs.pop("n_envs", 1), action_space=kwargs.pop("action_space", None), lengths=[3, 7, 4])
    return make(algorithm, env, seed=seed, n_steps=20, **kwargs)


@every_algorithm
@every_baseline
def test_save_and_load(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    """Parameters, every optimizer's state, counters and arguments come back; without an environment it predicts."""
    model = make(algorithm, diary(2), **estimator).learn(64)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    before, after = snapshot(model), snapshot(loaded)
    assert differences(before, after) == []
    assert ("value_optimizer" in after) == (estimator["value_learning_rate"] is not None)
    assert all(after[name]["state"] for name in after if name != "policy"), "an optimizer has forgotten its state"
    for name in ("num_timesteps", "_n_updates", "n_steps", "gamma", "returns", "n_value_updates", "loss_reduction"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.baseline == model.baseline or callable(loaded.baseline)
    observations = np.array([[0, 1, 2], [1, 5, 3]], dtype=np.float32)
    ours, theirs = (one.predict(observations, deterministic=True)[0] for one in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)


@every_algorithm
@every_baseline
def test_load_and_go_on(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    """A loaded model learns on like the one that was saved: the same steps, from the same state, bit for bit."""
    lengths = [3, 7, 4]
    model = make(algorithm, diary(2, lengths=lengths), **estimator).learn(64)
    model.save(tmp_path / "model")
    ends = []
    for continued in (model, algorithm.load(tmp_path / "model", device="cpu")):
        continued.set_env(diary(2, lengths=lengths))
        continued.set_random_seed(5)
        continued.learn(64, reset_num_timesteps=False)
        assert continued.num_timesteps == 128
        assert n_updates(continued) == 4
        ends.append(snapshot(continued))
    assert differences(ends[0], ends[1]) == []


@every_algorithm
def test_schedules_go_on(algorithm: Algorithm, tmp_path: Path) -> None:
    """``learn(a)``, save, load, ``learn(b)`` follows the same learning rates and entropy coefficients as without."""
    kwargs = OWN_CRITIC | {
        "learning_rate": falling(1e-2),
        "ent_coef": falling(0.5),
        "value_learning_rate": falling(2e-3),
    }
    rates = []
    for is_loaded in (False, True):
        model = make(algorithm, diary(1), **kwargs).learn(32)
        if is_loaded:
            model.save(tmp_path / "model")
            model = algorithm.load(tmp_path / "model", env=diary(1), device="cpu")
        dumps = log_to_memory(model)
        value_rates: list[float] = []

        def note(locals_: dict[str, Any], _: dict[str, Any], value_rates: list[float] = value_rates) -> bool:
            value_rates.append(locals_["self"].value_optimizer.param_groups[0]["lr"])
            return True

        model.learn(64, callback=note, reset_num_timesteps=False)
        rates.append([dump["train/learning_rate"] for dump in dumps[1:]] + value_rates)
        remaining = model._current_progress_remaining
        assert model._now(model.ent_coef) == pytest.approx(0.5 * remaining)
    assert rates[0] == rates[1]
    assert rates[0][:3] == pytest.approx([1e-2 * left for left in (1 / 2, 1 / 3, 1 / 6)])
    assert rates[0][-1] == pytest.approx(2e-3 / 6)


@every_algorithm
def test_ent_coef_schedule_is_followed(algorithm: Algorithm) -> None:
    """An entropy coefficient that ends at 0 makes the last update that of no coefficient at all."""

    def last_update(ent_coef: Any) -> Any:
        model = make(algorithm, diary(1), ent_coef=ent_coef).learn(16)
        return snapshot(model)

    none, scheduled, constant = last_update(0.0), last_update(falling(1.0)), last_update(1.0)
    assert differences(none, scheduled) == []
    assert differences(none["policy"], constant["policy"]) != []


@every_algorithm
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_get_and_set_parameters(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """Parameters and optimizers move from one model to another, and nothing less is accepted."""
    learned = make(algorithm, diary(1), **estimator).learn(48)
    fresh = make(algorithm, diary(1), **estimator | {"seed": 1})
    assert differences(snapshot(learned), snapshot(fresh)) != []
    fresh.set_parameters(learned.get_parameters())  # type: ignore[arg-type]
    assert differences(snapshot(learned), snapshot(fresh)) == []
    with pytest.raises(ValueError, match=r"policy\.optimizer"):
        fresh.set_parameters({"policy": learned.policy.state_dict()})  # type: ignore[dict-item]


@every_algorithm
def test_load_with_other_numbers_of_environments(algorithm: Algorithm, tmp_path: Path) -> None:
    """A model moves to more or fewer environments: to any to predict, to learn to those that can share the quota."""
    make(algorithm, diary(4), n_episodes=8, n_steps=40).learn(160).save(tmp_path / "model")
    for n_envs in (1, 2, 8):
        recorder = Batches()
        model = algorithm.load(tmp_path / "model", env=diary(n_envs), device="cpu")
        model.learn(40 * n_envs, callback=recorder, reset_num_timesteps=False)
        assert model.n_envs == n_envs
        assert [batch.episodes.n_episodes for batch in recorder.updates] == [8] * len(recorder.batches)
        assert_whole(recorder.updates[0], lengths=[5])
    for n_envs in (3, 16):
        model = algorithm.load(tmp_path / "model", env=diary(n_envs), device="cpu")
        observations = diary(n_envs).reset()
        assert isinstance(observations, np.ndarray)
        assert len(model.predict(observations)[0]) == n_envs
        with pytest.raises(ValueError, match=rf"n_episodes=8 .*{n_envs} environments.*load\(\.\.\., n_episodes="):
            model.learn(40 * n_envs)
    model = algorithm.load(tmp_path / "model", env=diary(3), device="cpu", n_episodes=9)
    assert model.n_episodes == 9


@every_algorithm
def test_load_replaces_what_it_is_told_to(algorithm: Algorithm, tmp_path: Path) -> None:
    """``custom_objects``, as the RL Zoo passes them, and arguments of ``load`` replace what was saved."""
    make(algorithm, diary(1), learning_rate=falling(0.1), ent_coef=0.2).learn(16).save(tmp_path / "model")
    zoo = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    model = algorithm.load(tmp_path / "model", env=diary(1), device="cpu", custom_objects=zoo)
    before = snapshot(model)["policy"]
    model.learn(16)
    assert differences(before, snapshot(model)["policy"]) == [], "a learning rate of 0 changes nothing"
    model = algorithm.load(tmp_path / "model", env=diary(1), device="cpu", gamma=0.5, ent_coef=0.0, n_steps=7)
    assert (model.gamma, model.rollout_buffer.gamma, model._now(model.ent_coef)) == (0.5, 0.5, 0.0)
    assert model.rollout_buffer.buffer_size == 7


@every_algorithm
def test_load_checks_arguments(algorithm: Algorithm, tmp_path: Path) -> None:
    """What the constructor refuses is refused at ``load`` too."""
    make(algorithm, diary(1)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="baseline"):
        algorithm.load(tmp_path / "model", baseline="nothing")
    with pytest.raises(ValueError, match="critic"):
        algorithm.load(tmp_path / "model", bootstrap_truncated=True)


#: Saved with, loaded with, what the message must name.
OTHER_OPTIMIZERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the critic's own optimizer is gone": (OWN_CRITIC, {"value_learning_rate": None, "n_value_updates": 1}, "leave"),
    "the critic's own optimizer is new": (JOINT_CRITIC, {"value_learning_rate": 1e-3}, "leave value_learning_rate"),
    "a critic is new": (MONTE_CARLO, {"baseline": "value"}, "saved without a critic stays without"),
    "SGD in Adam's place": (MONTE_CARLO, {"policy_kwargs": TINY | {"optimizer_class": th.optim.SGD}}, "policy kwargs"),
}


@every_algorithm
@pytest.mark.parametrize(("saved", "given", "message"), OTHER_OPTIMIZERS.values(), ids=OTHER_OPTIMIZERS.keys())
def test_load_with_other_optimizers(
    algorithm: Algorithm, saved: dict[str, Any], given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """What was saved for other networks or optimizers is refused in words, not in PyTorch's."""
    make(algorithm, diary(1), **saved).learn(16).save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        algorithm.load(tmp_path / "model", env=diary(1), device="cpu", **given)


@pytest.mark.parametrize("saved", [False, True])
def test_load_with_another_kind_of_gradient(saved: bool, tmp_path: Path) -> None:
    """The natural gradient steps by SGD, whose state Adam cannot go on with, nor SGD with Adam's."""
    make(VanillaPG, diary(1), **JOINT_CRITIC, natural_gradient=saved).learn(16).save(tmp_path / "model")
    changed: dict[str, Any] = {} if saved else {"natural_gradient": True}
    with pytest.raises(ValueError, match="leave optimizer_class and natural_gradient"):
        model = VanillaPG.load(tmp_path / "model", device="cpu", **changed)
        other = make(VanillaPG, diary(1), **JOINT_CRITIC)
        other.set_parameters(model.get_parameters())  # type: ignore[arg-type]


@every_algorithm
def test_schedules_stop_at_the_end(algorithm: Algorithm) -> None:
    """The last rollout goes past the end of the training: what falls to 0 stays there, and nothing moves."""
    model = make(algorithm, diary(4), learning_rate=falling(0.1), ent_coef=falling(0.1), **OWN_CRITIC)
    model.value_lr_schedule = FloatSchedule(falling(0.1))
    model.learn(64)
    before = snapshot(model)["policy"]
    model.learn(100, reset_num_timesteps=False)  # 128 steps in two rollouts, the second from 64 of 164 to 192
    assert model.num_timesteps == 192
    assert model._current_progress_remaining == 0.0
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    assert model.value_optimizer is not None
    assert model.value_optimizer.param_groups[0]["lr"] == 0.0
    assert model._now(model.ent_coef) == 0.0
    assert differences(before, snapshot(model)["policy"]) != [], "the rollouts before it did"


@every_algorithm
def test_unfinished_episodes_are_not_saved(algorithm: Algorithm, tmp_path: Path) -> None:
    """A loaded model starts its environments anew, and learns from whole episodes from the first batch on."""
    model = make(algorithm, diary(2, lengths=[10]), n_steps=6)
    with no_episode_ended():
        model.learn(12)
    assert model.rollout_buffer.carried_steps == 12
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=diary(2, lengths=[10]), device="cpu")
    recorder = Batches()
    loaded.learn(24, callback=recorder, reset_num_timesteps=False)
    assert recorder.batches[0] is None
    assert_whole(recorder.updates[0], lengths=[10])


@every_algorithm
def test_vec_normalize_goes_on(algorithm: Algorithm, tmp_path: Path) -> None:
    """Model and statistics saved side by side predict what they predicted."""
    env = VecNormalize(diary(1))
    model = make(algorithm, env).learn(32)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics"))
    restored = VecNormalize.load(str(tmp_path / "statistics"), diary(1))
    loaded = algorithm.load(tmp_path / "model", env=restored, device="cpu")
    raw = np.array([[0.0, 3.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(env.normalize_obs(raw), restored.normalize_obs(raw))
    loaded.learn(16, reset_num_timesteps=False)
    assert cast(RunningMeanStd, restored.obs_rms).count > 16  # typed as for a dictionary


# Seeds


@every_algorithm
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_same_seed_same_run(algorithm: Algorithm, config: dict[str, Any]) -> None:
    """One seed gives one run, bit for bit; another seed gives another."""
    runs = [snapshot(configured(algorithm, config, seed).learn(160)) for seed in (3, 3, 4)]
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0]["policy"], runs[2]["policy"]) != []


@every_algorithm
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_configuration_is_saved(algorithm: Algorithm, config: dict[str, Any], tmp_path: Path) -> None:
    model = configured(algorithm, config).learn(80)
    model.save(tmp_path / "model")
    assert differences(snapshot(model), snapshot(algorithm.load(tmp_path / "model", device="cpu"))) == []
